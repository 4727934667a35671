"""Watches the cameras of a file, each in a thread of its own."""
