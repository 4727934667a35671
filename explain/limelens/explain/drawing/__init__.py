"""Explanations as images."""
