"""Decisions about people who come, cross, turn away and leave."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import pytest
from tests.serve.faces.walking import WIDTH, Walker, crowd, frame

from limelens.serve.decisions.smoothing import Smoothing
from limelens.serve.faces.boxes import Face
from limelens.serve.faces.people import MAX_PEOPLE, People, Person, Presence, Worst

ALERTS = ["bare"]
NOBODY = Worst(None, is_anybody=False)
UNKNOWN = Worst(None, is_anybody=True)
MASKED = Worst("masked", is_anybody=True)
BARE = Worst("bare", is_anybody=True)


def three_of_five() -> Smoothing:
    return Smoothing(5, 3, required_to_alert=2)


@dataclass
class Watched:
    """What was said of the people of a hall.

    Args:
        changes: Time, number and label of each change of a person's decision.
        worst: After each frame.
        people: The numbers of those present, after each frame.
    """

    changes: list[tuple[float, int, str | None]] = field(default_factory=list)
    worst: list[Worst] = field(default_factory=list)
    people: list[list[int]] = field(default_factory=list)

    def labels(self, number: int) -> list[str | None]:
        return [label for _, whom, label in self.changes if whom == number]


def watch(
    walkers: list[Walker],
    seconds: float,
    label: Callable[[int, float], str | None],
    *,
    people: People | None = None,
    fps: float = 5,
    false: Mapping[int, Face] | None = None,
    detect_every: int = 1,
    lost: Collection[int] = (),
) -> Watched:
    """Follows walkers, whose frames are labelled by walker and time; "?" cannot be judged.

    Args:
        walkers: The people.
        seconds: How long they are watched.
        label: What the model says of them.
        people: What follows them.
        fps: Frames a second.
        false: By frame: a face that the detector finds where there is none; the model says "bare".
        detect_every: Every how many frames faces are looked for, unless something is unsure.
        lost: Which frames never arrive.
    """
    people = people or People(three_of_five, max_unseen_s=2.0)
    watched = Watched()
    who: dict[Person, int] = {}
    for i in range(round(seconds * fps)):
        if i in lost:
            continue
        now = i / fps
        if i % detect_every == 0 or people.is_unsure:
            faces = frame(walkers, now)
            if false and i in false:
                faces[-1] = false[i]
            found = people.find([*faces.values()], now)
            who = dict(zip(found, faces, strict=True))
        else:
            found = people.follow(now)
        for person in found:
            walker = who[person]
            said = "bare" if walker < 0 else label(walker, now)
            if said != "?" and people.decide(person, said, now, is_alert=said in ALERTS):
                watched.changes.append((now, person.number, person.label))
        watched.worst.append(people.worst(ALERTS))
        watched.people.append([one.number for one in people.present])
    return watched


def masked(_walker: int, _now: float) -> str:
    return "masked"


def test_someone_comes_is_decided_once_and_leaves() -> None:
    watched = watch([Walker(0, depth=4, nearer=0.8, comes=1, leaves=4)], 8, masked)
    assert watched.worst[:5] == [NOBODY] * 5
    assert watched.worst[5:7] == [UNKNOWN] * 2
    assert watched.worst[7:30] == [MASKED] * 23  # two seconds longer than they were there
    assert watched.worst[30:] == [NOBODY] * 10
    assert watched.changes == [(1.4, 1, "masked")]


def test_the_worst_of_the_people_is_told() -> None:
    def label(walker: int, _now: float) -> str:
        return ["masked", "bare"][walker]

    walkers = [Walker(-0.6, depth=2.5), Walker(0.6, depth=3.5, comes=2, leaves=4)]
    watched = watch(walkers, 8, label)
    assert watched.worst[9] == MASKED
    assert watched.worst[10] == UNKNOWN  # somebody came about whom nothing is known yet
    assert watched.worst[11] == BARE  # two frames are enough for an alert
    assert watched.worst[-1] == MASKED
    assert watched.labels(1) == ["masked"]
    assert watched.labels(2) == ["bare"]


def test_of_equals_the_largest_is_told() -> None:
    people = People(Smoothing, max_unseen_s=2.0)
    small, large = people.find([Face(0, 0, 30, 30, 1.0), Face(99, 0, 199, 100, 1.0)], 0.0)
    people.decide(small, "masked", 0.0)
    people.decide(large, "scarf", 0.0)
    assert people.worst(ALERTS) == Worst("scarf", is_anybody=True)


def test_a_false_detection_of_one_frame_alerts_nobody_and_leaves_nothing() -> None:
    ghost = Face(400, 100, 440, 150, 0.5)
    watched = watch([Walker(-0.4)], 4, masked, false={8: ghost, 13: ghost})
    assert watched.labels(1) == ["masked"]
    assert [number for _, number, _ in watched.changes] == [1]
    assert watched.worst[8] == UNKNOWN
    assert watched.worst[9:13] == [MASKED] * 4
    assert all(people == [1] for i, people in enumerate(watched.people) if i not in (8, 13))


def test_someone_who_turns_away_keeps_number_and_decision() -> None:
    watched = watch([Walker(0, away=(2, 3.6))], 6, masked)
    assert watched.changes == [(0.4, 1, "masked")]
    assert watched.worst[2:] == [MASKED] * 28
    assert all(people == [1] for people in watched.people)


def test_someone_who_is_away_for_too_long_gets_a_new_number() -> None:
    watched = watch([Walker(0, away=(2, 5))], 7, masked)
    assert watched.labels(1) == watched.labels(2) == ["masked"]
    assert watched.worst[20:25] == [NOBODY] * 5


def test_someone_who_cannot_be_judged_any_more_is_unknown_after_a_while() -> None:
    people = People(three_of_five, max_unseen_s=2.0)
    watched = watch([Walker(0)], 6, lambda _, now: "masked" if now < 2 else "?", people=people)
    assert watched.worst[2:20] == [MASKED] * 18
    assert watched.worst[20:] == [UNKNOWN] * 10
    assert watched.people[-1] == [1]


def test_someone_whom_the_rim_cuts_off_keeps_the_decision_and_leaves() -> None:
    walker = Walker(0, depth=2.5, right=0.8)

    def label(_walker: int, now: float) -> str:
        face = walker.face(now)
        assert face is not None  # or nobody would ask
        return "?" if face.right > WIDTH + 0.2 * face.size_px else "masked"

    watched = watch([walker], 6, label)
    assert watched.changes == [(0.4, 1, "masked")]
    assert MASKED in watched.worst
    assert UNKNOWN not in watched.worst[2:]
    assert watched.worst[-1] == NOBODY


def test_two_who_pass_each_other_keep_their_decisions() -> None:
    def label(walker: int, _now: float) -> str:
        return ["masked", "bare"][walker]

    for speed in (0.3, 0.5, 0.8):
        walkers = [Walker(-0.9, 2.6, right=speed), Walker(0.9, 3.1, right=-speed)]
        watched = watch(walkers, 1.8 / speed, label)
        assert sorted(watched.changes)[0][2] == "bare"
        assert len(watched.changes) == 2


def test_a_doubtful_person_becomes_unknown() -> None:
    watched = watch([Walker(0)], 3, lambda _, now: "masked" if now < 1 else None)
    assert watched.labels(1) == ["masked", None]


def test_lost_frames_change_nothing() -> None:
    watched = watch([Walker(-1.5, right=1.0)], 3, masked, lost=[5, 6, 10])
    assert watched.changes == [(0.4, 1, "masked")]


def test_twenty_people_are_decided_each_for_themselves() -> None:
    watched = watch(crowd(), 3, lambda walker, _: "bare" if walker == 7 else "masked")
    assert sorted(number for _, number, _ in watched.changes) == [*range(1, 21)]
    assert sum(label == "bare" for _, _, label in watched.changes) == 1
    assert watched.worst[1:] == [BARE] * 14


@pytest.mark.parametrize("detect_every", [2, 3, 5])
def test_people_are_followed_between_detections(detect_every: int) -> None:
    walkers = [Walker(-1.4, right=0.7), Walker(0.3, 4, nearer=0.7)]
    watched = watch(walkers, 4, masked, detect_every=detect_every)
    # Nobody is forgotten in between, and frames in between are judged, too.
    assert watched.people[-1] == [1, 2]
    assert [when for when, _, _ in watched.changes] == [0.4, 0.4]


def test_people_are_followed_to_where_they_are() -> None:
    people, walker = People(three_of_five, max_unseen_s=2.0), Walker(-1.0, right=0.8)
    for i in range(17):
        face = walker.face(i / 5)
        assert face is not None
        if i % 3 == 0:
            people.find([face], i / 5)
        else:
            [person] = people.follow(i / 5)
            assert person.presence is Presence.FOLLOWED
            if i > 3:  # their way is known
                assert abs(person.face.left - face.left) < 0.4 * face.size_px
                assert person.face.size_px == pytest.approx(face.size_px, rel=0.2)


def test_nobody_leaves_while_faces_are_not_looked_for() -> None:
    people = People(Smoothing, max_unseen_s=1.0)
    people.find([Face(0, 0, 50, 50, 1.0)], 0.0)
    for i in range(1, 20):
        assert [one.number for one in people.follow(i / 5)] == [1]
    people.find([], 4.0)
    assert people.present == ()
    assert people.follow(4.2) == []


def test_someone_who_left_is_not_decided_by_where_they_were() -> None:
    people = People(Smoothing, max_unseen_s=2.0)
    [person] = people.find([Face(0, 0, 50, 50, 1.0)], 0.0)
    assert people.decide(person, "bare", 0.0, is_alert=True)
    assert people.follow(0.2) == [person]
    assert not people.decide(person, "masked", 0.2)
    assert people.is_unsure
    assert people.find([], 0.4) == []
    assert not people.is_unsure
    assert people.worst(ALERTS) == BARE
    # They come back, and nothing of the wall behind them counts.
    assert people.find([Face(0, 0, 50, 50, 1.0)], 0.6) == [person]
    assert not people.decide(person, "bare", 0.6, is_alert=True)


def test_what_was_said_while_someone_was_followed_counts_once_they_are_found() -> None:
    people = People(three_of_five, max_unseen_s=2.0)
    [person] = people.find([Face(0, 0, 50, 50, 1.0)], 0.0)
    people.decide(person, "masked", 0.0)
    people.follow(0.2)
    assert not people.decide(person, "masked", 0.2)
    assert people.find([Face(0, 0, 50, 50, 1.0)], 0.4) == [person]
    assert people.decide(person, "masked", 0.4)


def test_one_false_detection_alerts_nobody_however_long_it_is_followed() -> None:
    people = People(lambda: Smoothing(5, 3, required_to_alert=2), max_unseen_s=2.0)
    [ghost] = people.find([Face(0, 0, 50, 50, 1.0)], 0.0)
    people.decide(ghost, "bare", 0.0, is_alert=True)
    for i in range(1, 5):
        people.follow(i / 5)
        assert not people.decide(ghost, "bare", i / 5, is_alert=True)
    people.find([], 1.0)
    assert people.worst(ALERTS) == NOBODY


def test_still_frames_keep_everybody_and_count() -> None:
    people = People(three_of_five, max_unseen_s=1.0)
    [person] = people.find([Face(0, 0, 50, 50, 1.0)], 0.0)
    people.decide(person, "masked", 0.0)
    for i in range(1, 20):
        assert people.stay(i / 5) == [person]
        people.decide(person, "masked", i / 5)
    assert person.label == "masked"
    assert person.face == Face(0, 0, 50, 50, 1.0)


def test_forgetting_gives_no_number_twice() -> None:
    people = People(Smoothing, max_unseen_s=2.0)
    [first] = people.find([Face(0, 0, 50, 50, 1.0)], 0.0)
    people.forget()
    assert people.worst(ALERTS) == NOBODY
    [second] = people.find([Face(0, 0, 50, 50, 1.0)], 0.2)
    assert (first.number, second.number) == (1, 2)


def test_forgotten_decisions_leave_people_where_they_are() -> None:
    people = People(Smoothing, max_unseen_s=2.0)
    [person] = people.find([Face(0, 0, 50, 50, 1.0)], 0.0)
    assert people.decide(person, "masked", 0.0)
    people.forget_decisions()
    assert people.worst(ALERTS) == UNKNOWN
    assert people.find([Face(0, 0, 50, 50, 1.0)], 0.2) == [person]


def test_so_many_people_are_remembered_and_no_more() -> None:
    people = People(Smoothing, max_unseen_s=60.0)
    for i in range(4):
        faces = [Face(1000 * i + 60 * j, 0, 1000 * i + 60 * j + 50, 50, 1.0) for j in range(15)]
        for person in people.find(faces, i / 5):
            people.decide(person, "masked", i / 5)
    assert len(people.present) == MAX_PEOPLE == 40
    assert [one.number for one in people.present][-15:] == [*range(46, 61)]
