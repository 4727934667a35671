"""Faces in a camera's frames: how well they are found and judged, and at what cost.

sources    real images whose faces are known
frames     frames of a camera, built from them or drawn
outcomes   what a detector and a classifier make of them
"""
