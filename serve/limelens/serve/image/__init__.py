"""From bytes to the pixels that a network sees: the one place where this is done.

Training, serving and the command line all call `read_image` and `fit`, or `read_fitted`, which
gives the same bytes sooner, so that they cannot disagree about orientation, colour or resizing.
Before anything is decoded, `inspecting` looks at what a decoder would be asked to do, and refuses
what costs far more than its bytes; a server decodes what is not plainly quick in a process that
can be ended (`apart`). The package knows nothing of models or of requests.
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
from limelens.serve.image.inspecting import FORMATS as FORMATS
from limelens.serve.image.inspecting import MAX_PIXELS as MAX_PIXELS
from limelens.serve.image.names import SPLIT_NAMES as SPLIT_NAMES
from limelens.serve.image.names import SUFFIXES as SUFFIXES
