"""Bring the two clouds together."""
