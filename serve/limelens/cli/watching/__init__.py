"""`limelens watch`: the command, and what it prints."""
