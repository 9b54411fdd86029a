"""read_image: every mode and format gives the same pixels; broken, huge and moving pictures give one clear error."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from comfyui_sam3d.contract import images
from comfyui_sam3d.contract.errors import ImageError
from comfyui_sam3d.contract.images import MAX_PIXELS, read_image
from hypothesis import given, settings
from PIL import Image, ImageCms

H, W = 6, 9
RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (H, W, 3), np.uint8)
ALPHA = RNG.integers(0, 256, (H, W), np.uint8)
ALPHA[0, :3] = 0, 128, 255
RGBA = np.dstack([COLOUR, ALPHA])
GREY = COLOUR[..., 0]


def encode(picture: Image.Image | np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(out, kind, **options)
    return out.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    """Of a PNG file."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def three(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=2)


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True, "exact": True}), ("TIFF", {}), ("BMP", {})])
def test_formats(kind: str, options: dict[str, Any]) -> None:
    found = read_image(encode(COLOUR, kind, **options))
    np.testing.assert_array_equal(found.image, COLOUR)
    assert found.alpha is None and found.image.dtype == np.uint8
    if kind != "BMP":  # Pillow ignores the fourth byte there, as most readers do
        found = read_image(encode(RGBA, kind, **options))
        np.testing.assert_array_equal(found.image, COLOUR)  # also under zero alpha
        np.testing.assert_array_equal(found.alpha, ALPHA)


def test_lossy_formats() -> None:
    smooth = np.uint8(np.linspace(0, 255, 32 * 32).reshape(32, 32))
    for kind in ("JPEG", "WEBP"):
        found = read_image(encode(three(smooth), kind, quality=95))
        assert np.abs(found.image.astype(int) - three(smooth)).max() < 16 and found.alpha is None
    found = read_image(encode(Image.fromarray(three(smooth)).convert("CMYK"), "JPEG", quality=95))
    assert np.abs(found.image.astype(int) - three(smooth)).max() < 20


@pytest.fixture(params=["whole", "in strips"])
def strips(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large pictures are turned into sRGB strip by strip; these are small, so the strips are made smaller still."""
    if request.param == "in strips":
        monkeypatch.setattr(images, "_STRIP", 4 * W)


@pytest.mark.usefixtures("strips")
def test_modes() -> None:
    def same(data: bytes, image: np.ndarray, alpha: np.ndarray | None = None) -> None:
        for source in (data, Image.open(io.BytesIO(data))):
            found = read_image(source)
            np.testing.assert_array_equal(found.image, image)
            np.testing.assert_array_equal(found.alpha, alpha)

    same(encode(GREY), three(GREY))
    same(encode(GREY > 99), three(np.uint8(255) * (GREY > 99)))
    same(encode(np.dstack([GREY, ALPHA])), three(GREY), ALPHA)
    same(encode(GREY, transparency=int(GREY[2, 2])), three(GREY), np.where(GREY[2, 2] == GREY, 0, 255))
    same(encode(COLOUR, transparency=tuple(COLOUR[1, 1].tolist())), COLOUR, np.where((COLOUR[1, 1] == COLOUR).all(-1), 0, 255))
    deep = GREY.astype(np.uint16) * 256 + 77
    same(encode(deep), three(GREY))
    file = encode(deep)
    file = file[:33] + chunk(b"tRNS", struct.pack(">H", deep[2, 2])) + file[33:]  # after the header; older Pillows can't write it
    same(file, three(GREY), np.where(GREY[2, 2] == GREY, 0, 255))
    palette = Image.fromarray(COLOUR).quantize(16)
    plain = np.asarray(palette.convert("RGB"))
    same(encode(palette), plain)
    index = np.asarray(palette)
    same(encode(palette, transparency=3), plain, np.where(index == 3, 0, 255))
    same(encode(palette, transparency=bytes(range(0, 160, 10))), plain, index * 10)
    same(encode(palette, "GIF"), plain)
    same(encode(np.dstack([COLOUR, ALPHA | 255])), COLOUR)  # opaque: no useful alpha


def test_a_transparent_gif() -> None:
    picture = Image.fromarray(COLOUR).quantize(16)
    index = np.asarray(picture)
    np.testing.assert_array_equal(read_image(encode(picture, "GIF", transparency=3)).alpha, np.where(index == 3, 0, 255))


def test_premultiplied_tiff_is_straightened() -> None:
    straight = np.array([[[200, 100, 50, 128], [10, 20, 30, 255]]], np.uint8)
    stored = np.round(straight * np.dstack([straight[..., 3:] / 255] * 3 + [np.ones((1, 2, 1))])).astype(np.uint8)
    data = encode(stored, "TIFF")
    straight_tag, associated_tag = (struct.pack("<HHII", 338, 3, 1, kind) for kind in (2, 1))  # ExtraSamples
    assert straight_tag in data
    found = read_image(data.replace(straight_tag, associated_tag))
    assert np.abs(found.image.astype(int) - straight[..., :3]).max() <= 2
    np.testing.assert_array_equal(found.alpha, straight[..., 3])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_exif_orientation(orientation: int, kind: str) -> None:
    picture = Image.fromarray(np.kron(COLOUR[:2, :3], np.ones((16, 16, 1), np.uint8)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(picture, kind, exif=exif)
    stored = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    turned = {
        1: stored, 2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1], 5: stored.transpose(1, 0, 2),
        6: np.rot90(stored, -1), 7: stored[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(stored),
    }[orientation]  # fmt: skip
    np.testing.assert_array_equal(read_image(data).image, turned)


@pytest.mark.usefixtures("strips")
def test_colour_profiles() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    np.testing.assert_array_equal(read_image(encode(COLOUR, icc_profile=srgb)).image, COLOUR)
    np.testing.assert_array_equal(read_image(encode(COLOUR, icc_profile=b"no profile")).image, COLOUR)
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()  # not for RGB pixels: ignored
    np.testing.assert_array_equal(read_image(encode(COLOUR, icc_profile=lab)).image, COLOUR)
    swapped = _profile_with_red_and_blue_swapped(srgb)
    found = read_image(encode(RGBA, icc_profile=swapped))
    assert np.abs(found.image.astype(int) - COLOUR[..., ::-1]).mean() < 12
    np.testing.assert_array_equal(found.alpha, ALPHA)


def _profile_with_red_and_blue_swapped(profile: bytes) -> bytes:
    """A profile with the names of its primaries' tags exchanged, and another description."""
    out = profile.replace(b"rXYZ", b"qXYZ").replace(b"bXYZ", b"rXYZ").replace(b"qXYZ", b"bXYZ")
    return out.replace("sRGB".encode("utf-16-be"), "other".encode("utf-16-be")[:8]).replace(b"sRGB", b"swap")


def test_paths(tmp_path: Path) -> None:
    path = tmp_path / "ステーキ.png"
    path.write_bytes(encode(RGBA))
    for source in (path, str(path)):
        np.testing.assert_array_equal(read_image(source).image, COLOUR)
    for bad in (tmp_path / "none.png", tmp_path, os.devnull, "a\0b", ""):
        with pytest.raises(ImageError) as caught:
            read_image(bad)
        assert caught.value.hint


@pytest.mark.parametrize(
    ("array", "image", "alpha"),
    [
        (COLOUR, COLOUR, None),
        (RGBA, COLOUR, ALPHA),
        (RGBA[::-1], COLOUR[::-1], ALPHA[::-1]),
        (GREY, three(GREY), None),
        (GREY[..., None], three(GREY), None),
        (np.dstack([GREY, ALPHA]), three(GREY), ALPHA),
        (COLOUR / 255, COLOUR, None),
        ((RGBA / 255).astype(np.float32), COLOUR, ALPHA),
        ((COLOUR / 255).astype(np.float16), COLOUR, None),
    ],
)
def test_arrays(array: np.ndarray, image: np.ndarray, alpha: np.ndarray | None) -> None:
    before = array.copy()
    found = read_image(array)
    np.testing.assert_array_equal(found.image, image)
    np.testing.assert_array_equal(found.alpha, alpha)
    assert found.image.flags.c_contiguous
    found.image[:] = 0  # ours, not the caller's
    np.testing.assert_array_equal(array, before)


def header_of(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds nothing."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def two_frames(kind: str) -> bytes:
    return encode(Image.fromarray(COLOUR), kind, save_all=True, append_images=[Image.fromarray(COLOUR[::-1])])


REFUSED: dict[str, Any] = {
    "None": None,
    "a number": 5,
    "a list": [[1, 2], [3, 4]],
    "nothing": b"",
    "text bytes": b"hello",
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "ppm, a format that isn't ours": encode(COLOUR, "PPM"),
    "ico": encode(Image.fromarray(COLOUR), "ICO"),
    "header alone": encode(COLOUR)[:33],
    "cut png": encode(COLOUR)[:-30],
    "cut jpeg": encode(np.kron(COLOUR, np.ones((30, 30, 1), np.uint8)), "JPEG")[:-400],
    "cut webp": encode(COLOUR, "WEBP")[:-20],
    "cut gif": encode(Image.fromarray(COLOUR), "GIF")[:-20],
    "animated gif": two_frames("GIF"),
    "animated png": two_frames("PNG"),
    "animated webp": two_frames("WEBP"),
    "pages": two_frames("TIFF"),
    "wide": header_of(20000, 10),
    "many pixels": header_of(10000, 10000),
    "a bomb": header_of(16000, 16000),
    "an absurd bomb": header_of(2**31 - 1, 2**31 - 1),
    "no pixels": header_of(0, 5),
    "float tiff": encode(Image.fromarray(COLOUR[..., 0].astype(np.float32)), "TIFF"),
    "a Pillow picture too wide": Image.new("1", (20000, 1)),
    "a Pillow picture of floats": Image.new("F", (3, 3)),
    "array of ints": COLOUR.astype(int),
    "array of bools": COLOUR > 5,
    "array of objects": COLOUR.astype(object),
    "array beyond 1": COLOUR.astype(float),
    "array with NaN": np.full((3, 3, 3), np.nan),
    "array of one axis": COLOUR[0, 0],
    "array of four axes": COLOUR[None],
    "array of five channels": np.zeros((3, 3, 5), np.uint8),
    "array without channels": np.zeros((3, 3, 0), np.uint8),
    "array without pixels": np.zeros((0, 3, 3), np.uint8),
    "empty float array": np.zeros((0, 3, 3)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, recwarn: pytest.WarningsRecorder) -> None:
    with pytest.raises(ImageError) as caught:
        read_image(REFUSED[name])
    assert caught.value.message.endswith(".") and caught.value.hint.endswith(".")
    assert not list(recwarn)


def test_what_the_errors_say() -> None:
    for name, words in {
        "animated gif": "animation",
        "wide": "20000x10",
        "cut png": "damaged",
        "svg": "known format",
        "pages": "pages",
    }.items():
        with pytest.raises(ImageError, match=words):
            read_image(REFUSED[name])


def test_the_limit_can_be_lowered() -> None:
    for source in (encode(COLOUR), Image.fromarray(COLOUR), COLOUR):
        read_image(source, max_pixels=H * W)
        with pytest.raises(ImageError, match=f"{W}x{H}"):
            read_image(source, max_pixels=H * W - 1)
    assert Image.MAX_IMAGE_PIXELS is not None and MAX_PIXELS < Image.MAX_IMAGE_PIXELS


def test_a_phone_photo_with_a_second_picture_inside() -> None:
    """MPO: a JPEG with, say, a gain map behind it. It isn't an animation."""
    picture = Image.fromarray(np.kron(COLOUR, np.ones((16, 16, 1), np.uint8)))
    data = encode(picture, "MPO", save_all=True, append_images=[picture.rotate(180)], quality=95)
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert np.abs(read_image(data).image.astype(int) - np.asarray(picture)).mean() < 12


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(4))))
@settings(max_examples=50, deadline=None)
def test_any_rgba_round_trip(rgba: np.ndarray) -> None:
    for source in (encode(rgba), rgba, Image.fromarray(rgba)):
        found = read_image(source)
        np.testing.assert_array_equal(found.image, rgba[..., :3])
        np.testing.assert_array_equal(np.full(rgba.shape[:2], 255) if found.alpha is None else found.alpha, rgba[..., 3])


SAMPLES = [
    encode(RGBA),
    encode(COLOUR, "JPEG"),
    encode(RGBA, "WEBP"),
    encode(COLOUR, "BMP"),
    encode(RGBA, "TIFF", compression="tiff_lzw"),
    encode(RGBA, "GIF"),
]


@given(st.sampled_from(SAMPLES), st.data())
@settings(max_examples=400, deadline=None)
def test_damaged_files_give_a_picture_or_our_error(data: bytes, draw: st.DataObject) -> None:
    broken = bytearray(data)
    for _ in range(draw.draw(st.integers(0, 4))):
        broken[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    del broken[draw.draw(st.integers(0, len(data))) :]
    try:
        found = read_image(bytes(broken))
    except ImageError as problem:
        assert problem.hint
    else:
        assert found.image.dtype == np.uint8 and found.image.shape[2] == 3
        assert found.alpha is None or found.alpha.shape == found.image.shape[:2]
