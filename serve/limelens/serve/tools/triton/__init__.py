"""Bundles as a model repository of Triton, whose onnxruntime backend then runs the same files.

config        what config.pbtxt says of a model
repository    the folders: which bundles there are, and how they get in
"""
