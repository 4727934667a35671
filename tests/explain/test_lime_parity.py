"""compat="lime" against the lime package itself."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from limelens.explain import Explanation, explain, image_and_mask

Predict = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
MakePredict = Callable[[tuple[int, int]], Predict]

pytestmark = pytest.mark.filterwarnings("ignore")


class Recorded:
    """What lime found, and the design, predictions and sample weights that it found it from."""

    def __init__(self, image: NDArray[np.uint8], predict: Predict, **options: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from lime import lime_base
            from lime.lime_image import LimeImageExplainer, SegmentationAlgorithm
        recorded: dict[str, Any] = {}

        class Base(lime_base.LimeBase):  # type: ignore[misc]
            def explain_instance_with_data(
                self, data: Any, answers: Any, d: Any, *a: Any, **k: Any
            ) -> Any:
                recorded.update(data=data, answers=answers, weights=self.kernel_fn(d))
                return super().explain_instance_with_data(data, answers, d, *a, **k)

        explainer = options.pop("explainer", None)
        if explainer is None:
            explainer = LimeImageExplainer(
                kernel_width=options.pop("kernel_width", 0.25),
                feature_selection=options.pop("feature_selection", "auto"),
                random_state=options.pop("random_state", 7),
            )
            explainer.base = Base(explainer.base.kernel_fn, random_state=explainer.random_state)
        if "segmentation" in options:
            method, arguments = options.pop("segmentation")
            options["segmentation_fn"] = SegmentationAlgorithm(method, **arguments)
        self.explainer = explainer
        self.found = explainer.explain_instance(image, predict, **options)
        self.visible = recorded["data"]
        self.answers = recorded["answers"]
        self.weights = recorded["weights"]


def assert_equal(ours: Explanation, lime: Recorded) -> None:
    np.testing.assert_array_equal(ours.segments, lime.found.segments)
    np.testing.assert_array_equal(ours.samples.visible, lime.visible)
    np.testing.assert_allclose(ours.samples.probabilities, lime.answers, rtol=0, atol=1e-8)
    np.testing.assert_allclose(ours.samples.weights, lime.weights, rtol=0, atol=1e-8)
    assert {one.label for one in ours.explanations} == set(lime.found.local_exp)
    for one in ours.explanations:
        theirs = lime.found.local_exp[one.label]
        assert [w.segment for w in one.weights] == [segment for segment, _ in theirs]
        np.testing.assert_allclose(
            [w.weight for w in one.weights], [weight for _, weight in theirs], rtol=0, atol=1e-8
        )
        assert one.intercept == pytest.approx(lime.found.intercept[one.label], abs=1e-8)
    # lime keeps score and local prediction of the label that it fitted last only
    last = ours.for_label(list(lime.found.local_exp)[-1])
    assert last.score == pytest.approx(lime.found.score, abs=1e-8)
    assert last.local_prediction == pytest.approx(float(lime.found.local_pred[0]), abs=1e-8)


@pytest.mark.parametrize("num_features", [3, 9, None])
@pytest.mark.parametrize(
    "selection", ["auto", "none", "forward_selection", "highest_weights", "lasso_path"]
)
def test_every_feature_selection_equals_lime(
    photo: NDArray[np.uint8],
    linear_softmax: MakePredict,
    selection: Any,
    num_features: int | None,
) -> None:
    predict = linear_softmax((96, 80))
    options: dict[str, Any] = {"n_segments": 20, "start_label": 0}
    lime = Recorded(
        photo,
        predict,
        feature_selection=selection,
        num_features=num_features or 100000,
        num_samples=150,
        segmentation=("slic", options),
    )
    ours = explain(
        photo,
        predict,
        compat="lime",
        seed=7,
        feature_selection=selection,
        num_features=num_features,
        num_samples=150,
        segmentation="slic",
        segmentation_options=options,
    )
    assert ours.num_segments > 10
    assert_equal(ours, lime)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("quickshift", None),
        ("quickshift", {"kernel_size": 3, "max_dist": 6, "ratio": 0.5}),
        ("slic", {}),  # starts at 1: lime never hides the last segment
        ("slic", {"n_segments": 30, "compactness": 5}),
        ("felzenszwalb", {"scale": 80, "min_size": 60}),
    ],
)
@pytest.mark.parametrize("hide", ["mean", (0, 0, 0), (12, 250, 99)])
def test_every_segmentation_and_hiding_equals_lime(
    photo: NDArray[np.uint8],
    linear_softmax: MakePredict,
    method: Any,
    options: dict[str, Any] | None,
    hide: Any,
) -> None:
    predict = linear_softmax((96, 80))
    theirs: dict[str, Any] = {} if options is None else {"segmentation": (method, options)}
    lime = Recorded(
        photo,
        predict,
        hide_color=None if hide == "mean" else hide,
        num_samples=120,
        **theirs,
    )
    ours = explain(
        photo,
        predict,
        compat="lime",
        seed=7,
        hide=hide,
        num_samples=120,
        segmentation=method,
        segmentation_options=options,
    )
    assert_equal(ours, lime)


@pytest.mark.parametrize(
    ("ours", "theirs"), [("cosine", "cosine"), ("l2", "l2"), ("euclidean", "euclidean")]
)
@pytest.mark.parametrize("kernel_width", [0.25, 3.0])
def test_every_distance_equals_lime(
    photo: NDArray[np.uint8],
    linear_softmax: MakePredict,
    ours: Any,
    theirs: str,
    kernel_width: float,
) -> None:
    predict = linear_softmax((96, 80))
    lime = Recorded(
        photo, predict, distance_metric=theirs, kernel_width=kernel_width, num_samples=80
    )
    found = explain(
        photo,
        predict,
        compat="lime",
        seed=7,
        distance=ours,
        kernel_width=kernel_width,
        num_samples=80,
    )
    assert_equal(found, lime)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        ({"top_labels": 2}, {"top_labels": 2}),
        ({"top_labels": 50}, {"top_labels": 50}),
        ({"labels": [4, 0]}, {"labels": (4, 0), "top_labels": None}),
    ],
)
def test_labels_are_chosen_as_lime_chooses_them(
    photo: NDArray[np.uint8],
    linear_softmax: MakePredict,
    ours: dict[str, Any],
    theirs: dict[str, Any],
) -> None:
    predict = linear_softmax((96, 80))
    lime = Recorded(photo, predict, num_samples=60, **theirs)
    found = explain(photo, predict, compat="lime", seed=7, num_samples=60, **ours)
    assert_equal(found, lime)
    if "top_labels" in lime.found.__dict__:
        assert [one.label for one in found.explanations] == lime.found.top_labels


def test_a_grey_image_and_a_second_call_go_on_in_limes_stream(
    photo: NDArray[np.uint8], linear_softmax: MakePredict
) -> None:
    predict = linear_softmax((96, 80))
    grey = np.ascontiguousarray(photo[..., 0])
    state = np.random.RandomState(3)
    first = Recorded(grey, predict, random_state=3, num_samples=50)
    assert_equal(explain(grey, predict, compat="lime", seed=state, num_samples=50), first)
    found = first.explainer.explain_instance(photo, predict, num_samples=50)
    ours = explain(photo, predict, compat="lime", seed=state, num_samples=50)
    assert ours.seed is None
    for one in ours.explanations:
        assert [w.weight for w in one.weights] == pytest.approx(
            [weight for _, weight in found.local_exp[one.label]], abs=1e-8
        )


@pytest.mark.parametrize("hide_rest", [False, True])
@pytest.mark.parametrize(
    ("positive_only", "negative_only"), [(True, False), (False, True), (False, False)]
)
@pytest.mark.parametrize(("num_features", "min_weight"), [(5, 0.0), (100, 0.004), (2, 0.02)])
def test_image_and_mask_equals_get_image_and_mask(
    photo: NDArray[np.uint8],
    linear_softmax: MakePredict,
    positive_only: bool,
    negative_only: bool,
    hide_rest: bool,
    num_features: int,
    min_weight: float,
) -> None:
    predict = linear_softmax((96, 80))
    how: dict[str, Any] = {"n_segments": 20, "start_label": 0}
    lime = Recorded(photo, predict, num_samples=60, segmentation=("slic", how))
    ours = explain(
        photo,
        predict,
        compat="lime",
        seed=7,
        num_samples=60,
        segmentation="slic",
        segmentation_options=how,
    )
    options: dict[str, Any] = {
        "positive_only": positive_only,
        "negative_only": negative_only,
        "hide_rest": hide_rest,
        "num_features": num_features,
        "min_weight": min_weight,
    }
    for one in ours.explanations:
        image, mask = image_and_mask(photo, ours.segments, one, **options)
        expected_image, expected_mask = lime.found.get_image_and_mask(one.label, **options)
        np.testing.assert_array_equal(image, expected_image)
        np.testing.assert_array_equal(mask, expected_mask)
