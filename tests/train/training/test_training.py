from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.waiting import until

from limelens.serve.bundle import Task, load_bundle
from limelens.train import TrainConfig, checkpoint, evaluate, export, train
from limelens.train.config import ConfigError
from limelens.train.data.dataset import read_dataset
from limelens.train.data.examples import DataError
from limelens.train.runs import CheckpointError
from limelens.train.training.loop import TrainingError
from limelens.train.training.preview import preview

TINY = TrainConfig(
    arch="cnn3", input_size=(32, 32), epochs=2, batch_size=8, learning_rate=1e-3, augment="light"
)


def test_a_run_learns_and_leaves_its_record(trained_run: Path) -> None:
    report = json.loads((trained_run / "report.json").read_text())
    assert report["val"]["accuracy"] >= 0.9
    assert report["epochs"] == 4
    config = json.loads((trained_run / "config.json").read_text())
    assert config["arch"] == "cnn3"
    assert config["alert_labels"] == ["red"]
    with (trained_run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["epoch"]) for row in rows] == [1, 2, 3, 4]
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])
    for name in ("curves.png", "confusion.png"):
        with Image.open(trained_run / name) as image:
            assert min(image.size) > 200
    assert checkpoint.load(trained_run / "last.pt").epoch == 4


@pytest.mark.usefixtures("blank_plots")
def test_the_same_seed_gives_the_same_network(divided: Path, tmp_path: Path) -> None:
    states = []
    for name in "ab":
        train(divided, tmp_path / name, TINY)
        states.append(checkpoint.load(tmp_path / name).model.state_dict())
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key


def test_a_checkpoint_is_evaluated_on_the_test_split(trained_run: Path, divided: Path) -> None:
    metrics = evaluate(trained_run, divided)
    assert metrics["split"] == "test"
    assert metrics["num_images"] == 12
    assert metrics["accuracy"] >= 0.9
    assert metrics["skipped"] == []


def test_unreadable_images_are_listed_and_left_out(trained_run: Path, tmp_path: Path) -> None:
    for label in ("green", "red"):
        (tmp_path / label).mkdir()
        Image.new("RGB", (20, 20), label).save(tmp_path / label / "a.png")
    (tmp_path / "red" / "broken.jpg").write_bytes(b"%PDF-1.4")
    metrics = evaluate(trained_run, tmp_path)
    assert metrics["num_images"] == 2
    assert [Path(s["path"]).name for s in metrics["skipped"]] == ["broken.jpg"]
    assert "PDF" in metrics["skipped"][0]["reason"]


def test_files_that_cannot_be_opened_are_listed_and_left_out(
    trained_run: Path, tmp_path: Path
) -> None:
    for label in ("green", "red"):
        (tmp_path / label).mkdir()
        Image.new("RGB", (20, 20), label).save(tmp_path / label / "a.png")
    for name, target in (("gone.png", "nowhere"), ("loop.png", "loop.png")):
        (tmp_path / "red" / name).symlink_to(target)
    metrics = evaluate(trained_run, tmp_path)
    assert metrics["num_images"] == 2
    reasons = {Path(one["path"]).name: one["reason"] for one in metrics["skipped"]}
    assert sorted(reasons) == ["gone.png", "loop.png"]
    assert "No such file" in reasons["gone.png"]
    assert "links" in reasons["loop.png"]


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that fails to read")
def test_a_file_whose_reading_fails_is_listed_and_left_out(
    trained_run: Path, tmp_path: Path
) -> None:
    Image.new("RGB", (20, 20), "red").save(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to("/proc/self/mem")
    (tmp_path / "c.png").symlink_to("c.png")
    rows = ["path,label", "a.png,red", "b.png,red", "c.png,green"]
    (tmp_path / "test.csv").write_text("\n".join(rows) + "\n")
    metrics = evaluate(trained_run, tmp_path)
    assert metrics["num_images"] == 1
    assert [(Path(one["path"]).name, one["reason"]) for one in metrics["skipped"]] == [
        ("c.png", "the table names it, but no such file exists"),
        ("b.png", "Input/output error"),
    ]


@pytest.mark.usefixtures("blank_plots")
def test_files_that_cannot_be_written_do_not_end_a_training(
    divided: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = ("metrics.csv", "curves.png", "confusion.png", "report.html", "report.json")
    for name in blocked:
        (tmp_path / "run" / name).mkdir(parents=True)  # cannot be written, as on a full disk
    report = train(divided, tmp_path / "run", TINY)
    assert report["epochs"] == 2
    assert checkpoint.load(tmp_path / "run" / "last.pt").epoch == 2
    assert all(f"{tmp_path / 'run' / name}: cannot be written" in caplog.text for name in blocked)


def test_a_folder_that_holds_a_run_is_not_overwritten(divided: Path, trained_run: Path) -> None:
    with pytest.raises(ConfigError, match="already holds a run"):
        train(divided, trained_run, TINY)


@pytest.mark.usefixtures("blank_plots")
def test_a_run_may_start_from_another(divided: Path, trained_run: Path, tmp_path: Path) -> None:
    config = replace(TINY, epochs=1, learning_rate=1e-5, start_from=str(trained_run))
    report = train(divided, tmp_path / "run", config)
    before = json.loads((trained_run / "report.json").read_text())["val"]
    assert report["val"]["accuracy"] >= before["accuracy"] - 0.1
    with pytest.raises(ConfigError, match="is cnn3; expected resnet18"):
        train(divided, tmp_path / "other", replace(config, arch="resnet18"))


def test_a_loss_that_is_not_finite_ends_the_run(divided: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="lower the learning rate"):
        train(divided, tmp_path / "run", replace(TINY, learning_rate=1e30))


def test_an_unknown_alert_label_is_refused_before_training(divided: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="alert label 'blue' is not one of the labels green, red"):
        train(divided, tmp_path / "run", TrainConfig(alert_labels=("blue",)))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs is 0; expected at least 1"),
        ({"augment": "wild"}, "augment is 'wild'; expected one of none, light"),
        ({"schedule": "linear"}, "schedule is 'linear'"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0"),
        ({"input_size": (16, 64)}, r"input_size is \(16, 64\)"),
    ],
)
def test_settings_that_cannot_be_used_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainConfig(**settings)  # type: ignore[arg-type]


def test_a_damaged_checkpoint_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "best.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match="is not a readable checkpoint"):
        checkpoint.load(tmp_path)
    with pytest.raises(CheckpointError, match="does not exist"):
        checkpoint.load(tmp_path / "nothing.pt")


@pytest.mark.ci
def test_ctrl_c_leaves_a_usable_last_checkpoint(divided: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code = (
        "from pathlib import Path\n"
        "from limelens.train import TrainConfig, train\n"
        "config = TrainConfig(arch='cnn3', input_size=(32, 32), epochs=100000, batch_size=8)\n"
        f"report = train(Path({str(divided)!r}), Path({str(run)!r}), config)\n"
        "assert report['interrupted']\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)
    until(lambda: (run / "metrics.csv").exists() or process.poll() is not None, 300)
    is_training = process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert is_training, errors
    assert process.returncode == 0, errors
    assert checkpoint.load(run / "last.pt").epoch >= 1
    assert json.loads((run / "report.json").read_text())["interrupted"] is True
    assert (run / "curves.png").exists()


@pytest.mark.usefixtures("blank_plots")
def test_data_without_splits_is_evaluated_on_held_back_images(
    divided: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    for label in ("green", "red"):
        shutil.copytree(divided / "train" / label, data / label)
    train(data, tmp_path / "run", TINY)
    held_back = read_dataset(data, seed=TINY.seed).splits["test"]
    metrics = evaluate(tmp_path / "run", data)
    assert metrics["split"] == "test"
    assert metrics["num_images"] == len(held_back) < 10
    assert evaluate(tmp_path / "run", data, split="train")["num_images"] > 30
    # Other images in the same layout are taken whole.
    next((data / "red").iterdir()).unlink()
    assert evaluate(tmp_path / "run", data)["split"] == "all"
    with pytest.raises(DataError, match="is not what the model was trained on"):
        evaluate(tmp_path / "run", data, split="val")


@pytest.mark.usefixtures("blank_plots")
@pytest.mark.parametrize("val_from_train", [False, True])
def test_metrics_report_whether_the_epoch_was_chosen_on_these_images(
    divided: Path, tmp_path: Path, val_from_train: bool
) -> None:
    train(divided, tmp_path / "run", replace(TINY, val_from_train=val_from_train))
    assert evaluate(tmp_path / "run", divided, split="val")["chosen_on"] is not val_from_train
    assert not evaluate(tmp_path / "run", divided, split="test")["chosen_on"]


def test_the_preview_shows_originals_beside_variations(divided: Path, tmp_path: Path) -> None:
    preview(divided, tmp_path / "sheet.png", TINY, num_rows=3)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 10 * 32
        assert 3 * 32 < sheet.height < 4 * 32 + 16


@pytest.mark.ci
def test_several_labels_are_trained_evaluated_and_exported(tagged: Path, tmp_path: Path) -> None:
    macro = tmp_path / "macro.csv"
    macro.write_text("label,macro\nN/A,none\nred,warm\nblue,cold\ngreen,cold\n")
    config = replace(TINY, epochs=6, augment="none", alert_labels=("N/A",))
    run = tmp_path / "run"
    report = train(tagged, run, config, macro=macro)
    assert report["val"]["task"] == "multilabel"
    assert report["val"]["macro_auc"] > 0.8
    assert not (run / "confusion.png").exists()
    of_run = evaluate(run, tagged)
    assert of_run["split"] == "test"
    assert of_run["loss"] < of_run["base_rate_loss"]
    exported = export(run, "tags", models=tmp_path / "models")
    bundle = load_bundle(exported["path"], "cpu")
    loaded = checkpoint.load(run)
    assert bundle.task is Task.MULTILABEL
    assert bundle.metadata.label_thresholds == pytest.approx(loaded.label_thresholds)
    assert bundle.metadata.macro_labels == {
        "N/A": "none", "red": "warm", "blue": "cold", "green": "cold",
    }  # fmt: skip
    assert bundle.metadata.alert_labels == ("N/A",)
    of_bundle = evaluate(Path(exported["path"]), tagged)
    for name in ("loss", "mean_average_precision", "macro_auc", "micro_f1"):
        assert of_bundle[name] == pytest.approx(of_run[name], abs=1e-4), name


@pytest.mark.usefixtures("blank_plots")
def test_label_folders_may_be_trained_as_several_labels(divided: Path, tmp_path: Path) -> None:
    report = train(divided, tmp_path / "run", replace(TINY, task=Task.MULTILABEL))
    assert report["val"]["task"] == "multilabel"
    assert checkpoint.load(tmp_path / "run").task is Task.MULTILABEL


@pytest.mark.usefixtures("blank_plots")
def test_patience_ends_a_run_that_gets_no_better(divided: Path, tmp_path: Path) -> None:
    config = replace(TINY, epochs=9, learning_rate=1e-30, patience=2)
    report = train(divided, tmp_path / "run", config)
    assert report["epochs"] == 3
    assert report["interrupted"] is False


@pytest.mark.usefixtures("blank_plots")
def test_other_labels_keep_the_backbone_of_another_run(
    tagged: Path, trained_run: Path, tmp_path: Path
) -> None:
    config = replace(TINY, epochs=1, learning_rate=1e-30, start_from=str(trained_run))
    train(tagged, tmp_path / "run", config)
    before, after = (checkpoint.load(run).model for run in (trained_run, tmp_path / "run"))
    for key, value in before.backbone.state_dict().items():
        assert torch.equal(value, after.backbone.state_dict()[key]), key
    assert after.head.weight.shape[0] == 4
    with pytest.raises(ConfigError, match="do not fit cnn3 of 64x64; expected 32x32"):
        train(tagged, tmp_path / "other", replace(config, input_size=(64, 64)))


@pytest.mark.usefixtures("blank_plots")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_decoding_threads_change_nothing(divided: Path, tmp_path: Path) -> None:
    states = []
    for num_workers in (1, 3):
        run = tmp_path / str(num_workers)
        train(divided, run, replace(TINY, num_workers=num_workers))
        states.append(checkpoint.load(run / "last.pt").model.state_dict())
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key
