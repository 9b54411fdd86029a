"""IMAGE and MASK in, requests out: polarity, sizes, batches, and every way in which they don't fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from comfyui_sam3d.contract.errors import EmptyMaskError, FullMaskError, ImageError, InputError, MaskError, OptionError
from comfyui_sam3d.nodes._pictures import BLACK, WHITE, objects, read_mask
from PIL import Image


def picture(count: int = 1, height: int = 20, width: int = 30, channels: int = 3) -> np.ndarray:
    return np.linspace(0, 1, count * height * width * channels, dtype=np.float32).reshape(count, height, width, channels)


def mask(*boxes: tuple[int, int, int, int], height: int = 20, width: int = 30) -> np.ndarray:
    out = np.zeros((len(boxes), height, width), np.float32)
    for layer, (top, left, bottom, right) in zip(out, boxes):
        layer[top:bottom, left:right] = 1
    return out


def test_one_picture_many_masks_is_one_request() -> None:
    ((image, hard, alpha),) = objects(picture(), mask((2, 3, 8, 9), (10, 10, 18, 28)), WHITE)
    assert image.shape == (20, 30, 3) and image.dtype == np.uint8
    assert image[0, 0, 0] == 0 and image[-1, -1, -1] == 255
    assert hard.dtype == bool and hard.sum(axis=(1, 2)).tolist() == [36, 144]
    assert alpha is None, "hard masks say all there is to say"


def test_as_many_pictures_as_masks_are_pairs() -> None:
    found = objects(picture(2), mask((2, 3, 8, 9), (10, 10, 18, 28)), WHITE)
    assert [hard.sum() for _, hard, _ in found] == [36, 144]
    assert found[0][0][0, 0, 0] == 0 and found[1][0][0, 0, 0] == 128


@pytest.mark.parametrize(("pictures", "masks"), [(2, 1), (2, 3), (3, 2)])
def test_other_numbers_are_refused(pictures: int, masks: int) -> None:
    with pytest.raises(OptionError, match=f"{pictures} pictures and {masks} masks"):
        objects(picture(pictures), mask(*[(2, 2, 5, 5)] * masks), WHITE)


def test_polarity() -> None:
    box = mask((2, 3, 8, 9))
    ((_, white, _),) = objects(picture(), box, WHITE)
    ((_, black, _),) = objects(picture(), 1 - box, BLACK)
    assert (white == black).all()


def test_soft_edges_are_kept() -> None:
    soft = mask((2, 3, 8, 9))
    soft[0, 2, 3:9] = 0.25
    soft[0, 7, 3:9] = 0.75
    ((_, hard, alpha),) = objects(picture(), soft, WHITE)
    assert hard.sum() == 30 and alpha is not None
    assert alpha[0, 2, 3] == 64 and alpha[0, 7, 3] == 191 and alpha[0, 4, 4] == 255


def test_masks_of_another_size_are_stretched() -> None:
    small = mask((1, 1, 9, 9), height=10, width=15)
    ((_, hard, _),) = objects(picture(), small, WHITE)
    assert hard.shape == (1, 20, 30)
    assert abs(int(hard.sum()) - 16 * 16) <= 40


def test_changed_proportions_are_told(caplog: pytest.LogCaptureFixture) -> None:
    objects(picture(), mask((1, 1, 9, 9), height=10, width=10), WHITE)
    assert "10x10 is stretched to the picture's 30x20" in caplog.text


def test_the_blank_mask_of_load_image() -> None:
    blank = np.zeros((1, 64, 64), np.float32)
    for polarity in (WHITE, BLACK):
        with pytest.raises(EmptyMaskError, match="Load Image gives for a picture without an alpha channel"):
            objects(picture(), blank, polarity)
    with pytest.raises(EmptyMaskError, match="selects nothing"):  # a picture of that very size: the mask may be meant
        objects(picture(1, 64, 64), blank, WHITE)


@pytest.mark.parametrize(
    ("image", "masks", "polarity", "error"),
    [
        (picture(), mask((0, 0, 0, 0)), WHITE, EmptyMaskError),
        (picture(), mask((2, 2, 5, 5), (0, 0, 0, 0)), WHITE, EmptyMaskError),
        (picture(), mask((0, 0, 20, 30)), WHITE, FullMaskError),
        (picture(), mask((0, 0, 20, 30)), BLACK, EmptyMaskError),
        (picture(), np.full((1, 20, 30), np.nan, np.float32), WHITE, MaskError),
        (picture() * np.float32("nan"), mask((2, 2, 5, 5)), WHITE, InputError),
        (picture(channels=2), mask((2, 2, 5, 5)), WHITE, ImageError),
        (np.zeros((1, 0, 30, 3), np.float32), mask((2, 2, 5, 5)), WHITE, ImageError),
        (picture(), np.zeros((1, 2, 20, 30), np.float32), WHITE, MaskError),
        (picture(), np.zeros((0, 20, 30), np.float32), WHITE, MaskError),
    ],
)
def test_bad_input_is_one_clear_error(image: np.ndarray, masks: np.ndarray, polarity: str, error: type[InputError]) -> None:
    with pytest.raises(error) as caught:
        objects(image, masks, polarity)
    assert caught.value.hint and "\n" not in str(caught.value)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_grey_and_rgba_pictures(channels: int) -> None:
    ((image, _, _),) = objects(picture(channels=channels), mask((2, 2, 5, 5)), WHITE)
    assert image.shape == (20, 30, 3)


def test_missing_batch_axes() -> None:
    ((image, hard, _),) = objects(picture()[0], mask((2, 2, 5, 5))[0], WHITE)
    assert image.shape == (20, 30, 3) and hard.shape == (1, 20, 30)


def test_mask_files(tmp_path: Path) -> None:
    grey = np.zeros((10, 15), np.uint8)
    grey[2:5, 2:5] = 255
    opaque = np.dstack([grey, grey, grey, np.full_like(grey, 255)])
    cut_out = np.dstack([np.full_like(grey, 9)] * 3 + [grey])
    found = []
    for name, pixels in (("grey", grey), ("opaque", opaque), ("cut_out", cut_out)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        found.append(read_mask(tmp_path / f"{name}.png", (10, 15)))
    assert all(np.allclose(one, grey / 255, atol=1e-6) for one in found)
    assert read_mask(tmp_path / "grey.png", (20, 30)).shape == (20, 30)
    (tmp_path / "no.png").write_bytes(b"not a picture")
    with pytest.raises(ImageError):
        read_mask(tmp_path / "no.png", (10, 15))
