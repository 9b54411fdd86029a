"""640,000 Gaussians (20,000 voxels, 32 each) to the bytes of a splat PLY, in the original's frame and in ours. `python benchmarks/splat_ply.py [--runs N]`

Runs on the CPU, two cores. Prints the median and the best of all runs, and the peak of memory beyond the Gaussians; a child of its own for each row.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from _pack import mount, table

mount()
from comfyui_sam3d.worker.geometry.files.splat_ply import ply_of_rows, splat_ply  # noqa: E402
from comfyui_sam3d.worker.geometry.frames import CANONICAL_TO_OBJECT, FRAMES, move_splats  # noqa: E402
from comfyui_sam3d.worker.sam3d.decoded import splats_of  # noqa: E402
from comfyui_sam3d.worker.sam3d.gaussians import Gaussians  # noqa: E402

COUNT = 640_000
SIZE = 68 * COUNT / 1e6
LIMIT = 0.15  # seconds


def gaussians() -> Gaussians:
    draw = torch.Generator().manual_seed(0)
    wide = [torch.randn(COUNT, *shape, generator=draw) for shape in ((1, 3), (3,), (4,), (1,))]
    return Gaussians(torch.rand(COUNT, 3, generator=draw), *wide)


def records() -> Callable[[], object]:
    return gaussians().records


def original() -> Callable[[], object]:
    splats = gaussians()
    return lambda: ply_of_rows(splats.records().numpy())


def ours() -> Callable[[], object]:
    splats = splats_of(gaussians())
    return lambda: splat_ply(splats)


def turned(turn: str) -> Callable[[], object]:
    splats = splats_of(gaussians())
    matrix = CANONICAL_TO_OBJECT if turn == "object" else FRAMES[turn]
    return lambda: splat_ply(move_splats(splats, matrix))


CASES: dict[str, tuple[Callable[[], Callable[[], object]], bool]] = {
    "Gaussians.records": (records, True),
    "the original's file: records and bytes": (original, True),
    "splat_ply": (ours, True),
    "our file: model's frame to ours, and splat_ply": (partial(turned, "object"), False),
    "our file: y_down, and splat_ply": (partial(turned, "y_down"), False),
}


def measure(name: str, runs: int) -> tuple[list[float], float]:
    """Seconds of each run, and MB beyond what was held before them."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:2]))
    torch.set_num_threads(2)
    call = CASES[name][0]()
    held, times = resident(), []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - held) / 1e6


def resident() -> float:
    """Bytes in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=9)
    runs = parser.parse_args().runs
    rows, slow = [], False
    for name, (_, limited) in CASES.items():
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            times, memory = pool.apply(measure, (name, runs))
        middle = statistics.median(times)
        slow |= limited and middle > LIMIT
        figure = f"{1e3 * middle:.0f} ms, best {1e3 * min(times):.0f}; {memory:.0f} MB"
        rows.append((name, figure, f"{1e3 * LIMIT:.0f} ms" if limited else ""))
    table(rows, f"{COUNT} Gaussians, a file of {SIZE:.1f} MB")
    return int(slow)


if __name__ == "__main__":
    raise SystemExit(main())
