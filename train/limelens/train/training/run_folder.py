"""The folder that a run writes: checkpoints, tables, plots, and the state for resuming.

It knows files and when they are written. It does not know how a network is trained.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from limelens.serve.files import write_whole
from limelens.train import checkpoint
from limelens.train.config import ConfigError, as_options
from limelens.train.data.examples import Dataset
from limelens.train.evaluation.evaluate import assess_examples
from limelens.train.evaluation.verdict import advice, is_overfitted, no_better_than_guessing
from limelens.train.report import plots
from limelens.train.report.page import write_report
from limelens.train.runs import BEST, LAST, REPORT, ROWS

_MAY_CHANGE: Final = ("num_workers",)
"""Settings that may differ when a run is resumed."""

_log = logging.getLogger(__name__)

Rows = Sequence[Mapping[str, float]]
"""One row per finished epoch, as in metrics.csv."""


class RunFolder:
    """The files of one run; `settings` are as `config.json` holds them."""

    def __init__(self, path: Path, settings: Mapping[str, Any], dataset: Dataset) -> None:
        self.path = path
        self._settings = dict(settings)
        self._dataset = dataset

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Refuses a state from another configuration or other data."""
        for name, value in self._settings.items():
            before = state["config"].get(name)
            if before != value and name not in _MAY_CHANGE:
                raise ConfigError(
                    f"{self.path} was begun with {as_options(name, before)}, not with "
                    f"{as_options(name, value)}; resume it with the command that began it"
                )
        if state["data_digest"] != self._dataset.digest:
            raise ConfigError(
                f"the data of {self.path} has changed since it was begun; restore it, or begin a "
                "new run"
            )
        if state["macro_labels"] != dict(self._dataset.macro_labels):
            raise ConfigError(
                f"{self.path} was begun with other superclasses; resume it with those, or begin a "
                "new run"
            )

    def open(self, rows: Rows) -> None:
        """Creates the folder, or brings its files in line with the finished epochs."""
        self.path.mkdir(parents=True, exist_ok=True)
        _write_json(self.path / "config.json", self._settings)
        if rows:
            self._write_rows(rows)
        else:
            # Written in an epoch that was interrupted and will be repeated.
            (self.path / BEST).unlink(missing_ok=True)

    def end_epoch(
        self, state: Mapping[str, Any], going: Mapping[str, Any], rows: Rows, *, is_best: bool
    ) -> None:
        """Writes the checkpoints and the table of a finished epoch.

        `state` is the checkpoint, `going` what only resuming needs, `rows` all finished epochs.
        """
        with _uninterrupted():
            # The best one first: if the last one is not written, the epoch is repeated.
            if is_best:
                checkpoint.save(self.path / BEST, self._complete(state))
            self.save_last(state, going)
            with _optional():  # the checkpoint holds the rows too
                self._write_rows(rows)

    def save_last(self, state: Mapping[str, Any], going: Mapping[str, Any]) -> None:
        """Writes last.pt, with the state for resuming."""
        checkpoint.save(self.path / LAST, {**self._complete(state), "going": dict(going)})

    def finish(
        self, rows: Rows, *, epochs: int, seconds: float, interrupted: bool
    ) -> dict[str, Any]:
        """Writes plots, page and report.json; returns the content of report.json."""
        val: dict[str, Any] = {}
        verdict: dict[str, Any] | None = None
        best = self.path / BEST
        if best.exists():
            val = checkpoint.load(best).metrics
            sentence = no_better_than_guessing(val)
            num_images = len(self._dataset.splits["train"])
            verdict = {
                "better_than_guessing": not sentence,
                "sentence": sentence,
                "overfitted": is_overfitted(val, rows),
                "advice": advice(val, rows, self._settings, num_images),
            }
            with _optional():
                plots.save(plots.curves(rows), self.path / "curves.png")
            if "confusion" in val:
                with _optional():
                    matrix = plots.confusion_matrix(val["confusion"], self._dataset.labels)
                    plots.save(matrix, self.path / "confusion.png")
            with _optional():
                data = Path(self._settings["data"])
                evaluation = assess_examples(self.path, self._dataset.splits["val"], data)
                write_report(evaluation, self.path / REPORT, rows=rows, advice=verdict["advice"])
        report = {
            "run": str(self.path),
            "checkpoint": str(best if best.exists() else self.path / LAST),
            "epochs": epochs,
            "val": val,
            "verdict": verdict,
            "seconds": round(seconds, 1),
            "interrupted": interrupted,
            "skipped": [
                {"path": str(one.path), "reason": one.reason} for one in self._dataset.skipped
            ],
            "crossing": [[str(path), str(other)] for path, other in self._dataset.crossing],
        }
        with _optional():
            _write_json(self.path / "report.json", report)
        return report

    def _complete(self, state: Mapping[str, Any]) -> dict[str, Any]:
        return {
            **state,
            "labels": list(self._dataset.labels),
            "task": self._dataset.task.value,
            "macro_labels": dict(self._dataset.macro_labels),
            "config": self._settings,
            "data_digest": self._dataset.digest,
        }

    def _write_rows(self, rows: Rows) -> None:
        with io.StringIO(newline="") as table:
            writer = csv.DictWriter(table, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
            write_whole(self.path / ROWS, table.getvalue())


def state_to_resume(out: Path) -> dict[str, Any] | None:
    """The state after the last finished epoch of a run; None if there is no such epoch."""
    last, best = out / LAST, out / BEST
    if not last.exists():
        # A first epoch is repeated; later, the best checkpoint may be all that is left of the run.
        if best.exists() and checkpoint.load_state(best)["epoch"] > 1:
            raise ConfigError(
                f"{out} holds {BEST} and no {LAST} to go on from; start another run from it"
            )
        return None
    state = checkpoint.load_state(last)
    if "going" not in state:
        raise ConfigError(f"{last} holds no state to go on from; begin the run again")
    return state if state["epoch"] else None


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Delays Ctrl-C until the block is done, so that files are never half-written."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pending: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: pending.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pending:
        raise KeyboardInterrupt


@contextmanager
def _optional() -> Iterator[None]:
    """Logs files that cannot be written; only a missing checkpoint ends a run."""
    try:
        yield
    except OSError as error:
        _log.warning("%s: cannot be written: %s", error.filename, error.strerror)


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    write_whole(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")
