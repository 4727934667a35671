"""A model file in place of a server: a private server for it, in a process of its own.

All cameras that name the same file share it. If the process ends, or hangs, another is started, at
growing intervals. It listens on a socket in a folder that no other user can enter.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from limelens.serve.errors import UnavailableError
from limelens.serve.wording import first_line
from limelens.watch.cameras.settings import ServerSettings
from limelens.watch.cameras.watchdog import Watchdog, end_group

_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 30.0
_LONG_ENOUGH_S: Final = 60.0
_START_S: Final = 60.0
_END_S: Final = 5.0
_LONGEST_FOLDER: Final = 90
"""Bytes: the path of a socket has 103 on some systems."""
_NO_FOLDER: Final = "there is no folder for its server's sockets, set TMPDIR to another one"
_HANGS_S: Final = 30.0
"""A model that has not run for half of it is no sign of life."""


class ModelServerError(UnavailableError):
    """A private server does not serve; the message names the file and says why."""


class ModelServer:
    """The server of one file, from its construction until it is closed.

    Args:
        file: The bundle's file.
        say: Called with sentences for people.
        hangs_after_s: How long its process may give no sign of life.

    Raises:
        ModelServerError: There is no room for its sockets.
    """

    def __init__(
        self, file: Path, say: Callable[[str], object], hangs_after_s: float = _HANGS_S
    ) -> None:
        self._file = file
        self._say = say
        self._hangs_after_s = hangs_after_s
        import fcntl  # not on every system

        self._folder = _private_folder(file)
        # systemd-tmpfiles removes what is old, but not what is locked.
        self._held = os.open(self._folder, os.O_RDONLY)
        fcntl.flock(self._held, fcntl.LOCK_SH)
        self.settings = ServerSettings(address=f"unix:{self._folder / 'socket'}")
        """How it is reached."""
        self._changed = threading.Condition()
        self._process: subprocess.Popen[str] | None = None
        self._is_ready = False
        self._is_closed = False
        self._problem = ""
        try:
            self._link = _link(self._folder / "models", file)
        except OSError as error:
            os.close(self._held)
            shutil.rmtree(self._folder, ignore_errors=True)
            raise ModelServerError(f"{file}: {_NO_FOLDER}: {error}") from error
        self._thread = threading.Thread(target=self._run, name="limelens-model", daemon=True)
        self._thread.start()

    def wait_ready(self, is_stopped: Callable[[], bool]) -> None:
        """Waits until it serves.

        Args:
            is_stopped: Whether nobody waits any more; asked again and again.

        Raises:
            ModelServerError: It does not serve; the message says why.
        """
        until = time.monotonic() + _START_S
        with self._changed:
            while not self._is_ready:
                if self._problem or self._is_closed or time.monotonic() >= until or is_stopped():
                    reason = self._problem or "it is still being loaded"
                    raise ModelServerError(f"{self._file}: {reason}")
                self._changed.wait(0.2)

    def close(self) -> None:
        """Ends the process."""
        with self._changed:
            self._is_closed = True
            process = self._process
            self._changed.notify_all()
        if process is not None:
            process.terminate()
        self._thread.join(_END_S)
        if process is not None:
            end_group(process)
        shutil.rmtree(self._folder, ignore_errors=True)
        os.close(self._held)

    def _run(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            began = time.monotonic()
            problem = self._run_once()
            if time.monotonic() - began >= _LONG_ENOUGH_S:
                pause_s = _FIRST_PAUSE_S
            with self._changed:
                self._is_ready = False
                if self._is_closed:
                    return
                self._problem = problem
                self._changed.notify_all()
            self._say(f"{self._file}: {problem}; starting its server again in {pause_s:g} s")
            with self._changed:
                if self._changed.wait_for(lambda: self._is_closed, pause_s):
                    return
                # Whoever asks now waits for the next one.
                self._problem = ""
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _run_once(self) -> str:
        """Runs the process to its end; returns why it ended."""
        if not self._file.is_file():
            return "no such file; expected a bundle, which limelens export writes"
        try:
            watchdog = Watchdog(self._folder / "notify", self._hangs_after_s)
        except OSError as error:
            return f"its server cannot be watched over: {first_line(error)}"
        with watchdog:
            return self._run_watched(watchdog)

    def _run_watched(self, watchdog: Watchdog) -> str:
        module = "limelens.watch.cameras.model_process"
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", module, str(self._folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=watchdog.environment,
                # Ctrl-C is for the process that watches: it ends this one.
                start_new_session=True,
            )
        except OSError as error:
            return f"its server cannot be started: {first_line(error)}"
        with process:
            with self._changed:
                self._process = process
                if self._is_closed:
                    process.terminate()
            announcing = threading.Thread(target=self._wait_for_line, args=(process,), daemon=True)
            announcing.start()
            watchdog.watch(process, lambda: self._is_ready)
            last = self._pass_on(process)
            code = process.wait()
            announcing.join()
        return watchdog.problem or last or f"its server ended with {code}"

    def _wait_for_line(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        if process.stdout.readline():
            with self._changed:
                self._is_ready = True
                self._changed.notify_all()

    def _pass_on(self, process: subprocess.Popen[str]) -> str:
        """Passes on what it says on stderr; returns the last line."""
        assert process.stderr is not None
        last = ""
        for line in process.stderr:
            last = line.strip().replace(str(self._link), self._file.name) or last
            if self._is_ready:
                self._say(f"{self._file}: {last}")
        return last


class ModelServers:
    """The servers of all files that cameras name. One thread at a time may exchange them.

    Args:
        say: Called with sentences for people.
    """

    def __init__(self, say: Callable[[str], object]) -> None:
        self._say = say
        self._servers: dict[Path, ModelServer] = {}

    def of(self, file: Path) -> ModelServer:
        """The server of a file; started if there is none, which raises as `ModelServer`."""
        if file not in self._servers:
            self._servers[file] = ModelServer(file, self._say)
        return self._servers[file]

    def keep_only(self, files: Iterable[Path]) -> None:
        """Ends the servers of all other files."""
        kept = set(files)
        for file in [one for one in self._servers if one not in kept]:
            self._servers.pop(file).close()


def _private_folder(file: Path) -> Path:
    """A new folder that no other user can enter, whose path leaves room for that of a socket."""
    try:
        folder = tempfile.mkdtemp(prefix="limelens-")
        if len(os.fsencode(folder)) > _LONGEST_FOLDER:
            Path(folder).rmdir()
            folder = tempfile.mkdtemp(prefix="limelens-", dir="/tmp")
    except OSError as error:
        raise ModelServerError(f"{file}: {_NO_FOLDER}: {error}") from error
    return Path(folder)


def _link(repository: Path, file: Path) -> Path:
    """Makes a model repository of a link to one file, so that it is served anew if exchanged."""
    version = file.parent.name
    is_in_repository = file.name == "model.onnx" and version.isdecimal() and version[0] != "0"
    name = file.parent.parent.name if is_in_repository else file.stem
    folder = repository / (name or "model") / (version if is_in_repository else "1")
    folder.mkdir(parents=True)
    link = folder / "model.onnx"
    link.symlink_to(file)
    return link
