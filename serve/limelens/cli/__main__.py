"""`python -m limelens.cli`, for when the console script is not on the path."""

from limelens.cli import main

main()
