"""Draft engine as a whole: gates on every example and on photographs, presets, texture, backs, several masks in one scene, cancelling."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import trimesh
from comfyui_sam3d.contract import DraftOptions
from comfyui_sam3d.contract.errors import JobCancelled
from comfyui_sam3d.contract.scene import Mesh, Scene
from comfyui_sam3d.worker.draft.mask import cut
from comfyui_sam3d.worker.draft.texture import find_rim, palette
from comfyui_sam3d.worker.engines.draft import reconstruct
from comfyui_sam3d.worker.geometry import encode
from comfyui_sam3d.worker.job import QuietJob
from scipy import ndimage

from draft_shapes import (
    assert_closed,
    enlarged,
    examples,
    figure_picture,
    front_colours,
    iou,
    not_thin,
    picture,
    request,
    shape,
    silhouette,
    solve,
    welded,
)

SPRITES = examples()


def test_there_are_a_dozen_examples() -> None:
    assert len(SPRITES) >= 10


@pytest.mark.parametrize("name", sorted(SPRITES))
def test_gates_hold_for_every_example(name: str) -> None:
    image, mask, alpha = SPRITES[name]
    check_gates(solve(mask, image, alpha=None if alpha is None else alpha[None]), image, mask, alpha)


@pytest.mark.full
@pytest.mark.parametrize("rim", ["round", "wall"])
@pytest.mark.parametrize("profile", ["puffball", "round", "voxel"])
@pytest.mark.parametrize("name", sorted(SPRITES))
def test_every_profile_and_rim_of_every_example_is_closed(name: str, profile: str, rim: str) -> None:
    image, mask, alpha = SPRITES[name]
    for quality in ("fast", "best"):
        scene = solve(mask, image, alpha=None if alpha is None else alpha[None], profile=profile, rim=rim, quality=quality)
        assert_closed(scene.objects[0].mesh)


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee", "rocket"])
def test_gates_hold_for_photographs(name: str) -> None:
    """Photographs that scikit-image ships, cut out by GrabCut. Their ragged masks keep less of the outline."""
    cv2 = pytest.importorskip("cv2")
    data = pytest.importorskip("skimage.data")
    step = 1 if name == "rocket" else 2
    image = np.ascontiguousarray(getattr(data, name)()[::step, ::step, :3])
    x, y, width, height = {
        "astronaut": (30, 2, 200, 252),
        "chelsea": (30, 5, 165, 142),
        "coffee": (65, 10, 210, 175),
        "rocket": (295, 60, 50, 290),
    }[name]
    labels = np.zeros(image.shape[:2], np.uint8)
    cv2.setRNGSeed(0)
    cv2.grabCut(image[..., ::-1].copy(), labels, (x, y, width, height), np.zeros((1, 65)), np.zeros((1, 65)), 2, cv2.GC_INIT_WITH_RECT)
    mask = (labels == 1) | (labels == 3)
    check_gates(solve(mask, image, preset="prop" if name == "coffee" else "figure"), image, mask, None, limit=0.95)


def check_gates(scene: Scene, image: np.ndarray, mask: np.ndarray, alpha: np.ndarray | None, limit: float = 0.98) -> None:
    item = scene.objects[0]
    facts, gates, parameters = item.info["facts"], item.info["gates"], item.info["parameters"]
    body = assert_closed(item.mesh)
    assert gates["closed"] and gates["euler"] == body.euler_number and gates["faces"] == len(body.faces)
    assert np.ptp(item.mesh.vertices[:, :2], axis=0).max() == pytest.approx(1.0, abs=1e-5)
    assert np.abs(np.linalg.norm(item.mesh.normals, axis=1) - 1).max() < 1e-4
    assert (item.mesh.uvs >= 0).all() and (item.mesh.uvs <= 1).all()
    seen = silhouette(scene, item, 2)
    if parameters["profile"] == "voxel":
        assert iou(seen, enlarged(mask, None, 2)) > 0.99
        return
    wanted = enlarged(mask, alpha, 2) if not any("soft" in text for text in scene.warnings) else enlarged(alpha >= 64, None, 2)
    longest = max(np.ptp(np.nonzero(mask), axis=1)) + 1
    where = not_thin(mask, 1.6 * longest / facts["cells"], 2) if facts["rescued"] else None
    assert iou(seen, wanted, where) >= limit, "gate 4"
    assert (body.face_angles.min(1) < np.radians(5)).mean() < 0.02, "gate 6"
    depth = ndimage.distance_transform_edt(mask)
    inset = max(0.008 * longest, facts["outline_px"] + 1)
    rows, columns = np.nonzero(depth > 1.3 * inset)
    if len(rows):
        error = np.abs(front_colours(scene, item, rows, columns) - image[rows, columns]).mean()
        assert error <= 2.0, "gate 5"


def test_same_request_same_bytes_and_the_seed_changes_nothing() -> None:
    image, mask, alpha = SPRITES["steak"]
    first = solve(mask, image, alpha=alpha[None], back="contour", seed=1, quality="fast")
    second = solve(mask.copy(order="F"), image.copy(), alpha=alpha[None].copy(), back="contour", seed=2, quality="fast")
    a, b = first.objects[0], second.objects[0]
    for name in ("vertices", "faces", "normals", "uvs", "texture"):
        assert np.array_equal(getattr(a.mesh, name), getattr(b.mesh, name)), name
    for name in ("positions", "scales", "rotations", "opacities", "sh"):
        assert np.array_equal(getattr(a.splats, name), getattr(b.splats, name)), name
    assert (first.seed, second.seed) == (1, 2) and a.info == b.info


def test_the_scene_is_honest() -> None:
    scene = solve(shape("disc"), quality="fast", engine="auto", size=2.5)
    assert scene.engine == "draft" and "draft engine" in scene.warnings[0]
    assert scene.parameters["size"] == 2.5
    assert set(scene.timings) == {"mask", "mesh", "heights", "texture", "splats"}
    assert json.loads(json.dumps(dict(scene.objects[0].info)))["parameters"]["preset"] == "prop"


@pytest.mark.parametrize("rim", ["round", "wall"])
def test_several_masks_stand_where_they_stand_in_the_picture(rim: str) -> None:
    masks = np.zeros((3, 180, 240), bool)
    masks[0, 20:90, 30:100] = shape("disc", 70)
    masks[1, 100:175, 5:235] = np.indices((75, 230)).sum(0) > 60
    masks[2, 5:95, 140:239] = shape("ring", 99)[:90]
    scene = solve(masks, names=("pea", "plank", "hoop"), rim=rim, preset="prop", size=2.0)
    assert [o.name for o in scene.objects] == ["pea", "plank", "hoop"]
    for item, mask in zip(scene.objects, masks):
        assert iou(silhouette(scene, item), enlarged(mask, None)) > 0.97
        assert np.ptp(item.mesh.vertices[:, :2], axis=0).max() == pytest.approx(2.0, abs=1e-4)
        assert item.pose.rotation == (1.0, 0.0, 0.0, 0.0)
    assert (scene.camera.xmag, scene.camera.ymag) == (pytest.approx(1.0), pytest.approx(0.75))  # the picture's longest side is `size`
    placed = np.concatenate([o.pose.apply(o.mesh.vertices) for o in scene.objects])
    assert placed[:, 1].min() == pytest.approx(2.0 * 5 / 240, abs=0.01)  # the scene's origin is the picture's lower edge
    assert all(text.startswith(("Made by", "pea: ", "plank: ", "hoop: ")) for text in scene.warnings)


def test_a_single_mask_stands_at_the_origin_wherever_it_is_in_the_picture() -> None:
    mask = np.zeros((150, 300), bool)
    mask[10:70, 220:290] = shape("disc", 70)[5:65]
    scene = solve(mask)
    item = scene.objects[0]
    assert item.pose.scale == 1 and item.pose.translation == (0.0, 0.0, 0.0)
    assert iou(silhouette(scene, item), enlarged(mask, None)) > 0.98


class Cancelling(QuietJob):
    """Raises at a chosen step; keeps what was reported."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at, self.steps = at, []

    def step(self, stage: str, step: int, total: int) -> None:
        self.steps.append((step, total))
        if len(self.steps) > self.at:
            raise JobCancelled("Somebody asked for it.")


def test_progress_never_falls_and_every_step_can_cancel() -> None:
    asked = request(np.stack([shape("disc", 64), shape("ring", 64)]), quality="fast")
    whole = Cancelling(99)
    reconstruct(asked, whole)
    numbers = [step for step, _ in whole.steps]
    assert numbers == sorted(numbers) and numbers[0] == 0 and {total for _, total in whole.steps} == {numbers[-1]}
    for at in range(len(numbers)):
        with pytest.raises(JobCancelled):
            reconstruct(asked, Cancelling(at))


def test_presets_are_guessed_with_care() -> None:
    def chosen(mask: np.ndarray, **options: object) -> str:
        return solve(mask, quality="fast", **options).objects[0].info["parameters"]["preset"]

    card = np.zeros((200, 160), bool)
    card[20:180, 20:140] = True
    assert chosen(card) == "slab" and chosen(card, preset="prop") == "prop"
    assert chosen(card[:, ::4][:, :35]) == "prop"  # a plank
    assert chosen(shape("disc")) == chosen(shape("star")) == "prop"
    assert chosen(shape("disc", 48)) == "pixel"
    soft = np.asarray(ndimage.gaussian_filter(shape("disc", 48).astype(float), 0.7) * 255).astype(np.uint8)
    assert chosen(soft >= 128, alpha=soft[None]) == "prop"


def test_explicit_options_win_over_presets_and_presets_over_quality() -> None:
    info = solve(shape("disc"), preset="figure", back="solid", max_thickness=0.1, grid=50, texture_size=300, quality="best").objects[0].info
    p = info["parameters"]
    assert (p["profile"], p["back"], p["max_thickness"], p["grid"], p["texture"]) == ("puffball", "solid", 0.1, 50, 300)
    assert info["facts"]["cells"] == 50


def test_quality_derives_sizes() -> None:
    made = {q: solve(shape("disc"), quality=q).objects[0] for q in ("fast", "standard", "best")}
    faces, splats = ([len(getattr(getattr(o, a), b)) for o in made.values()] for a, b in (("mesh", "faces"), ("splats", "positions")))
    assert faces[0] < faces[1] < faces[2] and splats[0] < splats[2]
    assert [o.info["facts"]["cells"] for o in made.values()] == [64, 96, 160]


# Texture


def test_a_drawn_outline_is_measured_and_leaves_the_front() -> None:
    image, mask = figure_picture()
    found = find_rim(palette(cut(image, mask, None, "it"), 1))
    assert 5 <= found.outline <= 7
    assert find_rim(palette(cut(np.full_like(image, 128), mask, None, "it"), 1)).outline == 0
    edge = mask & (ndimage.distance_transform_edt(mask) < 3.5)
    for rim, dark in (("round", False), ("wall", True)):
        scene = solve(mask, image, rim=rim, preset="prop")
        rows, columns = np.nonzero(edge & (ndimage.distance_transform_edt(mask) > 2))
        colours = front_colours(scene, scene.objects[0], rows, columns)
        assert (np.median(colours[:, 0]) < 60) == dark, rim
    assert (scene.objects[0].mesh.texture[:, -20:] == scene.objects[0].mesh.texture[:, -1:]).mean() > 0.5


def test_nothing_of_the_background_leaks_in() -> None:
    mask = shape("star")
    image = np.where(mask[..., None], np.uint8(200), np.uint8(0)) * np.ones(3, np.uint8)
    for options in (
        {},
        {"rim": "wall"},
        {"back": "contour"},
        {"back": "solid"},
        {"back": "detail"},
        {"profile": "voxel", "back": "contour"},
    ):
        item = solve(mask, image, quality="fast", **options).objects[0]
        uv = np.concatenate([item.mesh.uvs, item.mesh.uvs[item.mesh.faces].mean(1)])
        height, width = item.mesh.texture.shape[:2]
        used = item.mesh.texture[
            np.minimum((uv[:, 1] * height).astype(int), height - 1), np.minimum((uv[:, 0] * width).astype(int), width - 1)
        ]
        assert used.min() > 185, options
        assert item.splats.colors().min() > 0.7, options


def back_colours(scene: Scene) -> np.ndarray:
    """Texture colours of the vertices that look backwards, deep inside, float (N, 3)."""
    mesh = scene.objects[0].mesh
    chosen = mesh.normals[:, 2] < -0.95
    height, width = mesh.texture.shape[:2]
    return mesh.texture[(mesh.uvs[chosen, 1] * height).astype(int), (mesh.uvs[chosen, 0] * width).astype(int)].astype(float)


def test_back_modes() -> None:
    mask = shape("disc")
    image = np.full((*mask.shape, 3), (200, 40, 40), np.uint8)
    image[96:160, 96:160] = (20, 20, 220)  # a mark in the middle of the front
    blue = {
        mode: (back_colours(solve(mask, image, back=mode, preset="prop", quality="fast"))[:, 2] > 128).mean()
        for mode in ("mirror", "contour", "solid")
    }
    assert blue["mirror"] > 0.05 and blue["contour"] == blue["solid"] == 0
    assert np.abs(back_colours(solve(mask, image, back="solid", preset="prop", quality="fast")) - (200, 40, 40)).max() < 6
    behind = np.zeros((64, 64, 4), np.uint8)
    behind[4:60, 4:60] = (0, 250, 0, 255)
    behind[4:60, 32:60] = (250, 250, 0, 255)  # right as seen from behind, so the object's own right is x < 0
    scene = solve(mask, image, back="image", back_image=behind, preset="prop", quality="fast")
    mesh, colours = scene.objects[0].mesh, back_colours(scene)
    x = mesh.vertices[mesh.normals[:, 2] < -0.95, 0]
    assert (colours[x < -0.05, 0] > 200).all() and (colours[x > 0.05, 0] < 50).all()
    wanted = {"mirror": 1, "contour": 2, "solid": 2, "detail": 2}
    sizes = {m: solve(mask, image, back=m, quality="fast", preset="prop").objects[0].mesh.texture.shape for m in wanted}
    assert {m: s[1] // sizes["mirror"][1] for m, s in sizes.items()} == wanted


def test_detail_puts_the_fronts_grain_on_the_back() -> None:
    mask = shape("disc")
    image = np.where(np.indices(mask.shape).sum(0)[..., None] % 8 < 4, np.uint8(100), np.uint8(160)) * np.ones(3, np.uint8)
    smooth, grained = (back_colours(solve(mask, image, back=m, preset="prop", quality="fast")).std() for m in ("contour", "detail"))
    assert grained > smooth + 4


def test_shading_can_be_removed() -> None:
    mask = shape("disc")
    light = np.linspace(90, 250, 256)[:, None, None]
    image = np.broadcast_to(light, (*mask.shape, 3)).astype(np.uint8)
    rows = np.array([70, 186])

    def span(**options: object) -> float:
        scene = solve(mask, image, **options)
        top, bottom = front_colours(scene, scene.objects[0], rows, np.array([128, 128])).mean(1)
        return float(bottom / top)

    assert 1 < span(remove_shading=True) < 0.93 * span()


@pytest.mark.parametrize(("size", "source"), [(256, 400), (700, 400), (4096, 64)])
def test_texture_size_is_exact_where_it_is_given(size: int, source: int) -> None:
    scene = solve(shape("ladder", source), texture_size=size, preset="prop")
    assert max(scene.objects[0].mesh.texture.shape[:2]) == size
    free = solve(shape("ladder", source), preset="prop").objects[0].mesh.texture
    assert max(free.shape[:2]) <= 1024


def test_a_large_picture_is_worked_on_at_the_textures_size() -> None:
    mask = shape("ring", 1500)
    scene = solve(mask, quality="fast")
    item = scene.objects[0]
    assert max(item.mesh.texture.shape[:2]) <= 512
    assert iou(silhouette(scene, item, 1), mask) > 0.98


# Pixel art


def face_colours(mesh: Mesh) -> np.ndarray:
    """uint8 (F, 3): the texture in the middle of each face."""
    height, width = mesh.texture.shape[:2]
    uv = mesh.uvs[mesh.faces].mean(1)
    return mesh.texture[(uv[:, 1] * height).astype(int), (uv[:, 0] * width).astype(int)]


def test_pixel_art_becomes_boxes_with_its_own_colours() -> None:
    image, mask, alpha = SPRITES["pixel_log"]
    scene = solve(mask, image, alpha=alpha[None])
    item = scene.objects[0]
    assert item.info["parameters"]["profile"] == "voxel" and item.mesh.sampler == "nearest"
    assert item.info["facts"]["cells"] == max(np.ptp(np.nonzero(mask), axis=1)) + 1
    mesh = item.mesh
    facing = mesh.normals[mesh.faces[:, 0], 2] > 0.99
    middle = mesh.vertices[mesh.faces[facing]].astype(float).mean(1)
    x = middle[:, 0] / scene.camera.xmag
    pixel = np.floor((x + 1 - scene.camera.pose.translation[0] / scene.camera.xmag) / 2 * mask.shape[1]).astype(int)
    line = np.floor((1 - (middle[:, 1] - scene.camera.pose.translation[1]) / scene.camera.ymag) / 2 * mask.shape[0]).astype(int)
    shown = face_colours(mesh)[facing]
    assert len(pixel) == 2 * mask.sum() and np.array_equal(shown, image[line, pixel])


def test_enlarged_pixel_art_is_recognised() -> None:
    image, mask, alpha = SPRITES["pixel_log"]
    small = solve(mask, image, alpha=alpha[None]).objects[0]
    large = solve(*(a.repeat(9, 0).repeat(9, 1) for a in (mask, image))).objects[0]
    assert large.info["parameters"]["preset"] == "pixel"
    assert np.allclose(small.mesh.vertices, large.mesh.vertices, atol=1e-6)
    assert np.array_equal(face_colours(small.mesh), face_colours(large.mesh))


def test_voxels_of_a_large_sprite_use_the_grid() -> None:
    scene = solve(shape("star"), profile="voxel", grid=40)
    item = scene.objects[0]
    assert item.info["facts"]["cells"] == 40
    assert_closed(item.mesh)
    assert iou(silhouette(scene, item), enlarged(shape("star"), None)) > 0.8


def test_pixel_art_can_be_inflated_too() -> None:
    image, mask, alpha = SPRITES["pixel_campfire"]
    mesh = solve(mask, image, alpha=alpha[None], preset="prop").objects[0].mesh
    assert_closed(mesh)
    assert mesh.sampler == "nearest" and max(mesh.texture.shape) >= 256
    colours = {tuple(c) for c in mesh.texture.reshape(-1, 3)}
    assert colours <= {tuple(c) for c in image[mask]}, "no colour that the sprite doesn't have"


@pytest.mark.parametrize("options", [{"profile": "puffball"}, {"profile": "round", "rim": "wall"}, {"profile": "voxel"}])
def test_vertices_split_at_seams_still_weld(options: dict) -> None:
    mesh = solve(shape("ring"), back="contour", quality="fast", **options).objects[0].mesh
    assert len(welded(mesh).vertices) < len(mesh.vertices)
    assert_closed(mesh)


def test_defaults_of_the_options_are_the_specs() -> None:
    d = DraftOptions()
    assert (d.back_depth, d.relief, d.flatten, d.hole_min, d.keep, d.rim, d.pivot) == (1.0, 0.0, 0.0, 0.0002, "all", "round", "bottom")
    assert picture(shape("disc")).dtype == np.uint8


@pytest.mark.parametrize(("name", "options"), [("steak", {}), ("onion_ring", {"rim": "wall", "back": "contour"}), ("pixel_campfire", {})])
def test_the_written_glb_is_watertight_when_read_again(name: str, options: dict) -> None:
    """Gate 9, through trimesh's own reader."""
    image, mask, alpha = SPRITES[name]
    data = encode(solve(mask, image, alpha=alpha[None], **options), ("glb",))["model.glb"]
    (body,) = trimesh.load(io.BytesIO(data), file_type="glb", process=False).geometry.values()
    body.merge_vertices(merge_tex=True, merge_norm=True)
    assert body.is_watertight and body.is_winding_consistent and body.volume > 0
