"""A door as it is used: cameras, a server and `limelens watch`, measured from change to state."""
