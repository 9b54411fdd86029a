"""SAM 2.1 (Ravi et al. 2024) and SAM 3 (Carion et al. 2025) through transformers, each from a folder on this machine: nothing is fetched.

SAM3D_SAM2 and SAM3D_SAM3 name the folders: config.json and model.safetensors of a checkpoint such as sam2.1-hiera-tiny or sam3, as transformers writes them. Of SAM 3 the
part that takes clicks and boxes is used. The picture is squeezed into the network's square (no padding, as both were trained) and encoded once; each click
is a pass of the small decoder.
"""

from __future__ import annotations

import importlib.util
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...contract.errors import SetupError
from .grow import grown
from .prompt import Found, Prompt


@dataclass(frozen=True)
class Handle:
    features: Any  # list of tensors, the encoder's levels
    size: tuple[int, int]  # height, width of the picture


class _Sam:
    """name, title: for the page and for people. variable: of the environment. model: transformers' class. mean, std: of the colours that it was trained on."""

    name, title, variable, model = "", "", "", ""
    mean, std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    parallel = True  # the network works for one at a time; what grows with the picture happens outside of it

    def __init__(self) -> None:
        self._model: Any = None
        self._lock = threading.Lock()

    def unavailable(self) -> str:
        folder = os.environ.get(self.variable)
        if not folder:
            return f"{self.variable} names no folder with a {self.title} checkpoint (docs/page.md)."
        if not (Path(folder) / "config.json").is_file() or not (Path(folder) / "model.safetensors").is_file():
            return f"The folder that {self.variable} names has no config.json and model.safetensors."
        missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
        if missing:
            return f"It needs the packages {' and '.join(missing)} (docs/page.md)."
        import transformers

        return "" if hasattr(transformers, self.model) else f"It needs a newer transformers than {transformers.__version__} (docs/page.md)."

    def _load(self) -> Any:
        with self._lock:
            return self._loaded()

    def _loaded(self) -> Any:
        if self._model is None:
            import torch
            import transformers

            device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            try:
                kind: Any = getattr(transformers, self.model)
                model: Any = kind.from_pretrained(os.environ[self.variable], local_files_only=True, use_safetensors=True)
            except Exception as problem:  # whatever the library thinks of the folder's content
                raise SetupError(
                    f"The {self.title} checkpoint can't be loaded.", f"Look at the folder that {self.variable} names.", detail=str(problem)
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
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        pixels = torch.from_numpy((square - mean) / std).permute(2, 0, 1)[None]
        with self._lock, torch.inference_mode():
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
        with self._lock, torch.inference_mode():
            out = model(image_embeddings=handle.features, multimask_output=several, **given)
            logits = out.pred_masks[0, 0].float().cpu().numpy()
            scores = out.iou_scores.reshape(-1).float().clamp(0, 1).cpu().tolist()
        masks = [grown(one, handle.size, _chance) for one in logits]
        order = sorted(range(len(masks)), key=lambda at: -scores[at])
        return [Found(masks[at], scores[at], self.name) for at in order if (masks[at] >= 128).any()]


class Sam2(_Sam):
    name, title, variable, model = "sam2", "SAM 2.1", "SAM3D_SAM2", "Sam2Model"
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's


class Sam3(_Sam):
    name, title, variable, model = "sam3", "SAM 3", "SAM3D_SAM3", "Sam3TrackerModel"


def _chance(logits: np.ndarray) -> np.ndarray:
    """The logistic function, 0 to 255, rounded."""
    with np.errstate(over="ignore"):
        return np.asarray(np.rint(255 / (1 + np.exp(-logits))))
