"""Finds what to fix in data before training."""
