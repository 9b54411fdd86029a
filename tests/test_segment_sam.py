"""SAM 2.1 and SAM 3 as segmenters, from tiny models with random weights in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from comfyui_sam3d.contract.errors import SetupError
from comfyui_sam3d.factory.segment.desk import Desk, Lane
from comfyui_sam3d.factory.segment.prompt import Point, Prompt
from comfyui_sam3d.factory.segment.sam import Sam2, Sam3

PARTS = {
    "prompt_encoder_config": {"hidden_size": 32},
    "mask_decoder_config": {"hidden_size": 32, "mlp_dim": 64, "num_attention_heads": 2, "iou_head_hidden_dim": 32},
}


def sam2() -> Any:
    from transformers import Sam2Config, Sam2Model

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
    prompts = {**PARTS["prompt_encoder_config"], "image_size": 128}
    return Sam2Model(Sam2Config(**{**PARTS, "vision_config": vision, "prompt_encoder_config": prompts}))


def sam3() -> Any:
    transformers = pytest.importorskip("transformers", minversion="5.0", reason="an older transformers has no SAM 3")
    vit = {
        "model_type": "sam3_vit_model",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 112,
        "pretrain_image_size": 56,
        "window_size": 4,
        "global_attn_indexes": [1],
    }
    vision = {
        "model_type": "sam3_vision_model",
        "backbone_config": vit,
        "fpn_hidden_size": 32,
        "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
    }
    prompts = {**PARTS["prompt_encoder_config"], "image_size": 112, "patch_size": 14}
    config = transformers.Sam3TrackerConfig(**{**PARTS, "vision_config": vision, "prompt_encoder_config": prompts})
    return transformers.Sam3TrackerModel(config)


@pytest.fixture(params=[(Sam2, sam2), (Sam3, sam3)], ids=["sam2", "sam3"])
def kind(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None) -> type[Sam2] | type[Sam3]:
    """The segmenter, and its checkpoint in the folder that its variable names."""
    import torch

    torch.manual_seed(0)
    found, model = request.param
    model().save_pretrained(tmp_path / "model")
    monkeypatch.setenv(found.variable, str(tmp_path / "model"))
    return found


IMAGE = np.random.default_rng(0).integers(0, 255, (60, 90, 3)).astype(np.uint8)


def test_clicks_and_boxes(kind: type[Sam2] | type[Sam3]) -> None:
    desk = Desk()
    assert desk.known()[kind.name] == ""

    def ask(prompt: Prompt) -> list[np.ndarray]:
        found = desk.predict(kind.name, "picture", lambda: (IMAGE, None), prompt, desk.lane(IMAGE.size))
        assert all(
            one.mask.shape == (60, 90) and one.mask.dtype == np.uint8 and one.method == kind.name and 0 <= one.score <= 1 for one in found
        )
        assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
        return [one.mask for one in found]

    assert ask(Prompt()) == []
    assert len(ask(Prompt((Point(20, 20),)))) <= 3
    assert len(ask(Prompt((Point(20, 20), Point(70, 40, inside=False))))) <= 1
    assert len(ask(Prompt(box=(10, 10, 50, 50)))) <= 1
    first, second = (ask(Prompt((Point(20, 20),))) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second))


def test_a_click_matters(kind: type[Sam2] | type[Sam3]) -> None:
    """What the decoder says before it is cut depends on the place that was clicked."""
    segmenter = kind()
    handle = segmenter.set_image(IMAGE, None)
    assert handle.size == (60, 90)
    answers = [segmenter.predict(handle, Prompt((Point(x, 30), Point(x + 3, 33)))) for x in (5, 80)]
    values = [one.mask.astype(int) for answer in answers for one in answer]
    assert len(values) < 2 or np.abs(values[0] - values[1]).max() > 0


@pytest.mark.parametrize("kind", [Sam2, Sam3])
def test_why_it_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Sam2] | type[Sam3]) -> None:
    monkeypatch.delenv(kind.variable, raising=False)
    assert kind.variable in kind().unavailable()
    monkeypatch.setenv(kind.variable, str(tmp_path))
    assert "config.json" in kind().unavailable()
    with pytest.raises(SetupError, match=f"{kind.name} can't be used"):
        Desk().predict(kind.name, "x", lambda: (IMAGE, None), Prompt(), Lane())
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(SetupError, match="can't be loaded"):
        kind().set_image(IMAGE, None)
    monkeypatch.setattr(kind, "model", "SamOfTheFuture")
    assert "newer transformers" in kind().unavailable()
