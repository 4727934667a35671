"""`python -m limelens.cli`, where the console script is not on the path."""

from limelens.cli import main

main()
