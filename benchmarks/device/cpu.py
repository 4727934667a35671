"""The CPU half: a server's throughput by threads, relative to the floor.

The floor is decoding and onnxruntime in as many threads, before and after. Nothing is pinned to
cores: gRPC and the callers use the remaining ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from benchmarks.device.isolated import cores
from benchmarks.device.report import Row
from benchmarks.device.setting import Layout, Setting, models, serving
from benchmarks.untrained import repository_of
from limelens.serve.errors import LimelensError
from limelens.serve.tools.load import Kind, Watch, draw_image, generate, measure_floor

_SHARES: Final = (0.25, 0.5, 0.75)
_SIDE: Final = 224
_CALLERS_A_THREAD: Final = 8
_REQUIRED, _WANTED = 0.85, 0.92


def counts_of(num_cores: int) -> list[int]:
    """How many threads the server gets: 4, 8 and 12 on 16 cores, the same shares of fewer."""
    found = {max(1, int(share * num_cores)) for share in _SHARES}
    return sorted(found)


def layouts_of(count: int, wanted: Sequence[Layout]) -> list[Layout]:
    """The server's own choice, and the layouts that make sense for this number of threads."""
    others = [one for one in wanted if one.processes is not None and one.processes <= count]
    return [Layout(), *others]


def throughput(setting: Setting) -> None:
    """Images a second of MobileNetV3-small at 224 px, by the floor's."""
    model = models()["mobilenet_v3_small"]
    sent = [draw_image(_SIDE, _SIDE, seed) for seed in range(8)]
    num_cores = len(cores())
    for count in counts_of(num_cores):

        def floor(count: int = count) -> float:
            return measure_floor(
                model, sent, setting.seconds / 2, num_threads=count, decoder="limelens"
            ).per_s

        setting.check_time()
        before = floor()
        found: list[tuple[Layout, float, str]] = []
        for layout in layouts_of(count, setting.layouts):
            options = (*layout.options, "--num-threads", str(count))
            try:
                with serving(setting, repository_of(model), *options, device="cpu") as server:
                    watch = Watch(server.pid)
                    callers = min(128, _CALLERS_A_THREAD * count)
                    plan = setting.plan(server, sent, callers=callers, connections=callers)
                    metrics = generate(plan, watch.begin, watch.end)
                classify = metrics.kinds[Kind.CLASSIFY]
                used = watch.usage.cpu_s / watch.usage.seconds
                note = (
                    f"server {used:.2f} cores, callers {metrics.generator_cpu:.2f}; "
                    f"{dict(classify.errors) or 'no errors'}"
                )
                found.append((layout, classify.per_s, note))
            except LimelensError as error:
                setting.report.fail(f"{count} threads{layout}", str(error))
        mean = (before + floor()) / 2
        for layout, per_s, note in found:
            counts = layout == Layout()
            setting.report.add(
                Row(
                    f"Classify, {count} threads on {num_cores} cores, mobilenet_v3_small{layout}",
                    per_s,
                    "/s",
                    mean,
                    per_s / mean,
                    required=_REQUIRED if counts else None,
                    wanted=_WANTED if counts else None,
                    more_is_better=True,
                    note=note,
                )
            )
