"""The processes that own the devices of one server, and a spare for each.

Nobody is answered while a replacement loads Python, onnxruntime and CUDA's libraries, so another
process has done that already. It knows nothing of workers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from limelens.serve.errors import UnavailableError
from limelens.serve.processes.child_process import ACT_S, describe_end
from limelens.serve.processes.device_process import DeviceProcess, OwnedDevice, owner_of
from limelens.serve.processes.messages import DeviceAssignment
from limelens.serve.processes.worker_process import LOAD_S
from limelens.serve.rpc.server_config import ServerConfig

_SPARE_S: Final = 3.0  # how long after an owner its spare starts
_log = logging.getLogger(__name__)


class Owners:
    """Starts the owners of some devices, and ends them.

    Args:
        config: The server's.
        devices: Those that are owned.
        ping_s: Seconds between two questions whether an owner answers.
    """

    def __init__(self, config: ServerConfig, devices: Sequence[OwnedDevice], ping_s: float) -> None:
        self.devices = tuple(devices)
        self._config = config
        self._ping_s = ping_s
        self._owners: dict[str, DeviceProcess] = {}  # by device
        self._spares: dict[str, DeviceProcess] = {}
        self._is_closed = False

    @property
    def is_complete(self) -> bool:
        """Whether each device has an owner now; any thread may ask."""
        return len(self._owners) == len(self.devices)

    @property
    def pids(self) -> tuple[int, ...]:
        """Ids of all processes that run, spares included; any thread may ask."""
        children = (*self._owners.values(), *self._spares.values())
        return tuple(one.pid for one in children)

    async def run(self, device: OwnedDevice) -> str:
        """Runs the owner of a device to its end; returns how it ended."""
        name = device.device
        spare = self._spares.pop(name, None)
        owner = spare or await self._start(device)
        self._owners[name] = owner
        ended = asyncio.create_task(owner.ended())
        try:
            if self._is_closed:
                owner.kill()
            # Only one that is not a spare still has to start.
            await owner.request("own", timeout_s=LOAD_S if spare is None else ACT_S)
            await asyncio.wait((ended,), timeout=_SPARE_S)  # models load meanwhile
            if not ended.done():
                await self._start_spare(device)
            await owner.watch(ended, self._ping_s)
        except UnavailableError as error:
            _log.debug("%s: %s", owner.name, error)
        finally:
            owner.kill()
            code = await ended
            del self._owners[name]
            if self._is_closed and name in self._spares:
                self._spares[name].kill()
        return describe_end(code)

    def close(self) -> None:
        """Ends all, for good."""
        self._is_closed = True
        self.kill()

    def kill(self) -> None:
        """Ends all that run now."""
        for child in (*self._owners.values(), *self._spares.values()):
            child.kill()

    async def _start_spare(self, device: OwnedDevice) -> None:
        try:
            self._spares[device.device] = await self._start(device)
        except OSError as error:  # of processes, files or memory
            _log.warning("no spare for %s could be started: %s", owner_of(device.device), error)

    async def _start(self, device: OwnedDevice) -> DeviceProcess:
        config = self._config
        assignment = DeviceAssignment(
            device.device, config.tf32, config.log_level, config.log_format
        )
        return await DeviceProcess.start(assignment, device.listener)
