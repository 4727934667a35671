"""How many processes serve, and which share of the machine and of the limits each gets.

Limits on one client are counted for the whole server (`limelens.serve.processes.admission`); limits
on memory or work are divided here. It knows numbers, and nothing of running processes.
"""

from __future__ import annotations

import importlib.util
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from limelens.serve.addresses import is_unix
from limelens.serve.bundle.devices import parse_devices
from limelens.serve.processes.device_process import OwnedDevice
from limelens.serve.rpc.server_config import ServerConfig

CORES_FOR_ONE: Final = 4  # cores that one process can keep busy; with more, Python's lock limits it
CORES_EACH: Final = 2
MOST_ON_GPU: Final = 6  # more processes than these gain nothing: they share the time of one device
_CGROUP_LIMIT: Final = Path("/sys/fs/cgroup/cpu.max")


def usable_cores() -> int:
    """Cores that this process may use: by affinity, and by the quota of its control group."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        quota, period = _CGROUP_LIMIT.read_text().split()
        allowed = math.ceil(int(quota) / int(period))
    except (OSError, ValueError):  # no such file, or "max"
        return cores or 1
    return max(1, min(cores or 1, allowed))


def default_processes(listen: str, device: str, num_threads: int | None) -> int:
    """How many processes serve by default, given all their threads (None: one per core)."""
    if sys.platform != "linux" or is_unix(listen):  # a socket file has one listener
        return 1
    devices, cores = parse_devices(device), num_threads or usable_cores()
    if devices[0].startswith("cuda") or (devices == ("auto",) and _may_have_cuda()):
        return max(len(devices), min(MOST_ON_GPU, usable_cores() // 2))
    return 1 if cores <= CORES_FOR_ONE else math.ceil(cores / CORES_EACH)


def devices_to_own(config: ServerConfig) -> tuple[str, ...]:
    """The devices that processes of their own are to have: none by `auto` if there is no GPU."""
    if not config.device_process or (config.device == "auto" and not _may_have_cuda()):
        return ()
    return parse_devices(config.device)


def share_of(config: ServerConfig, number: int, owned: Sequence[OwnedDevice] = ()) -> ServerConfig:
    """The share of one process, numbered from 1, of the configuration of all.

    Its device is one of those that other processes own, if there are any.
    """
    count = config.processes
    devices = [one.name for one in owned] or parse_devices(config.device)
    threads = num_threads_of(config)
    service = config.service
    images = min(service.limits.max_images, service.max_queue)
    return replace(
        config,
        processes=1,
        device=devices[(number - 1) % len(devices)],
        num_threads=threads // count + (number <= threads % count),
        http=None,
        max_calls=_part(config.max_calls, count),
        service=replace(
            service,
            # A few of the largest requests fit into each queue: connections spread unevenly.
            max_queue=min(service.max_queue, max(4 * images, _part(service.max_queue, count))),
            max_waiting_bytes=_part(service.max_waiting_bytes, count),
            max_streams=_part(service.max_streams, count),
            max_explanations=_part(service.max_explanations, count),
            max_waiting_explanations=_part(service.max_waiting_explanations, count),
        ),
    )


def num_threads_of(config: ServerConfig) -> int:
    """Threads of all processes together, on the CPU; at least one each."""
    return config.num_threads or max(config.processes, usable_cores())


def _part(whole: int, count: int) -> int:
    return -(-whole // count)


def _may_have_cuda() -> bool:
    """Whether a GPU and an onnxruntime for it seem to be installed; importing it takes too long."""
    found = importlib.util.find_spec("onnxruntime")
    if found is None or found.origin is None or not any(Path("/dev").glob("nvidia[0-9]*")):
        return False
    return any(Path(found.origin).parent.glob("capi/*onnxruntime_providers_cuda*"))
