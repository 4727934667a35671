"""Calls: what comes in by gRPC, before it is somebody's request."""
