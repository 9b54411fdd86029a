"""Point maps on the command line and in batches: each form of a file reaches the request; what is wrong is said before a worker starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comfyui_sam3d.contract.errors import OptionError
from comfyui_sam3d.contract.pairing import POINTMAP_SUFFIXES, find_pairs
from comfyui_sam3d.contract.pointmaps import _SUFFIXES, fov_intrinsics, from_depth
from comfyui_sam3d.factory.batch import BatchOptions
from comfyui_sam3d.factory.batch.plan import make_plan, request_of, stamp_of
from comfyui_sam3d.factory.batch.watch import Watcher
from comfyui_sam3d.factory.inputs import make_request, mask_files
from comfyui_sam3d.factory.settings import parse_settings
from PIL import Image

from factory_cli import cli, here, mask, sprite

SIZE = (24, 24)
OPENCV = np.array([-1, -1, 1], np.float32)


def opencv_points(metres: float = 2.0, size: tuple[int, int] = SIZE) -> np.ndarray:
    return from_depth(np.full(size, metres, np.float32), fov_intrinsics(54, size)).points * OPENCV


def write(folder: Path, name: str, metres: float = 2.0, size: tuple[int, int] = SIZE) -> Path:
    """A map of a plane, in the form that the name says."""
    path, kind = folder / name, name.rsplit(".", 1)[1]
    if kind == "npy":
        np.save(path, opencv_points(metres, size))
    elif kind == "npz":
        np.savez(path, depth=np.full(size, metres, np.float32), intrinsics=fov_intrinsics(54, size))
    else:
        Image.fromarray(np.full(size, round(metres * 1000), np.uint16)).save(path)
    return path


def settings(*texts: str) -> dict[str, Any]:
    return parse_settings(texts)


@pytest.mark.parametrize(
    ("name", "described"),
    [
        ("p.npy", ["pointmap_frame=opencv"]),
        ("p.npz", []),
        ("p.png", ["fov_x=54", "depth_scale=0.001"]),
        ("p.tif", ["intrinsics=m.npy", "depth_scale=0.001"]),
        ("p.png", [f"intrinsics={fov_intrinsics(54, SIZE).tolist()}", "depth_scale=1e-3"]),
    ],
)
@pytest.mark.parametrize("size", [SIZE, (48, 48)])
def test_every_form_gives_the_same_points(tmp_path: Path, name: str, described: list[str], size: tuple[int, int]) -> None:
    write(tmp_path, name, size=size)
    np.save(tmp_path / "m.npy", fov_intrinsics(54, size))
    request = make_request(sprite(tmp_path / "a.png"), name="a", settings=settings(f"pointmap={name}", *described), base=tmp_path)
    given = request.sam3d
    assert given.pointmap is not None and given.pointmap.shape == (*SIZE, 3) and given.pointmap_frame == "pytorch3d"
    assert np.allclose(given.pointmap[..., 2], 2) and given.pointmap[0, 0, 0] > 0
    if name != "p.npy":
        assert np.allclose(given.intrinsics, fov_intrinsics(54, SIZE))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--pointmap", "gone.npy"], "gone.npy can't be read: No such file"),
        (["--pointmap", "gone.png", "--set", "fov_x=54"], "gone.png can't be read: No such file"),
        (["--pointmap", "p.npy"], "frame isn't named"),
        (["--pointmap", "p.npy", "--set", "pointmap_frame=opencv2"], "none of 'pytorch3d'"),
        (["--pointmap", "p.npy", "--set", "pointmap_frame=opengl"], "behind the camera"),
        (["--pointmap", "p.npy", "--set", "pointmap_frame=pytorch3d"], "swapped"),
        (["--pointmap", "p.png"], "camera's intrinsics|unit nobody knows"),
        (["--pointmap", "p.png", "--set", "fov_x=54"], "unit nobody knows"),
        (["--pointmap", "p.png", "--set", "fov_x=540", "--set", "depth_scale=0.001"], "field of view is 540"),
        (["--pointmap", "p.png", "--set", "fov_x=wide", "--set", "depth_scale=0.001"], "field of view is 'wide'"),
        (["--pointmap", "p.png", "--set", "fov_x=54", "--set", "depth_scale=-1"], "scale is -1"),
        (["--pointmap", "p.npz", "--set", "intrinsics=gone.npy"], "intrinsics can't be read"),
        (["--pointmap", "p.npz", "--set", "intrinsics=5"], "intrinsics"),
        (["--pointmap", "wide.npz"], "not the same view"),
        (["--pointmap", "a.png"], "pixels"),
        (["--pointmap", "notes.txt"], "no point map"),
        (["--pointmap", "p.npz", "--set", "pointmap=p.npz"], "given twice"),
        (["--set", "fov_x=54"], "fov_x describes a point map, and none is given"),
        (["--set", "intrinsics=m.npy", "--set", "pointmap=none"], "intrinsics describes a point map|none is given"),
    ],
)
def test_what_is_wrong_is_said_before_a_worker_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAM3D_WORKER_COMMAND", "no-such-worker")
    for name in ("p.npy", "p.npz", "p.png"):
        write(tmp_path, name)
    write(tmp_path, "wide.npz", size=(12, 24))
    np.save(tmp_path / "m.npy", fov_intrinsics(54, SIZE))
    (tmp_path / "notes.txt").write_text("no map")
    sprite(tmp_path / "a.png")
    ran = here("reconstruct", "a.png", *arguments, "--out", "o", "--json", capsys=capsys)
    (failed,) = ran.only("failed")
    assert ran.code == 2 and failed["error"]["code"] == "E_OPTION", ran.out
    assert any(word in failed["error"]["message"] for word in words.split("|")), failed
    assert failed["error"]["hint"] and "The wide" not in failed["error"]["message"]
    assert ("path" in failed["error"]["hint"]) is ("No such file" in words)


def test_on_the_command_line(tmp_path: Path) -> None:
    sprite(tmp_path / "a.png")
    write(tmp_path, "d.png", metres=1.5)
    keys = set()
    for scale in ("0.001", "0.002"):
        more = ("--set", "fov_x=54", "--set", f"depth_scale={scale}", "-f", "glb", "--json")
        ran = cli("reconstruct", "a.png", "--pointmap", "d.png", *more, "--out", "o", cwd=tmp_path)
        assert ran.code == 0, ran.out + ran.err
        keys.add(ran.only("done")[0]["key"])
    assert len(keys) == 2, "the points are part of what was asked for"


# -- batches


def options(folder: Path, **more: Any) -> BatchOptions:
    return BatchOptions(folder, folder / "out", **more)


def depth_of(item: Any, chosen: BatchOptions) -> float | None:
    points = request_of(item, chosen).sam3d.pointmap
    return None if points is None else float(points[0, 0, 2])


def test_the_suffixes_are_those_that_are_read() -> None:
    assert frozenset(_SUFFIXES) == POINTMAP_SUFFIXES


def test_a_map_beside_the_picture_is_found_and_no_picture(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png", "d.png", "room/image.png", "lone_pointmap.png"):
        sprite(tmp_path / name)
    write(tmp_path, "a_pointmap.npy", 1.0)
    write(tmp_path, "b.pointmap.png", 2.0)
    write(tmp_path, "c-PointMap.npy", 3.0)
    mask(tmp_path / "room" / "0.png"), mask(tmp_path / "room" / "1.png", where=(slice(2, 9), slice(2, 9)))
    write(tmp_path / "room", "image_pointmap.npz", 4000.0)  # in the same unit as the other map of depth
    chosen = options(tmp_path, settings={"pointmap_frame": "opencv", "fov_x": "54", "depth_scale": "0.001"})
    plan = make_plan(chosen)
    assert {item.name: depth_of(item, chosen) for item in plan} == {
        "a": 1.0, "b": 2.0, "c": 3.0, "d": None, "lone_pointmap": None, "room_0": 4.0, "room_1": 4.0,
    }  # fmt: skip


def test_two_maps_of_a_picture_are_an_error_of_that_item(tmp_path: Path) -> None:
    sprite(tmp_path / "a.png"), sprite(tmp_path / "b.png")
    write(tmp_path, "a_pointmap.npz"), write(tmp_path, "a.pointmap.npy")
    first, second = find_pairs(tmp_path)
    assert first.error is not None and "a.pointmap.npy and a_pointmap.npz" in first.error.message and second.error is None


def test_a_table_names_maps_and_may_refuse_the_one_beside(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        sprite(tmp_path / name)
    write(tmp_path, "far.npz", 9.0)
    write(tmp_path, "b_pointmap.npz", 1.0)
    rows = ["image,pointmap,seed", "a.png,far.npz,", "b.png,,4", "b.png,none,", "c.png,gone.npz,"]
    (tmp_path / "pairs.csv").write_text("\n".join(rows))
    chosen = options(tmp_path)
    plan = make_plan(chosen)
    assert [depth_of(item, chosen) for item in plan[:3]] == [9.0, 1.0, None]
    with pytest.raises(OptionError, match=r"gone\.npz can't be read"):
        request_of(plan[3], chosen)


def test_a_wrong_map_is_refused_with_its_item_alone(tmp_path: Path) -> None:
    sprite(tmp_path / "a.png"), sprite(tmp_path / "b.png")
    write(tmp_path, "a_pointmap.npy")  # points without a frame
    ran = cli("batch", tmp_path, "--out", tmp_path / "o", "-f", "glb", "--json")
    assert ran.code == 1 and [e["name"] for e in ran.only("failed")] == ["a"]
    assert "frame" in ran.only("failed")[0]["error"]["message"] and (tmp_path / "o" / "b" / "model.glb").is_file()
    again = cli("batch", tmp_path, "--out", tmp_path / "o", "-f", "glb", "--json", "--set", "pointmap_frame=opencv")
    assert again.code == 0, again.out


def test_a_changed_map_makes_its_item_again(tmp_path: Path) -> None:
    sprite(tmp_path / "a.png")
    chosen = options(tmp_path)
    bare = stamp_of(make_plan(chosen)[0], chosen)
    write(tmp_path, "a_pointmap.npz", 1.0)
    with_map = stamp_of(make_plan(chosen)[0], chosen)
    write(tmp_path, "a_pointmap.npz", 2.0)
    assert len({bare.params_hash, with_map.params_hash, stamp_of(make_plan(chosen)[0], chosen).params_hash}) == 3


def test_watching_sees_a_map_that_comes_later(tmp_path: Path) -> None:
    sprite(tmp_path / "a.png")
    watcher = Watcher(options(tmp_path), dict)
    said: list[Any] = []

    def look() -> list[str]:
        names = [item.name for item in watcher.look(lambda *a, **k: said.append(a))]
        for name in names:
            watcher.finished(name)
        return names

    assert [look(), look(), look()] == [[], ["a"], []]
    write(tmp_path, "a_pointmap.npz")
    assert [look(), look(), look()] == [[], ["a"], []]


def test_no_mask_of_its_own_picture(tmp_path: Path) -> None:
    image = sprite(tmp_path / "image.png", alpha=False)
    mask(tmp_path / "0.png")
    write(tmp_path, "image_pointmap.png")
    assert [f.name for f in mask_files(tmp_path, image)] == ["0.png"]


def test_no_table_row_reads_its_map_while_planning(tmp_path: Path) -> None:
    """A plan is made anew at every look of --watch: it must not read gigabytes."""
    sprite(tmp_path / "a.png")
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"image": "a.png", "pointmap": "broken.npz", "fov_x": 54}))
    (tmp_path / "broken.npz").write_bytes(b"no archive")
    (item,) = make_plan(options(tmp_path))
    assert item.error is None
    with pytest.raises(OptionError, match="can't be read"):
        request_of(item, options(tmp_path))
