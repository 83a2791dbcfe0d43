"""Pull the pairs together."""
