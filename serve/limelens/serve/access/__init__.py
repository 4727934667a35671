"""Who may call, what, and how often; and the certificates that connections are made with.

Nothing here is loaded by the client. `limelens.serve.access.policy` reads who may, `guard` asks
it before a request is read, `caller` says in every log line and metric who it was.
"""
