"""Textures on a CUDA device: what each step takes for 640,000 splats, 20,000 faces and 1,024 texels.

python3 benchmarks/gpu_texture.py     from the root of the checkout; needs torch, scikit-image, fast-simplification; xatlas where it is
installed
"""

from __future__ import annotations

import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent
sys.path[:0] = [str(ROOT), str(ROOT.parent / "tests")]
from _pack import mount, table  # noqa: E402

mount()

from comfyui_sam3d.worker.geometry.texture import BakeOptions, bake  # noqa: E402
from comfyui_sam3d.worker.geometry.texture.atlas import texels  # noqa: E402
from comfyui_sam3d.worker.geometry.texture.bake import Surface  # noqa: E402
from comfyui_sam3d.worker.geometry.texture.direct import Gaussians, direct_colors  # noqa: E402
from comfyui_sam3d.worker.geometry.texture.multiview import Rig, view_colors  # noqa: E402
from comfyui_sam3d.worker.geometry.texture.padding import fill  # noqa: E402
from comfyui_sam3d.worker.geometry.texture.unwrap import unwrap  # noqa: E402
from comfyui_sam3d.worker.job import QuietJob  # noqa: E402

from texture_shapes import SHAPES  # noqa: E402

FACES, SIZE = 20_000, 1024
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def main() -> None:
    shape, job = SHAPES["ball"], QuietJob()
    mesh = shape.colored(*shape.decimated(FACES))
    splats = shape.splats(per_voxel=70)  # of the ball: 640,000
    rows = [("splats, faces, texels", f"{len(splats.positions)}, {len(mesh.faces)}, {SIZE} x {SIZE}", "")]
    ways = ["box", "xatlas"] if importlib.util.find_spec("xatlas") else ["box"]
    for way in ways:
        rows.append(
            (
                f"unwrap, {way} (CPU)",
                seconds(lambda way=way: unwrap(mesh.vertices, mesh.faces, job, method=way, size=SIZE), 2 if way == "box" else 0),
                "",
            )
        )
    charts = unwrap(mesh.vertices, mesh.faces, job, method="box", size=SIZE)
    with torch.inference_mode():
        surface = Surface.of(mesh, charts, SIZE, DEVICE)
        gaussians = Gaussians.of(splats, DEVICE)
        points = surface.texels.at(surface.vertices, surface.faces)
        normals = torch.nn.functional.normalize(surface.texels.at(surface.normals, surface.faces), dim=1)
        colors = direct_colors(points, normals, gaussians, surface.texel, job)[0]
        rows += [
            ("atlas", seconds(lambda: texels(surface.uvs[surface.faces], SIZE, SIZE)), ""),
            (f"direct colours of {len(points)} texels", seconds(lambda: direct_colors(points, normals, gaussians, surface.texel, job)), ""),
            ("40 views and their means", seconds(lambda: views(surface, points, normals, gaussians)), ""),
            ("padding", seconds(lambda: fill(surface.spread(colors), surface.known)), ""),
        ]
    for mode, limit in (("direct", "1.0 s"), ("views", "3 s"), ("fit", "")):
        for way in ways if mode == "direct" else ways[:1]:
            spent, unwrapping = [], []
            for _ in range(3 if way == "box" else 1):
                job, start = QuietJob(), time.perf_counter()
                bake(mesh, splats, job, BakeOptions(size=SIZE, mode=mode, unwrap=way), DEVICE)
                spent.append(time.perf_counter() - start)
                unwrapping.append(job.timings["unwrap"])
            total, part = statistics.median(spent), statistics.median(unwrapping)
            rows.append((f"bake, {mode}, {way}", f"{total:.2f} s, of it {part:.2f} s unwrap", limit))
    table(rows, "Texture baking")


def views(surface: Surface, points: torch.Tensor, normals: torch.Tensor, gaussians: Gaussians) -> object:
    rig = Rig.around(surface.vertices, 40, SIZE)
    return view_colors(points, normals, surface.vertices, surface.faces, gaussians, rig, QuietJob())


def seconds(call: Callable[[], object], repeat: int = 3) -> str:
    """The median of a few, after a first call; with repeat 0, that one call."""
    times = []
    for _ in range(repeat + 1):
        start = time.perf_counter()
        call()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return f"{statistics.median(times[1:] or times):.3f} s"


if __name__ == "__main__":
    main()
