"""A picture prepared once, then its masks: seconds of each, against the same masks without preparation. Real weights, or random ones.

    python3 benchmarks/two_phase.py [--weights DIR] [--masks 3]      DIR as from `sam3d weights fake DIR`; without it tiny ones, which measure nothing

Nothing is kept on disk, so the masks of a picture share what is in memory alone. Random weights: what comes out is no reconstruction.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from _pack import mount, table

mount()

from comfyui_sam3d.contract.request import PrepareRequest, ReconstructRequest, Sam3dOptions  # noqa: E402
from comfyui_sam3d.worker.cache import Cache  # noqa: E402
from comfyui_sam3d.worker.engines.sam3d.engine import Engine, default_device  # noqa: E402
from comfyui_sam3d.worker.job import QuietJob  # noqa: E402
from comfyui_sam3d.worker.weights.fake import write  # noqa: E402
from comfyui_sam3d.worker.weights.store import open_store  # noqa: E402

SIDE = 1024


def request(image: np.ndarray, index: int) -> ReconstructRequest:
    """One mask, without clean-up and texture: what is measured comes before them."""
    low = SIDE // 8 + index * SIDE // 16
    mask = np.zeros((1, SIDE, SIDE), bool)
    mask[0, low : low + SIDE // 3, low : low + SIDE // 3] = True
    return ReconstructRequest(
        image=image, masks=mask, engine="sam3d", quality="fast", outputs=("ply",), sam3d=Sam3dOptions(mesh="raw", texture="colors")
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--masks", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.weights or Path(scratch, "weights")
        if options.weights is None:
            write(folder, tiny=True, seed=0, report=lambda *args, **fields: None)
        engine = Engine(open_store(folder), Cache(Path(scratch), limit=0), default_device())
        pictures = [np.random.default_rng(seed).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8) for seed in range(3)]
        rows: list[tuple[str, str]] = []

        def timed(title: str, work: object) -> None:
            start = time.perf_counter()
            job = QuietJob()
            work(job)  # type: ignore[operator]
            stages = ", ".join(f"{name} {seconds:.3f}" for name, seconds in job.timings.items())
            rows.append((title, f"{time.perf_counter() - start:.3f} s ({stages})"))

        timed("warm up", lambda job: engine(request(pictures[0], 0), job))
        for index in range(options.masks):  # this cache keeps nothing
            timed(f"not prepared, mask {index + 1}", lambda job, index=index: engine(request(pictures[1], index), job))
        engine.cache = Cache(Path(scratch), limit=0, memory=10**9)
        timed("prepare", lambda job: engine.prepare(PrepareRequest(pictures[2], "sam3d"), job))
        for index in range(options.masks):
            timed(f"prepared, mask {index + 1}", lambda job, index=index: engine(request(pictures[2], index), job))
        table([(title, text, "") for title, text in rows], f"Two phases on {engine.where}, {engine.store.origin}")


if __name__ == "__main__":
    main()
