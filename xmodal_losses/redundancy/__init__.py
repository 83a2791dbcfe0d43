"""Keep every dimension informative."""
