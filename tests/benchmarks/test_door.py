"""The counts of `python -m benchmarks.door`, on states that are made up."""

from __future__ import annotations

import itertools

import pytest
from benchmarks.door.delays import Load, outcome, percentile_ms
from benchmarks.door.filming import Change, Shown, films
from benchmarks.door.people import Person
from benchmarks.door.watching import Said

LOAD = Load(2, 5.0, 10.0, (1.0, 2.0))


def test_people_of_two_labels_take_turns_for_known_times() -> None:
    people = {
        label: [Person(label, (bytes([number]),)) for number in range(3)] for label in ("on", "off")
    }
    made = films(people, 2, fps=5.0, seconds=20.0, stay_s=(1.0, 2.0))
    for film in made:
        labels = [person.label for person in film.people]
        assert all(one != other for one, other in itertools.pairwise(labels))
        assert len(film.changes_s) == len(film.people) - 1
        stays = [later - at for at, later in itertools.pairwise(film.changes_s)]
        assert all(1.0 <= one <= 2.0 for one in stays)
        assert film.changes_s[-1] <= 18.0  # its state comes before the end
    assert {film.people[0].label for film in made} == {"on", "off"}


def test_each_change_is_found_once_and_the_rest_is_false() -> None:
    shown = Shown(
        [
            Change(0, 101.0, 101.1, "off"),
            Change(0, 103.0, 103.1, "on"),
            Change(1, 102.0, 102.0, "off"),  # nothing is said of it
        ],
        {0: 50, 1: 50},
    )
    said = Said(
        [
            ("0", 99.0, "clear", "on"),  # before the film
            ("0", 101.3, "alert", "off"),
            ("0", 101.4, "unknown", ""),
            ("1", 101.5, "alert", "off"),  # no change brought it
            ("0", 103.9, "clear", "on"),
        ]
    )
    found = outcome(LOAD, shown, said, 100.0, 97, {})
    assert (found.num_changes, found.num_missed, found.num_false, found.num_unknown) == (3, 1, 1, 1)
    assert found.alert_s == pytest.approx([0.3])
    assert found.clear_s == pytest.approx([0.9])
    assert found.from_sent_s == pytest.approx([0.2, 0.8])
    assert (found.num_sent, found.num_answered) == (100, 97)
    assert percentile_ms(found.alert_s + found.clear_s, 50) == pytest.approx(600)
