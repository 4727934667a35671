"""What a camera's frames do to the decision of their stream."""
