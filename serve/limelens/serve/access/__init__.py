"""Who may call what, and how often; and the certificates of connections.

`policy` reads who may call; `guard` checks that before a request is read; `caller` names the caller
in log lines and metrics. Clients load nothing of this.
"""
