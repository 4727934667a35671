"""What random input is made of, and the fuzzer of the image reader. Tests, not product code."""
