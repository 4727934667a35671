"""One process of callers: does its share of a plan and records how each call ends.

Requests are serialized once and most responses are not parsed, so that the callers cost little
compared with the server that they measure.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, Final

import grpc
import grpc.aio
import numpy as np

from limelens.serve.client import FaceOptions
from limelens.serve.client.connection import Connection as ClientConnection
from limelens.serve.client.requests import faces_message
from limelens.serve.tools.load.plan import Kind, LoadPlan
from limelens.v1 import classifier_service_pb2 as service_pb2
from limelens.v1 import face_pb2, image_pb2

_SERVICE: Final = "/limelens.v1.ClassifierService/"
_CALLERS_A_CHANNEL: Final = 16
_MAX_UNDER_WAY: Final = 4096
_CLASSIFIED: Final = service_pb2.FRAME_STATUS_CLASSIFIED


@dataclass(eq=False)
class Recording:
    """What one process saw of one kind of call; grows while it runs.

    Args:
        latencies_s: Of calls that succeeded; in an open loop from when they were due.
        num_in_time: How many of them ended before the time was over.
        errors: How often a call ended otherwise, by the status' name.
    """

    latencies_s: list[float] = field(default_factory=list)
    num_in_time: int = 0
    errors: Counter[str] = field(default_factory=Counter)


@dataclass(eq=False)
class Recorded:
    """What one process saw.

    `cpu_s` is CPU time while calls counted, `lateness_s` how long after they were due calls of an
    open loop were sent.
    """

    recordings: dict[Kind, Recording] = field(
        default_factory=lambda: {kind: Recording() for kind in Kind}
    )
    cpu_s: float = 0.0
    lateness_s: list[float] = field(default_factory=list)


def call_in_process(plan: LoadPlan, process: int, connection: Connection) -> None:
    """The main function of a process of callers, which is the plan's `process`th from 0.

    It sends `started`, then `ready` once it is connected, receives by `time.monotonic` when
    counting begins, and sends `Recorded`, or a sentence if it failed.
    """
    connection.send("started")
    try:
        recorded = asyncio.run(_Callers(plan, process).run(connection))
    except Exception as error:
        connection.send(f"{type(error).__name__}: {error}")
    else:
        connection.send(recorded)


class _Callers:
    def __init__(self, plan: LoadPlan, process: int) -> None:
        self._plan, self._process = plan, process
        self._rng = np.random.default_rng((plan.seed, process))
        self._recorded = Recorded()
        self._begin = self._end = 0.0
        self._requests = [*plan.requests] or [_classify_request(plan, one) for one in plan.images]
        self._broken = _classify_request(plan, plan.images[0][: len(plan.images[0]) // 2])
        self._turn = process
        self._channels: list[Any] = []
        self._connection = ClientConnection(
            plan.server, tls=plan.tls, token=plan.token, insecure_token=plan.insecure_token
        )
        self._metadata = self._connection.metadata(plan.token, None)

    async def run(self, connection: Connection) -> Recorded:
        plan = self._plan
        calls: list[Callable[[], Any]] = [self._open_loop] if plan.is_open else []
        calls += [
            partial(self._camera, place)
            if kind is Kind.STREAM
            else partial(self._closed_loop, kind, place)
            for place, kind in enumerate(plan.share(self._process))
        ]
        if plan.connections is None:
            num_channels = 1 + len(calls) // _CALLERS_A_CHANNEL
        else:  # divided among the processes, at least one each
            num_channels = max(1, len(range(self._process, plan.connections, plan.num_processes)))
        self._channels = [
            self._connection.channel(grpc.aio, ("grpc.enable_retries", 0))
            for _ in range(num_channels)
        ]
        try:
            await asyncio.gather(*(one.channel_ready() for one in self._channels))
            # A full collection in the middle would look like a slow server.
            gc.collect()
            gc.freeze()
            connection.send("ready")
            self._begin = await asyncio.to_thread(connection.recv)
            self._end = self._begin + plan.duration_s
            tasks = [asyncio.create_task(one()) for one in calls]
            await self._wait_until(self._begin)
            cpu_before = time.process_time()
            await asyncio.wait(tasks, timeout=max(0.0, self._end - time.monotonic()))
            self._recorded.cpu_s = time.process_time() - cpu_before
            await asyncio.gather(*tasks)
        finally:
            for channel in self._channels:
                await channel.close()
        return self._recorded

    @staticmethod
    async def _wait_until(moment: float) -> None:
        if (wait_s := moment - time.monotonic()) > 0:
            await asyncio.sleep(wait_s)

    def _method(self, place: int, name: str) -> Any:
        """A unary method; neighbouring loops are on different connections."""
        path = self._plan.method if name == "Classify" else None
        return self._channels[place % len(self._channels)].unary_unary(path or _SERVICE + name)

    def _next(self) -> bytes:
        if self._plan.broken and self._rng.random() < self._plan.broken:
            return self._broken
        self._turn += 1
        return self._requests[self._turn % len(self._requests)]

    async def _closed_loop(self, kind: Kind, place: int) -> None:
        """Each call begins when the last has ended."""
        plan = self._plan
        self._turn += 1
        is_explain = kind is Kind.EXPLAIN
        method = self._method(place, "Explain" if is_explain else "Classify")
        most = None if is_explain else plan.calls_each
        if most is not None or not plan.warmup_s:
            await self._wait_until(self._begin)
        explain = [_explain_request(plan, data, self._turn) for data in plan.images * is_explain]
        for _ in itertools.repeat(None) if most is None else range(most):
            if (now := time.monotonic()) >= self._end:
                return
            if not is_explain:
                await self._call(kind, method, self._next(), plan.deadline_s, now)
                continue
            self._turn += 1
            request = explain[self._turn % len(explain)]
            if not await self._call(kind, method, request, plan.explain_deadline_s, now):
                await asyncio.sleep(0.05)  # refused at once: do not flood the server

    async def _open_loop(self) -> None:
        """Sends each call when it is due and counts from then, so that waiting shows as latency."""
        plan = self._plan
        assert plan.rate is not None
        mean_gap_s = plan.num_processes / plan.rate
        in_turn = itertools.cycle(
            [self._method(place, "Classify") for place in range(len(self._channels))]
        )
        room = asyncio.Semaphore(_MAX_UNDER_WAY)
        under_way: set[asyncio.Task[bool]] = set()
        due = self._begin - plan.warmup_s
        while (due := due + self._rng.exponential(mean_gap_s)) < self._end:
            await self._wait_until(due)
            await room.acquire()
            if due >= self._begin:
                self._recorded.lateness_s.append(time.monotonic() - due)
            method = next(in_turn)
            call = self._call(Kind.CLASSIFY, method, self._next(), plan.deadline_s, due)
            task = asyncio.create_task(call)
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            task.add_done_callback(lambda _: room.release())
        await asyncio.gather(*under_way)

    async def _call(
        self, kind: Kind, method: Any, request: bytes, timeout_s: float | None, due: float
    ) -> bool:
        """Makes one call; returns whether it succeeded."""
        code = ""
        try:
            await method(request, timeout=timeout_s, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            code = error.code().name
        now = time.monotonic()
        # Explanations take long: those begun in the warm-up count by their end.
        if due >= self._begin or (kind is Kind.EXPLAIN and now >= self._begin):
            recording = self._recorded.recordings[kind]
            if code:
                recording.errors[code] += 1
            else:
                recording.latencies_s.append(now - due)
                recording.num_in_time += now < self._end
        return not code

    async def _camera(self, place: int) -> None:
        """One camera: sends each frame when it is due, reads answers as they come."""
        plan = self._plan
        number = plan.num_processes * place + self._process
        call = self._channels[place % len(self._channels)].stream_stream(
            _SERVICE + "ClassifyStream",
            response_deserializer=service_pb2.ClassifyStreamResponse.FromString,
        )(self._frames(number, phase=float(self._rng.random()) / plan.fps), metadata=self._metadata)
        recording = self._recorded.recordings[Kind.STREAM]
        first_due = self._begin - plan.warmup_s
        try:
            async for answer in call:
                now = time.monotonic()
                due = first_due + answer.frame_id / 1e6
                if due < self._begin:
                    continue
                if answer.status == _CLASSIFIED:
                    recording.latencies_s.append(now - due)
                    recording.num_in_time += now < self._end
                else:
                    name = service_pb2.FrameStatus.Name(answer.status)
                    recording.errors[name.removeprefix("FRAME_STATUS_")] += 1
        except grpc.aio.AioRpcError as error:
            recording.errors[error.code().name] += 1

    async def _frames(self, number: int, phase: float) -> AsyncIterator[bytes]:
        plan = self._plan
        config = service_pb2.StreamConfig(
            camera_id=f"load-{number}", model=plan.model, faces=faces_message(plan.faces)
        )
        yield service_pb2.ClassifyStreamRequest(config=config).SerializeToString()
        first_due = self._begin - plan.warmup_s
        due = first_due + phase
        while due < self._end:
            await self._wait_until(due)
            data = plan.images[number % len(plan.images)]
            number += 1
            # The frame's number encodes when it was due.
            frame = service_pb2.Frame(
                frame_id=round((due - first_due) * 1e6), image=image_pb2.Image(encoded=data)
            )
            yield service_pb2.ClassifyStreamRequest(frame=frame).SerializeToString()
            due += 1 / plan.fps


def _classify_request(plan: LoadPlan, data: bytes) -> bytes:
    request = service_pb2.ClassifyRequest(
        model=plan.model, images=[image_pb2.Image(encoded=data)], faces=_faces_of_images(plan)
    )
    return request.SerializeToString()


def _explain_request(plan: LoadPlan, data: bytes, seed: int) -> bytes:
    image = image_pb2.Image(encoded=data)
    return service_pb2.ExplainRequest(
        model=plan.model,
        image=image,
        num_samples=plan.num_samples,
        seed=seed,
        faces=_faces_of_images(plan),
    ).SerializeToString()


def _faces_of_images(plan: LoadPlan) -> face_pb2.FaceOptions | None:
    """As for cameras, without what concerns the people in their frames."""
    if plan.faces is None:
        return None
    usual = FaceOptions()
    return faces_message(
        replace(
            plan.faces,
            detect_every=usual.detect_every,
            skip_still_frames=usual.skip_still_frames,
            max_unseen_s=usual.max_unseen_s,
        )
    )
