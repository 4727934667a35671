from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


@pytest.mark.ci
def test_train_evaluate_and_export_print_the_documented_json(
    limelens: Run, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    trained = limelens(
        "train", images, "--out", run, "--arch", "cnn3", "--input-size", 32, "--epochs", 3,
        "--batch-size", 8, "--augment", "none", "--alert-label", "dark", "--json",
    )  # fmt: skip
    assert trained.exit_code == 0, trained.stderr
    report = trained.json
    assert {"run", "checkpoint", "epochs", "val", "seconds"} <= {*report}
    assert report["epochs"] == 3
    assert "epoch   3/3" in trained.stderr

    evaluated = limelens("evaluate", run, images, "--json").json
    assert {
        "num_images", "labels", "task", "accuracy", "top5_accuracy", "macro_f1", "loss", "ece",
        "per_class", "confusion", "coverage", "skipped",
    } <= {*evaluated}  # fmt: skip
    assert evaluated["num_images"] == 8
    assert evaluated["accuracy"] == 1.0

    calibrated = limelens("calibrate", run, images, "--split", "test", "--json").json
    assert calibrated["temperature"] > 0
    assert calibrated["num_images"] == 8

    models = tmp_path / "models"
    own = tmp_path / "own.json"
    own.write_text('{"hide": "blur", "num_segments": 12}')
    exported = limelens(
        "export", run, "--name", "shade", "--models", models, "--explain-settings", own,
        "--triton", tmp_path / "triton", "--json",
    ).json  # fmt: skip
    assert {
        "model", "version", "path", "precision", "size_bytes", "max_abs_difference", "metrics"
    } <= {*exported}  # fmt: skip
    assert Path(exported["path"]) == models / "shade" / "1" / "model.onnx"
    (for_triton,) = exported["triton"]
    copied = tmp_path / "triton" / "shade" / "1" / "model.onnx"
    assert (for_triton["model"], for_triton["versions"]) == ("shade", [1])
    assert copied.read_bytes() == Path(exported["path"]).read_bytes()
    assert exported["explain"] == {"hide": "blur", "num_segments": 12, "why": {}}
    of_bundle = limelens("evaluate", exported["path"], images, "--split", "test")
    assert of_bundle.exit_code == 0
    assert "100.00%" in of_bundle.stdout
    assert "dark" in of_bundle.stdout

    monkeypatch.setattr("limelens.train.exporting.export.NUM_TUNING_IMAGES", 3)
    monkeypatch.setattr("limelens.train.exporting.export.NUM_TUNING_SAMPLES", 20)
    again = limelens("export", run, "--name", "shade", "--models", models, "--json")
    assert again.json["version"] == 2
    assert "Looking for the explanation settings that suit it, on 3 images" in again.stderr


def test_the_preview_is_written_instead_of_a_run(
    limelens: Run, images: Path, tmp_path: Path
) -> None:
    sheet = tmp_path / "sheet.png"
    result = limelens("train", images, "--out", tmp_path / "run", "--preview", sheet)
    assert result.exit_code == 0
    assert sheet.stat().st_size > 0
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--input-size", "wide"), 2, "expected pixels such as 112"),
        (("--epochs", "0"), 2, "--epochs"),
        (("--augment", "wild"), 2, "'wild' is not one of"),
        (("--arch", "resnet17"), 2, "no architecture 'resnet17'; did you mean one of resnet1"),
        (("--arch", "xyzzy"), 2, "no architecture 'xyzzy'; expected one of alexnet, cnn3"),
        (("--resize-mode", "bend"), 2, "'bend' is not one of"),
        (("--arch", "vit_b_16", "--input-size", "96"), 1, "vit_b_16 cannot take images of 96x96"),
    ],
)
def test_wrong_settings_are_reported_before_training(
    limelens: Run,
    images: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    result = limelens("train", images, "--out", tmp_path / "run", *arguments, "--json")
    assert result.exit_code == code
    assert message in result.said
    assert result.stdout == ""
    assert not (tmp_path / "run" / "best.pt").exists()


def test_a_wrong_arch_is_said_before_the_data_is_looked_at(limelens: Run, tmp_path: Path) -> None:
    result = limelens("train", tmp_path / "nowhere", "--arch", "mobilenet_v3_smal")
    assert result.exit_code == 2
    assert "Invalid value for '--arch'" in result.stderr
    assert "did you mean one of mobilenet_v3_small, " in result.said


def test_missing_data_is_one_line(limelens: Run, tmp_path: Path) -> None:
    result = limelens("train", tmp_path / "nowhere")
    assert result.exit_code == 1
    assert "is no folder" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_synthesize_draws_both_labels_for_every_split(limelens: Run, tmp_path: Path) -> None:
    folder = tmp_path / "faces"
    result = limelens("synthesize", folder, "--num-images", 20, "--json")
    assert result.exit_code == 0
    assert result.json["num_images_per_label"] == 20
    for label in ("with_mask", "without_mask"):
        assert len(list(folder.glob(f"*/{label}/*.jpg"))) == 20


@pytest.mark.ci
def test_options_override_the_settings_file(limelens: Run, images: Path, tmp_path: Path) -> None:
    settings = tmp_path / "settings.toml"
    settings.write_text('arch = "cnn3"\ninput_size = 32\nepochs = 5\nbatch_size = 8\nseed = 3\n')
    run = tmp_path / "run"
    arguments = ("train", images, "--out", run, "--config", settings, "--epochs", 1)
    assert limelens(*arguments, "--json").json["epochs"] == 1
    config = json.loads((run / "config.json").read_text())
    assert {name: config[name] for name in ("arch", "input_size", "epochs", "seed")} == {
        "arch": "cnn3", "input_size": [32, 32], "epochs": 1, "seed": 3,
    }  # fmt: skip
    assert limelens(*arguments, "--resume", "--json").json["epochs"] == 1
    refused = limelens(*arguments, "--resume", "--seed", 4)
    assert refused.exit_code == 1
    assert "was begun with --seed 3, not with --seed 4; resume it" in refused.stderr
    settings.write_text("epoch = 5\n")
    assert "sets 'epoch'; expected one of" in limelens(*arguments).stderr


def test_a_learning_rate_is_tried_instead_of_a_run(
    limelens: Run, images: Path, tmp_path: Path
) -> None:
    plot = tmp_path / "rates.png"
    found = limelens(
        "train", images, "--out", tmp_path / "run", "--arch", "cnn3", "--input-size", 32,
        "--batch-size", 8, "--find-learning-rate", plot, "--json",
    )  # fmt: skip
    assert 1e-6 < found.json["learning_rate"] < 1
    assert plot.stat().st_size > 0
    assert not (tmp_path / "run").exists()


@pytest.mark.ci
def test_a_run_that_failed_says_so_and_what_may_help(
    limelens: Run, images: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    # A rate so small that the network stays as it began.
    arguments = (
        "train", images, "--out", run, "--arch", "cnn3", "--input-size", 32, "--epochs", 1,
        "--learning-rate", 1e-9, "--seed", 1,
    )  # fmt: skip
    result = limelens(*arguments)
    assert result.exit_code == 0
    assert "For 32 training images of about 40x40: batch size 16" in result.stderr
    assert "The model is no better than always answering" in result.stdout
    assert "- more epochs than 1 (--epochs)" in result.stdout
    assert "Next:" not in result.stdout
    verdict = json.loads((run / "report.json").read_text())["verdict"]
    assert verdict["better_than_guessing"] is False
    assert verdict["sentence"] in (run / "report.html").read_text().replace("&#39;", "'")
    refused = limelens("export", run, "--name", "shade", "--models", tmp_path / "models")
    assert refused.exit_code == 1
    assert "is not exported: The model is no better" in refused.stderr
    assert "(--anyway)" in refused.stderr


def test_ctrl_c_says_how_to_go_on(images: Path, tmp_path: Path) -> None:
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "limelens.cli", "train", str(images), "--resume"),
            *("--out", str(tmp_path / "run"), "--arch", "cnn3", "--input-size", "32"),
            *("--epochs", "10000"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            said = []
            for line in process.stderr:
                said.append(line)
                if line.startswith("epoch "):
                    break
            process.send_signal(signal.SIGINT)
            said += process.stderr.readlines()
            assert process.wait(60) == 1
        finally:
            process.kill()
    assert f"{tmp_path / 'run'} holds no run to resume: a new one begins." in said[0]
    assert "the same command with --resume goes on." in "".join(said)
