"""How good baked textures are: renders of the textured mesh from 16 views that no baker uses, against the truth and against renders of
the splats.

    python benchmarks/texture_quality.py [--size 1024] [--views 16] [--picture 512] [--shapes ball,ring,blob] [--modes direct,views,fit]
    [--save FOLDER]

Runs on a CUDA device where there is one; the plain splatter takes half a minute for a picture of these splats on two CPU cores, so that
without a device only `direct` and `vertex` are quick. Beside the textures stands the original's default, vertex colours on the
undecimated mesh, here with the true colours.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent
sys.path[:0] = [str(ROOT), str(ROOT.parent / "tests")]
from _pack import mount, table  # noqa: E402

mount()

from comfyui_sam3d.worker.geometry.texture import BakeOptions, bake  # noqa: E402
from comfyui_sam3d.worker.job import QuietJob  # noqa: E402

from texture_shapes import SHAPES, inside, mesh_pictures, psnr, splat_pictures, ssim, views  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--views", type=int, default=16)
    parser.add_argument("--picture", type=int, default=512)
    parser.add_argument("--faces", type=int, default=20000)
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--modes", default="direct,views,fit")
    parser.add_argument("--unwrap", default="auto,box")
    parser.add_argument("--save", type=Path)
    given = parser.parse_args()
    rows = [row for name in given.shapes.split(",") for row in measure(name, given)]
    table(rows, f"Textures of {given.size} texels, {given.views} views of {given.picture} pixels")


def measure(name: str, given: argparse.Namespace) -> Iterator[tuple[str, str, str]]:
    shape, cameras = SHAPES[name], views(given.views, given.picture)
    splats = shape.splats()
    truth, rendered = shape.pictures(cameras), splat_pictures(splats, cameras)

    def row(what: str, pictures: torch.Tensor, limit: str = "") -> tuple[str, str, str]:
        if given.save:
            save(given.save / f"{name} {what}.png", torch.cat([truth[:3], rendered[:3], pictures[:3]], dim=2))
        figures = [f"{psnr(pictures, truth):.1f} dB", f"SSIM {ssim(pictures, truth):.3f}"]
        figures += [f"splats {psnr(pictures, rendered, inside(pictures, rendered)):.1f} dB", f"{ssim(pictures, rendered):.3f}"]
        print(name, what, *figures, flush=True)
        return f"{name}: {what}", ", ".join(figures), limit

    yield row("the splats themselves", rendered)
    raw = shape.raw_mesh(256)
    yield row(f"vertex colours, {len(raw[1])} faces", mesh_pictures(shape.colored(*raw), cameras))
    mesh = shape.colored(*shape.decimated(given.faces))
    yield row(f"vertex colours, {len(mesh.faces)} faces", mesh_pictures(mesh, cameras))
    for mode in given.modes.split(","):
        for way in given.unwrap.split(",")[: None if mode == "direct" else 1]:
            job, start = QuietJob(), time.perf_counter()
            baked = bake(mesh, splats, job, BakeOptions(size=given.size, mode=mode, unwrap=way))
            spent = time.perf_counter() - start
            what = (
                f"{mode}, {baked.report['unwrap']}, {baked.report['charts']} charts, {spent:.1f} s ({job.timings['unwrap']:.1f} s unwrap)"
            )
            yield row(what, mesh_pictures(baked.mesh, cameras), "28 dB")
            if given.save:
                save(given.save / f"{name} {mode} {way} texture.png", torch.from_numpy(baked.mesh.texture.copy())[None] / 255)


def save(path: Path, pictures: torch.Tensor) -> None:
    """Pictures (V, H, W, 3), one below the other."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.uint8(np.round(255 * pictures.flatten(0, 1).clamp(0, 1).numpy()))).save(path)


if __name__ == "__main__":
    main()
