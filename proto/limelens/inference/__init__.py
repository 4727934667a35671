"""The Open Inference Protocol: messages and stubs generated from the .proto files beside this one.

Only a server may import them: the stock clients register the same names, and one process cannot
hold both.
"""
