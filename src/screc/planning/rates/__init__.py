"""How each kind of rate of this host is measured."""
