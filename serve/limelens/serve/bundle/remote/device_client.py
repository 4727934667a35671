"""The connections of this process to the one that owns a device.

A request is sent on a connection of its own, so that threads do not wait for each other. While the
device's process is gone, requests fail at once, and whoever can ask again may wait for a moment. A
thread waits for the replacement, and then has everything opened there that was open here. Each
process of the device has a name of its own, so that no request meant for one reaches another. It
knows nothing of models.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import queue
import secrets
import socket
import threading
import time
import weakref
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle
from typing import Any, Final, Protocol

from limelens.serve.bundle.devices import DEVICE_PROCESS
from limelens.serve.bundle.remote.protocol import Hello, Message, is_same_user
from limelens.serve.errors import UnavailableError

PATIENCE_S: Final = 5.0
"""For how long a process of the device may be away before nobody waits for the next one."""
_PAUSE_S: Final = 1.0
"""Before this process tries again what it could not do, such as to open one more file."""
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
        self._changed = threading.Condition(self._lock)
        self._session = b""
        self._has_all = False
        self._is_over = False  # no process will come any more
        self._gone_at = 0.0  # by `time.monotonic`
        self._connections: set[Connection] = set()  # of the session, for requests
        self._idle: list[Connection] = []
        self._members: weakref.WeakSet[Member] = weakref.WeakSet()
        self._unneeded: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.on_change: Callable[[], object] = lambda: None
        """Called in a thread of the client's when `has_all` changed."""
        for work in (self._follow, self._tidy):
            name = f"limelens-device-{work.__name__.strip('_')}"
            threading.Thread(target=work, name=name, daemon=True).start()

    @property
    def session(self) -> bytes:
        """Names the process of the device that there is now; empty while there is none."""
        return self._session

    @property
    def has_all(self) -> bool:
        """Whether the process is there and has everything open that this process needs."""
        return self._has_all

    def join(self, member: Member) -> bytes:
        """Has a member reopened in every new process, for as long as it lives.

        Returns:
            The session after which that begins: the member must be open in it, if it is not empty.
        """
        with self._lock:
            self._members.add(member)
            return self._session

    def wait(self, timeout_s: float, after: bytes = b"") -> bytes:
        """Waits until a process is there, other than the one named `after`; returns its session.

        Raises:
            DeviceGoneError: It did not come in time, or none will.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._is_over or self._session not in (b"", after), timeout_s
            )
            if self._session not in (b"", after):
                return self._session
        raise DeviceGoneError("the process that owns the device does not answer")

    def wait_for_all(self, after: bytes) -> None:
        """Waits until another process than that of a session has everything open.

        Raises:
            DeviceGoneError: The device has been without a process for `PATIENCE_S`, or for good.
        """
        with self._changed:
            # That it is gone may be noticed later here than where a request failed.
            since = time.monotonic() if self._session == after else self._gone_at
            left_s = since + PATIENCE_S - time.monotonic()
            self._changed.wait_for(
                lambda: self._is_over or (self._has_all and self._session != after), left_s
            )
            if self._has_all and self._session != after:
                return
        raise DeviceGoneError()

    def request(self, session: bytes, message: Message, file: int | None = None) -> Any:
        """Sends a message to the process of a session, with a descriptor, and waits for the answer.

        Raises:
            DeviceGoneError: That process is gone.
            UnavailableError: This process can open no more files.
            Exception: What the process answered.
        """
        try:
            connection = self._borrowed(session)
            try:
                connection.send(message)
                if file is not None:
                    send_handle(connection, file, 0)
                answer = connection.recv()
            except BaseException:
                self._close(connection)
                raise
        except (OSError, EOFError) as error:
            if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
                raise UnavailableError(f"the device cannot be reached: {error.strerror}") from None
            raise DeviceGoneError() from None
        with self._lock:
            # Those of a session that is over are not needed again.
            is_current = connection in self._connections
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

    def _borrowed(self, session: bytes) -> Connection:
        """A connection to the process of a session."""
        with self._lock:
            self._check(session)
            if self._idle:
                return self._idle.pop()
        connection = self._connect()
        try:
            with self._lock:
                self._check(session)
                self._connections.add(connection)  # from now on the end of the session ends it
            connection.send(Hello(self._token))
            # The process that follows may have been faster than the thread that notices.
            if connection.recv() != session:
                raise DeviceGoneError()
        except BaseException:
            self._close(connection)
            raise
        return connection

    def _check(self, session: bytes) -> None:
        if not session or session != self._session:
            raise DeviceGoneError()

    def _close(self, connection: Connection) -> None:
        with self._lock:
            self._connections.discard(connection)
        connection.close()

    def _connect(self) -> Connection:
        end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            end.connect("\0" + self._address)
            if not is_same_user(end, os.getuid()):
                raise ConnectionRefusedError("another user's process answers for the device")
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
            except ConnectionRefusedError as error:
                _log.error("no process owns the device any more: %s", error)
                with self._changed:
                    self._is_over = True
                    self._changed.notify_all()
                return
            except OSError as error:
                _log.error("the device cannot be reached: %s", error)
                time.sleep(_PAUSE_S)
                continue
            with contextlib.suppress(OSError, EOFError), connection:
                connection.send(Hello(self._token))
                self._follow_session(connection, connection.recv())
            self._leave_session()

    def _follow_session(self, connection: Connection, session: bytes) -> None:
        """Has everything opened in a new process, and waits for its end.

        Raises:
            EOFError: It has ended.
        """
        with self._changed:
            unopened = weakref.WeakSet(self._members)
            self._session = session
            self._changed.notify_all()
        while not self._try(unopened, lambda member: member.reopen()):
            if connection.poll(_PAUSE_S):
                raise EOFError
        with self._changed:
            self._has_all = True
            self._changed.notify_all()
        self.on_change()
        with self._lock:
            unprepared = weakref.WeakSet(self._members)
        self._try(unprepared, lambda member: member.prepare_again())
        connection.recv()

    def _try(self, members: weakref.WeakSet[Member], work: Callable[[Member], None]) -> bool:
        """Does something for members, and takes those out for which it succeeds.

        Returns:
            Whether none is left.

        Raises:
            EOFError: The process has ended.
        """
        for member in tuple(members):
            try:
                work(member)
            except DeviceGoneError:
                raise EOFError from None
            # The device may have more memory later, or the next process of it.
            except Exception:
                _log.exception("a model could not be opened again")
            else:
                members.discard(member)
        return not members

    def _leave_session(self) -> None:
        with self._lock:
            self._session, self._has_all = b"", False
            self._gone_at = time.monotonic()
            idle, self._idle = self._idle, []
            connections, self._connections = self._connections, set()
            for one in connections:
                # Wakes the thread that waits for an answer, and closes it.
                with (
                    contextlib.suppress(OSError),
                    socket.fromfd(one.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as end,
                ):
                    end.shutdown(socket.SHUT_RDWR)
        for one in idle:
            one.close()
        self.on_change()

    def _tidy(self) -> None:
        while True:
            message = self._unneeded.get()
            with contextlib.suppress(Exception):
                self.request(self._session, message)


_clients: Final[dict[str, DeviceClient]] = {}
_starting: Final = threading.Lock()


def device_client(address: str) -> DeviceClient:
    """The only client of a device's process in this one."""
    with _starting:
        found = _clients.get(address)
        if found is None:
            found = _clients[address] = DeviceClient(address)
        return found
