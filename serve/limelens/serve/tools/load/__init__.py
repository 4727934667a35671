"""Load on a server: plans, callers in separate processes, metrics, and the floor for comparison.

It is a client like any other and knows nothing of the inside of a server.
"""

from __future__ import annotations

from limelens.serve.tools.load.floor import FloorMetrics, measure_floor
from limelens.serve.tools.load.generate import KindMetrics, LoadMetrics, generate, latency_metrics
from limelens.serve.tools.load.plan import Kind, LoadPlan, draw_image
from limelens.serve.tools.load.process import ServerProcess, Usage, Watch, local_server, started

__all__ = [
    "FloorMetrics",
    "Kind",
    "KindMetrics",
    "LoadMetrics",
    "LoadPlan",
    "ServerProcess",
    "Usage",
    "Watch",
    "draw_image",
    "generate",
    "latency_metrics",
    "local_server",
    "measure_floor",
    "started",
]
