"""SAM 2.1 (Ravi et al. 2024) through transformers' Sam2Model, from a folder on this machine: nothing is fetched.

SAM3D_SAM2 names the folder: config.json and model.safetensors of a checkpoint such as sam2.1-hiera-tiny, as transformers writes them. The picture is squeezed into the
network's square (no padding, as SAM 2 was trained) and encoded once; each click is a pass of the small decoder.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...contract.errors import SetupError
from .grow import grown
from .prompt import Found, Prompt

VARIABLE = "SAM3D_SAM2"
_MEAN, _STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)  # of ImageNet


@dataclass(frozen=True)
class Handle:
    features: Any  # list of tensors, the encoder's levels
    size: tuple[int, int]  # height, width of the picture


class Sam2:
    name = "sam2"

    def __init__(self) -> None:
        self._model: Any = None

    def unavailable(self) -> str:
        folder = os.environ.get(VARIABLE)
        if not folder:
            return f"{VARIABLE} names no folder with a SAM 2.1 checkpoint (docs/page.md)."
        if not (Path(folder) / "config.json").is_file() or not (Path(folder) / "model.safetensors").is_file():
            return f"The folder that {VARIABLE} names has no config.json and model.safetensors."
        missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
        return f"It needs the packages {' and '.join(missing)} (docs/page.md)." if missing else ""

    def _load(self) -> Any:
        if self._model is None:
            import torch
            from transformers import Sam2Model

            device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            try:
                model: Any = Sam2Model.from_pretrained(os.environ[VARIABLE], local_files_only=True, use_safetensors=True)
            except Exception as problem:  # whatever the library thinks of the folder's content
                raise SetupError(
                    "The SAM 2.1 checkpoint can't be loaded.", f"Look at the folder that {VARIABLE} names.", detail=str(problem)
                ) from None
            self._model = model.to(device).eval()
        return self._model

    def set_image(self, image: np.ndarray, alpha: np.ndarray | None) -> Handle:
        import torch
        from PIL import Image

        model = self._load()
        side = model.config.prompt_encoder_config.image_size
        side = side if isinstance(side, int) else side[0]
        square = np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR), np.float32) / 255
        pixels = torch.from_numpy((square - _MEAN) / _STD).permute(2, 0, 1)[None]
        with torch.inference_mode():
            features = model.get_image_embeddings(pixels.to(model.device))
        return Handle(features, (image.shape[0], image.shape[1]))

    def predict(self, handle: Handle, prompt: Prompt) -> list[Found]:
        if prompt.empty:
            return []
        import torch

        model = self._load()
        side = model.config.prompt_encoder_config.image_size
        side = side if isinstance(side, int) else side[0]
        height, width = handle.size
        scale = torch.tensor([side / width, side / height], dtype=torch.float32)
        given: dict[str, Any] = {}
        if prompt.points:
            places = torch.tensor([[p.x + 0.5, p.y + 0.5] for p in prompt.points], dtype=torch.float32) * scale
            given["input_points"] = places[None, None].to(model.device)
            given["input_labels"] = torch.tensor([int(p.inside) for p in prompt.points], dtype=torch.int32)[None, None].to(model.device)
        if prompt.box is not None:
            corners = torch.tensor(prompt.box, dtype=torch.float32).reshape(2, 2) * scale
            given["input_boxes"] = corners.reshape(1, 1, 4).to(model.device)
        several = len(prompt.points) == 1 and prompt.box is None  # one click may mean a part or the whole: three answers
        with torch.inference_mode():
            out = model(image_embeddings=handle.features, multimask_output=several, **given)
        masks = [grown(one, handle.size, _chance) for one in out.pred_masks[0, 0].float().cpu().numpy()]
        scores = out.iou_scores.reshape(-1).float().clamp(0, 1).cpu().tolist()
        order = sorted(range(len(masks)), key=lambda at: -scores[at])
        return [Found(masks[at], scores[at], self.name) for at in order if (masks[at] >= 128).any()]


def _chance(logits: np.ndarray) -> np.ndarray:
    """The logistic function, 0 to 255, rounded."""
    with np.errstate(over="ignore"):
        return np.asarray(np.rint(255 / (1 + np.exp(-logits))))
