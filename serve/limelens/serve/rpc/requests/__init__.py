"""Requests as they arrive, checked field by field: one module for each RPC."""
