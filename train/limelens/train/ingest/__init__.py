"""From a table of labelled URLs to a folder that `limelens train` takes."""
