"""Faces in a camera's frames: how well they are found and judged, and at what cost.

sources    real images whose faces are known
frames     frames of a camera, built from them or drawn
outcomes   what a detector and a classifier make of them
degraded   how far a face may be degraded until a classifier errs
cost       what cameras with faces cost a server
"""
