"""Stage 2 at full size with random weights on a CUDA device: each part beside its limit, its floor and its plain twin.

    python3 benchmarks/gpu_stage2.py      from the root of the checkout; needs torch, no _env, no network

Voxels lie on an ellipsoid shell in the 64^3 grid. Random weights are real work for speed and memory; they say nothing about what the released model makes.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from _pack import mount, table

mount()

from comfyui_sam3d.worker.ops.attention import fused_attention  # noqa: E402
from comfyui_sam3d.worker.ops.backends import available, force  # noqa: E402
from comfyui_sam3d.worker.ops.packed_attention import Lengths, packed_attention  # noqa: E402
from comfyui_sam3d.worker.ops.sparse_conv import subdivided_conv3, submanifold_conv3  # noqa: E402
from comfyui_sam3d.worker.ops.window_attention import grouped_attention  # noqa: E402
from comfyui_sam3d.worker.sam3d.architecture import Architecture, mix_precision  # noqa: E402
from comfyui_sam3d.worker.sam3d.flexicubes import CORNERS, SDF, Surface, extract_surface  # noqa: E402
from comfyui_sam3d.worker.sam3d.gaussians import Gaussians  # noqa: E402
from comfyui_sam3d.worker.sam3d.latent_flow_cached import CachedLatentFlow, Grid  # noqa: E402
from comfyui_sam3d.worker.sam3d.latents import RELEASED, Step, sample_latents  # noqa: E402
from comfyui_sam3d.worker.sam3d.sparse import Voxels  # noqa: E402

from gpu_stage1 import randomise, timed  # noqa: E402

PARTS = Architecture().parts()
TOKENS, WIDTH, SIDE = 5496, 1024, 64
LIMITS = {"flow": "900 ms", "splats": "25 ms", "mesh": "55 ms", "cubes": "12 ms"}  # at 20,000 voxels


def shell(count: int) -> torch.Tensor:
    """int32 (about `count`, 4): the voxels nearest to an ellipsoid's surface, lexicographically sorted."""
    axis = torch.arange(SIDE, device="cuda", dtype=torch.float32) - (SIDE - 1) / 2
    x, y, z = torch.meshgrid(axis / 30, axis / 26, axis / 28, indexing="ij")
    distance = ((x * x + y * y + z * z).sqrt() - 1).abs().flatten()
    chosen = distance.topk(count, largest=False).indices.sort().values
    cells = torch.stack([chosen // SIDE**2, chosen // SIDE % SIDE, chosen % SIDE], dim=1)
    return torch.cat([torch.zeros_like(cells[:, :1]), cells], dim=1).int()


def measured(call: Callable[[], object], repeat: int = 3) -> str:
    """Median time and the peak of memory beyond what was held before."""
    call()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    spent = timed(call, repeat)
    return f"{spent:.1f} ms, {(torch.cuda.max_memory_allocated() - before) / 1e9:.2f} GB"


@torch.inference_mode()
def main() -> None:
    if not torch.cuda.is_available():
        sys.exit("This benchmark needs a CUDA device; this machine has none that torch can use.")
    rows: list[tuple[str, str, str]] = []
    for count in (8000, 20000):
        coords, latents = shell(count), torch.randn(count, 8, device="cuda")
        limits = LIMITS if count == 20000 else dict.fromkeys(LIMITS, "")
        for part in (flow, splats, mesh, cubes):
            rows += [(f"{count} voxels: {what}", figure, limits.get(key, key)) for what, figure, key in part(Voxels(coords), latents)]
            torch.cuda.empty_cache()
    table(rows, "Stage 2, full size, random weights, float16 torso")


def build(name: str) -> torch.nn.Module:
    with torch.device("cuda"):
        return mix_precision(randomise(PARTS[name].build(), 0))


def flow(voxels: Voxels, noise: torch.Tensor) -> list[tuple[str, str, str]]:
    context = torch.randn(1, TOKENS, WIDTH, device="cuda", dtype=torch.float16)
    with torch.device("cuda"):
        network = randomise(PARTS["latent_flow"].build(), 0)
    wanted = sample_latents(network, context, noise, voxels, RELEASED, plain=True)
    rows = [("neighbour table", measured(lambda: Voxels(voxels.coords).neighbours), "")]
    mix_precision(network)
    time = torch.tensor([300.0], device="cuda")
    rows.append(("latent flow, plain twin, one evaluation", measured(lambda: network(noise, time, context, voxels)), ""))
    torch.cuda.empty_cache()
    cached = CachedLatentFlow(network)
    modulation = cached.modulation(RELEASED)
    steps = {way: Step(cached, context, noise, voxels, 1.0, way == "graph") for way in ("eager", "graph")}
    for guided, what in ((False, "conditional evaluation"), (True, "guided pair")):
        for way, step in steps.items():
            step.run(modulation[3], 0.0, guided, more=9)
            spent = timed(lambda step=step, guided=guided: step.run(modulation[3], 0.0, guided), 10)
            rows.append((f"latent flow, {what}, {way}", f"{spent:.1f} ms, floor {flow_floor(voxels, guided):.1f}", ""))
    spent = timed(lambda: (cached.prepare(context), Grid(Voxels(voxels.coords), network)), 3)
    rows.append(("keys, values and tables", f"{spent:.1f} ms", ""))
    steps.clear()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated() + 24 * TOKENS * 2 * WIDTH * 2  # with the keys and values
    torch.cuda.reset_peak_memory_stats()
    found = sample_latents(cached, context, noise, voxels, RELEASED)
    spent = timed(lambda: sample_latents(cached, context, noise, Voxels(voxels.coords), RELEASED), 3)
    peak = (torch.cuda.max_memory_allocated() - before) / 1e9
    bound = 13 * flow_floor(voxels, True) + 12 * flow_floor(voxels, False)
    rows.append(("25 steps, guidance 1 (38 evaluations)", f"{spent:.0f} ms, floor {bound:.0f}", "flow"))
    rows.append(("peak memory of it beyond weights, keys and values", f"{peak:.2f} GB", "1.7 GB"))
    eager = timed(lambda: sample_latents(cached, context, noise, Voxels(voxels.coords), RELEASED, graphs=False), 3)
    rows.append(("the same without graphs", f"{eager:.0f} ms", ""))
    rows.append(("relative L2 of the latents to the float32 twin", f"{float((found - wanted).norm() / wanted.norm()):.1e}", "1e-2"))
    again = sample_latents(cached, context, noise, voxels, RELEASED)
    rows.append(("same noise twice, same numbers", str(torch.equal(found, again)), "True"))
    rows.append(attention(len(voxels.coarse)))
    return rows + packed(cached) if len(voxels) < 10000 else rows


def attention(count: int) -> tuple[str, str, str]:
    """The transformer's two attentions alone, by both backends."""
    qkv, tokens = (torch.randn(size, parts, 16, 64, device="cuda").half() for size, parts in ((2 * count, 3), (TOKENS, 2)))
    one, two, keys = (Lengths.of(each, qkv.device) for each in ([count], [count, count], [TOKENS]))
    calls = {
        "self": lambda: packed_attention(*qkv[:count].unbind(1), one, one),
        "two passes": lambda: packed_attention(*qkv.unbind(1), two, two),
        "cross": lambda: packed_attention(qkv[:count, 0], *tokens.unbind(1), one, keys),
    }
    names = available(qkv.device)["packed_attention"]
    with fused_attention(qkv.device):
        return f"attention: {', '.join(calls)}", "; ".join(by_backend(call, names) for call in calls.values()) + " ms", ""


def packed(flow: CachedLatentFlow, objects: int = 8) -> list[tuple[str, str, str]]:
    """Objects of different size in one batch against one by one."""
    sets = [shell(8000 - 500 * index) for index in range(objects)]
    together = torch.cat([cells + cells.new_tensor([index, 0, 0, 0]) for index, cells in enumerate(sets)])
    noise, context = torch.randn(len(together), 8, device="cuda"), torch.randn(objects, TOKENS, WIDTH, device="cuda").half()
    parts = noise.split([len(cells) for cells in sets])

    def alone() -> list[torch.Tensor]:
        return [sample_latents(flow, context[i : i + 1], parts[i], Voxels(sets[i]), RELEASED) for i in range(objects)]

    def batch() -> torch.Tensor:
        return sample_latents(flow, context, noise, Voxels(together), RELEASED)

    one, all_ = torch.cat(alone()), batch()
    figure = f"{timed(batch, 1):.0f} ms, one by one {timed(alone, 1):.0f} ms"
    difference = f"{float((all_ - one).abs().max()):.1e}, relative L2 {float((all_ - one).norm() / one.norm()):.1e}"
    return [(f"{objects} objects packed", figure, ""), ("packed against one by one, largest difference", difference, "1e-3")]


def flow_floor(voxels: Voxels, guided: bool) -> float:
    """Milliseconds at 600 TFLOP/s of a conditional evaluation, or of a guided pair: products and attention, only of neighbours that are there."""
    rows, pairs, coarse = len(voxels.coarse), int((voxels.neighbours >= 0).sum()), int((voxels.coarse.neighbours >= 0).sum())
    enter = 2 * 2 * pairs * 128**2 + 2 * coarse * (128 + WIDTH) * WIDTH
    attention = 2 * rows * 4 * WIDTH**2 + 4 * rows**2 * WIDTH
    cross, feed = 2 * rows * 2 * WIDTH**2 + 4 * rows * TOKENS * WIDTH, 2 * rows * 8 * WIDTH**2
    leave = 2 * rows * 27 * 2 * WIDTH * 128 + 2 * pairs * (128 + 256 + 128) * 128
    total = enter + 24 * (attention + cross + feed) + leave
    return (total + (23 * attention + 24 * feed + leave if guided else 0)) / 600e9


def splats(voxels: Voxels, latents: torch.Tensor) -> list[tuple[str, str, str]]:
    decoder, floor = build("splats"), torso_floor(voxels)
    rows = [("splat decoder", f"{measured(lambda: decoder(latents, voxels), 7)}, floor {floor:.1f} ms", "splats")]
    rows.append(("splat decoder, windows and positions made anew", measured(lambda: decoder(latents, Voxels(voxels.coords))), ""))
    for backend, what in (("varlen", "attention by varlen"), ("torch", "plain twins")):
        with force(backend):
            rows.append((f"splat decoder, {what}", measured(lambda: decoder(latents, voxels)), ""))
    return [*rows, against_twin("splat decoder", lambda network: raw(network(latents, voxels)[0]), decoder), *operations(voxels)]


def mesh(voxels: Voxels, latents: torch.Tensor) -> list[tuple[str, str, str]]:
    decoder, floor = build("mesh"), torso_floor(voxels) + upsample_floor(voxels)
    rows = [("mesh decoder network", f"{measured(lambda: decoder.features(latents, voxels), 7)}, floor {floor:.1f} ms", "mesh")]
    rows.append(("mesh decoder network, tables made anew", measured(lambda: decoder.features(latents, Voxels(voxels.coords))), ""))
    with force("torch"):
        rows.append(("mesh decoder network, plain twins", measured(lambda: decoder.features(latents, voxels)), ""))
    return [*rows, against_twin("mesh decoder", lambda network: network.features(latents, voxels), decoder)]


def raw(splats: Gaussians) -> torch.Tensor:
    """All that the network gave, one row for each splat."""
    return torch.cat([splats.xyz, splats.features_dc[:, 0], splats.scaling, splats.rotation, splats.opacity], dim=1)


def against_twin(what: str, call: Callable[[torch.nn.Module], torch.Tensor], decoder: torch.nn.Module) -> tuple[str, str, str]:
    found = call(decoder)
    with force("torch"):
        wanted = call(copy.deepcopy(decoder).float())
    return f"{what}, relative L2 to the float32 twin", f"{float((found - wanted).norm() / wanted.norm()):.1e}", "1e-2"


def operations(voxels: Voxels) -> list[tuple[str, str, str]]:
    """The operations on voxels at the sizes of the released networks, float16, by each backend that is here."""
    rows = []
    fine, finest = voxels.fine, voxels.fine.fine
    shapes = (  # input channels, output channels, the rows' set, after a subdivision
        (128, 128, voxels, False), (128, 1024, voxels.coarse, False), (1024, 1024, voxels.coarse, False),
        (768, 192, voxels, True), (192, 192, fine, False), (192, 96, fine, True), (96, 96, finest, False),
    )  # fmt: skip
    for channels, out, sites, split in shapes:
        x, weight = torch.randn(len(sites), channels, device="cuda").half(), torch.randn(out, 3, 3, 3, channels, device="cuda").half() / 100
        table, levels = sites.table
        call = partial(submanifold_conv3, x, table, weight, levels=levels, coords=sites.coords)
        names = available(x.device)["sparse_conv"]
        if split:
            call, names = partial(subdivided_conv3, x, table, weight, levels=levels), [name for name in names if name != "spconv"]
        times = by_backend(call, names)
        floor = 2 / 600e9 * channels * out * (pairs_after_split(sites) if split else int((sites.neighbours >= 0).sum()))
        what = f"convolution {channels} -> {out}, {len(sites)} rows{', subdivided' if split else ''}"
        rows.append((what, f"{times} ms, floor {floor:.2f}", ""))
    q, k, v = torch.randn(len(voxels), 3, 12, 64, device="cuda").half().unbind(1)
    times = by_backend(partial(grouped_attention, q, k, v, voxels.windows(8, 4)), available(q.device)["window_attention"])
    floor = 16 * len(voxels) * 768 / 4.2e9  # four half-precision tensors read or written once
    return [*rows, ("attention in windows, 12 heads of 64", f"{times} ms, floor {floor:.2f}", "")]


def by_backend(call: Callable[[], object], names: list[str]) -> str:
    times = []
    for name in names:
        with force(name):
            times.append(f"{name} {timed(call, 7):.2f}")
    return ", ".join(times)


def torso_floor(voxels: Voxels) -> float:
    """Milliseconds of the 12 windowed blocks' products and attention at 600 TFLOP/s."""
    pairs = sum(int(voxels.windows(8, shift).offsets.diff().double().square().sum()) for shift in (0, 4)) / 2
    return 12 * (2 * len(voxels) * 12 * 768**2 + 4 * pairs * 768) / 600e9


def upsample_floor(voxels: Voxels) -> float:
    """Milliseconds of the convolutions at 600 TFLOP/s, only of neighbours that are there, and of the output layer at 60 in float32 or 4.2 TB/s."""
    fine, finest = voxels.fine, voxels.fine.fine
    products = pairs_after_split(voxels) * 768 * 192 + int((fine.neighbours >= 0).sum()) * 192**2
    products += pairs_after_split(fine) * 192 * 96 + int((finest.neighbours >= 0).sum()) * 96**2
    return 2 * products / 600e9 + len(finest) * max(2 * 96 * 101 / 60e9, (2 * 96 + 4 * 101) / 4.2e9)


def pairs_after_split(voxels: Voxels) -> int:
    """How many (child, parent) products a folded kernel needs."""
    there = (voxels.neighbours >= 0).unflatten(1, (3, 3, 3))
    return sum(int(there[:, x : x + 2, y : y + 2, z : z + 2].sum()) for x in (0, 1) for y in (0, 1) for z in (0, 1))


def cubes(voxels: Voxels, latents: torch.Tensor) -> list[tuple[str, str, str]]:
    """FlexiCubes of the network's output (random weights), of a closed surface as trained weights give one, and of noise, where every cube holds surface."""
    decoder, xyz = build("mesh"), voxels.fine.fine.coords[:, 1:]
    side, network = decoder.resolution, decoder.features(latents, voxels).float()
    noise = torch.randn(network.shape, generator=torch.Generator("cuda").manual_seed(0), device="cuda")
    smooth = 0.3 * noise
    corners = (xyz[:, None] + torch.tensor(CORNERS, device="cuda")) / side - 0.5
    smooth[:, SDF] += 3 * ((corners * 64 / torch.tensor([30.0, 26, 28], device="cuda")).norm(dim=2) - 1) - 0.28 * noise[:, SDF]
    rows = []
    for what, features in (("the network's", network), ("a surface", smooth), ("noise", noise)):
        found = extract_surface(xyz, features, side)
        again = extract_surface(xyz, features, side)
        assert torch.equal(found.faces, again.faces) and torch.equal(found.vertices, again.vertices)
        title = f"FlexiCubes, {len(xyz) / 1e6:.2f} M cubes, {len(found.faces) / 1e6:.2f} M faces ({what})"
        rows.append((title, measured(lambda features=features: extract_surface(xyz, features, side), 7), "cubes"))
    with force("torch"):
        plain = extract_surface(xyz, smooth, side)
        rows.append(("FlexiCubes, plain twin (a surface)", measured(lambda: extract_surface(xyz, smooth, side)), ""))
    found = extract_surface(xyz, smooth, side)
    figure = f"{torch.equal(plain.faces, found.faces)}, {_gap(plain, found)}"
    return [*rows, ("faces of the plain twin, largest distance of a vertex", figure, "True, 1e-5")]


def _gap(one: Surface, other: Surface) -> str:
    return f"{float((one.vertices - other.vertices).abs().max()):.0e}" if one.vertices.shape == other.vertices.shape else "other vertices"


if __name__ == "__main__":
    main()
