"""SAM 2.1 as a segmenter, from a tiny model with random weights in a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from comfyui_sam3d.contract.errors import SetupError
from comfyui_sam3d.factory.segment.desk import Desk
from comfyui_sam3d.factory.segment.prompt import Point, Prompt
from comfyui_sam3d.factory.segment.sam2 import VARIABLE, Sam2


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None) -> Path:
    import torch
    from transformers import Sam2Config, Sam2Model

    torch.manual_seed(0)
    hiera = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 8,
        "num_attention_heads": 1,
        "image_size": [128, 128],
        "blocks_per_stage": [1, 2, 2, 1],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 2, 4, 8],
        "window_positional_embedding_background_size": [4, 4],
        "global_attention_blocks": [2],
    }
    vision = {
        "backbone_config": hiera,
        "backbone_channel_list": [64, 32, 16, 8],
        "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
        "fpn_hidden_size": 32,
    }
    config = Sam2Config(
        vision_config=vision,
        prompt_encoder_config={"hidden_size": 32, "image_size": 128},
        mask_decoder_config={"hidden_size": 32, "mlp_dim": 64, "num_attention_heads": 2, "iou_head_hidden_dim": 32},
    )
    Sam2Model(config).save_pretrained(tmp_path / "sam2")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "sam2"))
    return tmp_path / "sam2"


IMAGE = np.random.default_rng(0).integers(0, 255, (60, 90, 3)).astype(np.uint8)


def test_clicks_and_boxes(folder: Path) -> None:
    desk = Desk()
    assert desk.known()["sam2"] == ""

    def ask(prompt: Prompt) -> list[np.ndarray]:
        found = desk.predict("sam2", "picture", lambda: (IMAGE, None), prompt)
        assert all(
            one.mask.shape == (60, 90) and one.mask.dtype == np.uint8 and one.method == "sam2" and 0 <= one.score <= 1 for one in found
        )
        assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
        return [one.mask for one in found]

    assert ask(Prompt()) == []
    assert len(ask(Prompt((Point(20, 20),)))) <= 3
    assert len(ask(Prompt((Point(20, 20), Point(70, 40, inside=False))))) <= 1
    assert len(ask(Prompt(box=(10, 10, 50, 50)))) <= 1
    first, second = (ask(Prompt((Point(20, 20),))) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second))


def test_a_click_matters(folder: Path) -> None:
    """What the decoder says before it is cut depends on the place that was clicked."""
    segmenter = Sam2()
    handle = segmenter.set_image(IMAGE, None)
    assert handle.size == (60, 90)
    answers = [segmenter.predict(handle, Prompt((Point(x, 30), Point(x + 3, 33)))) for x in (5, 80)]
    values = [one.mask.astype(int) for answer in answers for one in answer]
    assert len(values) < 2 or np.abs(values[0] - values[1]).max() > 0


def test_why_it_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert VARIABLE in Sam2().unavailable()
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    assert "config.json" in Sam2().unavailable()
    with pytest.raises(SetupError, match="sam2 can't be used"):
        Desk().predict("sam2", "x", lambda: (IMAGE, None), Prompt())
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(SetupError, match="can't be loaded"):
        Sam2().set_image(IMAGE, None)
