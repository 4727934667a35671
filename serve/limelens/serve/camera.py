"""The name of `limelens.serve.tools.camera` in version 0.1: it works until 0.3."""

from limelens.serve.tools.camera import *  # noqa: F403
from limelens.serve.tools.camera import SourceAnswer as Seen  # noqa: F401
