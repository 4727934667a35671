"""Writes a run as a bundle: one ONNX file that was checked against the network it came from.

It knows the order of the checks. It does not know how a graph is made (`graph`) or converted
(`variants`); `limelens.serve.bundle` decides what a bundle must hold.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from limelens.serve.about import package_version
from limelens.serve.bundle import Bundle, Golden, Metadata, Task, check_model, load_bundle, seal
from limelens.serve.bundle.explain_defaults import ExplainDefaults
from limelens.serve.bundle.golden_images import MAX_GOLDEN_IMAGES
from limelens.serve.drafts import new_draft, publish
from limelens.serve.faces.detector import load_detector
from limelens.serve.faces.options import DEFAULT_DETECTOR
from limelens.serve.files import write_whole
from limelens.train import checkpoint
from limelens.train.data.dataset import read_dataset
from limelens.train.data.examples import Example, targets_of
from limelens.train.data.label_table import table_options
from limelens.train.data.listing import read_examples
from limelens.train.evaluation.calibration import decoded, logits_of
from limelens.train.evaluation.evaluate import metrics_by_group
from limelens.train.evaluation.metrics import compute_metrics, probabilities_of, threshold_for
from limelens.train.evaluation.model import from_bundle
from limelens.train.evaluation.verdict import no_better_than_guessing
from limelens.train.exporting.about_data import About
from limelens.train.exporting.card import write_card
from limelens.train.exporting.card_figures import write_plots
from limelens.train.exporting.crops import AUTO, choose_crop
from limelens.train.exporting.explain_settings import TuningError, tune
from limelens.train.exporting.golden_images import NUM_GOLDEN_IMAGES, golden_images
from limelens.train.exporting.graph import BundleNetwork, ExportError, golden_image, to_onnx
from limelens.train.exporting.precision import PRECISIONS, TOLERANCES
from limelens.train.exporting.settings_in_bundle import in_turn, write_settings
from limelens.train.exporting.variants import (
    Comparison,
    comparable_accuracy,
    compare_speed,
    make_variant,
)

MAX_DIFFERENCE: Final = 1e-4
"""Of probabilities, between the network and the exported graph."""
MAX_ACCURACY_DROP: Final = 0.5
"""In percentage points, of a variant below fp32."""
TUNING_S: Final = 45.0
"""How long explanation settings are looked for; no further image begins after that."""
NUM_TUNING_IMAGES, NUM_TUNING_SAMPLES = 12, 400


def export(
    run: Path,
    name: str,
    *,
    models: Path = Path("models"),
    data: Path | None = None,
    note: str = "",
    precision: str = "fp32",
    max_accuracy_drop: float = MAX_ACCURACY_DROP,
    wanted_accuracy: float | None = None,
    crop: float | Literal["auto"] | None = None,
    anyway: bool = False,
    num_golden_images: int = NUM_GOLDEN_IMAGES,
    golden_data: Path | None = None,
    about: About | None = None,
    explain: ExplainDefaults | Literal["auto"] | None = None,
    notify: Callable[[int, int], None] = lambda _done, _all: None,
) -> dict[str, Any]:
    """Writes `models/NAME/VERSION/model.onnx` with the next free version, and a model card.

    The temperature, fitted on the validation images in training, becomes part of the graph. The
    graph is compared with the network on those images. A variant in another precision is
    converted from that graph, calibrated again, and compared with it. The version's folder
    appears complete or not at all.

    Args:
        run: A run's folder or a checkpoint.
        name: The model's: letters, digits, `-`, `_` and `.`.
        models: The model repository.
        data: The training data; None uses the path that the run recorded.
        note: For the card, for example that the data is synthetic.
        precision: `fp32`, `fp16` or `int8`.
        max_accuracy_drop: How many percentage points a variant's accuracy (multilabel: mean
            average precision) on the validation images may be below fp32's.
        wanted_accuracy: Make a multiclass model abstain below the lowest probability at which
            this share of the decided validation images is correct, 0 to 1; None never abstains.
        crop: For a classifier of faces: the margin that it should see on each side of a face's
            box, as a fraction of the box, 0 to 2; `auto` chooses it on the validation images.
        num_golden_images: How many validation images, at most `MAX_GOLDEN_IMAGES`, travel in the
            bundle, readable by everybody who has it, so that a server can judge a later version.
        golden_data: Labelled images to take them from instead, such as drawn ones where those of
            validation are private: its val, or all of it if it is not divided.
        about: What people know of data and limits; what is empty is taken from files in the data.
        anyway: Export a model that is no better than guessing on the validation images, too; its
            card says so.
        explain: The bundle's explanation settings; `auto` chooses them on a few validation images,
            within `TUNING_S` seconds, and leaves them out if that cannot be done.
        notify: Called while these are chosen, which takes longest, with the number of images
            done, from 0, and of how many.

    Returns:
        `model`, `version`, `path`, `precision`, `size_bytes`, `max_abs_difference` (from the
        network), `threshold`, `crop` (None if none was asked for), `num_golden_images`,
        `explain` (the settings, None without), `explain_remark` (why there are none, else empty)
        and `metrics` (of the bundle on the validation images); for a variant also `fp32`, `speed`
        and `remarks`.

    Raises:
        ExportError: The model is no better than guessing on the validation images, the name
            cannot be a folder name, too many golden images are wanted, the graph
            differs from the network, the variant loses too much, the wanted accuracy is not
            reached, or too few faces are found to choose a crop.
        PrecisionError: The network cannot be converted.
        BundleError: The graph breaks a rule of bundles, such as finite weights, or there is no
            detector of faces to choose a crop with.
        DataError: The data cannot be read.
        CheckpointError: The checkpoint cannot be used.
    """
    if not name or name.startswith(".") or not all(c.isalnum() or c in "-_." for c in name):
        raise ExportError(f"name {name!r}; expected letters, digits, '-', '_' and '.'")
    if precision not in PRECISIONS:
        raise ExportError(f"precision {precision!r}; expected one of {', '.join(PRECISIONS)}")
    if not 0 <= num_golden_images <= MAX_GOLDEN_IMAGES:
        raise ExportError(f"{num_golden_images} golden images; expected 0 to {MAX_GOLDEN_IMAGES}")
    detector = load_detector(DEFAULT_DETECTOR, "cpu") if crop == AUTO else None
    loaded = checkpoint.load(run)
    guessing = no_better_than_guessing(loaded.metrics)
    if guessing and not anyway:
        raise ExportError(
            f"{run} is not exported: {guessing} Train a better one, or export it nevertheless "
            "(--anyway)"
        )
    if wanted_accuracy is not None and loaded.task is Task.MULTILABEL:
        raise ExportError(
            f"{run} is multilabel and has a threshold for each label; expected no wanted accuracy "
            "(--wanted-accuracy)"
        )
    splits = _splits(loaded, data)
    folder, examples = data or Path(loaded.config["data"]), splits["val"]
    network = BundleNetwork(loaded.model, loaded.temperature, loaded.task)
    model = to_onnx(network, loaded.resize)
    metadata = _metadata(name, loaded, network, note, None if crop == AUTO else crop)
    shown = examples
    if golden_data is not None and num_golden_images:
        _, shown, _ = read_examples(golden_data, loaded.labels, "val")
    chosen = golden_images(
        shown, loaded.labels, loaded.resize, num_golden_images, loaded.config["seed"]
    )
    about = (about or About()).or_of(folder)
    metadata = replace(metadata, golden_images=chosen, card={**metadata.card, **about.to_card()})
    check_model(_sealed(model, metadata))
    logits = logits_of(loaded.model, decoded(examples, loaded.resize))
    expected = probabilities_of(logits, loaded.temperature, loaded.task)
    comparison: Comparison | None = None
    with _new_version(models / name) as draft:
        if detector is not None:
            written = _write_file(draft / "model.onnx", model, metadata)
            choice = choose_crop(written, examples, detector)
            card = {**metadata.card, "crop": choice.to_json()}
            metadata = replace(metadata, crop=choice.margin, card=card)
        bundle = _write(draft / "model.onnx", model, metadata, examples, wanted_accuracy, folder)
        difference = _check_parity(expected, bundle.probabilities, examples)
        if precision != "fp32":
            fp32 = replace(bundle, path=bundle.path.rename(draft / "fp32.onnx"))
            seed = loaded.config["seed"]
            variant = make_variant(
                model, metadata, precision, train=splits["train"], val=examples, seed=seed
            )
            bundle = _write(draft / "model.onnx", *variant, examples, wanted_accuracy, folder)
            difference = float(np.abs(expected - bundle.probabilities).max())
            comparison = _compare(fp32, bundle, max_accuracy_drop)
            fp32.path.unlink()
        explain_remark = ""
        if explain is not None:
            bundle, explain_remark = _with_settings(bundle, explain, examples, notify)
        targets = targets_of(examples, len(loaded.labels), loaded.task)
        plots = write_plots(draft, bundle.metrics, bundle.probabilities, targets)
        write_card(
            draft / "README.md", bundle.metadata, bundle.metrics, difference, comparison, plots
        )
        version = _publish(draft)
    path = models / name / str(version) / "model.onnx"
    return {
        "model": name,
        "version": version,
        "path": str(path),
        "precision": bundle.metadata.precision,
        "size_bytes": path.stat().st_size,
        "max_abs_difference": difference,
        "threshold": bundle.metadata.threshold,
        "crop": bundle.metadata.crop,
        "num_golden_images": len(bundle.metadata.golden_images),
        "explain": None if bundle.metadata.explain is None else bundle.metadata.explain.to_json(),
        "explain_remark": explain_remark,
        "metrics": bundle.metrics,
        **(comparison.to_json() if comparison else {}),
    }


def _with_settings(
    bundle: _WrittenBundle,
    settings: ExplainDefaults | Literal["auto"],
    examples: Sequence[Example],
    notify: Callable[[int, int], None],
) -> tuple[_WrittenBundle, str]:
    """The bundle with explanation settings in its file; or without, and why."""
    if settings == "auto":
        by_label = [(one.path, one.targets) for one in examples]
        images = in_turn(by_label, NUM_TUNING_IMAGES, seed=0)
        notify(0, len(images))
        try:
            settings = tune(
                load_bundle(bundle.path, "cpu"),
                images,
                num_samples=NUM_TUNING_SAMPLES,
                max_s=TUNING_S,
                notify=notify,
            ).chosen
        except TuningError as error:
            return bundle, str(error)
    write_settings(bundle.path, settings, bundle.path)
    return replace(bundle, metadata=replace(bundle.metadata, explain=settings)), ""


def _splits(loaded: checkpoint.Checkpoint, data: Path | None) -> Mapping[str, tuple[Example, ...]]:
    """The training data, divided as in training."""
    folder = data or Path(loaded.config["data"])
    if not folder.exists():
        raise ExportError(
            f"the training data is not at {folder} any more; name its folder with --data"
        )
    options = table_options(loaded.config)
    dataset = read_dataset(
        folder,
        seed=loaded.config["seed"],
        images=options if data is None else replace(options, images=None),
        task=loaded.task,
        # Files of the first version lack it.
        val_from_train=loaded.config.get("val_from_train", False),
    )
    if dataset.digest != loaded.data_digest:
        raise ExportError(
            f"{folder} is not the data that the run was trained on (another digest); "
            "name the right folder with --data"
        )
    return dataset.splits


def _metadata(
    name: str,
    loaded: checkpoint.Checkpoint,
    network: BundleNetwork,
    note: str,
    crop: float | None,
) -> Metadata:
    image = golden_image(loaded.resize)
    with torch.inference_mode():
        probabilities = network(torch.from_numpy(image)[None])[0][0].numpy()
    # Paths are private, and the digest identifies the data.
    config = {key: value for key, value in loaded.config.items() if key not in ("data", "images")}
    for run in ("start_from", "teacher"):
        if config.get(run):
            config[run] = Path(config[run]).name
    return Metadata(
        name=name,
        task=loaded.task,
        labels=loaded.labels,
        resize=loaded.resize,
        golden=Golden(image, probabilities, TOLERANCES["fp32"]),
        label_thresholds=loaded.label_thresholds,
        alert_labels=tuple(loaded.config["alert_labels"]),
        macro_labels=loaded.macro_labels,
        data_digest=loaded.data_digest,
        limelens_version=package_version(),
        crop=crop,
        card={
            "note": note,
            "warning": no_better_than_guessing(loaded.metrics),
            "config": config,
            "epoch": loaded.epoch,
            "num_parameters": loaded.model.num_parameters,
            "temperature": loaded.temperature,
            "val": loaded.metrics,
        },
    )


@dataclass(frozen=True, eq=False)
class _WrittenBundle:
    """A bundle on disk and its results on the validation images."""

    path: Path
    metadata: Metadata
    probabilities: NDArray[np.float32]
    metrics: dict[str, Any]


def _write(
    path: Path,
    model: onnx.ModelProto,
    metadata: Metadata,
    examples: Sequence[Example],
    wanted_accuracy: float | None,
    data: Path,
) -> _WrittenBundle:
    """Writes a bundle and runs it; a wanted accuracy decides its threshold."""
    bundle = from_bundle(_write_file(path, model, metadata))
    probabilities = bundle.probabilities(examples)
    targets = targets_of(examples, len(metadata.labels), metadata.task)
    if wanted_accuracy is not None:
        threshold = threshold_for(probabilities, targets, wanted_accuracy)["threshold"]
        if threshold is None:
            raise ExportError(
                f"no threshold makes {wanted_accuracy:.1%} of the decided validation images "
                "correct; lower the wanted accuracy or train a better model"
            )
        metadata = replace(metadata, threshold=threshold)
    metrics = compute_metrics(
        probabilities,
        targets,
        metadata.labels,
        metadata.task,
        thresholds=metadata.label_thresholds,
        threshold=metadata.threshold,
        macro_labels=metadata.macro_labels,
    )
    deciding = replace(bundle, threshold=metadata.threshold)
    metrics["groups"] = metrics_by_group(deciding, examples, probabilities, data)
    # Rounding changes the metrics slightly; the file holds its own.
    card = {**metadata.card, "val": {**metadata.card["val"], **metrics}}
    metadata = replace(metadata, card=card)
    _write_file(path, model, metadata)
    return _WrittenBundle(path, metadata, probabilities, metrics)


def _write_file(path: Path, model: onnx.ModelProto, metadata: Metadata) -> Bundle:
    write_whole(path, _sealed(model, metadata).SerializeToString())
    return load_bundle(path, "cpu")


def _sealed(model: onnx.ModelProto, metadata: Metadata) -> onnx.ModelProto:
    copy = deepcopy(model)
    seal(copy, metadata)
    return copy


def _check_parity(
    expected: NDArray[np.floating], found: NDArray[np.floating], examples: Sequence[Example]
) -> float:
    """The largest difference of a probability between network and graph."""
    difference = np.abs(expected - found).max(axis=1)
    worst = int(difference.argmax())
    if not difference[worst] <= MAX_DIFFERENCE:
        raise ExportError(
            f"the exported graph differs from the network by {difference[worst]:.2g} on "
            f"{examples[worst].path}; at most {MAX_DIFFERENCE:.0e} is accepted"
        )
    other = np.flatnonzero(expected.argmax(axis=1) != found.argmax(axis=1))
    if len(other):
        raise ExportError(
            f"the exported graph and the network decide differently on {examples[other[0]].path}"
        )
    return float(difference[worst])


def _compare(fp32: _WrittenBundle, variant: _WrittenBundle, max_drop: float) -> Comparison:
    """Compares a variant with fp32, and refuses one that loses too much accuracy."""
    precision = variant.metadata.precision
    key, before = comparable_accuracy(fp32.metrics)
    _, after = comparable_accuracy(variant.metrics)
    # A drop of exactly the limit is accepted, despite rounding.
    if not (before - after) * 100 <= max_drop + 1e-9:
        raise ExportError(
            f"{precision} has {key.replace('_', ' ')} {after:.2%} on the validation images, fp32 "
            f"{before:.2%}: {(before - after) * 100:.2f} points less, {max_drop:g} are accepted "
            "(--max-accuracy-drop); nothing was written"
        )
    return Comparison(
        precision,
        key,
        before,
        after,
        fp32.path.stat().st_size,
        variant.path.stat().st_size,
        float(np.abs(fp32.probabilities - variant.probabilities).max()),
        compare_speed(fp32.path, variant.path),
    )


@contextlib.contextmanager
def _new_version(folder: Path) -> Iterator[Path]:
    """A hidden folder for a version's files; after an error nothing is left of it."""
    created = [path for path in (folder, folder.parent) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with new_draft(folder) as draft:
            yield draft
    except BaseException:
        # An empty ./models would be served instead of the packaged one.
        with contextlib.suppress(OSError):
            for path in created:
                path.rmdir()
        raise


def _publish(draft: Path) -> int:
    """Gives the finished folder the next free version number."""
    while True:
        taken = [int(path.name) for path in draft.parent.iterdir() if path.name.isdecimal()]
        version = max(taken, default=0) + 1
        target = draft.parent / str(version)
        try:
            publish(draft, target)
        except OSError:
            # Retry if another export has taken the number.
            if not target.exists():
                raise
            continue
        return version
