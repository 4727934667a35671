"""What is wrong: with this machine, or on the way to a server.

Each check is a small function that answers with `Check`s and raises nothing for what it finds.
How they are printed the command line knows. Nothing here needs more than the client's packages;
with cryptography installed more is told of certificates.
"""

from limelens.serve.tools.doctor.check import Check, State
from limelens.serve.tools.doctor.machine import check_machine
from limelens.serve.tools.doctor.proxies import Proxy, proxy_for
from limelens.serve.tools.doctor.remote import Remote, check_remote, check_way

__all__ = [
    "Check",
    "Proxy",
    "Remote",
    "State",
    "check_machine",
    "check_remote",
    "check_way",
    "proxy_for",
]
