"""Turns a table of labelled URLs into folders that `limelens train` takes."""
