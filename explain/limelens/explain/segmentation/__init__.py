"""The image cut into segments (section 3.1 of the paper)."""
