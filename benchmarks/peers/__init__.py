"""One module per system that SCRec is measured against."""
