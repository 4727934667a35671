"""Measures bulk work against raw onnxruntime and against explaining in one process."""
