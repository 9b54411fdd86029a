"""Files -> a request, without a process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from comfyui_sam3d.factory.inputs import MaskOptions, make_request
from PIL import Image


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "1"])
@pytest.mark.parametrize("invert", [False, True])
def test_a_black_and_white_mask_counts_in_every_mode(tmp_path: Path, mode: str, invert: bool) -> None:
    """Also with an alpha that is opaque everywhere, which paint programs add; the nodes read it so too."""
    grey = np.full((12, 10), 255 if invert else 0, np.uint8)
    grey[3:9, 2:7] = 0 if invert else 255
    Image.fromarray(grey).convert(mode).save(tmp_path / "mask.png")
    Image.new("RGB", (10, 12), (90, 60, 30)).save(tmp_path / "image.png")
    request = make_request(tmp_path / "image.png", [tmp_path / "mask.png"], name="thing", settings={}, options=MaskOptions(invert=invert))
    assert np.array_equal(request.masks[0], grey == (0 if invert else 255))
