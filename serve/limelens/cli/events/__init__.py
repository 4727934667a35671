"""`limelens events`: the record of what cameras decided."""
