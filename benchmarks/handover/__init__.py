"""Sessions in every process, or in one that the others hand their images to: which is faster."""
