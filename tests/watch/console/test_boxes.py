"""The faces of a frame as a page shows them."""

from __future__ import annotations

from limelens.serve.decisions.camera_state import CameraState
from limelens.serve.decisions.decision import Decision, FacePrediction, Prediction
from limelens.serve.image import Region
from limelens.watch.console.boxes import face_boxes
from limelens.watch.console.cameras.showing import shown_faces


def test_a_face_for_which_a_model_decided_several_labels_is_not_unknown() -> None:
    several = Prediction(Decision.LABEL, None, ("hat", "glasses"), False, (), 0.0, None)
    face = FacePrediction(Region(0.1, 0.1, 0.2, 0.3), 0.9, several, None, alert=False)
    (box,) = face_boxes([face])
    assert (box.state, box.label) == (CameraState.CLEAR, "hat, glasses")
    (told,) = shown_faces([face])
    assert (told["state"], told["label"]) == ("clear", "hat, glasses")
