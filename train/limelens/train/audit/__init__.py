"""What to fix in data before training."""
