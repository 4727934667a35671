"""Labelled images: read, checked, sampled, augmented and loaded."""
