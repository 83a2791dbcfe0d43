"""Maximise linear correlation."""
