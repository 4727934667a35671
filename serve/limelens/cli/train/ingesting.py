"""`limelens ingest`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import TextColumn

from limelens.cli.options.output_options import writable_folder
from limelens.cli.terminal.printing import AsJson, Bar, err, out, print_json, print_next
from limelens.serve.redaction import image_address
from limelens.serve.wording import counted

_MOST_SHOWN = 10


def ingest(
    table: Annotated[
        Path,
        typer.Argument(
            help="A tsv or csv file with the columns label, id and url, named in its first line. A "
            "url is http, https, file, or a path relative to the table.",
            show_default=False,
        ),
    ],
    data: Annotated[
        Path,
        typer.Option(
            "--out",
            help="Folder to create and fill, for limelens train.",
            callback=writable_folder,
        ),
    ],
    size: Annotated[
        int,
        typer.Option(
            min=1, help="Longer side of the images in pixels; smaller ones keep their size."
        ),
    ] = 224,
    concurrency: Annotated[
        int, typer.Option(min=1, max=256, help="Number of URLs fetched at the same time.")
    ] = 16,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds per attempt, including redirects.")
    ] = 30.0,
    retries: Annotated[
        int, typer.Option(min=0, help="Further attempts after a temporary failure.")
    ] = 3,
    backoff: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="Longest wait before the first retry in seconds; it doubles with each retry.",
        ),
    ] = 0.5,
    max_mb: Annotated[float, typer.Option(min=0.001, help="Largest file to fetch, in MB.")] = 20.0,
    max_redirects: Annotated[int, typer.Option(min=0, help="Number of redirects to follow.")] = 5,
    retry_failed: Annotated[
        bool,
        typer.Option("--retry-failed", help="Try again what failed permanently in earlier runs."),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Decides which images go to which split.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Fetches the images of a table into folders for limelens train.

    Broken files, duplicates and near-duplicates are left out; DATA/left_out.csv lists them with
    the reasons. The rest is divided into train, val and test. After an interruption, or with a
    longer table, the same command fetches only what is missing.
    """
    from limelens.serve.fetching import FetchLimits
    from limelens.train.ingest.pipeline import IngestConfig
    from limelens.train.ingest.pipeline import ingest as run_ingestion

    config = IngestConfig(
        size_px=size,
        concurrency=concurrency,
        limits=FetchLimits(
            timeout_s=timeout,
            max_bytes=round(max_mb * 1e6),
            max_redirects=max_redirects,
            num_retries=retries,
            backoff_s=backoff,
        ),
        retry_failed=retry_failed,
        seed=seed,
    )
    try:
        with _Bar() as bar:
            report = run_ingestion(table, data, config, bar)
    except KeyboardInterrupt:
        err.print("Stopped; run the same command again to continue.")
        raise typer.Exit(1) from None
    if as_json:
        print_json(report)
    else:
        _print_ingestion(report)
    for warning in report["warnings"]:
        err.print(f"warning: {escape(warning)}")
    if not report["num_images"]:
        raise typer.Exit(1)


def _print_ingestion(report: Mapping[str, Any]) -> None:
    left_out = f"{report['left_out']} left out: {escape(report['table'])}"
    if not report["num_images"]:
        err.print(f"Nothing could be ingested; {left_out}")
        return
    counts = ", ".join(f"{count} {split}" for split, count in report["splits"].items())
    out.print(
        f"[bold]{report['num_images']}[/] images of "
        f"{counted(len(report['labels']), 'label')} ({counts})"
    )
    if report["left_out"]:
        out.print(left_out)
    if not report["warnings"]:
        print_next(f"limelens train {report['data']}")


class _Bar(Bar):
    """Shows an ingestion: a bar on a terminal, and the first failures."""

    def __init__(self) -> None:
        super().__init__("fetching", TextColumn("{task.fields[failed]} failed"), failed=0)
        self._num_failed = 0

    def table_read(self, num_urls: int, num_known: int) -> None:
        known = f", {num_known} of them already fetched or refused" if num_known else ""
        err.print(f"{num_urls} URLs{known}")
        self.bar.update(self.task, total=num_urls, completed=num_known)

    def url_done(self, url: str, reason: str | None) -> None:
        if reason is not None:
            self._num_failed += 1
            if self._num_failed <= _MOST_SHOWN:
                shown = url if url.startswith("file:") else image_address(url)
                err.print(f"failed {escape(shown)}: {escape(reason)}")
            elif self._num_failed == _MOST_SHOWN + 1:
                err.print("further failures are not shown")
        self.bar.update(self.task, advance=1, failed=self._num_failed)
