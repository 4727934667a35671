"""One process of callers: keeps to its share of a plan and notes what becomes of each call.

Requests are put into bytes once and answers are hardly looked at, so that the callers cost little
beside the server that they are to measure.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, Final

import grpc
import grpc.aio
import numpy as np

from limelens.serve.client.connection import Connection as Reach
from limelens.serve.client.connection import address_options
from limelens.serve.tools.load.figures import Recording
from limelens.serve.tools.load.plan import Kind, LoadPlan
from limelens.v1 import classifier_service_pb2 as service_pb2
from limelens.v1 import image_pb2

_EXPLAIN: Final = "/limelens.v1.ClassifierService/Explain"
_CLASSIFY_STREAM: Final = "/limelens.v1.ClassifierService/ClassifyStream"
_CALLERS_A_CHANNEL: Final = 16
_MOST_UNDER_WAY: Final = 4096
_CLASSIFIED: Final = service_pb2.FRAME_STATUS_CLASSIFIED
_MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024


@dataclass(frozen=True)
class Share:
    """What one of several processes does of a plan.

    Args:
        plan: The whole.
        process: Which process this is, from 0.
    """

    plan: LoadPlan
    process: int

    def num_connections(self, num_loops: int) -> int:
        """How many connections this process opens for so many loops, at least one."""
        connections = self.plan.connections
        if connections is None:
            return 1 + num_loops // _CALLERS_A_CHANNEL
        return max(1, len(range(self.process, connections, self.plan.num_processes)))


@dataclass(eq=False)
class Noted:
    """What a process brings back.

    Args:
        recordings: By kind.
        cpu_s: That this process took while calls were counted.
        lateness_s: How long after they were due calls of an open loop were sent.
    """

    recordings: dict[Kind, Recording]
    cpu_s: float = 0.0
    lateness_s: list[float] = field(default_factory=list)


def call_in_process(share: Share, connection: Connection) -> None:
    """The whole life of a process of callers: tells when it is ready, is told when to begin.

    Args:
        share: What it is to do.
        connection: Sends `ready`, receives by `time.monotonic` when counting begins, sends `Noted`,
            or the sentence of what went wrong.
    """
    try:
        noted = asyncio.run(_Callers(share).run(connection))
    except Exception as error:
        connection.send(f"{type(error).__name__}: {error}")
    else:
        connection.send(noted)


class _Callers:
    def __init__(self, share: Share) -> None:
        self._share = share
        self._plan = plan = share.plan
        self._rng = np.random.default_rng((plan.seed, share.process))
        self._noted = Noted({kind: Recording() for kind in Kind})
        self._begin = self._end = 0.0
        self._requests = list(plan.requests) or [
            _classify_request(plan, data) for data in plan.images
        ]
        self._broken = _classify_request(plan, plan.images[0][: len(plan.images[0]) // 2])
        self._turn = share.process
        self._channels: list[Any] = []
        self._reach = Reach(
            plan.server, tls=plan.tls, token=plan.token, insecure_token=plan.insecure_token
        )
        self._metadata = self._reach.metadata(plan.token, None)

    async def run(self, connection: Connection) -> Noted:
        plan, share = self._plan, self._share
        loops = {
            Kind.CLASSIFY: self._caller,
            Kind.STREAM: self._camera,
            Kind.EXPLAIN: self._explainer,
        }
        calls: list[Callable[[], Any]] = [self._open_loop] if plan.is_open else []
        calls += [
            partial(loops[kind], place) for place, kind in enumerate(plan.share(share.process))
        ]
        channels = share.num_connections(len(calls))
        self._channels = [_channel(self._reach) for _ in range(channels)]
        try:
            await asyncio.gather(*(one.channel_ready() for one in self._channels))
            connection.send("ready")
            self._begin = await asyncio.to_thread(connection.recv)
            self._end = self._begin + plan.duration_s
            # A full collection in the middle would look like a slow server.
            gc.collect()
            gc.freeze()
            tasks = [asyncio.create_task(one()) for one in calls]
            await asyncio.sleep(max(0.0, self._begin - time.monotonic()))
            cpu_before = time.process_time()
            await asyncio.wait(tasks, timeout=max(0.0, self._end - time.monotonic()))
            self._noted.cpu_s = time.process_time() - cpu_before
            await asyncio.gather(*tasks)
        finally:
            for channel in self._channels:
                await channel.close()
        return self._noted

    def _channel_of(self, place: int) -> Any:
        """Loops next to each other are on different connections."""
        return self._channels[place % len(self._channels)]

    def _next(self) -> bytes:
        if self._plan.broken and self._rng.random() < self._plan.broken:
            return self._broken
        self._turn += 1
        return self._requests[self._turn % len(self._requests)]

    async def _caller(self, place: int) -> None:
        """Closed loop: asks, is answered, asks again."""
        self._turn += 1
        method = self._channel_of(place).unary_unary(self._plan.method)
        most = self._plan.calls_each
        if most is not None or not self._plan.warmup_s:
            await asyncio.sleep(max(0.0, self._begin - time.monotonic()))
        count = 0
        while (now := time.monotonic()) < self._end and (most is None or count < most):
            count += 1
            await self._call(Kind.CLASSIFY, method, self._next(), self._plan.deadline_s, now)

    async def _open_loop(self) -> None:
        """Sends when it is time to, and counts from then: waiting callers are not forgotten."""
        plan = self._plan
        assert plan.rate is not None
        mean_gap_s = plan.num_processes / plan.rate
        in_turn = itertools.cycle([one.unary_unary(plan.method) for one in self._channels])
        room = asyncio.Semaphore(_MOST_UNDER_WAY)
        under_way: set[asyncio.Task[bool]] = set()
        due = self._begin - plan.warmup_s
        while (due := due + self._rng.exponential(mean_gap_s)) < self._end:
            wait_s = due - time.monotonic()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            await room.acquire()
            if due >= self._begin:
                self._noted.lateness_s.append(time.monotonic() - due)
            method = next(in_turn)
            call = self._call(Kind.CLASSIFY, method, self._next(), plan.deadline_s, due)
            task = asyncio.create_task(call)
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            task.add_done_callback(lambda _: room.release())
        await asyncio.gather(*under_way)

    async def _explainer(self, place: int) -> None:
        plan = self._plan
        self._turn += 1
        method = self._channel_of(place).unary_unary(_EXPLAIN)
        requests = [
            service_pb2.ExplainRequest(
                model=plan.model,
                image=image_pb2.Image(encoded=data),
                num_samples=plan.num_samples,
                seed=self._turn,
            ).SerializeToString()
            for data in plan.images
        ]
        while (now := time.monotonic()) < self._end:
            self._turn += 1
            request = requests[self._turn % len(requests)]
            if not await self._call(Kind.EXPLAIN, method, request, plan.explain_deadline_s, now):
                await asyncio.sleep(0.05)  # refused at once: a flood would measure the refusals

    async def _call(
        self, kind: Kind, method: Any, request: bytes, timeout_s: float | None, due: float
    ) -> bool:
        """One call; whether it was answered."""
        code = ""
        try:
            await method(request, timeout=timeout_s, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            code = error.code().name
        now = time.monotonic()
        # Explanations take long: those that were begun in the warm-up count by their end.
        if due >= self._begin or (kind is Kind.EXPLAIN and now >= self._begin):
            recording = self._noted.recordings[kind]
            if code:
                recording.codes[code] += 1
            else:
                recording.latencies_s.append(now - due)
                recording.num_in_time += now < self._end
        return not code

    async def _camera(self, place: int) -> None:
        """One camera: a frame at each of its times, answers as they come."""
        plan = self._plan
        number = plan.num_processes * place + self._share.process
        call = self._channel_of(place).stream_stream(
            _CLASSIFY_STREAM,
            response_deserializer=service_pb2.ClassifyStreamResponse.FromString,
        )(
            self._frames(number, phase=float(self._rng.random()) / plan.fps),
            metadata=self._metadata,
        )
        recording = self._noted.recordings[Kind.STREAM]
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
                    recording.codes[name.removeprefix("FRAME_STATUS_")] += 1
        except grpc.aio.AioRpcError as error:
            recording.codes[error.code().name] += 1

    async def _frames(self, number: int, phase: float) -> AsyncIterator[bytes]:
        plan = self._plan
        config = service_pb2.StreamConfig(camera_id=f"load-{number}", model=plan.model)
        yield service_pb2.ClassifyStreamRequest(config=config).SerializeToString()
        first_due = self._begin - plan.warmup_s
        due = first_due + phase
        while due < self._end:
            wait_s = due - time.monotonic()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            data = plan.images[number % len(plan.images)]
            number += 1
            # The frame's number says when it was due: answers need no table.
            frame = service_pb2.Frame(
                frame_id=round((due - first_due) * 1e6), image=image_pb2.Image(encoded=data)
            )
            yield service_pb2.ClassifyStreamRequest(frame=frame).SerializeToString()
            due += 1 / plan.fps


def _classify_request(plan: LoadPlan, data: bytes) -> bytes:
    request = service_pb2.ClassifyRequest(model=plan.model, images=[image_pb2.Image(encoded=data)])
    return request.SerializeToString()


def _channel(reach: Reach) -> Any:
    options: list[tuple[str, Any]] = [
        ("grpc.enable_retries", 0),
        # Else channels to one address would share one connection.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
        *address_options(reach.address, reach.tls),
    ]
    credentials = reach.credentials()
    if credentials is None:
        return grpc.aio.insecure_channel(reach.address, options)
    return grpc.aio.secure_channel(reach.address, credentials, options)
