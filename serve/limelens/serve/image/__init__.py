"""From bytes to the pixels that a network sees: the one place where this is done.

    encoded          EncodedImage: within limits, in this thread or in a process   servers, clients
    decoding         read_image, read_fitted: the same in this thread              training
      formats        walks five formats, and refuses what costs far more than its bytes
      fitting        region, orientation, colour, resizing
      limits         what decoding may cost
    decoder_client   the process for slow images, and decoder_process what runs in it

All of them end in `decoding.decode`, so that training, serving and the command line cannot disagree
about orientation, colour or resizing. The package knows nothing of models or of requests.
"""

from __future__ import annotations

from limelens.serve.image.decoding import read_fitted as read_fitted
from limelens.serve.image.decoding import read_image as read_image
from limelens.serve.image.fitting import UNSEEN as UNSEEN
from limelens.serve.image.fitting import Fitted as Fitted
from limelens.serve.image.fitting import Region as Region
from limelens.serve.image.fitting import ResizeMode as ResizeMode
from limelens.serve.image.fitting import ResizeRule as ResizeRule
from limelens.serve.image.fitting import fit as fit
from limelens.serve.image.fitting import raw_image as raw_image
from limelens.serve.image.fitting import shrink as shrink
from limelens.serve.image.formats import FORMATS as FORMATS
from limelens.serve.image.formats import SUFFIXES as SUFFIXES
from limelens.serve.image.limits import MAX_PIXELS as MAX_PIXELS
from limelens.serve.image.limits import DecodeLimits as DecodeLimits
