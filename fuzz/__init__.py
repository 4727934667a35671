"""Random input for tests, and the fuzzer of the image reader. Not product code."""
