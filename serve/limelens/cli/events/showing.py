"""`limelens events show` and `limelens events why`: one event."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.padding import Padding

from limelens.cli.events.choosing import RECORD, Id, RecordOption, open_record, shown
from limelens.cli.events.listing import SHORT, STYLES
from limelens.cli.options import option
from limelens.cli.options.output_options import IMAGE, image_file
from limelens.cli.terminal.by_products import ByProducts
from limelens.cli.terminal.printing import AsJson, out, print_json
from limelens.serve.image.writing import write_encoded
from limelens.serve.wording import counted

if TYPE_CHECKING:
    from limelens.watch.record import RecordedEvent, RecordedImage, Replay
    from limelens.watch.record.why import Why


def _written(text: str) -> Any:
    return option(text, metavar=IMAGE, show_default=False, callback=image_file())


def show(
    event: Id,
    record: RecordOption = RECORD,
    overlay: Annotated[Path | None, _written("Write the overlay.")] = None,
    frame: Annotated[Path | None, _written("Write the frame as it was decided.")] = None,
    thumbnail: Annotated[Path | None, _written("Write the thumbnail.")] = None,
    as_json: AsJson = False,
) -> None:
    """Shows everything that is recorded of an event, and writes its images.

    Example: limelens events show 3f9a0c51b2d7 --overlay why.png
    """
    beside = ByProducts()
    with open_record(record) as opened:
        found = opened.find(event)
        for path, image, kind in (
            (overlay, opened.overlay, "overlay"),
            (frame, opened.frame, "frame"),
            (thumbnail, opened.thumbnail, "thumbnail"),
        ):
            if path is not None:
                data = _image(image(found.id), kind, found)
                with beside.writing(path):
                    write_encoded(path, data, mode=0o600)
    if as_json:
        print_json(found.document())
    else:
        for name, value in found.document().items():
            if value not in (None, "", {}) and name != "schema":
                out.print(f"[bold]{name:12}[/] {shown(_in_words(value))}")
    beside.report(as_json=as_json)


def why(
    event: Id,
    record: RecordOption = RECORD,
    threshold: Annotated[
        float | None,
        option("Also decide its frames again: a label needs this probability.", min=0, max=1,
               show_default="as then"),
    ] = None,
    window: Annotated[
        int | None,
        option("The same, with so many frames.", min=1, max=1000, show_default="as then"),
    ] = None,
    required: Annotated[
        int | None,
        option("The same, if so many must agree.", min=1, max=1000, show_default="as then"),
    ] = None,
    required_to_alert: Annotated[
        int | None,
        option("The same, if so many must agree on an alert.", min=1, max=1000,
               show_default="as then"),
    ] = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Says in words why an event was decided, from the record alone.

    Which frames and which model decided, which regions of the frame mattered most, and whether the
    explanation is reliable. With other thresholds or votes it also says what they would have
    decided.

    Example: limelens events why 3f9a0c51b2d7 --threshold 0.9
    """
    from limelens.watch.record.why import why as why_of

    with open_record(record) as opened:
        found = why_of(opened, opened.find(event).id)
        changes: dict[str, Any] = {
            "threshold": threshold,
            "window": window,
            "required": required,
            "required_to_alert": required_to_alert,
        }
        again = None
        if any(value is not None for value in changes.values()):
            again = opened.replay(found.found.id, **changes)
    if as_json:
        replayed = {} if again is None else {"replay": _replay_document(again)}
        print_json({**found.document(), **replayed})
        return
    _print_why(found)
    if again is not None:
        _print_replay(again)


def _image(image: RecordedImage | None, kind: str, found: RecordedEvent) -> bytes:
    if image is None:
        from limelens.watch.record.errors import RecordError

        raise RecordError(f"no {kind} was kept of event {found.id}; see [record] in docs/record.md")
    return image.data


def _print_why(found: Why) -> None:
    one = found.found
    _say(
        f"[{STYLES[one.state]}]{one.state.upper()}[/] at {shown(one.camera_id)}, "
        f"{one.time:%Y-%m-%d %H:%M:%S} UTC, event {shown(one.id)}"
    )
    for sentence in found.decided:
        _say(shown(sentence))
    for vote in () if one.event.evidence is None else one.event.evidence.votes:
        time = f"{vote.time:%H:%M:%S}.{vote.time.microsecond // 100_000}"
        scores = ", ".join(f"{score.label} {score.probability:.2f}" for score in vote.scores[:3])
        _say(shown(f"{time}  {vote.label or 'nothing'} ({scores})"), indent=2)
    for sentence in found.decided_by:
        _say(shown(sentence))
    out.print()
    first, *others = found.explained
    _say(shown(first))
    for region in found.regions:
        style = "green" if region.weight >= 0 else "red"
        doubt = "" if region.is_clear else ", may be chance"
        _say(f"[{style}]{shown(region.sentence)}[/] (±{region.std_error:.2f}{doubt})", indent=2)
    for sentence in others:
        _say(shown(sentence))
    if found.doubts:
        _say("[bold yellow]This explanation is not reliable:[/]")
        for doubt in found.doubts:
            _say(f"[yellow]{shown(doubt)}[/]", indent=2)
    elif found.one is not None:
        _say("Fit and stability raise no doubt about this explanation.")
    kept = [name for name in ("overlay", "frame", "thumbnail") if getattr(one, f"has_{name}")]
    if kept:
        options = " ".join(f"--{name} FILE" for name in kept)
        _say(f"For its images: limelens events show {shown(one.id[-SHORT:])} {options}")
    if one.correction is not None:
        by = f" by {one.correction.by}" if one.correction.by else ""
        _say(
            f"[yellow]Marked as wrong{shown(by)} on {one.correction.time:%Y-%m-%d}: it should "
            f"have been {shown(one.correction.label)}.[/]"
        )


def _print_replay(again: Replay) -> None:
    rule = again.rule
    threshold = "" if rule.threshold is None else f" of {rule.threshold:.2f} or more"
    label = "" if again.label is None else f", {again.label}"
    differs = "another decision" if again.differs else "the same decision"
    out.print()
    _say(
        f"Decided again, with {rule.required_to_alert} of {rule.window} frames for an alert, "
        f"{rule.required} of {rule.window} for anything else, and labels{threshold}: "
        f"[{STYLES[again.state]}]{again.state}[/]{shown(label)} ({differs})."
    )
    if again.num_missing:
        frames = counted(again.num_missing, "frame")
        are = "is" if again.num_missing == 1 else "are"
        _say(
            f"[yellow]{frames} of such a window {are} not recorded: it may have decided earlier.[/]"
        )


def _say(text: str, indent: int = 0) -> None:
    """Prints a sentence; on a terminal its lines break between words."""
    if out.is_terminal:
        out.print(Padding(text, (0, 0, 0, indent), expand=False), soft_wrap=False)
    else:
        out.print(f"{' ' * indent}{text}")


def _replay_document(again: Replay) -> dict[str, Any]:
    rule = again.rule
    return {
        "state": again.state.value,
        "label": again.label,
        "differs": again.differs,
        "num_missing": again.num_missing,
        "threshold": rule.threshold,
        "window": rule.window,
        "required": rule.required,
        "required_to_alert": rule.required_to_alert,
        "frames": [
            {"frame_id": one.vote.frame_id, "label": one.label, "decision": one.decision}
            for one in again.frames
        ],
    }


def _in_words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key or 'nothing'} {one}" for key, one in value.items() if one != "")
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
