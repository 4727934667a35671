"""The explanation settings that travel in a bundle: what they may be, and what fits a request."""

import json
from dataclasses import replace
from typing import Any

import pytest
from tests.conftest import BundleMaker

from limelens.serve.bundle import Metadata
from limelens.serve.bundle.explain_defaults import NO_DEFAULTS, ExplainDefaults
from limelens.serve.errors import BundleError

OWN = ExplainDefaults(
    hide="shuffle", num_segments=30, num_samples=600, kernel_width=0.3, sampling="paired"
)


@pytest.fixture
def metadata(bundles: BundleMaker) -> Metadata:
    return bundles.metadata()


def test_they_are_read_as_they_were_written(metadata: Metadata) -> None:
    plain = metadata.to_props()
    assert "limelens.explain" not in plain
    assert Metadata.from_props(plain).explain is None
    several = ExplainDefaults(hide="references", num_fills=4)
    coloured = ExplainDefaults(hide=(0, 127, 255), why={"images": 8})
    for own in (OWN, several, coloured, NO_DEFAULTS):
        props = replace(metadata, explain=own).to_props()
        assert Metadata.from_props(props).explain == own
    by_hand = {"hide": "blur"}
    props["limelens.explain"] = json.dumps(by_hand)
    assert Metadata.from_props(props).explain == ExplainDefaults(hide="blur")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([], "expected a mapping"),
        ({"hid": "blur"}, r"has \['hid'\]; expected some of method, hide"),
        ({"hide": "magic"}, "hide is 'magic'"),
        ({"hide": [1, 2]}, "hide is"),
        ({"hide": [1, 2, 256]}, "hide is"),
        ({"hide": {"a": 1}}, "explain: "),
        ({"segmentation": 7}, "segmentation is 7"),
        ({"hide": "shuffle", "num_fills": 17}, "num_fills 17; expected 1 to 16"),
        ({"hide": "shuffle", "num_fills": 2.0}, "expected a whole number"),
        ({"hide": "blur", "num_fills": 2}, "hide='blur' is one fill"),
        ({"num_segments": 1}, "num_segments 1; expected 2 to 1000"),
        ({"num_segments": 10**9}, "expected 2 to 1000"),
        ({"num_segments": 30.5}, "expected a whole number"),
        ({"num_segments": True}, "expected a whole number"),
        ({"num_segments": 30, "segmentation": "quickshift"}, "finds its own number"),
        ({"num_samples": 10**9}, "num_samples"),
        ({"num_samples": "many"}, "expected a whole number"),
        ({"kernel_width": 0}, "kernel_width"),
        ({"kernel_width": "wide"}, "expected a number"),
        ({"kernel_width": float("nan")}, "kernel_width"),
        ({"sampling": "both"}, "sampling"),
        ({"method": "magic"}, "method"),
        ({"why": 3}, "why is no mapping"),
        ({"why": {"text": "x" * 200_000}}, "at most 100,000 bytes"),
    ],
)
def test_others_make_no_bundle(metadata: Metadata, values: Any, reason: str) -> None:
    props = {**metadata.to_props(), "limelens.explain": json.dumps(values)}
    with pytest.raises(BundleError, match=reason):
        Metadata.from_props(props)


def test_another_method_keeps_what_hides() -> None:
    assert OWN.for_method(None) == OWN.for_method("lime") == OWN
    assert OWN.for_method("occlusion").names == ("hide", "num_segments")
    shap = replace(OWN, method="kernel_shap", kernel_width=None)
    assert shap.for_method("kernel_shap").names == shap.names[1:]
    assert shap.for_method("lime").names == ("hide", "num_segments")


def test_another_cut_keeps_no_number_of_segments() -> None:
    assert OWN.for_cut(None) == OWN.for_cut("slic") == OWN
    for left in (OWN.for_cut("grid"), OWN.for_cut(None, is_own=True)):
        assert left.num_segments is None
        assert left.hide == "shuffle"
    assert OWN.for_cut(None, is_numbered=True) == replace(OWN, num_segments=None)
    found = ExplainDefaults(segmentation="quickshift", hide="blur")
    assert found.for_cut("quickshift") == ExplainDefaults(hide="blur")
    assert found.for_cut(None, is_numbered=True) == ExplainDefaults(hide="blur")
