"""The connections of this process to the one that owns a device.

A request is sent on a connection of its own, so that threads do not wait for each other. While the
device's process is gone, requests fail at once; a thread waits for its replacement, and then has
everything opened again that this process had open. It knows nothing of models.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import secrets
import socket
import threading
import weakref
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle
from typing import Any, Final, Protocol

from limelens.serve.bundle.remote.protocol import Hello, Message, is_same_user
from limelens.serve.errors import ProviderError, UnavailableError

DEVICE_PROCESS: Final = "process:"
"""Begins the name of a device that another process owns; the address of that process follows."""
_log = logging.getLogger(__name__)


class Member(Protocol):
    """What must be opened again in every new process of the device, in a thread of the client's."""

    def reopen(self) -> None:
        """Opens what requests need."""
        ...

    def prepare_again(self) -> None:
        """Prepares what makes requests faster; called when every member is open."""
        ...


class DeviceGoneError(UnavailableError):
    """The process that owns the device ended; another one starts."""

    def __init__(self, message: str = "the device is starting anew; try again") -> None:
        super().__init__(message)


class DeviceClient:
    """The connections to one device's process; see `device_client`.

    Args:
        address: Its name among the abstract Unix sockets of this machine.
    """

    def __init__(self, address: str) -> None:
        self.name = DEVICE_PROCESS + address
        """Of the device, as `load_bundle` takes it."""
        self._address = address
        self._token = secrets.token_bytes(16)
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._connected = threading.Event()
        self._members: weakref.WeakSet[Member] = weakref.WeakSet()
        self._unneeded: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.on_change: Callable[[bool], object] = lambda _is_there: None
        """Called in a thread of the client's when the process is gone, and when a new one has
        everything open."""
        self.session = 0
        """How many processes of the device there were so far."""
        for work in (self._follow, self._tidy):
            name = f"limelens-device-{work.__name__.strip('_')}"
            threading.Thread(target=work, name=name, daemon=True).start()

    def join(self, member: Member) -> None:
        """Has a member reopened in every new process, for as long as it lives."""
        with self._lock:
            self._members.add(member)

    def wait(self, timeout_s: float) -> None:
        """Waits until the process is there.

        Raises:
            DeviceGoneError: It did not come in time.
        """
        if not self._connected.wait(timeout_s):
            raise DeviceGoneError("the process that owns the device does not answer")

    def request(self, message: Message, file: int | None = None) -> Any:
        """Sends a message, and a descriptor with it, and waits for the answer.

        Raises:
            DeviceGoneError: The process is gone.
            Exception: What the process answered.
        """
        if not self._connected.is_set():
            raise DeviceGoneError()
        session, connection = self.session, self._borrowed()
        try:
            connection.send(message)
            if file is not None:
                send_handle(connection, file, 0)
            answer = connection.recv()
        except (OSError, EOFError):
            connection.close()
            raise DeviceGoneError() from None
        except BaseException:
            connection.close()
            raise
        with self._lock:
            is_current = session == self.session and self._connected.is_set()
            if is_current:
                self._idle.append(connection)
        if not is_current:
            connection.close()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def send_later(self, message: Message) -> None:
        """Sends a message when there is time, and drops it if the process is gone.

        It may be called from a finalizer, in any thread.
        """
        self._unneeded.put(message)

    def _borrowed(self) -> Connection:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        connection = self._connect()
        connection.send(Hello(self._token))
        connection.recv()
        return connection

    def _connect(self) -> Connection:
        end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            end.connect("\0" + self._address)
            if not is_same_user(end, os.getuid()):
                raise ProviderError("another user's process answers for the device")
        except BaseException:
            end.close()
            raise
        return Connection(end.detach())

    def _follow(self) -> None:
        """Keeps one connection open, which says when the process is gone."""
        while True:
            try:
                connection = self._connect()
            # The supervisor listens for all processes of the device, so it is gone too.
            except (OSError, ProviderError) as error:
                _log.error("no process owns the device any more: %s", error)
                return
            with contextlib.suppress(OSError, EOFError), connection:
                connection.send(Hello(self._token))
                connection.recv()
                with self._lock:
                    self.session += 1
                    members = list(self._members) if self.session > 1 else []
                self._connected.set()
                for member in members:
                    _tried(member.reopen)
                self.on_change(True)
                for member in members:
                    _tried(member.prepare_again)
                members.clear()
                connection.recv()
            with self._lock:
                self._connected.clear()
                idle, self._idle = self._idle, []
            self.on_change(False)
            for one in idle:
                one.close()

    def _tidy(self) -> None:
        while True:
            message = self._unneeded.get()
            with contextlib.suppress(Exception):
                self.request(message)


def _tried(work: Callable[[], None]) -> None:
    """Does what must not end the thread unless the process is gone.

    Raises:
        EOFError: It is.
    """
    try:
        work()
    except DeviceGoneError:
        raise EOFError from None
    # The next process may do better.
    except Exception:
        _log.exception("a model could not be opened again")


_clients: Final[dict[str, DeviceClient]] = {}
_starting: Final = threading.Lock()


def device_client(address: str) -> DeviceClient:
    """The only client of a device's process in this one."""
    with _starting:
        found = _clients.get(address)
        if found is None:
            found = _clients[address] = DeviceClient(address)
        return found
