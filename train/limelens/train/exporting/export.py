"""A run written as a bundle: one ONNX file that was proved equal to the network it came from.

It knows the graph around the network (layout, softmax, temperature) and the order of the checks;
what a bundle must hold is `limelens.serve.bundle`'s to say.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from limelens.serve.about import package_version
from limelens.serve.bundle import Bundle, Golden, Metadata, Task, check_model, load_bundle, seal
from limelens.serve.errors import LimelensError
from limelens.serve.image import ResizeRule
from limelens.train import checkpoint
from limelens.train.architectures import Classifier
from limelens.train.data.dataset import read_dataset
from limelens.train.data.examples import Example, targets_of
from limelens.train.data.label_table import table_options
from limelens.train.evaluation.evaluate import bundle_probabilities
from limelens.train.evaluation.metrics import figures_of, threshold_for
from limelens.train.evaluation.prediction import predict
from limelens.train.exporting.card import write_card
from limelens.train.exporting.precision import PRECISIONS, TEMPERATURE, TOLERANCES, with_temperature
from limelens.train.exporting.variants import Comparison, compare_speed, make_variant, measured

MAX_DIFFERENCE: Final = 1e-4
"""Of probabilities, between the network and the exported graph."""
_PLACES: Final = ("data", "images")
"""Settings that stay out of a bundle: where files lay is nobody's business; the digest is there."""
_NO_ONE: Final = 1.2345
MAX_ACCURACY_DROP: Final = 0.5
"""In percentage points, of a variant below fp32."""


class ExportError(LimelensError):
    """The bundle was not written; the message says which check failed."""


class _Served(nn.Module):
    """The graph of a bundle: `(N, H, W, 3)` uint8 to probabilities and embedding."""

    temperature: Tensor

    def __init__(self, classifier: Classifier, temperature: float, task: Task) -> None:
        super().__init__()
        self.classifier = classifier
        # A buffer keeps its name in the graph, where variants find it to set it anew.
        self.register_buffer(TEMPERATURE, torch.tensor(temperature))
        self.task = task

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        embedding = self.classifier.embed(images.permute(0, 3, 1, 2))
        logits = self.classifier.head(embedding)
        if self.task is Task.MULTILABEL:
            return torch.sigmoid(logits / self.temperature), embedding
        return torch.softmax(logits / self.temperature, dim=1), embedding


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
) -> dict[str, Any]:
    """Writes `models/NAME/VERSION/model.onnx` with the next free version, and a card beside it.

    The temperature, fitted on the validation images in training, becomes part of the graph.
    Then the graph is compared with the network on those images. A variant in another precision
    is made of that graph, fitted again, and compared with it. The version's folder appears whole
    or not at all.

    Args:
        run: A run's folder or a checkpoint.
        name: Of the model: letters, digits, `-`, `_` and `.`.
        models: The model repository.
        data: The training data; None takes the place that the run remembers.
        note: Put into the card, such as that the data is synthetic.
        precision: `fp32`, `fp16` or `int8`.
        max_accuracy_drop: By how many percentage points a variant's accuracy (multilabel: mean
            average precision) on the validation images may lie below fp32's.
        wanted_accuracy: Make a multiclass model abstain below the lowest probability at which so
            many of the decided validation images are right, 0 to 1; None never abstains.

    Returns:
        `model`, `version`, `path`, `precision`, `size_bytes`, `max_abs_difference` (from the
        network), `threshold` and `metrics` (of the bundle on the validation images); for a
        variant also `fp32`, `speed` and `remarks`.

    Raises:
        ExportError: The name cannot be a folder's, the graph differs from the network, the
            variant loses too much, or the wanted accuracy is not reached.
        PrecisionError: The network cannot be converted.
        BundleError: The graph breaks a rule of bundles, such as finite weights.
        DataError: The data is not there any more, or is other data.
        CheckpointError: The checkpoint cannot be used.
    """
    if not name or name.startswith(".") or not all(c.isalnum() or c in "-_." for c in name):
        raise ExportError(f"name {name!r}; expected letters, digits, '-', '_' and '.'")
    if precision not in PRECISIONS:
        raise ExportError(f"precision {precision!r}; expected one of {', '.join(PRECISIONS)}")
    loaded = checkpoint.load(run)
    if wanted_accuracy is not None and loaded.task is Task.MULTILABEL:
        raise ExportError(
            f"{run} is multilabel and has a threshold for each label; wanted_accuracy"
            " is for multiclass"
        )
    splits = _splits(loaded, data)
    examples = splits["val"]
    served = _Served(loaded.model, loaded.temperature, loaded.task).eval()
    model = _to_onnx(served, loaded.resize)
    metadata = _metadata(name, loaded, served, note)
    check_model(_sealed(model, metadata))
    expected = predict(loaded.model, examples, loaded.resize, loaded.temperature, loaded.task)
    folder = models / name
    made = [path for path in (folder, models) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=".export-", dir=folder))
    try:
        built = _Built.of(beside / "model.onnx", model, metadata, examples, wanted_accuracy)
        difference = _check_parity(expected, built.probabilities, examples)
        comparison: Comparison | None = None
        if precision != "fp32":
            fp32 = replace(built, path=built.path.rename(beside / "fp32.onnx"))
            seed = loaded.config["seed"]
            variant = make_variant(
                model, metadata, precision, train=splits["train"], val=examples, seed=seed
            )
            built = _Built.of(beside / "model.onnx", *variant, examples, wanted_accuracy)
            difference = float(np.abs(expected - built.probabilities).max())
            _check_drop(precision, fp32.metrics, built.metrics, max_accuracy_drop)
            comparison = _compare(fp32, built)
            fp32.path.unlink()
        write_card(beside / "README.md", built.metadata, built.metrics, difference, comparison)
        version = _publish(beside, folder)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        # An empty ./models would be served in place of the packaged one.
        with contextlib.suppress(OSError):
            for path in made:
                path.rmdir()
        raise
    path = folder / str(version) / "model.onnx"
    return {
        "model": name,
        "version": version,
        "path": str(path),
        "precision": built.metadata.precision,
        "size_bytes": path.stat().st_size,
        "max_abs_difference": difference,
        "threshold": built.metadata.threshold,
        "metrics": built.metrics,
        **(comparison.to_json() if comparison else {}),
    }


@dataclass(frozen=True)
class _Built:
    """A bundle on disk and what it says of the validation images."""

    path: Path
    metadata: Metadata
    probabilities: NDArray[np.float32]
    metrics: dict[str, Any]

    @classmethod
    def of(
        cls,
        path: Path,
        model: onnx.ModelProto,
        metadata: Metadata,
        examples: Sequence[Example],
        wanted_accuracy: float | None,
    ) -> _Built:
        """Writes and runs it; where an accuracy is wanted, the threshold is fitted to that."""
        found = bundle_probabilities(_write_bundle(path, model, metadata), examples)
        if wanted_accuracy is not None:
            reached = threshold_for(
                found, targets_of(examples, len(metadata.labels)), wanted_accuracy
            )
            if reached["threshold"] is None:
                raise ExportError(
                    f"no threshold makes {wanted_accuracy:.1%} of the decided validation images "
                    "right; lower the wanted accuracy or train a better model"
                )
            metadata = replace(metadata, threshold=reached["threshold"])
        metrics = _metrics(metadata, found, examples)
        # Rounding moves them: what the file carries is what the file does.
        told = {**metadata.card, "val": {**metadata.card["val"], **metrics}}
        metadata = replace(metadata, card=told)
        _write_bundle(path, model, metadata)
        return cls(path, metadata, found, metrics)


def _metadata(name: str, loaded: checkpoint.Checkpoint, served: _Served, note: str) -> Metadata:
    image = golden_image(loaded.resize)
    with torch.inference_mode():
        probabilities = served(torch.from_numpy(image)[None])[0][0].numpy()
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
        card={
            "note": note,
            "config": _told(loaded.config),
            "epoch": loaded.epoch,
            "num_parameters": loaded.model.num_parameters,
            "temperature": loaded.temperature,
            "val": loaded.figures,
        },
    )


def _told(config: Mapping[str, Any]) -> dict[str, Any]:
    told = {key: value for key, value in config.items() if key not in _PLACES}
    if told.get("start_from"):
        told["start_from"] = Path(told["start_from"]).name
    return told


def _compare(fp32: _Built, variant: _Built) -> Comparison:
    return Comparison(
        variant.metadata.precision,
        *measured(fp32.metrics),
        measured(variant.metrics)[1],
        fp32.path.stat().st_size,
        variant.path.stat().st_size,
        float(np.abs(fp32.probabilities - variant.probabilities).max()),
        compare_speed(fp32.path, variant.path),
    )


def golden_image(resize: ResizeRule) -> NDArray[np.uint8]:
    """Smooth coloured blobs, always the same: an image with no one in it.

    Returns:
        `(H, W, 3)` uint8.
    """
    coarse = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((resize.width, resize.height), Image.Resampling.BICUBIC)
    return np.array(smooth)


def _splits(loaded: checkpoint.Checkpoint, data: Path | None) -> Mapping[str, tuple[Example, ...]]:
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
        # Missing in the files of the first version.
        val_from_train=loaded.config.get("val_from_train", False),
    )
    if dataset.digest != loaded.data_digest:
        raise ExportError(
            f"{folder} is not the data that the run was trained on (another digest); "
            "name the right folder with --data"
        )
    return dataset.splits


def graph_of(classifier: Classifier, resize: ResizeRule) -> onnx.ModelProto:
    """The graph of a multiclass bundle, as `export` writes it; without metadata.

    Args:
        classifier: The network, in evaluation mode.
        resize: Its input size.

    Raises:
        ExportError: torch gave no graph.
    """
    return _to_onnx(_Served(classifier, 1.0, Task.MULTICLASS).eval(), resize)


def _to_onnx(served: _Served, resize: ResizeRule) -> onnx.ModelProto:
    temperature = float(served.temperature)
    # A division by 1 would be left out of the graph, and variants set the temperature anew.
    served.temperature.fill_(_NO_ONE)
    try:
        return with_temperature(_traced(served, resize), temperature)
    finally:
        served.temperature.fill_(temperature)


def _traced(served: nn.Module, resize: ResizeRule) -> onnx.ModelProto:
    # Two rows: with one, the exporter takes the batch for a constant.
    images = torch.zeros((2, resize.height, resize.width, 3), dtype=torch.uint8)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            served,
            (images,),
            dynamo=True,
            external_data=False,
            input_names=["images"],
            output_names=["probabilities", "embedding"],
            dynamic_shapes={"images": {0: torch.export.Dim("N", min=1)}},
            verbose=False,
        )
    if program is None:
        raise ExportError("torch.onnx gave no graph")
    return _without_traces(program.model_proto)


def _without_traces(model: onnx.ModelProto) -> onnx.ModelProto:
    """Takes out what the exporter noted at every node: stack traces with this machine's paths."""
    graph = model.graph
    parts: list[Any] = [*graph.node, *graph.input, *graph.output, *graph.value_info]
    for part in (*parts, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    del graph.metadata_props[:]
    del model.metadata_props[:]
    return model


def _check_parity(
    expected: NDArray[np.floating], found: NDArray[np.floating], examples: Sequence[Example]
) -> float:
    difference = np.abs(expected - found).max(axis=1)
    worst = int(difference.argmax())
    if not difference[worst] <= MAX_DIFFERENCE:
        raise ExportError(
            f"the exported graph differs from the network by {difference[worst]:.2g} on "
            f"{examples[worst].path}; {MAX_DIFFERENCE:.0e} is accepted"
        )
    other = np.flatnonzero(expected.argmax(axis=1) != found.argmax(axis=1))
    if len(other):
        raise ExportError(
            f"the exported graph decides otherwise than the network on {examples[other[0]].path}"
        )
    return float(difference[worst])


def _check_drop(
    precision: str, fp32: Mapping[str, Any], metrics: Mapping[str, Any], max_drop: float
) -> None:
    key, before = measured(fp32)
    _, after = measured(metrics)
    # Not by less than what a float can tell apart: a drop of just the bound is accepted.
    if not (before - after) * 100 <= max_drop + 1e-9:
        raise ExportError(
            f"{precision} has {key.replace('_', ' ')} {after:.2%} on the validation images, fp32 "
            f"{before:.2%}: {(before - after) * 100:.2f} points less, {max_drop:g} are accepted "
            "(--max-accuracy-drop); nothing was written"
        )


def _metrics(
    metadata: Metadata, probabilities: NDArray[np.floating], examples: Sequence[Example]
) -> dict[str, Any]:
    return figures_of(
        probabilities,
        targets_of(examples, len(metadata.labels), metadata.task),
        metadata.labels,
        metadata.task,
        thresholds=metadata.label_thresholds,
        macro_labels=metadata.macro_labels,
    )


def _sealed(model: onnx.ModelProto, metadata: Metadata) -> onnx.ModelProto:
    own = onnx.ModelProto()
    own.CopyFrom(model)
    seal(own, metadata)
    return own


def _write_bundle(path: Path, model: onnx.ModelProto, metadata: Metadata) -> Bundle:
    _write_synced(path, _sealed(model, metadata).SerializeToString())
    return load_bundle(path, "cpu")


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _publish(beside: Path, folder: Path) -> int:
    """Gives the finished folder the next free version number."""
    beside.chmod(0o755)
    while True:
        taken = [int(p.name) for p in folder.iterdir() if p.name.isdecimal()]
        version = max(taken, default=0) + 1
        try:
            beside.rename(folder / str(version))
        except OSError:
            # Somebody else took the number in between.
            if not (folder / str(version)).exists():
                raise
            continue
        return version
