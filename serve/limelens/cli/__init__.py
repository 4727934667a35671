"""The command line. It parses, prints and sets exit codes; the work is done by the parts."""

from limelens.cli.app import main

__all__ = ["main"]
