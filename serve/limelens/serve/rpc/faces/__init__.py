"""Faces in the images of requests and streams, found and judged by the engines."""
