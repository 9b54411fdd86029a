"""Stage 2 at full size with random weights on a CUDA device: what the plain twins take, before anything is tuned.

    python3 benchmarks/gpu_stage2.py      from the root of the checkout; needs torch, no _env, no network

Voxels lie on an ellipsoid shell in the 64^3 grid. Random weights are real work for speed and memory; they say nothing about what the released model makes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from _pack import mount, table

mount()

from comfyui_sam3d.worker.sam3d.flexicubes import extract_surface  # noqa: E402
from comfyui_sam3d.worker.sam3d.latents import RELEASED, sample_latents  # noqa: E402
from comfyui_sam3d.worker.sam3d.sparse import Voxels  # noqa: E402
from comfyui_sam3d.worker.sam3d.stage2 import PARTS, mix_precision  # noqa: E402

from gpu_stage1 import randomise, timed  # noqa: E402

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
    return f"{spent:.0f} ms, {(torch.cuda.max_memory_allocated() - before) / 1e9:.2f} GB"


@torch.inference_mode()
def main() -> None:
    rows: list[tuple[str, str, str]] = []
    for count in (8000, 20000):
        coords, latents = shell(count), torch.randn(count, 8, device="cuda")
        limits = LIMITS if count == 20000 else {}
        for part in (flow, splats, mesh):
            rows += [(f"{count} voxels: {what}", figure, limits.get(key, "")) for what, figure, key in part(Voxels(coords), latents)]
            torch.cuda.empty_cache()
    table(rows, "Stage 2, full size, random weights, float16 torso, plain twins")


def build(name: str) -> torch.nn.Module:
    with torch.device("cuda"):
        return mix_precision(randomise(PARTS[name].build(), 0))


def flow(voxels: Voxels, latents: torch.Tensor) -> list[tuple[str, str, str]]:
    network, time = build("flow"), torch.tensor([300.0], device="cuda")
    context = torch.randn(1, TOKENS, WIDTH, device="cuda", dtype=torch.float16)
    return [
        ("neighbour table", measured(lambda: Voxels(voxels.coords).neighbours), ""),
        ("latent flow, one evaluation", measured(lambda: network(latents, time, context, voxels)), ""),
        ("25 steps, guidance 1 (38 evaluations)", measured(lambda: sample_latents(network, context, latents, voxels, RELEASED), 1), "flow"),
    ]


def splats(voxels: Voxels, latents: torch.Tensor) -> list[tuple[str, str, str]]:
    decoder = build("splats")
    return [("splat decoder", measured(lambda: decoder(latents, voxels)), "splats")]


def mesh(voxels: Voxels, latents: torch.Tensor) -> list[tuple[str, str, str]]:
    decoder = build("mesh")
    network = measured(lambda: decoder.features(latents, voxels))
    features, cubes = decoder.features(latents, voxels).float(), voxels.fine.fine
    surface = measured(lambda: extract_surface(cubes.coords[:, 1:], features, decoder.resolution))
    return [("mesh decoder network", network, "mesh"), (f"FlexiCubes, {len(cubes) / 1e6:.2f} M cubes", surface, "cubes")]


if __name__ == "__main__":
    main()
