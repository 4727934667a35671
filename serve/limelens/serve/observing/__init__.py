"""What the operator sees of a server: metrics, probes, traces and logs.

The service reports events to an `Observer`; metrics and traces are observers. Nothing here holds
images, tokens or other contents of requests.
"""
