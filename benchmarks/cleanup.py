"""What the clean-up of a raw mesh of full size takes, step by step, on the CPU and on a CUDA device where there is one.

    python3 benchmarks/cleanup.py [budget]      from the root of the checkout; needs torch, scipy and fast-simplification

The mesh: FlexiCubes at 256^3 on a band around a ball with a ring, with noise, floaters and a gap that joins inner and outer surface.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent / "tests")]
from _pack import mount, table  # noqa: E402

mount()

from comfyui_sam3d.worker.geometry.cleanup import CleanOptions, RawMesh, clean  # noqa: E402

from cleanup_shapes import ball, bumpy, raw_mesh, torus, union  # noqa: E402

LIMIT = {"cpu": "20 s on 2 cores", "cuda": "1.2 s on an H200"}


def full_size() -> RawMesh:
    """About 360,000 vertices, 720,000 faces."""
    body = bumpy(union(ball(0.30, (0.1, 0, 0)), torus(0.33, 0.1)))
    raw = raw_mesh(body, 256, gaps=ball(0.03, (0.1, 0, 0.3)), dust=60, noise=0.15)
    return RawMesh(raw.vertices, raw.faces, raw.colors)


def main() -> None:
    budget = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    raw = full_size()
    title = f"Mesh clean-up: {len(raw.vertices):,} vertices, {len(raw.faces):,} faces, budget {budget:,}"
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        runs = []
        for _ in range(3 if device == "cuda" else 1):  # the first one on a GPU compiles
            start = time.perf_counter()
            made = clean(raw, CleanOptions(budget=budget), device=device)
            runs.append((time.perf_counter() - start, made.report))
        spent, report = min(runs, key=lambda run: run[0])
        rows = [(step, f"{seconds:.3f} s", "") for step, seconds in report["seconds"].items()]
        rows += [("all", f"{spent:.2f} s", LIMIT[device])]
        wanted = ("faces_after", "bodies_before", "floaters", "inner_bodies", "inner_faces", "closed", "genus", "error")
        rows += [(name, str(report[name]), "") for name in wanted]
        table(rows, f"{title}, {device}")


if __name__ == "__main__":
    main()
