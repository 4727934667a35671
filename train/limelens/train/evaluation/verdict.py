"""Whether a model is better than guessing, and what to try after a run that was not good.

It knows metrics and the rows of finished epochs, and neither networks nor files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from scipy.stats import binomtest

from limelens.serve.bundle import Task

_SIGNIFICANCE: Final = 0.05
_MEMORISED: Final = 0.15
"""From this much more accuracy on training than on validation images, it is overfitting."""


def no_better_than_guessing(metrics: Mapping[str, Any]) -> str:
    """A sentence about a model that guesses as well; empty if it is better.

    Multiclass: the number of right answers is not significantly above what the commonest label of
    these images would get (one-sided binomial test at 5 %), and there is a mistake. Multilabel: the
    loss is not below `base_rate_loss`.

    Args:
        metrics: As from `compute_metrics`; empty if nothing was measured.
    """
    if not metrics:
        return ""
    if metrics["task"] == Task.MULTILABEL:
        loss, guessing = metrics["loss"], metrics["base_rate_loss"]
        if loss < guessing:
            return ""
        return (
            "The model is no better than always predicting how common each label is: its loss is "
            f"{loss:.4f}, theirs {guessing:.4f}."
        )
    num_images = metrics["num_images"]
    correct = round(metrics["accuracy"] * num_images)
    commonest, row = max(metrics["per_class"].items(), key=lambda item: item[1]["support"])
    guessed = int(row["support"])
    test = binomtest(correct, num_images, guessed / num_images, alternative="greater")
    if correct == num_images or test.pvalue <= _SIGNIFICANCE:
        return ""
    found = f"{correct} of {num_images} images are right, {guessed} would be"
    if correct > guessed:
        return (
            f"The model may be no better than always answering {commonest!r}: {found}, and so few "
            f"more may be chance (p = {test.pvalue:.2f})."
        )
    return f"The model is no better than always answering {commonest!r}: {found}."


def is_overfitted(metrics: Mapping[str, Any], rows: Sequence[Mapping[str, float]]) -> bool:
    """Whether the training images were learned by heart: far better there than on validation.

    Training accuracy is measured on augmented images, so that it is normally the lower one.
    """
    if not rows or "train_accuracy" not in rows[-1] or not metrics:
        return False
    trained, num_images = min(rows[-1]["train_accuracy"], 1.0), metrics["num_images"]
    if trained - metrics["accuracy"] < _MEMORISED:
        return False
    correct = round(metrics["accuracy"] * num_images)
    test = binomtest(correct, num_images, trained, alternative="less")
    return bool(test.pvalue <= _SIGNIFICANCE)


def advice(
    metrics: Mapping[str, Any],
    rows: Sequence[Mapping[str, float]],
    config: Mapping[str, Any],
    num_images: int,
) -> list[str]:
    """What to try next, best first; empty if a run is better than guessing and not overfitted.

    Args:
        metrics: Of the kept epoch on the validation images.
        rows: Of the finished epochs.
        config: The run's settings, as in `config.json`.
        num_images: Training images.
    """
    failed = bool(no_better_than_guessing(metrics))
    overfitted = is_overfitted(metrics, rows)
    if not (failed or overfitted):
        return []
    more_images = f"more images, above all other ones than the {num_images} of training"
    if overfitted:
        steps = [] if config["augment"] == "strong" else ["--augment strong, or --mix both"]
        steps += [more_images, "the weights of another run (--start-from RUN), or --pretrained"]
    else:
        steps = [
            f"more epochs than {config['epochs']} (--epochs)",
            f"another learning rate than {config['learning_rate']:g} (--find-learning-rate PNG "
            "shows which)",
            more_images,
        ]
    if failed:
        height, width = config["input_size"]
        steps += [
            f"an --input-size above {height}x{width}, if small parts decide",
            "limelens inspect DATA, which finds wrong labels and duplicates",
        ]
    return steps
