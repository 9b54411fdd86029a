"""Pictures of meshes and splats on a CUDA device: what 100 views of the baking orbit take, by our own kernels, and gsplat's figure where it is installed.

    python3 benchmarks/gpu_render.py      from the root of the checkout; needs torch and Triton, no _env, no network

The mesh is a bumpy closed surface of 200,000 faces that fills about 60 % of the picture. The Gaussians are 32 for each of the 20,000 voxels of the
64^3 grid nearest to a surface like it, with sigmas of 0.004 to 0.01 of the unit cube along each axis, turned at random, opacities around 0.3.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from _pack import mount, table

mount()

from comfyui_sam3d.worker.ops.backends import force, has  # noqa: E402
from comfyui_sam3d.worker.ops.cameras import orbit, spherical_hammersley  # noqa: E402
from comfyui_sam3d.worker.ops.rasterise import interpolate, rasterise, visible_faces  # noqa: E402
from comfyui_sam3d.worker.ops.splatting import splat  # noqa: E402

VIEWS, SIZE, PORTION = 100, 1024, 20  # views, pixels, views whose pictures are held at once


def bumpy(points: torch.Tensor) -> torch.Tensor:
    """Unit directions (N, 3) -> an ellipsoid's surface with bumps, within the unit cube."""
    bumps = torch.sin(9 * points[:, 0] + 2) * torch.sin(11 * points[:, 1]) * torch.sin(10 * points[:, 2] + 1)
    return points * points.new_tensor([0.49, 0.45, 0.47]) * (1 + 0.04 * bumps[:, None])


def mesh(faces: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The surface as the six sides of a blown-up cube, each a grid of quads cut in two."""
    side = round((faces / 12) ** 0.5)
    line = torch.tan(torch.linspace(-1, 1, side + 1, device="cuda") * torch.pi / 4)
    u, v = torch.meshgrid(line, line, indexing="ij")
    one = torch.ones_like(u)
    sheets = [(one, u, v), (-one, v, u), (v, one, u), (u, -one, v), (u, v, one), (v, u, -one)]
    points = torch.cat([torch.stack(sheet, dim=-1).view(-1, 3) for sheet in sheets])
    at = torch.arange((side + 1) ** 2, device="cuda").view(side + 1, side + 1)
    a, b, c, d = (t.reshape(-1) for t in (at[:-1, :-1], at[1:, :-1], at[1:, 1:], at[:-1, 1:]))
    quads = torch.cat([torch.stack([a, b, c], 1), torch.stack([a, c, d], 1)])
    every = torch.cat([quads + i * (side + 1) ** 2 for i in range(6)])
    return bumpy(torch.nn.functional.normalize(points, dim=1)), every


def gaussians(voxels: int = 20000, each: int = 32) -> tuple[torch.Tensor, ...]:
    axis = (torch.arange(64, device="cuda") + 0.5) / 64 - 0.5
    centres = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).view(-1, 3)
    distance = (centres.norm(dim=1) - bumpy(torch.nn.functional.normalize(centres, dim=1)).norm(dim=1)).abs()
    centres = centres[distance.topk(voxels, largest=False).indices].repeat_interleave(each, 0)
    count = len(centres)
    positions = centres + (torch.rand(count, 3, device="cuda") - 0.5) * (1.5 / 64)
    scales = 0.004 + 0.006 * torch.rand(count, 3, device="cuda")
    opacities = torch.sigmoid(torch.randn(count, device="cuda") * 1.5 - 1)
    return positions, scales, torch.randn(count, 4, device="cuda"), opacities, (positions + 0.5).clamp(0, 1)


def measured(call: Callable[[], object], repeat: int = 3) -> tuple[float, float]:
    """Median seconds, and the peak of memory (GB) beyond what was held before."""
    call()
    torch.cuda.synchronize()
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(repeat):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / 1000)
    return statistics.median(times), (torch.cuda.max_memory_allocated() - held) / 1e9


def row(what: str, call: Callable[[], object], limit: str = "") -> tuple[str, str, str]:
    seconds, memory = measured(call)
    return what, f"{seconds:.3f} s, {memory:.2f} GB", limit


@torch.inference_mode()
def main() -> None:
    torch.manual_seed(0)
    rows = []
    near = orbit(*spherical_hammersley(VIEWS), radius=1.55, size=SIZE).to("cuda")
    portions = [slice(i, i + PORTION) for i in range(0, VIEWS, PORTION)]
    for count in (200_000, 20_000, 780_000):
        vertices, faces = mesh(count)
        if count == 200_000:
            share = rasterise(near[:10].project(vertices), faces, SIZE, SIZE).covered.float().mean()
            print(f"{len(faces)} faces fill {float(share):.0%} of the picture")

        def draw(bary: bool = True, vertices: torch.Tensor = vertices, faces: torch.Tensor = faces) -> None:
            for views in portions:
                rasterise(near[views].project(vertices), faces, SIZE, SIZE, bary=bary)

        rows.append(row(f"mesh, {count} faces: face, depth, weights", draw, "1 s" if count == 200_000 else ""))
        if count == 200_000:
            rows.append(row("    without weights", lambda: draw(bary=False)))
            rows.append(row("    in how many views each face is seen", lambda: visible_faces(vertices, faces, near)))  # noqa: B023
            fragments = rasterise(near[:PORTION].project(vertices), faces, SIZE, SIZE)
            rows.append(row(f"    interpolate 3 values, {PORTION} views", lambda: interpolate(vertices, faces, fragments)))  # noqa: B023
            del fragments
    far = orbit(*spherical_hammersley(VIEWS), size=SIZE).to("cuda")
    splats = gaussians()
    print(f"{len(splats[0])} Gaussians, alpha of the picture {float(splat(*splats, far[:4]).alpha.mean()):.0%}")

    def show(name: str = "triton", **options: bool) -> None:
        with force(name):
            for views in portions:
                splat(*splats, far[views], **options)

    rows.append(row("splats, 640,000", show, "3 s"))
    rows.append(row("    with depth and compensation", lambda: show(depth=True, compensate=True)))
    if has("gsplat"):
        rows.append(row("    by gsplat", lambda: show("gsplat")))
    table(rows, f"{VIEWS} views of {SIZE} x {SIZE} pixels")


if __name__ == "__main__":
    main()
