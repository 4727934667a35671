"""Finds what is wrong with this machine, or with the connection to a server.

Each check is a small function that returns `Check`s and raises nothing for what it finds; the
command line prints them. Nothing here needs more than the client's packages; with cryptography
installed the checks say more about certificates.
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
