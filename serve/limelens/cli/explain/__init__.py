"""`limelens explain`."""
