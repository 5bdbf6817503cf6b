"""One module per benchmark job."""
