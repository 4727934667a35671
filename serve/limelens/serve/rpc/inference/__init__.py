"""The Open Inference Protocol, for stock clients of Triton and KServe.

Only servers load this package: its messages have the same names as the stock clients' messages, and
one process cannot hold both.
"""
