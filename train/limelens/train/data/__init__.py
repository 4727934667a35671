"""Labelled images: read, checked, sampled, augmented and loaded."""

from limelens.train.data.examples import DataError as DataError
from limelens.train.data.listing import list_data as list_data
