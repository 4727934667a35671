"""What `limelens bulk` takes: folders, tables and shards of images, listed without being read."""

from limelens.bulk.sources.item import InputError as InputError
from limelens.bulk.sources.item import Item as Item
from limelens.bulk.sources.item import Place as Place
from limelens.bulk.sources.opening import open_source as open_source
from limelens.bulk.sources.reading import Reader as Reader
from limelens.bulk.sources.source import Source as Source
