"""Order and fairness of the one thread that has the device."""

from __future__ import annotations

import functools
import gc
import threading
import weakref

import pytest
from tests.waiting import until

from limelens.serve.bundle.execution.device_thread import DeviceThread, Urgency, device_thread


class Hold:
    """Keeps a device's thread busy until it is released."""

    def __init__(self, thread: DeviceThread) -> None:
        self.go_on, entered = threading.Event(), threading.Event()

        def work() -> None:
            entered.set()
            assert self.go_on.wait(60)

        thread.submit(work)
        assert entered.wait(60)


def test_requests_go_before_chunks_and_each_in_the_order_they_came() -> None:
    thread = DeviceThread("test", patience_s=60)
    hold = Hold(thread)
    order: list[str] = []
    works = [
        thread.submit(lambda name=name: order.append(name), urgency)  # type: ignore[misc]
        for name, urgency in (
            ("chunk 1", Urgency.CHUNK),
            ("request 1", Urgency.REQUEST),
            ("chunk 2", Urgency.CHUNK),
            ("request 2", Urgency.REQUEST),
        )
    ]
    hold.go_on.set()
    for work in works:
        work.wait()
    assert order == ["request 1", "request 2", "chunk 1", "chunk 2"]


def test_a_chunk_that_has_waited_long_goes_first() -> None:
    thread = DeviceThread("test", patience_s=0.0)
    hold = Hold(thread)
    order: list[str] = []
    chunk = thread.submit(lambda: order.append("chunk"), Urgency.CHUNK)
    request = thread.submit(lambda: order.append("request"))
    hold.go_on.set()
    chunk.wait()
    request.wait()
    assert order == ["chunk", "request"]


def test_an_error_reaches_who_waits_and_the_thread_lives_on() -> None:
    thread = DeviceThread("test")

    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        thread.call(fail)
    assert thread.call(lambda: 3) == 3


def test_work_from_the_thread_itself_runs_at_once() -> None:
    thread = DeviceThread("test")
    assert thread.call(lambda: thread.call(lambda: thread.is_current))


def test_an_idle_thread_holds_nothing_of_what_it_ran() -> None:
    class Large:
        pass

    thread, large = DeviceThread("test"), Large()
    gone = weakref.ref(large)
    thread.call(functools.partial(id, large))
    del large
    until(lambda: gc.collect() >= 0 and gone() is None)


def test_a_device_has_one_thread() -> None:
    assert device_thread("test:0") is device_thread("test:0")
    assert device_thread("test:0") is not device_thread("test:1")
