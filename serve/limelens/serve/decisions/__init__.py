"""From probabilities to a decision, for an image and for a camera."""
