"""Every file that the pack writes but GLB (test_geometry_glb.py), read again by libraries that aren't ours, and its bytes checked by hand where a
library forgives; and which files `encode` makes of a scene."""

from __future__ import annotations

import io
import random
import struct
import sys
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from comfyui_sam3d.contract.errors import InputError, JobCancelled, OptionError, OutputError
from comfyui_sam3d.contract.request import FORMATS, ExportOptions
from comfyui_sam3d.contract.scene import Camera, Pose, SceneObject, Splats
from comfyui_sam3d.worker.geometry import encode, read_splat_ply
from comfyui_sam3d.worker.geometry.encode import _beside
from comfyui_sam3d.worker.geometry.files.mp4 import mp4
from comfyui_sam3d.worker.geometry.files.splat import splat
from comfyui_sam3d.worker.geometry.files.splat_ply import SplatPly, splat_ply
from comfyui_sam3d.worker.geometry.frames import FRAMES, Motion, move_splats, place_splats
from comfyui_sam3d.worker.job import QuietJob
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from geometry_shapes import POSE, chunks, cloud, globe, load, scene_of

HOSTILE = ["../../etc/passwd", "CON", 'a<b>:"|?*', "line\nbreak\0", "Stück Fleisch 肉 🥩", "\ud800 alone", "a" * 300]


CAMERA = Camera("orthographic", 64, 48, Pose((1, 0, 0, 0), (0, 0, 5.0)), xmag=2, ymag=1.5)
PHOTO = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


# OBJ, STL, mesh PLY


def test_obj_is_the_whole_scene_with_textures_the_right_way_up(tmp_path: Path) -> None:
    import trimesh
    from PIL import Image

    a, b = globe(), globe(6, 4, seed=1)
    files = encode(scene_of(SceneObject("raw meat", a, pose=POSE), SceneObject("b", b)), ["obj"], ExportOptions(objects=False))
    assert set(files) == {"model.obj", "model.mtl", "model.png", "model-2.png"}
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(files["model-2.png"]))), b.texture)
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    loaded = trimesh.load(tmp_path / "model.obj", process=False)
    bodies = sorted(loaded.geometry.values(), key=lambda body: -len(body.faces))
    assert [len(body.faces) for body in bodies] == [len(a.faces), len(b.faces)]
    for body, mesh, pose in zip(bodies, (a, b), (POSE, Pose())):
        wanted = pose.apply(mesh.vertices)[mesh.faces]
        assert np.allclose(body.triangles, wanted, atol=1e-5)
        assert np.allclose(body.visual.uv[body.faces], np.stack([mesh.uvs[:, 0], 1 - mesh.uvs[:, 1]], 1)[mesh.faces], atol=1e-6)
        assert np.array_equal(np.asarray(body.visual.material.image.convert("RGB")), mesh.texture)
        welded = trimesh.Trimesh(*_weld(body.triangles))
        assert welded.is_watertight and welded.volume > 0


def _weld(triangles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    places, index = np.unique(triangles.reshape(-1, 3), axis=0, return_inverse=True)
    return places, index.reshape(-1, 3)


def test_obj_without_a_texture_carries_colours() -> None:
    mesh = globe().replace(texture=None, uvs=None)
    colors = np.random.default_rng(0).integers(0, 256, (len(mesh.vertices), 4), dtype=np.uint8)
    files = encode(scene_of(SceneObject("a", mesh.replace(vertex_colors=colors))), ["obj"])
    assert set(files) == {"model.obj", "model.mtl"}
    rows = [line.split() for line in files["model.obj"].decode().splitlines() if line.startswith("v ")]
    assert np.allclose(np.array(rows)[:, 4:].astype(float) * 255, colors[:, :3], atol=0.03)
    assert np.allclose(load(files["model.obj"], "obj").triangles, mesh.vertices[mesh.faces], atol=1e-6)


def test_stl_is_closed_and_posed() -> None:
    import trimesh

    scene = scene_of(SceneObject("a", globe(), pose=POSE), SceneObject("b", globe(6, 4)))
    data = encode(scene, ["stl"])["model.stl"]
    assert not data.startswith(b"solid") and len(data) == 84 + 50 * struct.unpack_from("<I", data, 80)[0]
    loaded = load(data, "stl")
    assert np.allclose(loaded.triangles[: len(globe().faces)], POSE.apply(globe().vertices)[globe().faces], atol=1e-5)
    assert trimesh.Trimesh(*_weld(loaded.triangles)).is_watertight
    stored = np.frombuffer(data[84:], np.uint8).reshape(-1, 50)[:, :12].copy().view("<f4")
    assert np.allclose(stored, loaded.face_normals, atol=1e-4)


def test_mesh_ply_takes_its_colours_from_the_texture() -> None:
    import plyfile

    mesh = globe()
    flat = mesh.replace(texture=np.full((4, 4, 3), (10, 200, 77), np.uint8))
    data = encode(scene_of(SceneObject("a", flat), SceneObject("b", mesh, pose=POSE)), ["mesh_ply"])["mesh.ply"]
    file = plyfile.PlyData.read(io.BytesIO(data))
    rows = file["vertex"]
    colors = np.stack([rows[c] for c in ("red", "green", "blue", "alpha")], axis=1)
    half = len(mesh.vertices)
    assert (colors[:half] == (10, 200, 77, 255)).all() and len(np.unique(colors[half:], axis=0)) > 20
    points = np.stack([rows[a] for a in "xyz"], axis=1)
    assert np.array_equal(points[:half], mesh.vertices) and np.allclose(points[half:], POSE.apply(mesh.vertices), atol=1e-6)
    assert np.array_equal(np.stack(file["face"]["vertex_indices"])[len(mesh.faces) :], mesh.faces.astype(int) + half)
    # A texel's own colour at its middle: uv (0.5 / 16, 0.5 / 8) is texel (0, 0).
    corner = mesh.replace(uvs=np.tile(np.float32([0.5 / 16, 0.5 / 8]), (half, 1)))
    rows = plyfile.PlyData.read(io.BytesIO(encode(scene_of(SceneObject("a", corner)), ["mesh_ply"])["mesh.ply"]))["vertex"]
    assert (np.stack([rows[c] for c in ("red", "green", "blue")], axis=1) == mesh.texture[0, 0]).all()


# Splats

HEADER = """ply
format binary_little_endian 1.0
element vertex {count}
property float x
property float y
property float z
property float nx
property float ny
property float nz
property float f_dc_0
property float f_dc_1
property float f_dc_2
property float opacity
property float scale_0
property float scale_1
property float scale_2
property float rot_0
property float rot_1
property float rot_2
property float rot_3
end_header
"""


def test_splat_ply_header_is_exact() -> None:
    data, wanted = splat_ply(cloud(3)), HEADER.format(count=3).encode()
    assert data[: len(wanted)] == wanted and len(data) == len(wanted) + 3 * 68


@st.composite
def any_splats(draw: st.DrawFn) -> Splats:
    """Splats that may be broken here and there: NaN, infinities, zero scales, zero quaternions, opacities beyond 0..1."""
    count, coefficients = draw(st.integers(1, 12)), draw(st.sampled_from([1, 4, 9, 16]))
    anything = st.floats(width=32, allow_nan=True, allow_infinity=True)

    def rows(*shape: int) -> np.ndarray:
        return draw(arrays(np.float32, (count, *shape), elements=anything, fill=st.floats(0.125, 1, width=32)))

    return Splats(rows(3), rows(3), rows(4), rows(), rows(coefficients, 3))


@settings(max_examples=60, deadline=None)
@given(any_splats())
def test_any_splats_come_back_from_ply_by_plyfile_and_by_us(splats: Splats) -> None:
    import plyfile

    everything = np.concatenate(
        [a.reshape(len(splats.positions), -1) for a in (splats.positions, splats.scales, splats.rotations, splats.sh)], 1
    )
    good = np.isfinite(everything).all(1) & np.isfinite(splats.opacities) & (splats.rotations != 0).any(1)
    if not good.any():
        with pytest.raises(OutputError, match="finite"):
            splat_ply(splats)
        with pytest.raises(OutputError, match="finite"):
            splat(splats)
        return
    data = bytes(splat_ply(splats))
    rows = plyfile.PlyData.read(io.BytesIO(data))["vertex"]
    values = np.stack([rows[p.name] for p in rows.properties], axis=1)
    assert np.isfinite(values).all() and len(values) == good.sum()
    assert np.array_equal(np.stack([rows[a] for a in "xyz"], 1), splats.positions[good])
    assert np.allclose(np.stack([rows[f"rot_{i}"] for i in range(4)], 1).astype(float) ** 2 @ np.ones(4), 1, atol=1e-5)
    opacity = 1 / (1 + np.exp(-rows["opacity"].astype(float)))
    assert np.allclose(opacity, np.clip(splats.opacities[good].astype(float), 1e-6, 1 - 1e-6), atol=1e-6)
    rest = 3 * (splats.sh.shape[1] - 1)
    assert len(rows.properties) == 17 + rest
    if rest:  # f_rest: all of red, then all of green, then all of blue
        assert np.array_equal(rows["f_rest_0"], splats.sh[good, 1, 0]) and np.array_equal(
            rows[f"f_rest_{rest // 3}"], splats.sh[good, 1, 1]
        )

    back = read_splat_ply(data)
    assert np.array_equal(back.positions, splats.positions[good]) and np.array_equal(back.sh, splats.sh[good])
    sane = splats.scales[good] < 1e38  # the exponential of the largest float's logarithm may be infinite
    assert np.allclose(back.scales[sane], np.maximum(splats.scales[good], 1e-12)[sane], rtol=2e-5)
    if not sane.all():
        return
    again = bytes(splat_ply(back))
    assert np.allclose(*(np.frombuffer(d[d.index(b"end_header\n") + 11 :], "<f4") for d in (data, again)), rtol=1e-5, atol=0.5)


def test_reader_takes_any_order_and_names_what_is_wrong() -> None:
    splats = cloud(5)
    data = bytes(splat_ply(splats))
    end = data.index(b"end_header\n") + 11
    names = [line.split()[2] for line in data[:end].decode().splitlines() if line.startswith("property")]
    rows = np.frombuffer(data[end:], "<f4").reshape(5, 17)

    def file(kept: list[str], count: int = 5, kind: str = "float") -> bytes:
        head = ["ply", "format binary_little_endian 1.0", "comment made by hand", f"element vertex {count}"]
        return "\n".join([*head, *(f"property {kind} {n}" for n in kept), "end_header", ""]).encode() + (
            rows[:, [names.index(n) for n in kept]].tobytes()
        )

    mixed = [n for n in reversed(names) if not n.startswith("n")]
    back = read_splat_ply(file(mixed))
    assert np.array_equal(back.positions, splats.positions) and np.allclose(back.rotations, splats.rotations, atol=1e-6)
    for broken, words in [
        (b"", "no binary"),
        (b"ply\nformat ascii 1.0\nend_header\n", "no binary"),
        (data[:-1], "ends before"),
        (data[: len(data) // 2], "no binary"),
        (file([n for n in names if n != "opacity"]), "opacity"),
        (file(names, kind="double"), "more than one"),
        (file(names, count=-1), "more than one"),
        (file(["x", "y", "z"]), "lacks"),
        (encode(scene_of(SceneObject("a", globe())), ["mesh_ply"])["mesh.ply"], "more than one"),
    ]:
        with pytest.raises(InputError, match=words):
            read_splat_ply(broken)


def test_dot_splat_by_hand() -> None:
    splats = cloud(40)
    splats = splats.replace(positions=np.where(np.arange(40)[:, None] == 7, np.nan, splats.positions).astype(np.float32))
    data = splat(splats)
    rows = np.frombuffer(data, np.uint8).reshape(39, 32)
    places, scales = rows[:, :12].copy().view("<f4"), rows[:, 12:24].copy().view("<f4")
    order = [int(np.flatnonzero((splats.positions == place).all(1))[0]) for place in places]
    assert sorted(order) == [i for i in range(40) if i != 7] and np.array_equal(scales, splats.scales[order])
    weight = (splats.opacities * splats.scales.prod(1))[order]
    assert (np.diff(weight) <= 1e-12).all()
    assert np.abs(rows[:, 24:27] - 255 * np.clip(splats.colors()[order], 0, 1)).max() <= 0.51
    assert np.abs(rows[:, 27] - 255 * splats.opacities[order]).max() <= 0.51
    assert np.abs((rows[:, 28:].astype(float) - 128) / 128 - splats.rotations[order]).max() <= 1 / 128 + 1e-6


def test_splats_of_many_objects_are_one_file() -> None:
    one, two = cloud(5), cloud(6, coefficients=4, seed=1)
    scene = scene_of(SceneObject("a", splats=one), SceneObject("b", splats=two, pose=POSE), SceneObject("c", globe()))
    files = encode(scene, ["ply", "splat"], ExportOptions(ply_frame="y_up"))
    assert set(files) == {"splat.ply", "splat.splat", "objects/a.ply", "objects/b.ply", "objects/a.splat", "objects/b.splat"}
    whole, alone = read_splat_ply(files["splat.ply"]), read_splat_ply(files["objects/b.ply"])
    assert np.allclose(whole.positions, np.concatenate([one.positions, POSE.apply(two.positions)]), atol=1e-5)
    assert whole.sh.shape == (11, 4, 3) and not whole.sh[:5, 1:].any()
    assert np.allclose(whole.scales[5:], 2 * two.scales, rtol=1e-4)
    assert np.allclose(alone.positions, two.positions, atol=1e-6)  # an object's own file is in the object's frame


def broken(splats: Splats, seed: int) -> Splats:
    """With rows that no file holds: not finite, without a rotation, or (one of six) not finite once the object is twice as large."""
    fields = {name: value.copy() for name, value in vars(splats).items()}
    bad = np.random.default_rng(seed).choice(len(splats.positions), 6, replace=False)
    fields["positions"][bad[0], 1], fields["scales"][bad[1], 2], fields["opacities"][bad[2]] = np.nan, -np.inf, np.inf
    fields["rotations"][bad[3]], fields["sh"][bad[4], 0, 1], fields["positions"][bad[5], 0] = 0, np.inf, 3e38
    return Splats(**fields)


@pytest.mark.parametrize("degree", [0, 2])
def test_splats_are_moved_and_written_by_blocks_in_any_order(degree: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As moving all of them, joining them, and writing the sound ones, with or without broken rows, whichever thread takes which block."""
    import plyfile

    monkeypatch.setattr("comfyui_sam3d.worker.geometry.files.splat_ply._BLOCK", 16)
    for first, dropped in ((cloud(300, seed=4), 5), (broken(cloud(300, seed=4), 1), 11)):
        parts = [(first, POSE), (cloud(1, 4, seed=5), Pose()), (broken(cloud(130, 4, seed=6), 2), Pose(translation=(3.0, 2.0, 1.0)))]
        moved = [move_splats(place_splats(splats, pose), FRAMES["z_up"]) for splats, pose in parts]
        coefficients = max(4, (degree + 1) ** 2)
        sh = [np.pad(item.sh, ((0, 0), (0, coefficients - item.sh.shape[1]), (0, 0))) for item in moved]
        joined = [np.concatenate([getattr(item, name) for item in moved]) for name in ("positions", "scales", "rotations", "opacities")]
        wanted = splat_ply(Splats(*joined, np.concatenate(sh)))
        motions = [() if pose == Pose() else (Motion(pose.rotation_matrix(), pose.scale, pose.translation),) for _, pose in parts]
        made = SplatPly([(splats, (*some, Motion(FRAMES["z_up"]))) for (splats, _), some in zip(parts, motions)], degree)
        calls = made.blocks()
        assert len(calls) == 3 + 1 + 2
        random.Random(degree).shuffle(calls)
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda call: call(), calls))
        assert made.file() == wanted and made.file() == wanted, "asked again, the same"
        assert len(plyfile.PlyData.read(io.BytesIO(made.file()))["vertex"]) == 431 - dropped


# encode


def test_every_format_has_the_name_that_the_contract_gives() -> None:
    pytest.importorskip("av", reason="the layer `video` isn't installed")
    scene = scene_of(SceneObject("a", globe(), cloud()), camera=CAMERA)
    files = encode(scene, FORMATS, ExportOptions(preview_size=64, turntable_frames=4), photo=PHOTO)
    assert {name for name, _ in FORMATS.values()} <= set(files) == {name for name, _ in FORMATS.values()} | {"model.mtl", "model.png"}
    assert encode(scene, []) == {} and list(encode(scene, ["glb", "glb"])) == ["model.glb"]


def test_same_scene_same_bytes() -> None:
    pytest.importorskip("av", reason="the layer `video` isn't installed")

    def make() -> dict[str, bytes]:
        things = (SceneObject("a", globe(), cloud()), SceneObject("b", globe(seed=3), cloud(seed=1), POSE))
        scene = scene_of(*things, timings={"x": np.random.rand()}, camera=CAMERA)
        return encode(scene, FORMATS, ExportOptions(preview_size=64, turntable_frames=4), photo=PHOTO)

    assert make() == make()


@pytest.mark.full
def test_same_frames_same_film(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand times, wherever in memory: what differs, differs rarely."""
    pytest.importorskip("av", reason="the layer `video` isn't installed")
    asked: list[tuple[list[np.ndarray], Fraction]] = []

    def kept(frames: Iterable[np.ndarray], rate: Fraction) -> bytes:
        asked.append((list(frames), rate))
        return b""

    monkeypatch.setattr("comfyui_sam3d.worker.geometry.render.pictures.mp4", kept)
    scene = scene_of(SceneObject("a", globe(), cloud()), SceneObject("b", globe(seed=3), cloud(seed=1), POSE), camera=CAMERA)
    encode(scene, ["video"], ExportOptions(preview_size=64, turntable_frames=4))
    draw, films = np.random.default_rng(0), set()
    for _ in range(1000):
        between = [draw.integers(0, 255, draw.integers(1000, 300000), dtype=np.uint8) for _ in range(4)]
        films.add(mp4(*asked[0]))
        del between
    assert len(films) == 1


@pytest.mark.parametrize("name", HOSTILE)
def test_names_go_into_json_and_through_safe_filename_alone(name: str) -> None:
    scene = scene_of(SceneObject(name, globe(), cloud()), SceneObject("b", globe(), cloud()))
    files = encode(scene, ["glb", "obj", "ply", "mesh_ply"])
    for path, data in files.items():
        parts = path.split("/")
        assert parts[0] == "objects" and len(parts) == 2 if "/" in path else True
        assert not set(parts[-1]) & set('<>:"\\|?*\n\0') and parts[-1] not in ("", ".", "..") and not parts[-1].lower().startswith("con.")
        path.encode("utf-8")
        if path.endswith(".glb"):
            chunks(data)
    names = [node["name"] for node in chunks(files["model.glb"])[0]["nodes"]]
    assert names == [name.encode("utf-8", "replace").decode(), "b"]
    lines = files["model.obj"].decode().splitlines()
    assert sum(line.startswith("o ") for line in lines) == 2
    assert {line.split(" ", 1)[0] for line in lines} == {"mtllib", "o", "v", "vn", "vt", "usemtl", "f"}
    assert all(line.startswith("material_") for line in (row.split(" ", 1)[1] for row in lines if row.startswith("usemtl")))


def test_objects_one_by_one() -> None:
    scene = scene_of(SceneObject("a/b", globe(), cloud(), POSE), SceneObject("A_B", globe(seed=1)), SceneObject("A_B.mesh", splats=cloud()))
    kinds = ["glb", "ply", "obj", "stl", "mesh_ply", "splat"]
    files = encode(scene, kinds, ExportOptions())
    whole = {FORMATS[kind][0] for kind in kinds} | {"model.mtl", "model.png", "model-2.png"}
    per_mesh = ("glb", "obj", "mtl", "png", "stl")
    objects = {f"objects/{stem}.{suffix}" for stem in ("a_b", "A_B-2") for suffix in per_mesh}
    objects |= {"objects/a_b.ply", "objects/a_b.splat", "objects/A_B.mesh.ply", "objects/A_B.mesh.splat"}
    objects |= {"objects/a_b.mesh-2.ply", "objects/A_B.mesh-3.ply"}  # meshes; no two names differ in case alone
    assert set(files) == whole | objects
    root, _ = chunks(files["objects/a_b.glb"])
    assert set(root["nodes"][0]) == {"name", "mesh"} and root["nodes"][0]["name"] == "a/b" and "cameras" not in root
    assert not any(name.startswith("objects/") for name in encode(scene, kinds, ExportOptions(objects=False)))
    assert not any(name.startswith("objects/") for name in encode(scene_of(scene.objects[0]), kinds))


def test_what_can_not_be_written_says_so_before_anything_is() -> None:
    mesh = globe()
    broken = mesh.replace(vertices=np.where(np.arange(len(mesh.vertices))[:, None] == 3, np.nan, mesh.vertices).astype(np.float32))
    empty = mesh.replace(faces=np.zeros((0, 3), np.uint32))
    for kind in ("glb", "obj", "stl", "mesh_ply"):
        for bad, words in ((broken, "not finite"), (empty, "no faces")):
            with pytest.raises(OutputError, match=words) as caught:
                encode(scene_of(SceneObject("good", mesh), SceneObject("Stück", bad)), ["ply" if kind == "?" else kind])
            assert "Stück" in str(caught.value) and caught.value.hint
        with pytest.raises(OutputError, match="no mesh"):
            encode(scene_of(SceneObject("a", splats=cloud())), [kind])
    for kind in ("ply", "splat"):
        with pytest.raises(OutputError, match="no splats"):
            encode(scene_of(SceneObject("a", mesh)), [kind])
    for kind in ("normals", "wireframe"):
        with pytest.raises(OutputError, match="no mesh"):
            encode(scene_of(SceneObject("a", splats=cloud())), [kind])
    with pytest.raises(OutputError, match="needs the photo, which"):
        encode(scene_of(SceneObject("a", mesh), camera=CAMERA), ["overlay"])
    with pytest.raises(OutputError, match="photo's camera"):
        encode(scene_of(SceneObject("a", mesh)), ["overlay"], photo=PHOTO)
    for kind in ("preview", "turntable", "contact_sheet"):
        with pytest.raises(OutputError, match="no mesh and no splats"):
            encode(scene_of(SceneObject("a")), [kind])
    with pytest.raises(OptionError, match="usdz"):
        encode(scene_of(SceneObject("a", mesh)), ["glb", "usdz"])


class Watched(QuietJob):
    def __init__(self, stop: int = 10**9) -> None:
        super().__init__()
        self.steps: list[tuple[str, int, int]] = []
        self.stop = stop

    def step(self, stage: str, step: int, total: int) -> None:
        self.steps.append((stage, step, total))
        if step >= self.stop:
            raise JobCancelled("The job was cancelled.")


def test_a_job_sees_every_file_and_every_frame() -> None:
    job = Watched()
    scene = scene_of(SceneObject("a", globe(), cloud()), SceneObject("b", globe()))
    options = ExportOptions(preview_size=64, turntable_frames=5)
    encode(scene, ["turntable", "glb", "ply", "preview"], options, job)
    # 2 textures and the splats of 1 + 1 PLY; model and 2 objects as GLB, 1 + 1 PLY, the preview, 5 frames
    assert job.steps == [("encode", i, 15) for i in range(16)]
    stopped = Watched(stop=8)
    with pytest.raises(JobCancelled):
        encode(scene, ["turntable", "glb", "ply", "preview"], options, stopped)
    assert stopped.steps[-1] == ("encode", 8, 15)
    stopped = Watched(stop=1)  # among the textures, which are encoded beside one another
    with pytest.raises(JobCancelled):
        encode(scene, ["glb"], options, stopped)
    assert stopped.steps[-1] == ("encode", 1, 5)


def test_a_job_is_cancelled_among_the_splats(monkeypatch: pytest.MonkeyPatch) -> None:
    """By no more than the lots that the threads had begun; and no thread is left."""
    begun: list[int] = []
    fill = SplatPly._fill

    def slow(self: SplatPly, *lot: object) -> None:
        begun.append(1)
        time.sleep(0.01)
        fill(self, *lot)

    monkeypatch.setattr("comfyui_sam3d.worker.geometry.files.splat_ply._BLOCK", 4)
    monkeypatch.setattr(SplatPly, "_fill", slow)
    monkeypatch.setattr(sys.modules[encode.__module__], "HANDS", 3)
    scene = scene_of(SceneObject("a", splats=cloud(2000)), SceneObject("b", splats=cloud(2000, seed=1)))
    job = Watched(stop=5)
    with pytest.raises(JobCancelled):
        encode(scene, ["ply"], job=job)
    assert job.steps[0] == ("encode", 0, 2 * 2 * 63 + 3) and job.steps[-1][1] == 5 and 5 <= len(begun) <= 5 + 2 * 3
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("encode")]


def test_files_of_splats_are_in_memory_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many threads make them, and although the scene's own file holds all of them placed."""
    import tracemalloc

    monkeypatch.setattr("comfyui_sam3d.worker.geometry.files.splat_ply._BLOCK", 1 << 9)
    monkeypatch.setattr(sys.modules[encode.__module__], "HANDS", 4)
    scene = scene_of(*(SceneObject(name, splats=cloud(30000), pose=POSE) for name in "abc"))
    encode(scene, ["ply"])
    tracemalloc.start()
    try:
        size = sum(map(len, encode(scene, ["ply"]).values()))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size < peak < 1.1 * size


def test_files_are_made_beside_one_another_in_order_and_no_more_begin_when_nobody_listens() -> None:
    begun: list[int] = []

    def make(number: int) -> int:
        begun.append(number)
        time.sleep(0.05 if number % 2 else 0.1)
        return number

    assert list(_beside([partial(make, number) for number in range(6)], 3)) == list(range(6))
    begun.clear()
    made = _beside([partial(make, number) for number in range(60)], 3)
    assert next(made) == 0
    made.close()
    assert len(begun) <= 4 * 3


def test_one_file_that_can_not_be_made_ends_the_rest() -> None:
    def fail() -> int:
        raise OutputError("this one")

    with pytest.raises(OutputError, match="this one"):
        list(_beside([lambda: 1, fail, *[partial(time.sleep, 0.01)] * 50], 3))
