"""A process that owns a device as the supervisor sees it, and the socket that it is reached on."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from limelens.serve.bundle.devices import DEVICE_PROCESS
from limelens.serve.processes.child_process import ChildProcess
from limelens.serve.processes.messages import DeviceAssignment

_MODULE: Final = "limelens.serve.processes.device_owner"
_BACKLOG: Final = 1024


def owner_of(device: str) -> str:
    """What messages call the process."""
    return f"the owner of {device}"


class DeviceProcess(ChildProcess):
    """A process that owns a device and was started."""

    @classmethod
    async def start(cls, assignment: DeviceAssignment, listener: socket.socket) -> DeviceProcess:
        """Starts one; workers may connect at once, and are answered once it is ready."""
        name = owner_of(assignment.device)
        return await cls.started(name, _MODULE, (listener.fileno(),), assignment, {})


@dataclass(frozen=True)
class OwnedDevice:
    """A device that a process of its own has.

    Args:
        device: As `load_bundle` takes it, in that process.
        listener: The socket on which workers reach that process, and those that replace it.
        name: Of the device, as `load_bundle` takes it, in workers.
    """

    device: str
    listener: socket.socket
    name: str


@contextmanager
def owned_device(device: str) -> Iterator[OwnedDevice]:
    """Listens for workers within the context.

    The address is no file, so nothing is left of it, however this process ends.
    """
    address = f"limelens-{secrets.token_hex(16)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind("\0" + address)
        listener.listen(_BACKLOG)
        yield OwnedDevice(device, listener, DEVICE_PROCESS + address)
