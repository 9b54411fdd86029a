"""Stage 2's parts beyond the goldens: official keys, mixed precision, empty sets, batches, orders, splats and their files; all on the CPU, tiny."""

from __future__ import annotations

import itertools
import json

import pytest

torch = pytest.importorskip("torch", reason="the layer `model` isn't installed: python sam3d.py test adds it")

import numpy as np  # noqa: E402
from comfyui_sam3d.contract.errors import SetupError  # noqa: E402
from comfyui_sam3d.contract.request import ExportOptions  # noqa: E402
from comfyui_sam3d.contract.scene import Scene, SceneObject  # noqa: E402
from comfyui_sam3d.worker.geometry import encode  # noqa: E402
from comfyui_sam3d.worker.geometry.files.splat_ply import ply_of_rows, read_splat_ply, splat_ply  # noqa: E402
from comfyui_sam3d.worker.geometry.frames import CANONICAL_TO_OBJECT, move_mesh, move_splats  # noqa: E402
from comfyui_sam3d.worker.ops.neighbours import child_table, neighbour_table  # noqa: E402
from comfyui_sam3d.worker.ops.sparse_conv import submanifold_conv3  # noqa: E402
from comfyui_sam3d.worker.ops.window_attention import group_rows, grouped_attention, window_ids  # noqa: E402
from comfyui_sam3d.worker.sam3d import checkpoint, decoded, latents  # noqa: E402
from comfyui_sam3d.worker.sam3d.architecture import Architecture, Part, mix_precision  # noqa: E402
from comfyui_sam3d.worker.sam3d.gaussians import COLUMNS, KERNEL, Gaussians, from_records  # noqa: E402
from comfyui_sam3d.worker.sam3d.latent_flow import LatentFlow  # noqa: E402
from comfyui_sam3d.worker.sam3d.mesh_decoder import MeshDecoder  # noqa: E402
from comfyui_sam3d.worker.sam3d.pose import DecodedPose  # noqa: E402
from comfyui_sam3d.worker.sam3d.sampler import SamplerOptions  # noqa: E402
from comfyui_sam3d.worker.sam3d.scene_merge import make_scene, normalise_scene  # noqa: E402
from comfyui_sam3d.worker.sam3d.sparse import SparseGroupNorm, Voxels, pool, subdivide, unpool  # noqa: E402
from comfyui_sam3d.worker.sam3d.splat_decoder import SplatDecoder  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from golden import replay  # noqa: E402
from golden import stage2 as golden_stage2  # noqa: E402
from voxel_shapes import randomised, scattered, source  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


def small_flow() -> LatentFlow:
    return LatentFlow(width=48, context=24, blocks=2, heads=3, io_channels=(16,))


def small_splats() -> SplatDecoder:
    return SplatDecoder(4, width=48, blocks=2, heads=3, window=4, resolution=8)


def small_mesh() -> MeshDecoder:
    return MeshDecoder(width=256, blocks=2, heads=4, mlp_ratio=0.25, window=4, resolution=8)


# -- the official files


def official() -> dict[str, dict[str, tuple[list[int], str]]]:
    lists = [path for path in replay.files(".json") if path.name == "state_keys.json"]
    if not lists:
        pytest.skip("no golden vectors on this machine")
    return json.loads(lists[0].read_text())


PARTS = {name: part for name, part in Architecture().parts().items() if part.stem.startswith("slat_")}


@pytest.mark.parametrize("name", PARTS)
def test_full_size_keys_shapes_and_precision(name: str) -> None:
    part = PARTS[name]
    listed = {"latent_flow": "slat_generator.flow", "latent_embedder": "slat_generator.condition_embedder"}.get(name, part.stem)
    [wanted] = [keys for title, keys in official().items() if title.split(" ")[0] == listed]
    with torch.device("meta"):
        module = part.build()
        state = (part.to_precision(module, torch.float16) if part.mixed else module).state_dict()
    have = {key: [list(tensor.shape), str(tensor.dtype).removeprefix("torch.")] for key, tensor in state.items()}
    assert {key: entry for key, entry in have.items() if not key.startswith("module_list.")} == wanted


def test_the_generator_file_holds_exactly_these_numbers() -> None:
    with torch.device("meta"):
        states = [part.build().state_dict() for part in PARTS.values() if part.stem == "slat_generator"]
    assert sum(len(state) for state in states) == 1225
    assert sum(tensor.numel() for state in states for tensor in state.values()) == 1_226_486_664


@pytest.mark.parametrize("build", [small_flow, small_splats, small_mesh])
def test_a_mixed_file_stays_mixed_and_a_wrong_one_is_refused(tmp_path, build) -> None:
    part = Part("file", "a.b.", build, mixed=True)
    load = lambda: checkpoint.load(part.build, checkpoint.find(tmp_path, part.stem), part.prefix)  # noqa: E731
    state = {f"a.b.{key}": value.contiguous() for key, value in mix_precision(randomised(build())).state_dict().items()}
    assert {value.dtype for value in state.values()} == {torch.float16, torch.float32}
    save_file(state | {"other": torch.zeros(1)}, tmp_path / "file.safetensors")
    loaded = load().state_dict()
    assert all(loaded[key.removeprefix("a.b.")].dtype == value.dtype for key, value in state.items())
    assert all(torch.equal(loaded[key.removeprefix("a.b.")], value) for key, value in state.items())
    assert {value.dtype for value in part.to_precision(load(), torch.float32).state_dict().values()} == {torch.float32}
    del state["a.b.input_layer.bias"]
    save_file(state, tmp_path / "file.safetensors")
    with pytest.raises(SetupError, match=r"input_layer\.bias"):
        load()


def test_mixed_networks_run_in_half_and_answer_in_float32() -> None:
    voxels, draw = Voxels(scattered(8, 0.2)), source(3)
    x, tokens = torch.randn(len(voxels), 8, generator=draw), torch.randn(1, 5, 24, generator=draw)
    for build, call in (
        (small_flow, lambda m: m(x, torch.tensor([320.0]), tokens, voxels)),
        (small_splats, lambda m: m(x, voxels)[0].scaling),
        (small_mesh, lambda m: m.features(x, voxels)),
    ):
        model = randomised(build())
        exact, half = call(model), call(mix_precision(model))
        assert half.dtype == torch.float32 and not torch.equal(half, exact)
        assert (half - exact).abs().max() < 0.02 * exact.abs().max()


def test_cube_features_come_out_in_pieces(monkeypatch) -> None:
    model, voxels = randomised(small_mesh()), Voxels(scattered(8, 0.1))
    x = torch.randn(len(voxels), 8, generator=source(3))
    whole = model.features(x, voxels)
    monkeypatch.setattr("comfyui_sam3d.worker.sam3d.mesh_decoder._ROWS", 100)
    assert torch.allclose(model.features(x, voxels), whole, atol=1e-5)


def test_the_released_settings() -> None:
    """stage2.md 1.3, 5 and 6: steps, guidance and its interval; four inputs, tokens from before the encoders' last norm."""
    released = latents.RELEASED
    assert (released.steps, released.rescale, released.guidance, released.interval) == (25, 1.0, 1.0, (0.0, 500.0))
    with torch.device("meta"):
        fuser = PARTS["latent_embedder"].build()
    assert [encoder.prenorm for encoder in fuser.module_list] == [True, True] and fuser.width == 1024
    assert fuser.routes == [("image", 0, 0), ("rgb_image", 0, 1), ("mask", 1, 0), ("rgb_image_mask", 1, 1)]


# -- operations


def test_neighbours_by_search_and_by_arithmetic() -> None:
    coords = torch.cat([scattered(6, 0.4, 1), scattered(5, 0.5, 2, batch=1), scattered(6, 0.1, 3, batch=3)])
    table = neighbour_table(coords)
    rows = {tuple(row): index for index, row in enumerate(coords.tolist())}
    for row, (b, x, y, z) in enumerate(coords.tolist()):
        offsets = itertools.product((-1, 0, 1), repeat=3)
        assert table[row].tolist() == [rows.get((b, x + i, y + j, z + k), -1) for i, j, k in offsets]
    voxels = Voxels(coords)
    assert torch.equal(child_table(table), neighbour_table(voxels.fine.coords))
    assert torch.equal(voxels.fine.fine.neighbours, neighbour_table(voxels.fine.fine.coords))
    mixed = torch.randperm(len(coords), generator=source())  # rows in any order
    back = torch.cat([mixed, torch.tensor([-1])])
    there = neighbour_table(coords[mixed])
    assert torch.equal(back[there.long()].int(), table[mixed])


def test_convolution_is_the_dense_one_at_the_active_sites() -> None:
    coords, draw = scattered(7, 0.3, 4), source(5)
    x, weight, bias = (torch.randn(*shape, generator=draw) for shape in ((len(coords), 5), (6, 3, 3, 3, 5), (6,)))
    grid = torch.zeros(1, 5, 7, 7, 7)
    i, j, k = coords[:, 1:].long().unbind(1)
    grid[0, :, i, j, k] = x.t()
    dense = torch.nn.functional.conv3d(grid, weight.permute(0, 4, 1, 2, 3), bias, padding=1)[0, :, i, j, k].t()
    table = neighbour_table(coords)
    assert torch.allclose(submanifold_conv3(x, table, weight, bias), dense, atol=1e-5)
    assert torch.allclose(submanifold_conv3(x, table, weight, bias, chunk=7), dense, atol=1e-5)


@pytest.mark.parametrize("shift", [0, 4])
def test_window_attention_is_masked_attention(shift: int) -> None:
    coords, draw = torch.cat([scattered(20, 0.05, 6), scattered(20, 0.02, 7, batch=1)]), source(8)
    q, k, v = torch.randn(3, len(coords), 2, 8, generator=draw).unbind(0)
    windows = torch.cat([coords[:, :1], (coords[:, 1:] + shift) // 8], dim=1)
    same = (windows[:, None] == windows[None]).all(-1)
    wanted = torch.nn.functional.scaled_dot_product_attention(*(t.transpose(0, 1) for t in (q, k, v)), attn_mask=same).transpose(0, 1)
    groups = group_rows(window_ids(coords, 8, shift))
    assert torch.allclose(grouped_attention(q, k, v, groups), wanted.flatten(1), atol=1e-5)
    padded = sum(rows.numel() for rows, _ in groups.buckets)
    assert len(coords) <= padded < 2 * len(coords)


def test_coarse_rows_are_ordered_and_pooling_counts_one_more() -> None:
    voxels = Voxels(torch.cat([scattered(9, 0.3, 1), scattered(7, 0.2, 2, batch=1)]))
    parents = voxels.coords // torch.tensor([1, 2, 2, 2])
    assert torch.equal(voxels.coarse.coords, parents.unique(dim=0).int()) and torch.equal(
        voxels.coarse.coords[voxels.parent], parents.int()
    )
    ones = pool(torch.ones(len(voxels), 1), voxels)
    children = torch.bincount(voxels.parent)[:, None]
    assert torch.allclose(ones, children / (children + 1))
    large = 2048 + torch.arange(len(voxels))[:, None] % 5.0 * 2  # sums that half precision can't hold
    assert torch.equal(pool(large.half(), voxels), pool(large, voxels).half())
    assert torch.equal(unpool(ones, voxels), ones[voxels.parent])
    assert torch.equal(voxels.fine.coarse.coords, voxels.coords) and torch.allclose(pool(subdivide(ones), voxels.coarse.fine), ones * 8 / 9)


def test_group_norm_is_each_objects_own() -> None:
    voxels = Voxels(torch.cat([scattered(4, 0.5, 1), scattered(4, 0.3, 2, batch=1)]), batch=3)
    norm, x = randomised(SparseGroupNorm(64)), torch.randn(len(voxels), 64, generator=source()) * 3 + 5
    for rows in voxels.slices[:2]:
        wanted = torch.nn.functional.group_norm(x[rows].t()[None], 32, norm.weight, norm.bias, 1e-5)[0].t()
        assert torch.allclose(norm(x, voxels)[rows], wanted, atol=1e-5)


def test_voxels_of_objects_mixed_up_are_refused() -> None:
    coords = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1], [0, 2, 2, 2]], dtype=torch.int32)
    with pytest.raises(ValueError, match="object by object"):
        Voxels(coords)
    with pytest.raises(ValueError, match="object by object"):
        Voxels(coords[:2], batch=1)


# -- batches and empty sets


def test_objects_packed_together_come_out_as_alone() -> None:
    """Four objects, of which the second and the last have no voxel, through all three networks in one call each."""
    sets, draw = {0: scattered(8, 0.3, 1), 2: scattered(8, 0.1, 2, batch=2)}, source(9)
    together = Voxels(torch.cat(list(sets.values())), batch=4)
    x, tokens = torch.randn(len(together), 8, generator=draw), torch.randn(4, 7, 24, generator=draw)
    flow, splats, mesh = randomised(small_flow()), randomised(small_splats()), randomised(small_mesh())
    options, calls = SamplerOptions(4, 1.0, 1.0), []
    flow.register_forward_hook(lambda *_: calls.append(1))
    sampled = latents.sample_latents(flow, tokens, x, together, options, plain=True)
    assert len(calls) == 4 + 3  # at t = 0, 250 and 500 a second, unconditional one
    all_splats, all_meshes = splats(x, together), mesh(x, together)
    for index, coords in sets.items():
        rows, alone = together.slices[index], Voxels(coords * torch.tensor([0, 1, 1, 1], dtype=torch.int32))
        one = latents.sample_latents(flow, tokens[index : index + 1], x[rows], alone, options, plain=True)
        assert torch.allclose(sampled[rows], one, atol=1e-4)
        [lone], [surface] = splats(x[rows], alone), mesh(x[rows], alone)
        assert torch.allclose(all_splats[index].records(), lone.records(), atol=1e-4)
        assert torch.equal(all_meshes[index].faces, surface.faces) and len(surface.faces) > 1000
        assert torch.allclose(all_meshes[index].vertices, surface.vertices, atol=1e-4)
    assert [len(found) for found in all_splats] == [4 * count for count in together.counts]
    assert all(len(all_meshes[index].vertices) == len(all_meshes[index].faces) == 0 for index in (1, 3))


def test_a_deeper_u_shape() -> None:
    """Two convolutional levels with three blocks each: rows come back in their order, and batches still don't touch."""
    sets, draw = [scattered(8, 0.2, 1), scattered(8, 0.1, 2, batch=1)], source(9)
    model = randomised(LatentFlow(width=48, context=24, blocks=1, heads=3, io_channels=(16, 24), io_blocks=3))
    together = Voxels(torch.cat(sets))
    x, tokens, t = torch.randn(len(together), 8, generator=draw), torch.randn(2, 7, 24, generator=draw), torch.tensor([100.0])
    packed = model(x, t, tokens, together)
    rows = together.slices[1]
    alone = model(x[rows], t, tokens[1:], Voxels(sets[1] - torch.tensor([1, 0, 0, 0], dtype=torch.int32)))
    assert torch.allclose(packed[rows], alone, atol=1e-4)


def test_no_voxels_at_all() -> None:
    none = Voxels(torch.zeros(0, 4, dtype=torch.int32))
    x = torch.zeros(0, 8)
    assert none.batch == 1 and len(none.coarse) == len(none.fine.fine) == 0
    assert randomised(small_flow())(x, torch.tensor([10.0]), torch.zeros(1, 3, 24), none).shape == (0, 8)
    [splats], [surface] = randomised(small_splats())(x, none), randomised(small_mesh())(x, none)
    assert splats.records().shape == (0, 17) and surface.vertices.shape == (0, 3) and surface.faces.shape == (0, 3)
    assert surface.attributes.shape == (0, 6) and len(normalise_scene(splats)) == 0
    assert len(from_records(splats.records())) == 0


# -- splats


def splats(count: int, seed: int = 0) -> Gaussians:
    draw = source(seed)
    return Gaussians(
        torch.rand(count, 3, generator=draw), torch.randn(count, 1, 3, generator=draw), torch.randn(count, 3, generator=draw),
        torch.randn(count, 4, generator=draw) * 0.1, torch.randn(count, 1, generator=draw) + 4,
    )  # fmt: skip


def test_scales_on_the_kernels_floor_survive_a_file() -> None:
    flat = splats(6)
    flat.scaling[:] = -12.0
    back = from_records(flat.records())
    assert torch.isfinite(back.scales()).all() and torch.allclose(back.scales(), torch.full((6, 3), KERNEL), rtol=1e-4)


def test_blocks_leave_no_seam(monkeypatch) -> None:
    """Turned, activated and written in blocks of rows: the same bytes whatever a block's size, with broken rows among them."""
    from comfyui_sam3d.worker.geometry import frames
    from comfyui_sam3d.worker.geometry.files import splat_ply as writer
    from comfyui_sam3d.worker.sam3d import gaussians

    raw = splats(23)
    raw.opacity[5], raw.xyz[11] = float("nan"), float("inf")
    made = []
    for size in (1 << 13, 23, 7, 1):
        for module, name in ((frames, "_BLOCK"), (writer, "_BLOCK"), (gaussians, "BLOCK")):
            monkeypatch.setattr(module, name, size)
        turned = move_splats(decoded.splats_of(raw), frames.P3D_TO_SCENE @ CANONICAL_TO_OBJECT, 1.7, (0.1, 0.2, 0.3))
        made.append((ply_of_rows(raw.records().numpy()), bytes(splat_ply(turned))))
    assert made[1:] == made[:1] * 3
    assert ply_of_rows(np.asfortranarray(raw.records().numpy().astype(">f8"))) == made[0][0]  # however the numbers stand in memory
    assert [len(file) for file in made[0]] == [file.index(b"end_header\n") + 11 + 68 * rows for file, rows in zip(made[0], (23, 21))]


def test_a_file_is_in_memory_once() -> None:
    import tracemalloc

    values = decoded.splats_of(splats(60000))
    rows = splats(60000).records().numpy()
    for write in (lambda: splat_ply(values), lambda: ply_of_rows(rows)):
        tracemalloc.start()
        size = len(write())
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1.5 * size


def test_our_file_by_an_independent_reader() -> None:
    """Positions as they are, logits, logs, unit quaternions: worked out from the raw attributes in float64."""
    import io

    from plyfile import PlyData

    raw = splats(500)
    data = splat_ply(decoded.splats_of(raw))
    read = PlyData.read(io.BytesIO(data))
    assert not read.text and read.byte_order == "<" and [element.name for element in read] == ["vertex"]
    rows = read["vertex"]
    assert tuple(p.name for p in rows.properties) == COLUMNS and {p.val_dtype for p in rows.properties} == {"f4"}
    table = np.stack([rows[column] for column in COLUMNS], axis=1).astype(float)
    xyz, dc, scaling, rotation, logit = (part.double().numpy().reshape(500, -1) for part in
                                         (raw.xyz, raw.features_dc, raw.scaling, raw.rotation, raw.opacity))  # fmt: skip
    np.testing.assert_allclose(table[:, 0:3], xyz - 0.5, atol=1e-6)
    assert not table[:, 3:6].any()
    np.testing.assert_allclose(table[:, 6:9], dc, atol=1e-6)
    sure = np.abs(logit[:, 0]) < 6
    np.testing.assert_allclose(table[sure, 9], logit[sure, 0] + np.log(0.1 / 0.9), atol=1e-4)
    soft = np.log1p(np.exp(scaling + np.log(np.expm1(0.004))))
    np.testing.assert_allclose(table[:, 10:13], np.log(np.hypot(soft, 9e-4)), atol=1e-5)
    turns = rotation + np.array([1, 0, 0, 0])
    np.testing.assert_allclose(table[:, 13:17], turns / np.linalg.norm(turns, axis=1, keepdims=True), atol=1e-6)
    np.testing.assert_allclose(raw.records()[:, 9:].numpy()[:, 4:], turns, atol=1e-6)
    np.testing.assert_allclose(raw.records().numpy()[:, :13][sure], table[sure, :13], atol=1e-4)


PLYS = [
    path
    for path in replay.files(".ply")
    if (beside := path.with_suffix(".safetensors")).is_file() and replay.kind_of(beside) in golden_stage2.KINDS
]


@pytest.mark.parametrize("path", PLYS, ids=lambda path: path.stem)
def test_ply_files_are_the_originals(path) -> None:
    """The same header and length to the byte, the same columns; read by a library that isn't ours."""
    from plyfile import PlyData

    file = golden_stage2.read(path.with_suffix(".safetensors"))
    name = "out.scene" if "out.scene._xyz" in file.wanted else "out.0" if "out.0._xyz" in file.wanted else None
    if name is None:
        made = golden_stage2.gaussian_ply_io(file)["out.ply_table"]
    else:
        raw = (file.wanted[f"{name}._{part}"] for part in ("xyz", "features_dc", "scaling", "rotation", "opacity"))
        made = Gaussians(*raw, kernel=file.meta.get("scene_min_kernel", KERNEL)).records()
    wanted, ours = path.read_bytes(), ply_of_rows(made.numpy())
    end = wanted.index(b"end_header\n")
    assert len(ours) == len(wanted) and ours[:end] == wanted[:end]
    theirs = PlyData.read(str(path))["vertex"]
    assert tuple(p.name for p in theirs.properties) == COLUMNS
    table = np.stack([theirs[column] for column in COLUMNS], axis=1)
    sound = np.isfinite(table).all(1) & (np.abs(table[:, 9]) < 9)
    assert sound.sum() > 30
    np.testing.assert_allclose(made.numpy()[sound], table[sound], atol=1e-5 if name != "out.scene" else 1e-4)
    assert ply_of_rows(made.numpy()[:0]).endswith(b"end_header\n")
    read = read_splat_ply(ours)
    np.testing.assert_allclose(read.scales, np.exp(table[:, 10:13]), rtol=1e-4)


def test_scenes_without_solid_splats_or_extent_are_finite() -> None:
    one = torch.tensor([[1.0, 0.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 2.0]]), torch.tensor([[0.5, 0.5, 0.5]])
    pose = DecodedPose(rotation=one[0], translation=one[1], scale=one[2])
    faint = splats(20)
    faint.opacity[:] = 0.0
    for given in (faint, splats(1)):
        scene = normalise_scene(make_scene([(given, pose)]))
        assert torch.isfinite(scene.records()).all()
        assert scene.positions().abs().max() <= 0.5 + 1e-5


# -- the whole way


def test_from_coordinates_to_glb_and_ply() -> None:
    """Two objects, tiny networks; both files read by libraries that aren't ours: frames, faces, colours, and mesh and splats in the same place."""
    import io

    import pygltflib
    import trimesh
    from plyfile import PlyData

    voxels, draw = Voxels(torch.cat([scattered(8, 0.1, 1), scattered(8, 0.06, 2, batch=1)])), source(4)
    tokens, noise = torch.randn(2, 7, 24, generator=draw), torch.randn(len(voxels), 8, generator=draw)
    sampled = latents.denormalise(latents.sample_latents(randomised(small_flow()), tokens, noise, voxels, SamplerOptions(3, 1.0, 1.0)))
    all_splats, all_meshes = randomised(small_splats())(sampled, voxels), randomised(small_mesh())(sampled, voxels)
    for count, gaussians, surface in zip(voxels.counts, all_splats, all_meshes):
        splats = move_splats(decoded.splats_of(gaussians), CANONICAL_TO_OBJECT)
        mesh = move_mesh(decoded.mesh_of(surface), CANONICAL_TO_OBJECT)
        files = encode(Scene((SceneObject("thing", mesh, splats),), "sam3d"), ("glb", "ply"), ExportOptions(ply_frame="z_up"))
        read = trimesh.load(io.BytesIO(files["model.glb"]), file_type="glb", process=False).to_geometry()
        np.testing.assert_array_equal(read.faces, surface.faces)
        assert len(read.faces) > 1000
        turned = surface.vertices[:, [0, 2, 1]] * torch.tensor([1.0, 1.0, -1.0])
        np.testing.assert_allclose(read.vertices, turned, atol=1e-6)
        root = pygltflib.GLTF2().load_from_bytes(files["model.glb"])
        accessor = root.accessors[root.meshes[0].primitives[0].attributes.COLOR_0]
        assert (accessor.componentType, accessor.type, accessor.normalized) == (pygltflib.UNSIGNED_SHORT, "VEC4", True)
        place = root.bufferViews[accessor.bufferView].byteOffset + (accessor.byteOffset or 0)
        light = np.frombuffer(root.binary_blob(), "<u2", 4 * accessor.count, place).reshape(-1, 4) / 65535  # linear, as glTF has it
        shown = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
        np.testing.assert_allclose(shown[:, :3], surface.attributes[:, :3], atol=0.5 / 255 + 1e-4)
        assert (light[:, 3] == 1).all() and float(surface.attributes[:, :3].std()) > 0.05

        rows = PlyData.read(io.BytesIO(files["splat.ply"]))["vertex"]  # told to use the original's frame: its columns
        ours, theirs = np.stack([rows[column] for column in COLUMNS], axis=1), gaussians.records().numpy()
        assert len(rows) == 4 * count
        theirs[:, 13:] /= np.linalg.norm(theirs[:, 13:], axis=1, keepdims=True)
        ours[:, 13:] *= np.sign((ours[:, 13:] * theirs[:, 13:]).sum(axis=1, keepdims=True))
        sure = np.abs(theirs[:, 9]) < 5
        np.testing.assert_allclose(ours[sure], theirs[sure], atol=1e-5)
        assert sure.mean() > 0.5
        assert abs(read.bounds[:, 1].mean() - float(gaussians.positions()[:, 2].mean())) < 0.1
