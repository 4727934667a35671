"""The file of `limelens watch`: what is read, and what is said of what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from limelens.watch.cameras.config import ConfigError, WatchConfig, read_config


def read(folder: Path, text: str) -> WatchConfig:
    path = folder / "door.toml"
    path.write_text(text)
    return read_config(path)


def said(folder: Path, text: str) -> list[str]:
    """The lines of the error, without the folder."""
    with pytest.raises(ConfigError) as raised:
        read(folder, text)
    return str(raised.value).replace(f"{folder}/", "").splitlines()


def test_defaults_hold_for_cameras_that_say_nothing_else(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        """
        [server]
        address = "serving:8500"
        [defaults]
        fps = 5
        model = "mine.onnx"
        [[camera]]
        id = "door"
        source = "rtsp://door/live"
        region = [0.1, 0, 0.9, 0.5]
        [[camera]]
        id = "hall"
        source = 0
        fps = 2.5
        server = "other:8500"
        """,
    )
    door, hall = config.camera
    assert (door.fps, door.model, door.server) == (5, tmp_path / "mine.onnx", None)
    # A server in place of the model of the defaults.
    assert (hall.fps, hall.model, hall.server) == (2.5, None, "other:8500")
    assert door.smoothing == (5, 3)


def test_paths_are_relative_to_the_folder_of_the_file(tmp_path: Path) -> None:
    (camera,) = read(tmp_path, '[[camera]]\nid = "a"\nsource = "videos/a.mp4"').camera
    assert camera.source.get_secret_value() == str(tmp_path / "videos" / "a.mp4")


def test_every_error_names_line_key_what_was_found_and_expected(tmp_path: Path) -> None:
    assert said(
        tmp_path,
        """heartbeat_s = -1
[server]
adress = "serving:8500"
[defaults]
explain = "sometimes"
[[camera]]
id = "front door"
source = "rtsp://door/live"
window = 5
required = 2
[[camera]]
id = "hall"
source = 0
region = [
    0.1, 0,
]
schedule = "mon-fri 7-19"
fps = 0.25
""",
    ) == [
        "door.toml:1: heartbeat_s: found -1; expected greater than or equal to 0",
        "door.toml:3: server.adress: there is no such key; did you mean address?",
        "door.toml:5: camera.explain: found 'sometimes'; expected 'alerts', 'changes' or 'never'",
        "door.toml:7: camera.id: found 'front door'; expected letters, digits, _ . and -, "
        "at most 64, a letter or digit first",
        "door.toml:10: camera.required: 2 of a window of 5; expected 3 to 5",
        "door.toml:11: camera.max_decision_age_s: 2 with fps 0.25, which gives a frame every 4 s; "
        "expected more than that, or the state is never known",
        "door.toml:14: camera.region: expected four fractions such as [0.25, 0, 0.75, 0.6]",
        "door.toml:17: camera.schedule: 'mon-fri 7-19'; expected days and times such as "
        "'mon-fri 07:00-19:00', several of them with a comma between, and times alone for every "
        "day",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "door.toml: camera: there is no camera; expected [[camera]]"),
        ("[[camera]]\nid = 'a'", "door.toml:1: camera.source: it is missing; expected a device's"),
        (
            "[[camera]]\nid = 'a'\nsource = 0\n[jsonl]",
            "door.toml:4: jsonl.path: it is missing; expected the file; its folder must exist",
        ),
        (
            "[server]\ntls_server_name = 'door'\n[[camera]]\nid = 'a'\nsource = '0'",
            "door.toml:2: server.tls_server_name: it needs TLS: set tls or tls_ca",
        ),
        ("camera = []", "door.toml:1: camera: there is no camera; expected [[camera]]"),
        (
            "[[camera]\nid = 'a'",
            "door.toml:1: Expected ']]' at the end of an array declaration, column 9; expected ",
        ),
        (
            "[[camera]]\nid = 'a'\nsource = 0\n[[camera]]\nid = 'A'\nsource = 1",
            "door.toml:5: camera.id: 'A' is another camera's; expected one of its own",
        ),
        (
            "[[camera]]\nid = 'a'\nsource = 0\nsinks = ['recrd']\n[record]\npath = 'r'",
            "door.toml:4: camera.sinks: no sink is called 'recrd'; expected one of record",
        ),
        (
            "[[camera]]\nid = 'a'\nsource = 0\n[jsonl]\npath = 'j'\ntypes = ['stat']",
            "door.toml:6: jsonl.types: found 'stat'; expected 'state', 'frame', 'lost'",
        ),
        (
            "[[camera]]\nid = 'a'\nsource = 0\nserver = 'b:1'\nmodel = 'm.onnx'",
            "door.toml:5: camera.model: model and server; expected only one of them",
        ),
        (
            "[[camera]]\nid = 'a'\nsource = 0\n[mqtt]\nhost = 'h'\nbase_topic = 'doors/'",
            "door.toml:6: mqtt.base_topic: 'doors/'; expected names with / between, such as ",
        ),
        (
            "server = 'b:1'\n[[camera]]\nid = 'a'\nsource = 0",
            "door.toml:1: server: found 'b:1'; expected a table such as [server]",
        ),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, message: str) -> None:
    (line,) = said(tmp_path, text)
    assert line.startswith(message)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: No such file or directory"):
        read_config(tmp_path / "none.toml")
    (tmp_path / "door.toml").write_bytes(b"a = '\xff'")
    with pytest.raises(ConfigError, match="byte 5 is not UTF-8"):
        read_config(tmp_path / "door.toml")
    (tmp_path / "door.toml").write_text("a = " + "[" * 5000)
    with pytest.raises(ConfigError, match="brackets within brackets"):
        read_config(tmp_path / "door.toml")
    with pytest.raises(ConfigError, match="more than 4194304 bytes"):
        read_config(Path("/dev/zero"))


@pytest.mark.parametrize(
    "text",
    [
        "[[camera]]\nid = 'a'\nsource = 'rtsp://admin:hunter2@door/live'",
        "[[camera]]\nid = 'a'\nsource = ['rtsp://admin:hunter2@door/live']",
        "[server]\ntoken = 'hunter2'\n[[camera]]\nid = 'a'\nsource = 0",
        "[server]\ntoken_file = ['hunter2']\n[[camera]]\nid = 'a'\nsource = 0",
    ],
)
def test_no_error_shows_a_secret(tmp_path: Path, text: str) -> None:
    assert "hunter2" not in "\n".join(said(tmp_path, text))


def test_the_address_of_a_source_is_not_in_the_repr(tmp_path: Path) -> None:
    config = read(tmp_path, "[[camera]]\nid = 'a'\nsource = 'http://door/live?key=hunter2'")
    assert "hunter2" not in repr(config)


def test_the_environment_goes_before_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "[server]\naddress = 'here:8500'\n[[camera]]\nid = 'a'\nsource = 0"
    monkeypatch.setenv("LIMELENS_WATCH_SERVER__ADDRESS", "there:8500")
    assert read(tmp_path, text).server.address == "there:8500"
    monkeypatch.setenv("LIMELENS_WATCH_SERVER__ADDRESS", "there")
    assert said(tmp_path, text) == [
        "the variable LIMELENS_WATCH_SERVER__ADDRESS: server.address: 'there'; expected "
        "HOST:PORT, such as 127.0.0.1:8500"
    ]
    monkeypatch.setenv("LIMELENS_WATCH_SERVER", "there:8500")
    assert "the environment, LIMELENS_WATCH_…: " in said(tmp_path, text)[0]
