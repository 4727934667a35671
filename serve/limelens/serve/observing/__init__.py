"""What the operator sees of a server: metrics, probes, traces and logs.

The services notify an `Observer`; metrics and traces are observers. None of them ever holds images,
tokens or other content of requests.
"""
