"""Portraits and scenes drawn by code, with and without face masks."""
