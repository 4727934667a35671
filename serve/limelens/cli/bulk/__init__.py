"""`limelens bulk`: whole collections of images."""
