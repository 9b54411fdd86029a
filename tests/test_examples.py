"""The example pictures: the committed files are what examples/draw.py draws, pixel for pixel, and they have the properties that README.md claims."""

from __future__ import annotations

import importlib.util
import re
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
OPAQUE = {"egg.png", "carrot.png", "campsite/image.png"}
MASKS = {"carrot_mask.png", "campsite/0.png", "campsite/1.png", "campsite/2.png"}
PIXEL_ART = {"pixel_log.png": (26, 15), "pixel_campfire.png": (32, 29)}
FILES = sorted(p.relative_to(EXAMPLES).as_posix() for p in EXAMPLES.rglob("*.png"))
SPRITES = [f for f in FILES if f not in OPAQUE | MASKS]


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("example_drawings", EXAMPLES / "draw.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules.setdefault("example_drawings", importlib.util.module_from_spec(spec))
    if not hasattr(module, "DRAWINGS"):
        spec.loader.exec_module(module)
    return module


def _differences(name: str) -> tuple[list[str], list[str]]:
    """(files that the drawing makes, what differs from the committed ones)."""
    made, wrong = [], []
    for path, picture in _script().draw([name]):
        made.append(path)
        kept = pixels(path) if (EXAMPLES / path).is_file() else np.empty(0)
        if kept.shape != picture.shape:
            wrong.append(f"{path}: committed {kept.shape}, drawn {picture.shape}")
        elif not np.array_equal(kept, picture):
            wrong.append(f"{path}: {np.count_nonzero((kept != picture).reshape(*kept.shape[:2], -1).any(axis=2))} pixels differ")
    return made, wrong


def pixels(name: str) -> NDArray[np.uint8]:
    with Image.open(EXAMPLES / name) as image:
        return np.asarray(image)


def _compare(names: list[str]) -> list[str]:
    """Draw in two processes; returns the files made, after checking that each equals the committed one."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        results = list(pool.map(_differences, names))
    assert [line for _, wrong in results for line in wrong] == []
    return [path for made, _ in results for path in made]


def test_committed_files_are_what_the_script_draws() -> None:
    # One of each style, from each file of the script: of those the quickest.
    _compare(["carrot", "sausage", "flame", "camp_dog", "grill_fork", "pepper", "pixel_log"])


@pytest.mark.full
def test_all_committed_files_are_what_the_script_draws() -> None:
    assert sorted(_compare(list(_script().DRAWINGS))) == FILES


def test_there_are_enough_and_they_are_small() -> None:
    assert len(SPRITES) >= 16
    large = {f: size for f in FILES if (size := (EXAMPLES / f).stat().st_size) >= 120_000}
    assert set(large) <= {"campsite/image.png"}, large
    assert (EXAMPLES / "campsite/image.png").stat().st_size < 220_000  # film grain doesn't compress


def test_readme_lists_every_file() -> None:
    listed = set(re.findall(r"`([a-z_]+(?:/[a-z0-9]+)?\.png)`", (EXAMPLES / "README.md").read_text(encoding="utf-8")))
    assert listed == set(FILES)


@pytest.mark.parametrize("name", SPRITES)
def test_sprites_have_a_clean_alpha(name: str) -> None:
    picture = pixels(name)
    assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 4
    alpha = picture[..., 3]
    assert alpha.max() == 255 or name == "flame.png"
    if name in PIXEL_ART:
        assert picture.shape[1::-1] == PIXEL_ART[name]
        assert set(np.unique(alpha)) == {0, 255}
        assert len(np.unique(picture[alpha > 0], axis=0)) <= 16
        return
    assert picture.shape[:2] == (512, 512)
    assert 0.02 < (alpha > 127).mean() < 0.75
    border = np.concatenate([alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]])
    assert border.max() <= 2
    # no fringe: what the half-transparent edge shows is close to the colour of the nearest solid pixel
    edge, solid = (alpha > 8) & (alpha < 128), alpha >= 192
    i, j = ndimage.distance_transform_edt(~solid, return_distances=False, return_indices=True)
    apart = np.abs(picture[..., :3].astype(int) - picture[i, j, :3]).max(axis=2)[edge]
    assert np.median(apart) < (40 if name == "flame.png" else 16)
    # and the colour goes on outside the alpha
    outside = (alpha == 0) & ndimage.binary_dilation(alpha > 0, iterations=3)
    i, j = ndimage.distance_transform_edt(alpha == 0, return_distances=False, return_indices=True)
    assert np.array_equal(picture[outside][:, :3], picture[i, j, :3][outside])


def test_soft_and_hard_alpha() -> None:
    def soft_share(name: str) -> float:
        alpha = pixels(name)[..., 3] / 255
        return float(((alpha > 0.05) & (alpha < 0.95)).sum() / (alpha > 0.05).sum())

    assert soft_share("flame.png") > 0.4
    assert soft_share("steak.png") < 0.03


@pytest.mark.parametrize("name", ["plate.png", "onion_ring.png"])
def test_rings_have_one_real_hole(name: str) -> None:
    alpha = pixels(name)[..., 3]
    assert alpha[256, 256] == 0
    assert ndimage.label(alpha < 128)[1] == 2
    assert ndimage.label(alpha >= 128)[1] == 1


def test_sticks_are_many_and_thin() -> None:
    solid = pixels("sticks.png")[..., 3] >= 128
    assert ndimage.label(solid, np.ones((3, 3)))[1] >= 5
    assert ndimage.distance_transform_edt(solid).max() < 12
    shaft = ndimage.distance_transform_edt(pixels("skewer.png")[..., 3] >= 128)
    assert 2.5 <= shaft[440:470, 40:75].max() <= 4.5  # the bare end of the skewer is 6 to 8 px across


@pytest.mark.parametrize("name", sorted(OPAQUE))
def test_opaque_pictures_have_no_alpha(name: str) -> None:
    assert pixels(name).shape[2] == 3


def test_egg_lies_on_one_colour() -> None:
    picture = pixels("egg.png")
    assert len(np.unique(np.concatenate([picture[:20].reshape(-1, 3), picture[:, -20:].reshape(-1, 3)]), axis=0)) == 1


def test_masks_fit_their_pictures() -> None:
    for name in MASKS:
        mask = pixels(name)
        picture = pixels("carrot.png" if "carrot" in name else "campsite/image.png")
        assert mask.shape == picture.shape[:2] and set(np.unique(mask)) == {0, 255}
        assert 0.02 < (mask > 0).mean() < 0.5
        assert ndimage.label(mask, np.ones((3, 3)))[1] == 1
    assert sum((pixels(f"campsite/{k}.png") > 0).astype(int) for k in range(3)).max() == 1  # type: ignore[union-attr]
    assert ndimage.label(pixels("campsite/0.png") == 0)[1] == 2  # the mug's handle
