"""Tables of images and labels: their lines and cells, and the meaning of their columns."""
