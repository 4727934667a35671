from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from limelens.serve.bundle import Task, load_bundle
from limelens.serve.errors import BundleError
from limelens.serve.image import ResizeRule, fit, read_fitted, read_image
from limelens.train import ExportError, TrainConfig, checkpoint, evaluate, export, train
from limelens.train.data.examples import Example, targets_of
from limelens.train.evaluation.evaluate import assess
from limelens.train.exporting import export as exporting
from limelens.train.exporting.about_data import About
from limelens.train.exporting.card import BY_HAND, write_measured
from limelens.train.exporting.golden_images import choose_examples
from limelens.train.exporting.graph import BundleNetwork, to_onnx


@pytest.fixture(scope="module")
def models(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository with one version of one model."""
    folder = tmp_path_factory.mktemp("models")
    about = About("Colours, painted for tests", "CC0 | none", "Not for colours of traffic lights.")
    report = export(trained_run, "colours", models=folder, note="A note.", about=about)
    assert report["version"] == 1
    assert report["max_abs_difference"] <= 1e-4
    assert report["size_bytes"] == (folder / "colours" / "1" / "model.onnx").stat().st_size
    return folder


def test_a_bundle_describes_itself(models: Path) -> None:
    bundle = load_bundle(models / "colours" / "1", "cpu")
    assert bundle.labels == ("green", "red")
    assert bundle.input_size == (32, 32)
    assert bundle.version == 1
    assert bundle.metadata.alert_labels == ("red",)
    assert bundle.metadata.precision == "fp32"
    assert bundle.metadata.card["note"] == "A note."
    assert bundle.metadata.card["val"]["accuracy"] >= 0.9
    assert len(bundle.metadata.data_digest) == 64


def test_the_file_is_the_only_one_that_is_needed(models: Path, tmp_path: Path) -> None:
    moved = tmp_path / "alone.onnx"
    shutil.copy(models / "colours" / "1" / "model.onnx", moved)
    onnx.checker.check_model(onnx.load(moved), full_check=True)
    assert b".py" not in moved.read_bytes()  # no paths of the machine that exported it
    assert load_bundle(moved, "cpu").version == 0


def test_the_smallest_change_of_a_weight_is_found(models: Path, tmp_path: Path) -> None:
    model = onnx.load(models / "colours" / "1" / "model.onnx")
    weights = max(model.graph.initializer, key=lambda one: len(one.raw_data))
    weights.raw_data = bytes([weights.raw_data[0] ^ 1]) + weights.raw_data[1:]
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(BundleError, match="damaged or changed after its export"):
        load_bundle(tmp_path / "model.onnx", "cpu")


def test_checkpoint_and_bundle_give_the_same_outputs(
    models: Path, trained_run: Path, divided: Path
) -> None:
    bundle = load_bundle(models / "colours" / "1", "cpu")
    loaded = checkpoint.load(trained_run)
    fitted = [
        fit(read_image(path.read_bytes()), loaded.resize).pixels
        for path in sorted((divided / "test").rglob("*.png"))
    ]
    images = np.stack(fitted)
    with torch.inference_mode():
        logits = loaded.model(torch.from_numpy(images).permute(0, 3, 1, 2))
        embedding = loaded.model.embed(torch.from_numpy(images).permute(0, 3, 1, 2))
    temperature = bundle.metadata.card["temperature"]
    probabilities, found = bundle.predict_and_embed(images)
    np.testing.assert_allclose(probabilities, (logits / temperature).softmax(1), atol=1e-5)
    np.testing.assert_allclose(found, embedding, atol=1e-4)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)


def test_a_bundle_takes_any_number_of_images(models: Path) -> None:
    bundle = load_bundle(models / "colours" / "1", "cpu")
    images = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)
    together = bundle.predict(images)
    apart = np.concatenate([bundle.predict(images[i : i + 1]) for i in range(7)])
    np.testing.assert_allclose(together, apart, atol=1e-6)


def test_a_bundle_is_evaluated_like_its_checkpoint(
    models: Path, trained_run: Path, divided: Path
) -> None:
    of_bundle = evaluate(models / "colours" / "1" / "model.onnx", divided)
    of_run = evaluate(trained_run, divided)
    assert of_bundle["confusion"] == of_run["confusion"]


@pytest.mark.ci
def test_golden_images_are_validation_images_balanced_over_labels(
    models: Path, divided: Path
) -> None:
    bundle = load_bundle(models / "colours" / "1", "cpu")
    images = bundle.metadata.golden_images
    assert Counter(image.labels for image in images) == {("green",): 8, ("red",): 8}
    for image in images:
        # Neither cut off nor squeezed: 48 x 40 pixels, made smaller until the shorter side is 32.
        assert read_image(image.encoded).shape == (38, 32, 3)
        assert image.fitted(bundle.metadata.resize).shape == (32, 32, 3)
        folder = divided / "validation" / image.labels[0]
        rule = ResizeRule(38, 32)
        differences = [
            np.abs(read_fitted(path.read_bytes(), rule) - read_image(image.encoded).astype(int))
            for path in folder.iterdir()
        ]
        # Its own, whose noise JPEG changes, and not one of the others.
        nearest, second = sorted(difference.mean() for difference in differences)[:2]
        assert nearest < second / 2
    assert "16 labelled images travel in the file" in card_of(models)


def test_golden_images_can_be_fewer_or_none(trained_run: Path, tmp_path: Path) -> None:
    report = export(trained_run, "m", models=tmp_path, num_golden_images=5)
    assert report["num_golden_images"] == 5
    again = export(trained_run, "m", models=tmp_path, num_golden_images=5)
    few, same = (load_bundle(one["path"], "cpu").metadata for one in (report, again))
    assert few.golden_images == same.golden_images
    assert [image.labels[0] for image in few.golden_images] == ["green", "red"] * 2 + ["green"]
    none = load_bundle(
        export(trained_run, "m", models=tmp_path, num_golden_images=0)["path"], "cpu"
    )
    assert not none.metadata.golden_images
    assert "limelens.golden_images" not in none.metadata.to_props()
    # Others in place of the validation images.
    for label, shade in (("green", 40), ("red", 200)):
        (tmp_path / "grey" / label).mkdir(parents=True)
        Image.new("RGB", (32, 32), (shade, shade, shade)).save(tmp_path / "grey" / label / "1.png")
    report = export(trained_run, "m", models=tmp_path, golden_data=tmp_path / "grey")
    grey = load_bundle(report["path"], "cpu").metadata.golden_images
    assert [(one.labels, round(read_image(one.encoded).mean(), -1)) for one in grey] == [
        (("green",), 40),
        (("red",), 200),
    ]
    with pytest.raises(ExportError, match="257 golden images; expected 0 to 256"):
        export(trained_run, "m", models=tmp_path, num_golden_images=257)


def test_golden_images_of_several_labels_show_each_label_and_none() -> None:
    targets: list[tuple[int, ...]] = [(0, 1)] * 40 + [(0,)] * 40 + [(2,)] * 2 + [()] * 2
    examples = [Example(Path(str(index)), found) for index, found in enumerate(targets)]
    chosen = choose_examples(examples, 12, seed=3)
    assert len(set(chosen)) == 12
    counts = Counter(one.targets for one in chosen)
    assert counts[()] == counts[(2,)] == 2
    assert choose_examples(examples, 12, seed=3) == chosen
    assert choose_examples(examples, 12, seed=4) != chosen
    assert set(choose_examples(examples, 1000, seed=3)) == set(examples)


def card_of(models: Path) -> str:
    return (models / "colours" / "1" / "README.md").read_text()


def test_a_second_export_is_the_next_version(
    models: Path, trained_run: Path, tmp_path: Path
) -> None:
    shutil.copytree(models, tmp_path, dirs_exist_ok=True)
    assert export(trained_run, "colours", models=tmp_path)["version"] == 2
    assert sorted(p.name for p in (tmp_path / "colours").iterdir()) == ["1", "2"]


def test_the_card_names_data_note_and_command(models: Path) -> None:
    card = card_of(models)
    metadata = load_bundle(models / "colours" / "1", "cpu").metadata
    assert metadata.data_digest in card
    assert "A note." in card
    assert "limelens train DATA --arch cnn3 --input-size 32x32" in card
    assert "--alert-label red" in card
    assert "--teacher" not in card


def test_data_licence_and_limits_are_in_the_card_and_in_the_bundle(models: Path) -> None:
    card = card_of(models)
    assert "| data | Colours, painted for tests |\n| licence of the data | CC0 \\| none |" in card
    assert "## Limits\n\nNot for colours of traffic lights.\n\n- It never abstains" in card
    assert "| green | 1.000 |" in card
    assert "![Share correct over confidence](calibration.png)" in card
    folder = models / "colours" / "1"
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md", "calibration.png", "coverage.png", "model.onnx"
    ]  # fmt: skip
    of_bundle = load_bundle(folder, "cpu").metadata.card
    assert of_bundle["data"] == {"name": "Colours, painted for tests", "license": "CC0 | none"}
    assert of_bundle["limits"] == "Not for colours of traffic lights."
    assert of_bundle["val"]["groups"]["measure"] == "accuracy"


def test_what_nobody_says_is_taken_from_files_in_the_data(tmp_path: Path) -> None:
    assert About().or_of(tmp_path).to_card() == {}
    (tmp_path / "LICENSE").write_text("# CC BY 4.0\n\nlong text\n", encoding="utf-8")
    (tmp_path / "LIMITS.md").write_text("\nNot at night.\n", encoding="utf-8")
    assert About("Mine").or_of(tmp_path) == About(
        "Mine", "CC BY 4.0 (the data's LICENSE)", "Not at night."
    )
    own = About("Mine", "CC0", "Nowhere.")
    assert own.or_of(tmp_path / "labels.csv") == own


def test_measured_figures_join_a_card_and_replace_themselves(
    models: Path, divided: Path, tmp_path: Path
) -> None:
    shutil.copytree(models / "colours" / "1", tmp_path / "colours" / "1")
    folder = tmp_path / "colours" / "1"
    card = folder / "README.md"
    before = card.read_text()
    card.write_text(f"{before}\n{BY_HAND}\n\n## Mine\n\nwords\n")
    found = assess(folder, divided, split="test")
    targets = targets_of(found.examples, 2, found.model.task)
    for title in ("the test images", "other images", "the test  images"):
        write_measured(card, title, found.metrics, found.probabilities, targets)
    text = card.read_text()
    assert text.startswith(before.rstrip())
    assert text.count("## On the test images (") == text.count("## On other images (") == 1
    assert text.index("## On other images") < text.index(BY_HAND)
    assert text.endswith(f"{BY_HAND}\n\n## Mine\n\nwords\n")
    assert (folder / "calibration-the-test-images.png").stat().st_size > 1000


def test_a_network_with_nan_is_refused_and_nothing_is_written(
    trained_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    state = torch.load(run / "best.pt", weights_only=True)
    state["model"]["head.bias"][0] = torch.nan
    torch.save(state, run / "best.pt")
    with pytest.raises(BundleError, match="not all finite"):
        export(run, "broken", models=tmp_path / "models")
    assert list((tmp_path / "models").rglob("*")) == []


@pytest.mark.ci
@pytest.mark.parametrize(
    ("bias", "message"),
    [(0.05, "differs from the network by"), (1e-4, "decide differently")],
)
def test_a_graph_that_differs_is_refused_and_the_old_version_stays(
    trained_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bias: float,
    message: str,
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    state = torch.load(run / "best.pt", weights_only=True)
    if bias < 1e-3:
        # All images are close to the border between the labels, so the smallest change flips some.
        state["model"]["head.weight"].zero_()
        state["model"]["head.bias"].copy_(torch.tensor([1e-5, 0.0]))
        torch.save(state, run / "best.pt")
    models = tmp_path / "models"
    export(run, "m", models=models)
    before = (models / "m" / "1" / "model.onnx").read_bytes()

    def wrong_graph(network: BundleNetwork, resize: ResizeRule) -> onnx.ModelProto:
        with torch.no_grad():
            network.classifier.head.bias[1] += bias
            model = to_onnx(network, resize)
            network.classifier.head.bias[1] -= bias
        return model

    monkeypatch.setattr(exporting, "to_onnx", wrong_graph)
    with pytest.raises((ExportError, BundleError), match=message + "|golden vector"):
        export(run, "m", models=models)
    assert [p.name for p in (models / "m").iterdir()] == ["1"]
    assert (models / "m" / "1" / "model.onnx").read_bytes() == before


def test_other_data_than_the_runs_is_refused(
    trained_run: Path, divided: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(divided, data)
    next((data / "validation" / "red").iterdir()).unlink()
    with pytest.raises(ExportError, match="not the data that the run was trained on"):
        export(trained_run, "m", models=tmp_path / "models", data=data)


@pytest.mark.parametrize("name", ["", "../up", ".hidden", "a b"])
def test_names_that_are_no_folder_names_are_refused(trained_run: Path, name: str) -> None:
    with pytest.raises(ExportError, match="expected letters"):
        export(trained_run, name)


def test_a_wanted_accuracy_makes_the_bundle_abstain_below_a_threshold(
    trained_run: Path, tmp_path: Path
) -> None:
    report = export(trained_run, "colours", models=tmp_path, wanted_accuracy=1.0)
    threshold = load_bundle(Path(report["path"]), "cpu").metadata.threshold
    assert threshold == report["threshold"] > 0
    assert report["metrics"]["at_wanted_accuracy"]["accuracy"] >= 0.95


@pytest.mark.ci
def test_a_threshold_is_not_for_several_labels(divided: Path, tmp_path: Path) -> None:
    config = TrainConfig(
        task=Task.MULTILABEL, arch="cnn3", input_size=(32, 32), epochs=1, batch_size=8
    )
    train(divided, tmp_path / "run", config)
    with pytest.raises(ExportError, match="is multilabel and has a threshold for each label"):
        export(tmp_path / "run", "colours", models=tmp_path / "models", wanted_accuracy=0.9)
    report = export(tmp_path / "run", "colours", models=tmp_path / "models")
    metadata = load_bundle(Path(report["path"]), "cpu").metadata
    assert metadata.task is Task.MULTILABEL
    assert len(metadata.label_thresholds) == 2


def test_a_model_no_better_than_guessing_is_exported_only_on_request(
    trained_run: Path, tmp_path: Path
) -> None:
    run, models = shutil.copytree(trained_run, tmp_path / "run"), tmp_path / "models"
    state = checkpoint.load_state(run / "best.pt")
    state["metrics"]["accuracy"] = 0.5
    checkpoint.save(run / "best.pt", state)
    with pytest.raises(ExportError, match=r"no better than always answering .* \(--anyway\)"):
        export(run, "colours", models=models)
    assert not models.exists()
    path = Path(export(run, "colours", models=models, anyway=True)["path"])
    warning = load_bundle(path, "cpu").metadata.card["warning"]
    assert "8 of 16 images are right, 8 would be" in warning
    assert f"**Beware:** {warning}" in (path.parent / "README.md").read_text()
