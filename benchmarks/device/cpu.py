"""The CPU half: what a server gets out of some of the cores, by what the cores can do.

The server has cores of its own, callers have the rest. The floor is decoding and onnxruntime in as
many threads on the server's cores, before and after.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from benchmarks.device.isolated import cores, on_cores
from benchmarks.device.report import Row
from benchmarks.device.setting import Layout, Setting, models, serving
from benchmarks.untrained import repository_of
from limelens.serve.errors import LimelensError
from limelens.serve.load import Kind, Watch, draw_picture, generate, measure_raw

_SHARES: Final = (0.25, 0.5, 0.75)
_SIDE: Final = 224
_CALLERS_A_CORE: Final = 8
_REQUIRED, _WANTED = 0.85, 0.92


def counts_of(num_cores: int) -> list[int]:
    """How many cores the server gets: 4, 8 and 12 of 16, likewise of fewer, at least one."""
    found = {max(1, int(share * num_cores)) for share in _SHARES}
    return sorted(found)


def layouts_of(count: int, wanted: Sequence[Layout]) -> list[Layout]:
    """The layouts that make sense on so many cores."""
    return [one for one in wanted if one.processes is None or one.processes <= count]


def throughput(setting: Setting) -> None:
    """Images a second of MobileNetV3-small at 224 px by the floor's, for some shares of cores."""
    model = models()["mobilenet_v3_small"]
    sent = [draw_picture(_SIDE, _SIDE, seed) for seed in range(8)]
    everything = cores()
    for count in counts_of(len(everything)):
        chosen = everything[:count]
        senders = everything[count:] or everything

        def floor(chosen: Sequence[int] = chosen) -> float:
            with on_cores(chosen):
                return measure_raw(
                    model,
                    sent,
                    setting.seconds / 2,
                    num_threads=len(chosen),
                    decoder="limelens",
                ).per_s

        setting.check_time()
        before = floor()
        found: list[tuple[Layout, float, str]] = []
        for layout in layouts_of(count, setting.layouts):
            try:
                with serving(
                    setting, repository_of(model), *layout.options, device="cpu", only=chosen
                ) as server:
                    watch = Watch(server.pid)
                    callers = min(128, _CALLERS_A_CORE * count)
                    plan = setting.plan(
                        server,
                        sent,
                        callers=callers,
                        processes=min(len(senders), callers),
                        connections=callers,
                    )
                    with on_cores(senders):
                        figures = generate(plan, watch.begin, watch.end)
                classify = figures.kinds[Kind.CLASSIFY]
                used = watch.usage.cpu_s / watch.usage.seconds
                note = (
                    f"server {used:.2f} cores, callers {figures.generator_cpu:.2f} of "
                    f"{len(senders)}; {dict(classify.errors) or 'no errors'}"
                )
                found.append((layout, classify.per_s, note))
            except LimelensError as error:
                setting.report.fail(f"{count} cores{layout}", str(error))
        mean = (before + floor()) / 2
        for layout, per_s, note in found:
            counts = layout == setting.layouts[0]
            setting.report.add(
                Row(
                    f"Classify on {count} of {len(everything)} cores, mobilenet_v3_small{layout}",
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
