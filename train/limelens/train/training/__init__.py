"""The training loop, its parts and the files it writes."""
