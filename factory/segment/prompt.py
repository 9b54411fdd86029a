"""What a person pointed at, and what was found there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

Size = Literal["auto", "s", "m", "l"]


@dataclass(frozen=True)
class Point:
    """x right, y down, in pixels of the picture. inside: the object is here; else it isn't."""

    x: int
    y: int
    inside: bool = True


@dataclass(frozen=True)
class Prompt:
    """box: x0, y0, x1, y1 in pixels, the ends exclusive. size: how large the object around a single click is, about. Nothing at all: find it."""

    points: tuple[Point, ...] = ()
    box: tuple[int, int, int, int] | None = None
    size: Size = "auto"

    @property
    def empty(self) -> bool:
        return not self.points and self.box is None


@dataclass(frozen=True)
class Found:
    """mask: uint8 (H, W), 128 and more is the object; soft edges where the method knows them. score: 0 to 1, of one method's answers among each other."""

    mask: np.ndarray
    score: float
    method: str


class Segmenter(Protocol):
    """A plug-in of the entry point group `comfyui_sam3d.segmenters`: what the entry point names is called without arguments and gives one of these.

    It is called on one thread at a time, unless it has an attribute `parallel` that is true: then a click on a small picture doesn't wait for its work on a large one.
    """

    name: str

    def unavailable(self) -> str:
        """Why it can't be used here, in one sentence with what to do; empty where it can."""

    def set_image(self, image: np.ndarray, alpha: np.ndarray | None) -> Any:
        """image: uint8 (H, W, 3) sRGB, alpha: uint8 (H, W) or None. What comes back is handed to `predict`, and kept while people work on the picture."""

    def predict(self, handle: Any, prompt: Prompt) -> list[Found]:
        """The best first; empty where there is nothing. Raises a Sam3dError."""
