"""A bundle's own explanation settings, asked of a real server and of the client in process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import BundleMaker

from limelens.serve import Client
from limelens.serve.bundle.explain_defaults import ExplainDefaults
from limelens.serve.client.in_process import local_client
from limelens.serve.client.results import ExplainSettings, FrameStatus
from limelens.serve.rpc.server_config import Limits, ServiceSettings

pytest.importorskip("skimage")

OWN = ExplainDefaults(
    hide=(0, 0, 0), segmentation="grid", num_segments=9, num_samples=80, why={"gain": 0.5}
)
FROM_OWN = ("hide", "segmentation", "num_segments", "num_samples")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, bundles: BundleMaker) -> Path:
    """A model repository whose only bundle has settings of its own."""
    folder = tmp_path_factory.mktemp("tuned")
    bundles.save(folder, replace(bundles.metadata(), explain=OWN))
    return folder


@pytest.fixture
def asked(start_server: Any, tuned: Path) -> Iterator[Client]:
    limits = ServiceSettings(limits=Limits(max_samples=500))
    with Client(
        start_server(tuned, service=limits).address, timeout_s=60, max_attempts=1
    ) as client:
        yield client


def scene() -> np.ndarray:
    pixels = np.full((48, 48, 3), 90, np.uint8)
    pixels[:16, :16] = 255, 0, 0
    return pixels


def test_what_a_call_leaves_open_is_the_models_own(asked: Client) -> None:
    found = asked.explain(scene(), seed=1)
    assert (found.num_segments, found.num_samples) == (9, 80)
    assert found.settings_from_model == FROM_OWN
    assert found.settings == ExplainSettings(
        method="lime",
        hide=(0, 0, 0),
        segmentation="grid",
        num_segments=9,
        num_samples=80,
        kernel_width=0.25,
        sampling="paired",
    )


def test_the_settings_of_an_answer_give_it_again(asked: Client) -> None:
    shuffled = {"hide": "shuffle", "num_samples": 90}
    for options in ({}, {"method": "kernel_shap"}, shuffled, {**shuffled, "num_fills": 3}):
        first = asked.explain(scene(), **options)
        assert first.settings is not None
        again = {
            name: getattr(first.settings, name)
            for name in ("method", "hide", "num_fills", "segmentation", "num_segments",
                         "num_samples", "kernel_width", "sampling")
        }  # fmt: skip
        second = asked.explain(scene(), seed=first.seed, **again)
        assert second.explanations == first.explanations
        assert second.settings_from_model == ()


def test_an_explicit_value_wins(asked: Client) -> None:
    found = asked.explain(scene(), hide="mean", num_segments=16, num_samples=100)
    assert found.settings is not None
    assert (found.settings.hide, found.num_segments, found.num_samples) == ("mean", 16, 100)
    assert found.settings_from_model == ("segmentation",)
    assert asked.explain(scene(), stability=0.5).num_samples <= 80
    assert asked.explain(scene(), segmentation="slic").settings_from_model == (
        "hide",
        "num_samples",
    )
    halves = np.arange(48)[np.newaxis] // 24 + np.zeros((48, 1), dtype=np.uint16)
    own_cut = asked.explain(scene(), segments=halves)
    assert (own_cut.num_segments, own_cut.num_samples) == (2, 80)
    assert own_cut.settings is not None
    assert own_cut.settings.segmentation is None


def test_a_fill_of_the_call_has_its_own_number_of_fills(
    start_server: Any, tmp_path: Path, bundles: BundleMaker
) -> None:
    own = replace(OWN, hide="shuffle", num_fills=3)
    bundles.save(tmp_path, replace(bundles.metadata(), explain=own))
    with Client(start_server(tmp_path).address, timeout_s=60, max_attempts=1) as client:
        told = client.model().explain_settings
        assert told is not None
        assert (told.hide, told.num_fills) == ("shuffle", 3)
        found = client.explain(scene())
        assert found.settings_from_model[:2] == ("hide", "num_fills")
        assert found.settings is not None
        assert found.settings.num_fills == 3
        for options, num_fills in (
            ({"num_fills": 2}, 2),
            ({"hide": "shuffle"}, 1),
            ({"hide": "mean"}, None),
        ):
            found = client.explain(scene(), **options)
            assert "num_fills" not in found.settings_from_model
            assert found.settings is not None
            assert found.settings.num_fills == num_fills


def test_another_method_keeps_what_hides(asked: Client) -> None:
    found = asked.explain(scene(), method="kernel_shap")
    assert found.settings_from_model == ("hide", "segmentation", "num_segments")
    assert found.num_samples == 500  # of the library's 1000, the server's limit


def test_lime_knows_no_settings_of_models(asked: Client) -> None:
    found = asked.explain(scene(), compat="lime", num_samples=50)
    assert found.settings_from_model == ()
    assert found.settings is not None
    assert (found.settings.hide, found.settings.segmentation) == ("mean", "quickshift")


def test_streams_use_them_too(asked: Client) -> None:
    *_, last = asked.explain_stream(scene(), seed=1)
    assert last.explanation.explanations == asked.explain(scene(), seed=1).explanations
    frames = [np.full((48, 48, 3), colour, np.uint8) for colour in ((255, 0, 0), (0, 0, 255))]
    answers = asked.stream(frames, explain_on_change={"num_samples": 60})
    (change,) = [
        one.explanation
        for one in answers
        if one.status is FrameStatus.EXPLANATION
        and one.explanation is not None
        and one.explanation.label == "blue"
    ]
    assert change.explanation is not None
    assert change.explanation.settings_from_model == FROM_OWN[:3]
    assert change.explanation.num_samples == 60


def test_a_model_tells_them(asked: Client) -> None:
    own = ExplainSettings(
        hide=(0, 0, 0), segmentation="grid", num_segments=9, num_samples=80, why={"gain": 0.5}
    )
    assert asked.model().explain_settings == own
    assert asked.models()[0].explain_settings == own
    assert asked.model().card["explain"]["hide"] == [0, 0, 0]


def test_the_servers_limit_of_samples_still_holds(start_server: Any, tuned: Path) -> None:
    few = ServiceSettings(limits=Limits(max_samples=40))
    with Client(start_server(tuned, service=few).address, timeout_s=60, max_attempts=1) as client:
        assert client.explain(scene()).num_samples == 40


def test_a_client_in_process_uses_them(tuned: Path) -> None:
    found = local_client(tuned / "colours" / "1", "cpu").explain(scene(), seed=1)
    assert (found.num_segments, found.num_samples) == (9, 80)


def test_settings_do_not_make_another_model(
    asked: Client, one_model: Path, start_server: Any
) -> None:
    with Client(start_server(one_model).address, timeout_s=60, max_attempts=1) as client:
        plain = client.embed(scene())
        assert client.model().explain_settings is None
        assert client.explain(scene()).settings_from_model == ()
    assert asked.embed(scene()).model_digest == plain.model_digest
