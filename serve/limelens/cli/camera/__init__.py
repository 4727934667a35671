"""`limelens camera`: the command, what it counts and writes, and what it prints."""
