"""Metrics of a checkpoint or a bundle on data, and the calibration of its probabilities."""
