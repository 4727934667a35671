"""Load on a server, and what it did to it: plans, callers in processes of their own, figures.

It speaks the contract like any other client and knows nothing of what is inside a server.
"""

from __future__ import annotations

from limelens.serve.tools.load.figures import KindFigures, LoadFigures, latency_figures
from limelens.serve.tools.load.generate import generate
from limelens.serve.tools.load.images import draw_image, read_images
from limelens.serve.tools.load.plan import Kind, LoadPlan
from limelens.serve.tools.load.process import ServerProcess, Usage, Watch, local_server, started
from limelens.serve.tools.load.raw import RawFigures, measure_raw

__all__ = [
    "Kind",
    "KindFigures",
    "LoadFigures",
    "LoadPlan",
    "RawFigures",
    "ServerProcess",
    "Usage",
    "Watch",
    "draw_image",
    "generate",
    "latency_figures",
    "local_server",
    "measure_raw",
    "read_images",
    "started",
]
