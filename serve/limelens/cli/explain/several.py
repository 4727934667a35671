"""`limelens explain` for several images: one document for each, and the page of --report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from limelens.cli.classifying import images_in
from limelens.cli.explain.drawings import palette_of
from limelens.cli.explain.explanations import image_document
from limelens.cli.terminal.by_products import ByProducts
from limelens.cli.terminal.printing import ImageBar

if TYPE_CHECKING:
    from limelens.serve.client import Client, ExplainArguments
    from limelens.serve.tools.explain_report.explain_many import LabeledFile
    from limelens.serve.tools.faces.face_blurrer import FaceBlurrer

NUM_PARALLEL_LOCALLY: Final = 2
"""Images at a time in this process: one is read and cut while another has the cores."""
_NUM_PARALLEL_CALLS: Final = 4


def explain_several(
    client: Client,
    images: Sequence[Path],
    arguments: ExplainArguments,
    report: Path | None,
    by_products: ByProducts,
    blurrer: FaceBlurrer | None,
) -> list[dict[str, Any]]:
    """One document for each image, and the page if there is to be one."""
    from limelens.serve.client.in_process import LocalClient
    from limelens.serve.tools.explain_report.explain_many import explain_many
    from limelens.serve.tools.explain_report.page import Gallery

    gallery = None
    if report is not None:
        base = images[0] if len(images) == 1 and images[0].is_dir() else None
        title = f"Why, for {base or f'{len(images)} images'}"
        gallery = Gallery(title, base, palette_of(arguments), blurrer)
        arguments = {**arguments, "renderings": ["overlay" if blurrer is None else "segments"]}
    model = client.model(arguments["model"], arguments["version"])
    files = _labeled_files(images, frozenset(label.name for label in model.labels))
    documents: list[dict[str, Any]] = []
    num_parallel = NUM_PARALLEL_LOCALLY if isinstance(client, LocalClient) else _NUM_PARALLEL_CALLS
    with ImageBar() as bar:
        for one in explain_many(client, files, num_parallel=num_parallel, **arguments):
            if gallery is not None:
                gallery.add(one)
            documents.append(image_document(one))
            bar.done(len(documents), len(files))
    if gallery is not None and report is not None:
        with by_products.writing(report):
            gallery.write(report)
    return documents


def _labeled_files(images: Sequence[Path], labels: frozenset[str]) -> list[LabeledFile]:
    """The images, with their true label where a folder is named like one of the model's."""
    from limelens.serve.tools.explain_report.explain_many import LabeledFile

    found: list[LabeledFile] = []
    for image in images:
        if image.is_dir():
            files = [(image / one.path, one.label) for one in images_in(image)]
        else:
            files = [(image, "")]
        for path, label in files:
            names = (label, path.absolute().parent.name)
            found.append(LabeledFile(path, next((name for name in names if name in labels), None)))
    return found
