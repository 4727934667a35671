"""The Open Inference Protocol beside our own service, for stock clients of Triton and KServe.

Only a server loads this package: its messages have the names of the stock clients' messages, and
one process cannot hold both.
"""
