from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from limelens.train.data.examples import Example
from limelens.train.data.sampling import EpochBatches, label_weights, repeats


def examples_of(*targets: tuple[int, ...]) -> list[Example]:
    return [Example(Path(str(number)), own) for number, own in enumerate(targets)]


def single(*counts: int) -> list[Example]:
    return examples_of(*[(label,) for label, count in enumerate(counts) for _ in range(count)])


def shown(batches: EpochBatches) -> list[int]:
    return [index for batch in batches for index, _ in batch]


def test_a_balanced_epoch_lifts_each_label_to_the_98th_percentile() -> None:
    examples = single(5, 80, 33, 120)
    wanted = np.percentile([5, 80, 33, 120], 98)
    order = EpochBatches(repeats(examples, 4), 1, seed=0)
    found = Counter(examples[index].target for index in shown(order))
    assert found[3] == pytest.approx(120, abs=1)
    for label in (0, 1, 2):
        assert found[label] == pytest.approx(wanted, abs=1)


def test_a_label_without_examples_changes_nothing() -> None:
    assert np.array_equal(repeats(single(5, 80), 2), repeats(single(5, 80), 3))


def test_labels_above_the_percentile_are_never_used_less() -> None:
    counts = [*range(1, 100), 10_000]
    factors = repeats(single(*counts), 100)
    assert factors.min() == 1.0
    assert factors[-1] == 1.0


def test_each_example_is_used_floor_or_ceil_of_its_share() -> None:
    share = np.array([1.0, 2.5, 1.25, 1.25, 3.0])
    for seed in range(20):
        found = Counter(shown(EpochBatches(share, 1, seed)))
        assert sum(found.values()) == 9
        assert found[0] == 1
        assert found[1] in (2, 3)
        assert {found[2], found[3]} <= {1, 2}
        assert found[4] == 3


def test_an_unbalanced_epoch_uses_everything_once() -> None:
    order = EpochBatches(np.ones(37), 1, seed=4)
    for epoch in range(3):
        order.epoch = epoch
        assert sorted(shown(order)) == list(range(37))


def test_several_labels_take_the_repeat_factors_of_lvis() -> None:
    # 100 images of label 0, 16 of them also of label 1, 4 of label 2 alone, one of none.
    examples = examples_of(*[(0,)] * 84, *[(0, 1)] * 16, *[(2,)] * 4, ())
    wanted = np.percentile([100, 16, 4], 98)
    found = repeats(examples, 3)
    assert found[0] == 1.0
    assert found[90] == pytest.approx(np.sqrt(wanted / 16))
    assert found[101] == pytest.approx(np.sqrt(wanted / 4))
    assert found[-1] == 1.0


def test_the_order_follows_from_seed_and_epoch_alone() -> None:
    share = repeats(single(5, 30, 12), 3)

    def epoch(number: int, seed: int = 7) -> list[list[tuple[int, int]]]:
        order = EpochBatches(share, 8, seed)
        order.epoch = number
        return list(order)

    assert epoch(3) == epoch(3)
    assert epoch(3) != epoch(2)
    assert epoch(3) != epoch(3, seed=8)
    order = EpochBatches(share, 8, 7)
    assert len(order) == len(epoch(0)) == 90 // 8
    assert {len(batch) for batch in order} == {8}


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_ranks_share_the_batches_of_one_process_without_overlap(world_size: int) -> None:
    share = repeats(single(9, 40), 2)
    whole = list(EpochBatches(share, 12, seed=1))
    parts = [list(EpochBatches(share, 12, 1, rank, world_size)) for rank in range(world_size)]
    for number, batch in enumerate(whole):
        own = [part[number] for part in parts]
        assert {len(part) for part in own} <= {12 // world_size, -(-12 // world_size)}
        assert Counter(draw for part in own for draw in part) == Counter(batch)


def test_fewer_images_than_a_batch_are_all_shared() -> None:
    parts = [list(EpochBatches(np.ones(7), 32, 0, rank, 2)) for rank in range(2)]
    assert [[len(batch) for batch in part] for part in parts] == [[4], [3]]
    assert [len(batch) for batch in EpochBatches(np.ones(7), 32, 0)] == [7]


def test_weights_are_inverse_to_counts_with_mean_one_over_the_examples() -> None:
    examples = single(10, 40, 50)
    weights = label_weights(examples, 4)
    assert weights[0] == pytest.approx(4 * weights[1]) == pytest.approx(5 * weights[2])
    assert weights[3] == 1.0
    own: NDArray[np.float64] = weights[[example.target for example in examples]]
    assert own.mean() == pytest.approx(1.0)
