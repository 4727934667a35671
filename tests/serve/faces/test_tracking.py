"""Faces of people who walk through a hall, followed from frame to frame."""

from __future__ import annotations

from collections.abc import Collection

import pytest
from tests.serve.faces.walking import Walker, crowd, frame

from limelens.serve.faces.boxes import Face
from limelens.serve.faces.tracking import Track, Tracker


def numbers(
    walkers: list[Walker],
    seconds: float,
    *,
    fps: float = 5,
    lost: Collection[int] = (),
    held: Collection[int] = (),
) -> list[list[int]]:
    """The numbers that each walker was given, in order, without repeats.

    Args:
        walkers: The people.
        seconds: How long they are watched.
        fps: Frames a second.
        lost: Which frames never arrive.
        held: Which frames arrive just before the one that follows them.
    """
    tracker, tracks = Tracker(), dict[int, Track]()
    given: list[list[int]] = [[] for _ in walkers]
    for i in range(round(seconds * fps)):
        if i in lost:
            continue
        faces = frame(walkers, i / fps)
        arrived_at = (i + 0.999) / fps if i in held else i / fps
        found = tracker.match([*tracks.values()], [*faces.values()], arrived_at)
        tracks |= {one.number: one for one in found}
        for who, track in zip(faces, found, strict=True):
            if given[who][-1:] != [track.number]:
                given[who].append(track.number)
    return given


def test_people_who_come_one_after_the_other_are_numbered_as_they_come() -> None:
    walkers = [Walker(-0.5, nearer=0.5), Walker(0.5, comes=1), Walker(0, depth=5, comes=2)]
    assert numbers(walkers, 5) == [[1], [2], [3]]


@pytest.mark.parametrize("speed", [0.4, 0.8, 1.4])
def test_someone_who_crosses_the_hall_keeps_their_number(speed: float) -> None:
    assert numbers([Walker(-1.9, right=speed)], 3.6 / speed) == [[1]]


@pytest.mark.parametrize("held", range(4, 9))
@pytest.mark.parametrize("speed", [0.0, 0.4, 0.8])
def test_frames_that_arrive_together_lose_nobody(speed: float, held: int) -> None:
    assert numbers([Walker(-0.8, right=speed)], 2.4, held=[held]) == [[1]]


@pytest.mark.parametrize("speed", [0.3, 0.5, 0.8, 1.2])
@pytest.mark.parametrize("offset", [0.0, 0.02, 0.05])
def test_two_who_cross_keep_their_numbers(speed: float, offset: float) -> None:
    walkers = [
        Walker(-0.9 + offset, depth=2.6, right=speed),
        Walker(0.9, depth=3.1, right=-speed),
    ]
    assert numbers(walkers, 1.8 / speed) in ([[1], [2]], [[2], [1]])


def test_two_side_by_side_keep_their_numbers_from_their_first_frame_on() -> None:
    # In a fifth of a second each goes farther than to where the other was.
    walkers = [Walker(-1.5, right=1.3), Walker(-1.2, right=1.3)]
    assert numbers(walkers, 2) in ([[1], [2]], [[2], [1]])


def test_frames_that_are_lost_break_no_way() -> None:
    walkers = [Walker(-1.6, right=1.0), Walker(0.4, depth=4, nearer=1.2)]
    assert numbers(walkers, 2.4, lost=[4, 7, 8]) == [[1], [2]]


def test_twenty_people_keep_their_numbers() -> None:
    given = numbers(crowd(), 4)
    assert all(len(one) == 1 for one in given)
    assert sorted(one[0] for one in given) == [*range(1, 21)]


def test_a_face_somewhere_else_or_of_another_size_is_someone_else() -> None:
    tracker = Tracker()
    [first] = tracker.match([], [Face(100, 100, 150, 150, 0.9)], 0.0)
    [far] = tracker.match([first], [Face(400, 100, 450, 150, 0.9)], 0.2)
    [large] = tracker.match([first, far], [Face(60, 60, 190, 190, 0.9)], 0.4)
    assert [first.number, far.number, large.number] == [1, 2, 3]


def test_a_face_is_expected_where_it_goes_and_ever_slower() -> None:
    [track] = Tracker().match([], [Face(100, 100, 150, 160, 0.9)], 0.0)
    assert track.expected(5.0).left == pytest.approx(100)
    track.found(Face(120, 100, 170, 160, 0.8), 0.2)
    soon, later, last = (track.expected(0.2 + after) for after in (0.2, 1.0, 100.0))
    assert 138 < soon.left < 140
    assert 200 < later.left < 220
    assert last.left == pytest.approx(120 + 300)  # at 100 pixels a second, for 3 seconds
    assert [soon.top, soon.bottom, soon.score] == pytest.approx([100, 160, 0.8])


def test_someone_who_comes_nearer_is_expected_larger() -> None:
    [track] = Tracker().match([], [Face(100, 100, 140, 140, 0.9)], 0.0)
    track.found(Face(98, 98, 142, 142, 0.9), 0.2)
    assert track.expected(0.4).size_px == pytest.approx(44 * 1.1, rel=0.01)
