"""border_mask against scipy's labelling, and where it declines."""

from __future__ import annotations

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from comfyui_sam3d.contract.automask import border_mask, reached_from_border
from comfyui_sam3d.contract.errors import ImageError, MaskError
from hypothesis import given, settings
from scipy import ndimage


def reference(open_: np.ndarray) -> np.ndarray:
    padded = np.pad(open_, 1, constant_values=True)
    labels, _ = ndimage.label(padded)
    return ((labels == labels[0, 0]) & padded)[1:-1, 1:-1]


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=30)))
@settings(max_examples=300, deadline=None)
def test_any_picture(open_: np.ndarray) -> None:
    np.testing.assert_array_equal(reached_from_border(open_), reference(open_))


def test_noise_and_mazes() -> None:
    rng = np.random.default_rng(0)
    for share in (0.2, 0.4, 0.55, 0.6, 0.65, 0.8):
        open_ = rng.random((200, 230)) < share
        np.testing.assert_array_equal(reached_from_border(open_), reference(open_))
    spiral = np.zeros((101, 101), bool)
    for ring in range(0, 50, 2):  # a path of one pixel that winds to the middle
        spiral[ring, max(ring - 1, 0) : 101 - ring] = spiral[ring : 101 - ring, 100 - ring] = True
        spiral[100 - ring, ring : 101 - ring] = spiral[ring + 2 : 101 - ring, ring] = True
    np.testing.assert_array_equal(reached_from_border(spiral), reference(spiral))
    comb = np.zeros((64, 64), bool)  # teeth that meet only at the far end
    comb[:, ::2] = comb[-1] = True
    np.testing.assert_array_equal(reached_from_border(comb), reference(comb))


def sprite() -> tuple[np.ndarray, np.ndarray]:
    """A brown disc with a highlight of the background's colour, on a background that varies a little."""
    y, x = np.mgrid[:80, :100]
    rng = np.random.default_rng(1)
    image = np.full((80, 100, 3), 240, np.uint8) + rng.integers(-8, 9, (80, 100, 3)).astype(np.uint8)
    disc = np.hypot(x - 50, y - 40) < 25
    image[disc] = 90, 50, 30
    image[np.hypot(x - 45, y - 30) < 5] = 240
    return image, disc


def test_a_sprite_on_a_plain_background() -> None:
    image, disc = sprite()
    np.testing.assert_array_equal(border_mask(image), disc)  # the highlight stays
    image[:, :4] = image[0, 0]
    image[38:42, :30] = 90, 50, 30  # a handle that leaves the picture: 4 of 356 border pixels
    found = border_mask(image)
    assert found[40, 0] and found[disc].all() and found.sum() == disc.sum() + (~disc[38:42, :30]).sum()


def test_where_it_declines() -> None:
    image, _ = sprite()
    with pytest.raises(MaskError, match="one colour: there is no object"):
        border_mask(np.full((5, 5, 3), 7, np.uint8))
    busy = image.copy()
    busy[:40] = np.random.default_rng(2).integers(0, 256, (40, 100, 3))
    with pytest.raises(MaskError, match="border isn't of one colour") as caught:
        border_mask(busy)
    assert caught.value.hint
    for bad in (image[..., 0], image / 255, np.zeros((0, 5, 3), np.uint8), None):
        with pytest.raises(ImageError):
            border_mask(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (2, 2)])
def test_tiny_pictures(shape: tuple[int, int]) -> None:
    with pytest.raises(MaskError):
        border_mask(np.zeros((*shape, 3), np.uint8))


@pytest.mark.parametrize("colour", [0, 5, 250, 255])
def test_the_tolerance_stays_inside_the_range(colour: int) -> None:
    image = np.full((9, 9, 3), colour, np.uint8)
    image[4, 4] = 128
    assert border_mask(image).sum() == 1
