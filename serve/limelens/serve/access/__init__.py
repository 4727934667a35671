"""Who may call what, and how often; and the server's certificates.

`policy` authenticates callers, `guard` applies it before a request is read, and `caller` holds the
result. Clients load nothing of this package.
"""
