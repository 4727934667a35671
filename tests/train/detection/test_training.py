from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from limelens.serve.bundle import Task, load_bundle
from limelens.serve.errors import BundleError
from limelens.serve.faces.detector import load_detector
from limelens.serve.image import ResizeMode, ResizeRule
from limelens.train.detection.__main__ import finder, mine, with_hard
from limelens.train.detection.composing import Scenery, compose
from limelens.train.detection.evaluating import examine
from limelens.train.detection.exporting import export_detector, set_threshold, write_card
from limelens.train.detection.frames import Sources
from limelens.train.detection.network import FaceNetwork
from limelens.train.detection.training import Settings, train
from limelens.train.exporting.card import BY_HAND

SMALL = Scenery(size=(128, 160), face_px=(20, 90))
RULE = ResizeRule(128, 160, ResizeMode.PAD)


@pytest.mark.slow
def test_network_learns_to_find_drawn_faces(drawn: Sources, tmp_path: Path) -> None:
    steps: list[int] = []
    settings = Settings(num_steps=220, batch_size=8, num_workers=0)
    network = train(drawn, SMALL, settings, on_progress=lambda step, _: steps.append(step))
    assert steps[-1] == 220
    frames = [compose(drawn, SMALL, np.random.default_rng((9, n))) for n in range(40)]
    proof = frames[0].image
    path = tmp_path / "new" / "model.onnx"
    difference = export_detector(
        network, path, threshold=0.3, proof=proof, resize=RULE, data_digest="0" * 64,
        card={"steps": [220, 0], "batch_size": 8, "seed": 0},
    )  # fmt: skip
    assert difference < 1e-4
    find = finder(load_detector(path, "cpu", num_threads=1))
    found = examine(find, frames)
    assert found.recall(0.3, 24) > 0.6
    assert found.false_per_frame(0.3) < 0.5
    set_threshold(path, 0.35)
    write_card(tmp_path / "README.md", path, ["## Measured\n\nnothing"])
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "| threshold | 0.35 |" in card
    assert card.endswith("## Measured\n\nnothing\n")
    (tmp_path / "README.md").write_text(f"{card}\n{BY_HAND}\n\n## Mine\n", encoding="utf-8")
    write_card(tmp_path / "README.md", path, ["## Measured\n\nanew"])
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert card.endswith(f"anew\n\n{BY_HAND}\n\n## Mine\n")


def test_weights_go_on_from_a_start(drawn: Sources) -> None:
    settings = Settings(num_steps=2, batch_size=2, num_workers=0, learning_rate=1e-6)
    torch.manual_seed(5)
    start = FaceNetwork()
    after = train(drawn, SMALL, settings, start=start)
    near = zip(start.parameters(), after.parameters(), strict=True)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in near)
    assert start.training


def test_exported_graph_is_a_bundle_for_detection(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = FaceNetwork()
    # As if much were found, so that boxes are compared.
    network.out.bias = torch.nn.Parameter(torch.tensor([0.5, 0, 0, 0, 0]))
    path = tmp_path / "model.onnx"
    proof = np.random.default_rng(0).integers(0, 256, (128, 160, 3), dtype=np.uint8)
    assert export_detector(network, path, threshold=0.4, proof=proof, resize=RULE) < 1e-4
    assert [one.name for one in tmp_path.iterdir()] == ["model.onnx"]
    bundle = load_bundle(path, "cpu", tasks={Task.DETECTION})
    assert bundle.metadata.labels == ("face",)
    assert bundle.metadata.threshold == 0.4
    scores, edges = bundle.predict_and_embed(np.stack([proof, proof[:, ::-1], proof]))
    assert scores.shape == (3, 32)
    assert edges.shape == (3, 128)
    assert (np.diff(scores) <= 0).all()
    with pytest.raises(BundleError, match="detection"):
        load_bundle(path, "cpu")


def test_backgrounds_with_false_faces_come_more_often(drawn: Sources) -> None:
    chosen = drawn.backgrounds[2]

    def find(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        fires = np.array_equal(pixels, chosen.pixels)
        return np.zeros((1, 4), np.float32), np.array([0.9 if fires else 0.1], np.float32)

    hard = mine(find, drawn.backgrounds)
    assert hard == [chosen]
    backgrounds = with_hard(drawn, hard).backgrounds
    share = sum(one is chosen for one in backgrounds) / len(backgrounds)
    assert 0.4 <= share < 0.5
    assert with_hard(drawn, []) is drawn
