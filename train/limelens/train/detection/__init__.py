"""Trains the detector of faces that comes with limelens, from scratch.

    frames       Photograph, Frame: images, and where the faces in them are
    photographs  reads photographs; a teacher finds the faces of single people
    composing    puts people of any size before any background
      distortion light, focus, noise and compression
    network      FaceNetwork: a map of centres and boxes; Detector: the graph of the bundle
    targets      what the map should be, and the loss
    training     the loop
    evaluating   what is found by size, and what is found where nobody is
    exporting    the bundle and its card

`python -m limelens.train.detection --help` does all of it.
"""
