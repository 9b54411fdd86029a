"""The files of a scene of eight objects: a GLB and a splat PLY of each and of them all. `python benchmarks/scene_files.py [--runs N] [--before CHECKOUT]`

Each object has 640,000 Gaussians (20,000 voxels, 32 each) and 20,000 faces with a texture of 1024 texels, moved by a pose; all of it is made up. A row is for a
number of cores, each measured in a process of its own that is given so many: seconds (the median and the best), seconds of processor time, and what the
process held in memory at the most beyond the scene, of which the files themselves are most. `--before` measures another checkout of the pack the same way,
say one from `git worktree add`. The last row writes these bytes to a folder, for the disk's own speed. Runs on the CPU, without torch.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from _pack import ROOT, table

COUNT, FACES, TEXTURE = 640_000, 20_000, 1024
LIMIT = 1.0  # seconds, on 16 cores


def mounted(folder: str) -> ModuleType:
    """The checkout in this folder as a package, whatever else is installed."""
    spec = importlib.util.spec_from_file_location("measured_sam3d", Path(folder) / "__init__.py", submodule_search_locations=[folder])
    assert spec is not None and spec.loader is not None
    sys.modules["measured_sam3d"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return importlib.import_module("measured_sam3d.contract.scene")


def mesh(contract: Any, seed: int) -> Any:
    """A sphere whose texture is as smooth, and as noisy, as a baked one."""
    side = int((FACES / 2) ** 0.5)
    u, v = np.meshgrid(*[np.linspace(0, 1, side + 1)] * 2)
    corner = (np.arange(side)[:, None] * (side + 1) + np.arange(side)).ravel()
    right, below = corner + 1, corner + side + 1
    faces = np.concatenate([np.stack([corner, below, below + 1], 1), np.stack([corner, below + 1, right], 1)])
    around, down = 2 * np.pi * u, np.pi * v
    vertices = np.stack([np.sin(down) * np.sin(around), np.cos(down), np.sin(down) * np.cos(around)], -1).reshape(-1, 3)
    y, x = np.mgrid[:TEXTURE, :TEXTURE] / TEXTURE
    smooth = np.stack([128 + 60 * np.sin(17 * x + seed) + 40 * np.cos(29 * y), 128 + 90 * np.sin(11 * x * y + seed), 255 * x], -1)
    texture = np.clip(smooth + np.random.default_rng(seed).normal(0, 4, smooth.shape), 0, 255).astype(np.uint8)
    uvs = np.stack([u, v], -1).reshape(-1, 2).astype(np.float32)
    return contract.Mesh(vertices.astype(np.float32), faces.astype(np.uint32), uvs=uvs, texture=texture)


def splats(contract: Any, seed: int) -> Any:
    draw = np.random.default_rng(seed)
    turns = draw.standard_normal((COUNT, 4), np.float32)
    return contract.Splats(
        positions=draw.standard_normal((COUNT, 3), np.float32),
        scales=draw.uniform(0.001, 0.1, (COUNT, 3)).astype(np.float32),
        rotations=turns / np.linalg.norm(turns, axis=1, keepdims=True),
        opacities=draw.random(COUNT, np.float32),
        sh=draw.standard_normal((COUNT, 1, 3), np.float32),
    )


def scene(contract: Any, objects: int) -> Any:
    turn = (0.5, 0.5, -0.5, 0.5)
    poses = [contract.Pose(turn, (0.5 * i, 0.1, -2.0), 0.3 + 0.1 * i) for i in range(objects)]
    things = [contract.SceneObject(f"object {i}", mesh(contract, i), splats(contract, i), pose) for i, pose in enumerate(poses)]
    return contract.Scene(tuple(things), "sam3d")


def measure(folder: str, objects: int, cores: int, runs: int) -> tuple[list[float], float, float, int]:
    """Seconds of each run, of processor time in the best one, bytes beyond the scene, and of the files."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:cores]))
    made = scene(mounted(folder), objects)
    encode = importlib.import_module("measured_sam3d.worker.geometry.encode").encode
    held, times, size = _memory("VmRSS"), [], 0
    for _ in range(runs + 1):  # the first one imports
        start, processor = time.perf_counter(), time.process_time()
        files = encode(made, ("glb", "ply"))
        times.append((time.perf_counter() - start, time.process_time() - processor))
        size = sum(len(data) for data in files.values())
        del files
    return [wall for wall, _ in times[1:]], min(processor for _, processor in times[1:]), _memory("VmHWM") - held, size


def _memory(which: str) -> float:
    """Bytes: VmRSS, resident now, or VmHWM, at the most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024.0 * int(next(line for line in lines if line.startswith(which)).split()[1])


def written(size: int) -> float:
    """Seconds to write so many bytes to a new file on disk, and to wait for the disk."""
    folder = Path(tempfile.mkdtemp(prefix="scene_files_"))
    try:
        block = np.random.default_rng(0).integers(0, 256, 1 << 24, np.uint8).data
        start = time.perf_counter()
        with (folder / "file").open("wb") as file:
            for _ in range(-(-size // len(block))):
                file.write(block)
            os.fsync(file.fileno())
        return time.perf_counter() - start
    finally:
        shutil.rmtree(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--objects", type=int, default=8)
    parser.add_argument("--before", type=Path, help="another checkout")
    options = parser.parse_args()
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    rows, slow, size = [], False, 0
    for what, folder in (("before", options.before), ("now", ROOT)):
        for cores in sorted({min(wanted, available) for wanted in (1, 2, 4, 8, 16)}) if folder else ():
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                times, processor, memory, size = pool.apply(measure, (str(folder.resolve()), options.objects, cores, options.runs))
            middle, limited = statistics.median(times), cores == 16 and what == "now"
            slow |= limited and middle > LIMIT
            figure = f"{middle:.2f} s, best {min(times):.2f}; processor {processor:.2f} s; {memory / 1e6:.0f} MB for {size / 1e6:.0f}"
            rows.append((f"{what}, {cores} core{'s' * (cores > 1)}", figure, f"{LIMIT} s" if limited else ""))
            print(*rows[-1], flush=True)
    rows.append(("to write as many bytes to a disk, waiting for it", f"{written(size):.2f} s", ""))
    table(rows, f"{options.objects} objects of {COUNT} Gaussians and {FACES} faces: GLB and PLY, each and all")
    return int(slow)


if __name__ == "__main__":
    raise SystemExit(main())
