"""Decoded pictures that stay in memory: the same pixels, within a limit, and never a picture that is gone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from comfyui_sam3d.contract.errors import ImageError
from comfyui_sam3d.factory.server import pictures, work


def picture(folder: Path, seed: int, side: int = 40) -> Path:
    from PIL import Image

    path = folder / f"{seed}.png"
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (side, side, 4), dtype=np.uint8)).save(path)
    return path


def test_the_last_pictures_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    real = pictures.read_image
    monkeypatch.setattr(pictures, "read_image", lambda path: decoded.append(path) or real(path))
    one, two, three, large = (picture(tmp_path, seed, side) for seed, side in ((1, 40), (2, 40), (3, 40), (4, 60)))
    recent = pictures._Recent(2 * 40 * 40 * 4)
    for path in (one, two, one, two):
        assert np.array_equal(recent.read(path).image, real(path).image)
    assert decoded == [one, two]
    recent.read(one)
    recent.read(three)  # two was used longest ago
    recent.read(one)
    recent.read(two)
    assert decoded == [one, two, three, two]
    recent.read(large)
    recent.read(large)  # more than half of the limit: it would drive the others out
    recent.read(two)
    assert decoded == [one, two, three, two, large, large]


def test_what_is_kept_can_not_be_changed_and_what_is_gone_is_gone(tmp_path: Path) -> None:
    recent, path = pictures._Recent(10**6), picture(tmp_path, 1)
    found = recent.read(path)
    with pytest.raises(ValueError, match="read-only"):
        found.image[0, 0] = 0
    path.unlink()
    with pytest.raises(ImageError):
        recent.read(path)


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (0, 0, 2), (2, 1, 1)])
def test_masks_of_a_job_are_soft_where_one_of_them_is(order: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    given = np.zeros((3, 8, 9), np.uint8)
    given[0, 2:4], given[1, 1:5], given[1, 2], given[2, :, 3:] = 255, 255, 60, 255
    monkeypatch.setattr(pictures, "load_mask", lambda vault, id: given[int(id)])
    hard, soft = work._masks(None, [str(n) for n in order], (8, 9))  # type: ignore[arg-type]
    wanted = given[list(order)]
    assert np.array_equal(hard, wanted >= 128)
    assert (soft is None) == (1 not in order) and (soft is None or np.array_equal(soft, wanted))
