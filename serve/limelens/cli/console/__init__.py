"""`limelens console`: the guard's page, and who may see it."""
