"""What the operator sees of a server: metrics, probes, traces and logs.

The service tells an `Observer` what happens; metrics and traces are observers. Nothing in here
ever holds images, tokens or what else a request says.
"""
