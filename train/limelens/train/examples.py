"""The name of `limelens.train.data.examples` in version 0.1: it works until 0.3."""

from limelens.train.data.examples import *  # noqa: F403
