"""The Open Inference Protocol: messages and stubs generated from the .proto files beside this one.

Only a server may import them: they register names that the stock clients register as well, and
one process cannot hold both.
"""
