"""Point maps from outside: every form, every frame, and one clear error for what doesn't fit."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from comfyui_sam3d.contract.errors import OptionError
from comfyui_sam3d.contract.pointmaps import FRAMES, PointMap, fov_intrinsics, from_depth, from_geometry, from_points, read_pointmap
from comfyui_sam3d.contract.request import ReconstructRequest, Sam3dOptions

HEIGHT, WIDTH = 6, 8
FOCAL = 1.2  # of a picture of width 1
MATRIX = np.array([[FOCAL, 0, 0.5], [0, FOCAL * WIDTH / HEIGHT, 0.5], [0, 0, 1]])
HALVES = (slice(None), slice(0, WIDTH // 2))


def depth() -> np.ndarray:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return (2 + 0.1 * rows + 0.05 * columns).astype(np.float32)


def points(frame: str = "opencv") -> np.ndarray:
    """What a pinhole camera with MATRIX sees at `depth`, worked out here from right, down and away."""
    z = depth()
    right = ((np.arange(WIDTH) + 0.5) / WIDTH - 0.5) / FOCAL * z
    down = (((np.arange(HEIGHT) + 0.5) / HEIGHT - 0.5) / MATRIX[1, 1])[:, None] * z
    axes = {"opencv": (right, down, z), "pytorch3d": (-right, -down, z), "opengl": (right, -down, -z)}
    return np.stack(axes[frame], axis=-1).astype(np.float32)


WANTED = points("pytorch3d")


def same(made: PointMap, hole: np.ndarray | None = None) -> None:
    wanted = WANTED.copy()
    if hole is not None:
        wanted[hole] = np.nan
    assert made.points.dtype == np.float32
    np.testing.assert_allclose(made.points, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("frame", FRAMES)
def test_each_frame_leads_to_the_same_points(frame: str) -> None:
    made = from_points(points(frame), frame)
    same(made)
    assert made.intrinsics is None and made.metric
    same(from_points(made.points, "pytorch3d"))


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("taken", FRAMES)
def test_a_wrong_frame_is_noticed(frame: str, taken: str) -> None:
    if frame != taken:
        with pytest.raises(OptionError, match=f"Taken as {taken}"):
            from_points(points(frame), taken)


@pytest.mark.parametrize("axis", [0, 1])
def test_one_mirrored_axis_is_noticed(axis: int) -> None:
    mirrored = points()
    mirrored[..., axis] *= -1
    with pytest.raises(OptionError, match=("left and right", "up and down")[axis]):
        from_points(mirrored, "opencv")


def test_what_is_no_point_becomes_nan() -> None:
    given = points().astype(np.float64)
    given[0, 0, 0], given[0, 1, 1], given[0, 2] = np.nan, np.inf, (-np.inf,) * 3
    given[1, 0, 2], given[1, 1, 2], given[1, 2, 2] = 0, -1, 1e300
    mask = np.ones((HEIGHT, WIDTH))
    mask[5] = 0
    hole = mask == 0
    hole[:2, :3] = True
    same(from_points(given, "opencv", mask=mask), hole)


def test_depth_keeps_its_scale_and_its_holes() -> None:
    made = from_depth(depth(), MATRIX)
    same(made)
    assert made.metric
    np.testing.assert_allclose(made.intrinsics, MATRIX, rtol=1e-6)
    millimetres = np.rint(depth() * 1000).astype(np.uint16)
    millimetres[2, 3] = 0
    hole = np.zeros((HEIGHT, WIDTH), bool)
    hole[2, 3] = True
    np.testing.assert_allclose(from_depth(millimetres, MATRIX, scale=0.001).points[~hole], WANTED[~hole], rtol=1e-3)
    assert np.isnan(from_depth(millimetres, MATRIX, scale=0.001).points[hole]).all()
    holed = depth()
    holed[2, 3] = np.inf
    same(from_depth(holed, MATRIX), hole)
    same(from_depth(depth(), MATRIX, mask=~hole), hole)


def test_intrinsics_in_pixels_and_from_a_field_of_view() -> None:
    pixels = MATRIX * np.array([[WIDTH], [HEIGHT], [1]])
    same(from_depth(depth(), pixels))
    np.testing.assert_allclose(from_points(points(), "opencv", intrinsics=pixels).intrinsics, MATRIX, rtol=1e-6)
    fov = 2 * np.degrees(np.arctan(0.5 / FOCAL))
    same(from_depth(depth(), fov_intrinsics(float(fov), (HEIGHT, WIDTH))))


def test_an_uneven_middle_is_kept() -> None:
    shifted = MATRIX.copy()
    shifted[0, 2] += 0.25
    made = from_depth(depth(), shifted)
    moved = WANTED.copy()
    moved[..., 0] += 0.25 / FOCAL * WANTED[..., 2]  # the middle further right: all points further left
    np.testing.assert_allclose(made.points, moved, rtol=1e-5, atol=1e-6)


def test_another_size_takes_the_nearest_pixel() -> None:
    same_size = from_points(points(), "opencv", (HEIGHT, WIDTH))
    same(same_size)
    twice = from_points(points(), "opencv", (2 * HEIGHT, 2 * WIDTH))
    np.testing.assert_array_equal(twice.points[1::2, ::2], same_size.points)
    half = from_points(points(), "opencv", (HEIGHT // 2, WIDTH // 2), intrinsics=MATRIX * [[WIDTH], [HEIGHT], [1]])
    np.testing.assert_array_equal(half.points, same_size.points[::2, ::2])
    np.testing.assert_allclose(half.intrinsics, MATRIX, rtol=1e-6)
    with pytest.raises(OptionError, match="not the same view"):
        from_points(points(), "opencv", (WIDTH, HEIGHT))


class Tensor:
    """What a torch tensor shows of itself; the canvas hands such things on."""

    def __init__(self, value: np.ndarray) -> None:
        self.value = value

    def detach(self) -> Tensor:
        return self

    def cpu(self) -> np.ndarray:
        return self.value


def geometry(batch: int = 1) -> dict[str, Any]:
    hole = np.zeros((HEIGHT, WIDTH), bool)
    hole[3, 4] = True
    with_hole = np.where(hole[..., None], np.inf, points()).astype(np.float32)
    one = {"points": with_hole, "depth": with_hole[..., 2], "intrinsics": MATRIX, "mask": ~hole, "normal": points(), "image": points()}
    return {name: Tensor(np.stack([value] * batch)) for name, value in one.items()}


def test_moge_geometry() -> None:
    hole = np.zeros((HEIGHT, WIDTH), bool)
    hole[3, 4] = True
    made = from_geometry(geometry(), (HEIGHT, WIDTH))
    same(made, hole)
    np.testing.assert_allclose(made.intrinsics, MATRIX, rtol=1e-6)
    assert not made.metric and from_geometry(geometry(), metric=True).metric
    depth_alone = {name: value for name, value in geometry().items() if name != "points"}
    same(from_geometry(depth_alone), hole)
    masked = geometry()
    masked["mask"].value[:] = False
    masked["mask"].value[(0, *HALVES)] = True
    other_half = np.ones((HEIGHT, WIDTH), bool)
    other_half[HALVES] = False
    same(from_geometry(masked), hole | other_half)
    same(from_geometry({name: value.value[0] for name, value in geometry().items()}), hole)


def test_a_batch_needs_an_index() -> None:
    several = geometry(3)
    several["points"].value[1] *= 2
    with pytest.raises(OptionError, match="holds 3 pictures"):
        from_geometry(several)
    with pytest.raises(OptionError, match="3 was asked for"):
        from_geometry(several, index=3)
    np.testing.assert_allclose(from_geometry(several, index=1).points, 2 * from_geometry(several, index=2).points, rtol=1e-6)


FILES: dict[str, tuple[dict[str, np.ndarray], dict[str, Any]]] = {
    "points.npy": ({"": points("opengl")}, {"frame": "opengl"}),
    "depth.npy": ({"": depth()}, {"intrinsics": MATRIX}),
    "points.npz": ({"points": points(), "intrinsics": MATRIX, "mask": np.ones((HEIGHT, WIDTH), bool)}, {"frame": "opencv"}),
    "pointmap.npz": ({"pointmap": points("pytorch3d"), "other": np.zeros(3)}, {"frame": "pytorch3d"}),
    "depth.npz": ({"depth": depth(), "intrinsics": MATRIX}, {}),
    "one.npz": ({"whatever": points()}, {"frame": "opencv"}),
    "fov.NPY": ({"": depth()}, {"fov_x": float(2 * np.degrees(np.arctan(0.5 / FOCAL)))}),
    "scaled.npy": ({"": depth() * 100}, {"intrinsics": MATRIX, "depth_scale": 0.01}),
}


@pytest.mark.parametrize("name", FILES)
def test_files(tmp_path, name: str) -> None:
    arrays, options = FILES[name]
    with open(tmp_path / name, "wb") as file:
        if "" in arrays:
            np.save(file, arrays[""])
        else:
            np.savez(file, **arrays)
    made = read_pointmap(tmp_path / name, (HEIGHT, WIDTH), **options)
    same(made)
    assert made.source == name


@pytest.mark.parametrize("name", ["depth.png", "depth.tiff"])
def test_pictures_of_depth(tmp_path, name: str) -> None:
    from PIL import Image

    Image.fromarray(np.rint(depth() * 1000).astype(np.uint16)).save(tmp_path / name)
    made = read_pointmap(tmp_path / name, intrinsics=MATRIX, depth_scale=0.001)
    np.testing.assert_allclose(made.points, WANTED, rtol=1e-3)
    with pytest.raises(OptionError, match="whose unit nobody knows"):
        read_pointmap(tmp_path / name, intrinsics=MATRIX)
    Image.fromarray(np.full((HEIGHT, WIDTH), 200, np.uint8)).save(tmp_path / name)
    with pytest.raises(OptionError, match="16 bits"):
        read_pointmap(tmp_path / name, intrinsics=MATRIX, depth_scale=0.001)
    (tmp_path / name).write_bytes(b"no picture")
    with pytest.raises(OptionError, match="no picture"):
        read_pointmap(tmp_path / name, intrinsics=MATRIX, depth_scale=0.001)


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Any) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def test_a_file_with_objects_is_refused_and_not_run(tmp_path) -> None:
    np.save(tmp_path / "trap.npy", np.array([Trap(tmp_path / "ran")], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "trap.npz", points=np.array([Trap(tmp_path / "ran")], dtype=object))
    for name in ("trap.npy", "trap.npz"):
        with pytest.raises(OptionError, match="can't be read"):
            read_pointmap(tmp_path / name, frame="opencv")
    assert not (tmp_path / "ran").exists()


BAD_FILES: Mapping[str, Any] = {
    "x.exr": (b"", "is no point map"), "cut.npy": (b"\x93NUMPY\x01\x00", "can't be read"), "cut.npz": (b"PK\x03\x04", "can't be read"),
    "text.npy": (b"hello", "can't be read"), "gone.npy": (None, "No such file"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files(tmp_path, name: str) -> None:
    data, problem = BAD_FILES[name]
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(OptionError, match=problem):
        read_pointmap(tmp_path / name, frame="opencv")


def test_files_that_say_too_little(tmp_path) -> None:
    np.save(tmp_path / "points.npy", points())
    np.save(tmp_path / "depth.npy", depth())
    np.savez(tmp_path / "two.npz", a=depth(), b=depth())
    for name, problem in (
        ("points.npy", "isn't named"),
        ("depth.npy", "needs the camera's intrinsics"),
        ("two.npz", "no points and no depth"),
    ):
        with pytest.raises(OptionError, match=problem):
            read_pointmap(tmp_path / name)


def skewed(row: int, column: int, value: float) -> np.ndarray:
    matrix = MATRIX.copy()
    matrix[row, column] = value
    return matrix


BAD = {
    "frame": (lambda: from_points(points(), "colmap"), "frame is 'colmap'"),
    "no frame": (lambda: from_points(points(), ""), "isn't named"),
    "channels first": (lambda: from_points(points().transpose(2, 0, 1), "opencv"), r"shape \(3, 6, 8\)"),
    "text": (lambda: from_points([["a"]], "opencv"), "array of <U1"),
    "complex": (lambda: from_points(points() * 1j, "opencv"), "complex"),
    "ragged": (lambda: from_points([[1], [1, 2]], "opencv"), "can't be read as an array"),
    "empty": (lambda: from_points(np.zeros((0, 4, 3)), "opencv"), "4x0"),
    "too large": (lambda: from_points(np.zeros((1, 200000, 3), np.int8), "opencv"), "200000x1"),
    "all invalid": (lambda: from_points(points() * np.nan, "opencv"), "no valid point"),
    "all masked": (lambda: from_points(points(), "opencv", mask=np.zeros((HEIGHT, WIDTH))), "no valid point"),
    "mask's size": (lambda: from_points(points(), "opencv", mask=np.ones((WIDTH, HEIGHT))), r"mask has shape \(8, 6\)"),
    "depth as points": (lambda: from_depth(points(), MATRIX), r"shape \(6, 8, 3\)"),
    "no intrinsics": (lambda: from_depth(depth(), None), "needs the camera"),
    "scale": (lambda: from_depth(depth(), MATRIX, scale=0), "scale is 0"),
    "scale nan": (lambda: from_depth(depth(), MATRIX, scale=float("nan")), "scale is nan"),
    "2x2": (lambda: from_depth(depth(), np.eye(2)), r"shape \(2, 2\)"),
    "nan matrix": (lambda: from_depth(depth(), skewed(0, 0, np.nan)), "aren't finite"),
    "skew": (lambda: from_depth(depth(), skewed(0, 1, 0.2)), "no camera's"),
    "sheared": (lambda: from_depth(depth(), skewed(1, 0, 0.2)), "no camera's"),
    "negative": (lambda: from_depth(depth(), skewed(0, 0, -1)), "no camera's"),
    "negative y": (lambda: from_depth(depth(), skewed(1, 1, -1)), "no camera's"),
    "row": (lambda: from_depth(depth(), skewed(2, 2, 2)), "no camera's"),
    "middle": (lambda: from_depth(depth(), skewed(0, 2, 4)), "outside a map of 8x6"),
    "other pixels": (lambda: from_depth(depth(), MATRIX * [[1920], [1080], [1]]), "outside a map of 8x6"),
    "fov": (lambda: fov_intrinsics(180, (6, 8)), "field of view is 180"),
    "no dict": (lambda: from_geometry([1]), "no MOGE_GEOMETRY"),
    "empty dict": (lambda: from_geometry({"mask": depth()}), "no MOGE_GEOMETRY"),
    "dict's shapes": (lambda: from_geometry({"points": points()[None], "mask": depth()}), "unfit shapes"),
    "dict's counts": (lambda: from_geometry({"points": points()[None], "mask": np.ones((2, HEIGHT, WIDTH))}), r"for \[1, 2\] pictures"),
    "dict's rank": (lambda: from_geometry({"points": points()[None, None]}), "unfit shapes"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_error(case: str) -> None:
    call, problem = BAD[case]
    with pytest.raises(OptionError, match=problem) as caught:
        call()
    assert caught.value.hint


def test_a_map_fits_into_a_request() -> None:
    made = from_depth(depth(), MATRIX, (HEIGHT, WIDTH))
    mask = np.zeros((1, HEIGHT, WIDTH), bool)
    mask[0, 2:4, 2:4] = True
    request = ReconstructRequest(
        image=np.zeros((HEIGHT, WIDTH, 3), np.uint8), masks=mask, engine="sam3d", sam3d=Sam3dOptions(**made.options())
    )
    again = from_points(request.sam3d.pointmap, request.sam3d.pointmap_frame, intrinsics=request.sam3d.intrinsics)
    np.testing.assert_array_equal(again.points, made.points)
    np.testing.assert_array_equal(again.intrinsics, made.intrinsics)
