"""`limelens watch` as a process, with real cameras on loopback and real servers."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.cli.test_camera import save_video
from tests.detectors import save_detector
from tests.filming import GREEN, RED, FilmedCamera, filming
from tests.serve.processes.conftest import is_alive
from tests.waiting import until

from limelens.watch.record import EventFilter, Record, RecordError

Watching = Any
Watch = Callable[..., Watching]
ONE = """
heartbeat_s = 0.2
[server]
address = "{server}"
[[camera]]
id = "door"
source = "{source}"
window = 3
max_decision_age_s = 60
"""
"""With a decision that holds for as long as a busy machine may take."""


@pytest.fixture
def address(start_server: Callable[..., Any]) -> str:
    found: str = start_server().address
    return found


def test_changes_come_at_once_and_the_state_is_repeated(watching: Watch, address: str) -> None:
    with filming(GREEN) as camera:
        one = watching(ONE.format(server=address, source=camera.url))
        one.wait_for("door", "clear", "green")
        camera.colour = RED
        one.wait_for("door", "alert", "red")
        until(lambda: [e for e in one.of("door", "heartbeat") if e["state"] == "alert"])
        assert one.stop() == 0
    states = one.states("door")
    assert states[0] == ("unknown", "starting")
    # Nobody watches any more: that is said, too.
    assert states[-3:] == [("clear", "green"), ("alert", "red"), ("unknown", "off")]
    events = one.of("door")
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    assert len({event["id"] for event in events}) == len(events)
    alert = next(event for event in events if event["state"] == "alert")
    assert (alert["type"], alert["previous"], alert["model"]) == ("state", "clear", "colours")
    assert alert["votes"]["red"] >= 2
    assert alert["probability"] > 0.9
    taken, told = (datetime.fromisoformat(alert[key]) for key in ("capture_time", "time"))
    assert taken.utcoffset() == timedelta(0)
    assert timedelta(0) <= told - taken < timedelta(minutes=1)


def test_a_camera_that_is_absent_at_start_is_waited_for(
    watching: Watch, address: str, own_port: Callable[[], int]
) -> None:
    port = own_port()
    one = watching(ONE.format(server=address, source=f"http://127.0.0.1:{port}/live"))
    one.wait_for("door", "unknown", "camera_lost")
    assert "connection refused" in one.of("door", "lost")[0]["detail"]
    until(lambda: any("connection refused" in message for message in one.messages))
    with filming(GREEN, port=port):
        one.wait_for("door", "clear", "green")
        assert one.of("door", "back")
        assert one.stop() == 0


@pytest.mark.ci
def test_why_a_camera_is_lost_is_an_event_whenever_it_changes(
    watching: Watch, address: str
) -> None:
    absent = FilmedCamera(GREEN)
    absent.close()
    one = watching(ONE.format(server=address, source=absent.url))
    until(lambda: [e for e in one.of("door", "lost") if "connection refused" in e["detail"]])
    with filming(GREEN, port=absent.port, login="guard:secret"):
        until(lambda: [e for e in one.of("door", "lost") if "(401)" in e["detail"]])
    assert one.stop() == 0
    details = [event["detail"] for event in one.of("door", "lost")]
    assert [detail.partition(":")[0] for detail in details][:2] == [
        "connection refused", "it asks for a user and a password (401)",
    ]  # fmt: skip
    assert not one.of("door", "back")


@pytest.mark.ci
def test_what_waited_while_nothing_ran_is_not_taken_for_news(watching: Watch, address: str) -> None:
    with filming(GREEN) as camera:
        one = watching(ONE.format(server=address, source=camera.url))
        one.wait_for("door", "clear", "green")
        os.kill(one.process.pid, signal.SIGSTOP)
        stopped_at = time.monotonic()
        until(lambda: time.monotonic() > stopped_at + 6)  # it is the time that counts
        camera.colour = RED
        before = one.of("door")[-1]["sequence"]
        os.kill(one.process.pid, signal.SIGCONT)
        one.wait_for("door", "alert", "red")
        assert one.stop() == 0
    lost = next(e for e in one.of("door", "lost") if e["sequence"] > before)
    assert "stood still" in lost["detail"]
    later = [e for e in one.of("door") if e["sequence"] >= lost["sequence"]]
    assert "clear" not in {event["state"] for event in later}


def test_messages_that_nobody_reads_keep_no_camera_from_saying_that_it_is_lost(
    watching: Watch, address: str
) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 4096)
    os.set_blocking(writing, True)
    camera = FilmedCamera(GREEN)
    try:
        one = watching(ONE.format(server=address, source=camera.url), stderr=writing)
        one.wait_for("door", "clear", "green")
        camera.close()
        one.wait_for("door", "unknown", "camera_lost")
        assert one.stop() == 0
        assert one.states("door")[-1] == ("unknown", "off")
    finally:
        camera.close()
        os.close(reading)
        os.close(writing)


def test_a_server_that_is_killed_and_comes_back_makes_the_state_unknown_meanwhile(
    watching: Watch, start_server: Callable[..., Any]
) -> None:
    server = start_server()
    with filming(GREEN) as camera:
        one = watching(ONE.format(server=server.address, source=camera.url))
        one.wait_for("door", "clear", "green")
        server.stop(0)
        one.wait_for("door", "unknown", "server_lost")
        start_server(listen=server.address)
        one.wait_for("door", "clear", "green")
        types = [event["type"] for event in one.of("door", "lost", "back")]
        # Another `lost` says why, if that took long to find out.
        assert [types[0], types[-1], types.count("back")] == ["lost", "back", 1]
        assert one.stop() == 0


def test_a_decision_expires_if_frames_stop_coming(watching: Watch, start_server: Any) -> None:
    server = start_server()
    with filming(GREEN) as camera:
        text = ONE.format(server=server.address, source=camera.url)
        one = watching(text.replace("max_decision_age_s = 60", "max_decision_age_s = 1"))
        one.wait_for("door", "clear", "green")
        # The camera hangs without closing the connection.
        camera.is_silent = True
        one.wait_for("door", "unknown", "expired")
        camera.is_silent = False
        one.wait_for("door", "clear", "green")


def test_sighup_exchanges_what_changed_and_leaves_the_rest_alone(
    watching: Watch, address: str, tmp_path: Path
) -> None:
    both = ONE + '[[camera]]\nid = "hall"\nsource = "{other}"\n'
    with filming(GREEN) as camera, filming(RED) as other, filming(GREEN) as third:
        text = both.format(server=address, source=camera.url, other=other.url)
        one = watching(text)
        one.wait_for("door", "clear", "green")
        one.wait_for("hall", "alert", "red")
        path = tmp_path / "door.toml"
        path.write_text(text.replace("window = 3", "window = 0"))
        one.process.send_signal(signal.SIGHUP)
        until(lambda: any(f"{path}:8:" in message for message in one.messages))
        path.write_text(text.replace(other.url, third.url))
        one.process.send_signal(signal.SIGHUP)
        one.wait_for("hall", "clear", "green")
        assert ("unknown", "off") in one.states("hall")
        # The other one never noticed.
        assert one.states("door")[-1] == ("clear", "green")
        assert not [state for state in one.states("door") if "off" in state]
        assert camera.num_open == 1
        assert one.stop() == 0


def test_videos_end_the_command_when_they_end(
    watching: Watch, address: str, tmp_path: Path
) -> None:
    video = save_video(tmp_path / "visit.mp4", [GREEN] * 10 + [RED] * 10)
    one = watching(ONE.format(server=address, source=video))
    assert one.wait() == 0
    assert one.states("door")[-3:] == [
        ("clear", "green"), ("alert", "red"), ("unknown", "off"),
    ]  # fmt: skip
    assert one.of("door", "state")[-1]["detail"] == "the file is at its end"
    frames = one.of("door", "frame")
    assert [frame["frame_id"] for frame in frames] == list(range(20))


def test_a_video_says_that_its_server_is_absent_and_begins_when_it_is_there(
    watching: Watch, start_server: Callable[..., Any], tmp_path: Path
) -> None:
    server = start_server()
    server.stop(0)
    video = save_video(tmp_path / "visit.mp4", [GREEN] * 3)
    one = watching(ONE.format(server=server.address, source=video))
    one.wait_for("door", "unknown", "server_lost")
    start_server(listen=server.address)
    assert one.wait() == 0
    assert one.states("door")[-2:] == [("clear", "green"), ("unknown", "off")]


def test_a_wrong_token_is_said_and_goes_on_being_tried(
    watching: Watch, start_server: Callable[..., Any], tokens: Any, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("wrong-token")
    token = tokens.set("door", ["classify", "explain"])
    server = start_server(access=tokens.access())
    with filming(GREEN) as camera:
        text = ONE.format(server=server.address, source=camera.url)
        one = watching(text.replace("[[camera]]", 'token_file = "token"\n[[camera]]'))
        one.wait_for("door", "unknown", "refused")
        (tmp_path / "token").write_text(token)
        one.wait_for("door", "clear", "green")
        shown = "".join(one.messages) + str(one.events)
        assert "wrong-token" not in shown
        assert token not in shown


@pytest.mark.ci
def test_a_wrong_password_is_said_without_it_and_read_again(
    watching: Watch, address: str, tmp_path: Path
) -> None:
    (tmp_path / "password").write_text("guard:wrong-secret")
    with filming(GREEN, login="guard:right-secret") as camera:
        text = ONE.format(server=address, source=camera.url)
        one = watching(text + 'password_file = "password"\n')
        one.wait_for("door", "unknown", "camera_lost")
        assert "password" in one.of("door", "lost")[0]["detail"]
        (tmp_path / "password").write_text("guard:right-secret")
        one.wait_for("door", "clear", "green")
        assert "-secret" not in "".join(one.messages) + str(one.events)


def test_a_frozen_camera_is_unknown_until_it_moves(watching: Watch, address: str) -> None:
    with filming(GREEN) as camera:
        text = ONE.format(server=address, source=camera.url)
        one = watching(text + "frozen_after_s = 0.5\n")
        one.wait_for("door", "clear", "green")
        camera.is_frozen = True
        one.wait_for("door", "unknown", "frozen")
        camera.is_frozen = False
        one.wait_for("door", "clear", "green")
        assert [event["type"] for event in one.of("door", "lost", "back")] == ["lost", "back"]


def test_a_reader_that_leaves_ends_it(watching: Watch, address: str) -> None:
    with filming(GREEN) as camera:
        one = watching(ONE.format(server=address, source=camera.url))
        one.wait_for("door", "clear", "green")
        reading = one.process.stdout.fileno()
        nowhere = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nowhere, reading)
        os.close(nowhere)
        assert one.wait() == 1


def test_what_is_not_installed_is_said_to_be_so_and_not_a_refusal(
    watching: Watch, address: str, tmp_path: Path
) -> None:
    absent = tmp_path / "absent"
    absent.mkdir()
    (absent / "av.py").write_text("raise ImportError('no av')\n")
    path = os.pathsep.join([str(absent), *filter(None, [os.environ.get("PYTHONPATH")])])
    with filming(GREEN) as camera:
        text = ONE.format(server=address, source=camera.url)
        one = watching(text, environment={"PYTHONPATH": path})
        one.wait_for("door", "unknown", "failed")
        assert "pip install 'limelens[camera]'" in one.of("door", "lost")[0]["detail"]
        assert one.stop() == 0


def test_a_wrong_file_is_an_error_and_check_only_reads(
    limelens: Callable[..., Any], tmp_path: Path
) -> None:
    path = tmp_path / "door.toml"
    path.write_text("[[camera]]\nid = 'a'\nsource = 0\nfsp = 5\n")
    result = limelens("watch", path, "--check")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        f"limelens: {path}:4: camera.fsp: there is no such key; did you mean fps?\n"
    )
    path.write_text("[[camera]]\nid = 'a'\nsource = 0\n")
    result = limelens("watch", path, "--check")
    assert (result.exit_code, result.stdout) == (0, f"{path}: 1 camera, nothing is wrong\n")
    path.write_text(
        "[server]\ntoken_env = 'LIMELENS_NO_SUCH'\n[defaults]\npassword_file = 'password'\n"
        "[[camera]]\nid = 'a'\nsource = 'a.mp4'\n"
        "[[camera]]\nid = 'b'\nsource = 0\nmodel = 'b.onnx'\n"
        "[[webhook]]\nname = 'c'\nurl = 'http://127.0.0.1:1/'\nsecret_file = 'c.secret'\n"
        "spool = 'spool'\n"
        "[mqtt]\nhost = 'd'\nusername = 'd'\npassword_env = 'LIMELENS_NO_SUCH'\n"
        "[console]\nusers = 'users.toml'\n"
    )
    result = limelens("watch", path, "--check")
    assert result.exit_code == 1
    for reason in (
        f"webhook c: secret_file: {tmp_path}/c.secret is no file",
        "mqtt: password_env: the variable LIMELENS_NO_SUCH is not set",
        f"console: users: {tmp_path}/users.toml is no file",
        "the server's token: the variable LIMELENS_NO_SUCH is not set",
        f"a: its password: {tmp_path}/password: No such file or directory",
        f"a: {tmp_path}/a.mp4: no such file",
        f"b: {tmp_path}/b.onnx is no file; expected a bundle",
    ):
        assert f"{path}: {reason}" in result.stderr


@pytest.mark.ci
def test_a_model_file_in_place_of_a_server_is_served_by_a_process_of_its_own(
    watching: Watch, one_model: Path
) -> None:
    file = one_model / "colours" / "1" / "model.onnx"
    with filming(GREEN) as camera:
        one = watching(
            f'[defaults]\nmodel = "{file}"\nsource = "{camera.url}"\nmax_decision_age_s = 1\n'
            '[[camera]]\nid = "door"\n[[camera]]\nid = "hall"\n'
        )
        one.wait_for("door", "clear", "green")
        one.wait_for("hall", "clear", "green")
        (child,) = children(one.process.pid)
        before = len(one.states("door"))
        os.kill(child, signal.SIGKILL)
        until(lambda: "unknown" in [state for state, _ in one.states("door")[before:]])
        one.wait_for("door", "clear", "green")
        one.wait_for("hall", "clear", "green")
        until(lambda: len(children(one.process.pid)) == 1)  # the killed one is gone
        (child,) = children(one.process.pid)
        # Whatever happens to the one, the other does not stay behind, nor does its folder.
        folder = Path(Path(f"/proc/{child}/cmdline").read_text().split("\0")[-2])
        assert folder.stat().st_mode & 0o777 == 0o700
        one.process.kill()
        until(lambda: not is_alive(child))
        assert not folder.exists()


@pytest.mark.slow
def test_a_model_file_whose_process_hangs_is_served_by_another_one(
    watching: Watch, one_model: Path
) -> None:
    file = one_model / "colours" / "1" / "model.onnx"
    with filming(GREEN) as camera:
        one = watching(ONE.format(server="localhost:1", source=camera.url) + f'model = "{file}"\n')
        one.wait_for("door", "clear", "green")
        (child,) = children(one.process.pid)
        os.kill(child, signal.SIGSTOP)
        one.wait_for("door", "unknown", "server_lost")
        one.wait_for("door", "clear", "green")
        assert children(one.process.pid) not in ([], [child])
        assert any("its server hangs" in message for message in one.messages)
        assert one.stop() == 0


@pytest.mark.ci
def test_a_model_file_that_cannot_be_served_is_said(watching: Watch, tmp_path: Path) -> None:
    (tmp_path / "mine.onnx").write_bytes(b"no bundle")
    with filming(GREEN) as camera:
        one = watching(f'[[camera]]\nid = "door"\nsource = "{camera.url}"\nmodel = "mine.onnx"\n')
        until(lambda: any("mine.onnx" in e["detail"] for e in one.of("door", "lost")))
        assert one.stop() == 0


def children(pid: int) -> list[int]:
    """The processes that another one, or a thread of it, started."""
    found = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for path in found for child in path.read_text().split()]


def test_events_are_recorded_and_shown_on_the_page(
    watching: Watch, address: str, tmp_path: Path
) -> None:
    with filming(RED) as camera:
        text = ONE.format(server=address, source=camera.url)
        sections = '[record]\npath = "record"\n[jsonl]\npath = "events.jsonl"\n'
        one = watching(text + sections, "--console", "127.0.0.1:0")
        one.wait_for("door", "alert", "red")
        until(lambda: any("the page is at " in message for message in one.messages))
        (page,) = [m.split("the page is at ")[1].strip() for m in one.messages if "page is" in m]
        with urllib.request.urlopen(page) as response:
            assert "limelens" in response.read().decode()
        with Record(tmp_path / "record") as record:
            until(lambda: any(e.has_overlay for e in record.list().events))
        assert one.stop() == 0
    with Record(tmp_path / "record") as record:
        recorded = {one.event.id for one in record.list().events}
    changes = [e["id"] for e in one.of("door", "state", "lost", "back")]
    assert recorded == set(changes)
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == changes


def test_a_record_does_not_go_on_where_watching_was_killed(
    watching: Watch, address: str, limelens: Callable[..., Any], tmp_path: Path
) -> None:
    folder = tmp_path / "record"

    def listed() -> Any:
        return limelens("events", "list", "--record", folder, "--json").json

    def is_recorded(label: str) -> bool:
        with suppress(RecordError), Record(folder) as record:
            return bool(record.count(EventFilter(labels=(label,))))
        return False

    with filming(GREEN) as camera:
        text = ONE.format(server=address, source=camera.url) + '[record]\npath = "record"\n'
        one = watching(text)
        one.wait_for("door", "clear", "green")
        until(lambda: is_recorded("green"))
        assert listed()["silent"] == []
        one.process.kill()
        one.wait()
        (silent,) = listed()["silent"]
        assert silent["camera_id"] == "door"
        said = limelens("events", "list", "--record", folder).stderr
        assert "door is not watched any more: the last sign of life is of 2" in said
        camera.colour = RED
        other = watching(text)
        other.wait_for("door", "alert", "red")
        until(lambda: is_recorded("red"))
        found = listed()
        assert other.stop() == 0
    assert found["silent"] == []
    states = [(e["state"], e["reason"] or e["label"]) for e in reversed(found["events"])]
    between = states.index(("clear", "green")) + 1
    assert states[between : between + 2] == [("unknown", "off"), ("unknown", "starting")]
    assert listed()["events"][0]["detail"] == "watching was ended"


@pytest.mark.ci
def test_with_blurred_faces_an_alert_has_an_overlay_that_was_drawn_here(
    watching: Watch, start_server: Callable[..., Any], tmp_path: Path
) -> None:
    server = start_server(face_detector=str(save_detector(tmp_path / "detector")))
    with filming(RED) as camera:
        text = ONE.format(server=server.address, source=camera.url)
        one = watching(text + '[record]\npath = "record"\nblur_faces = true\n')
        one.wait_for("door", "alert", "red")
        with Record(tmp_path / "record") as record:
            until(lambda: any(e.has_overlay for e in record.list().events))
            (alerted,) = record.list(EventFilter(labels=("red",))).events
            overlay = record.overlay(alerted.id)
            assert overlay is not None
            assert overlay.data.startswith(b"\x89PNG")
            assert not alerted.has_frame
        assert one.stop() == 0


def test_outside_its_schedule_a_camera_is_off_and_nothing_is_sent(
    watching: Watch, address: str
) -> None:
    later = datetime.now() + timedelta(hours=2)
    schedule = f"{later:%H:%M}-{later + timedelta(hours=1):%H:%M}"
    with filming(GREEN) as camera, filming(GREEN) as other:
        one = watching(
            ONE.format(server=address, source=camera.url)
            + f'schedule = "{schedule}"\n[[camera]]\nid = "hall"\nsource = "{other.url}"\n'
        )
        one.wait_for("hall", "clear", "green")
        assert one.states("door") == [("unknown", "starting"), ("unknown", "off")]
        assert f"{later:%A %H:%M}" in one.of("door", "state")[-1]["detail"]
        until(lambda: one.of("door", "heartbeat"))
        assert (camera.num_open, one.of("door", "frame")) == (0, [])
        assert one.stop() == 0
