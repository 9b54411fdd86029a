"""What the worker process costs: `python benchmarks/round_trip.py` prints the figures, their limits and the machine.

    overhead    the request through a worker, minus the same engine called in this process (median)
    cancel      from `cancel()` to the last event, with a step every 10 ms (worst)
    1 GB        three requests with 1 GB of arrays, and three answers (median); the memory of both sides at its highest
    start       a worker from nothing to its Hello (median)

The engine is a stub that gives back a constant scene: 1024x1024 picture, 4 masks, an answer of 20 MB.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from _pack import ROOT, mount, table

mount()
from comfyui_sam3d.client import LocalBackend  # noqa: E402
from comfyui_sam3d.contract import Mesh, Progress, ReconstructRequest, Scene, SceneObject  # noqa: E402
from comfyui_sam3d.worker.job import Job, QuietJob  # noqa: E402

SIZE, MASKS, ANSWER = 1024, 4, 20 << 20
HEAVY = ROOT / "tests" / "zoo" / "heavy.py"


def engine(request: ReconstructRequest, job: Job) -> Scene:
    """As good as no work: vertices that fill the answer. With a seed it runs until it is cancelled."""
    while request.seed:
        job.step("work", 0, 1)
        time.sleep(0.01)
    vertices = np.zeros((ANSWER // 12 // len(request.names), 3), np.float32)
    faces = np.array([[0, 1, 2]], np.uint32)
    return Scene(objects=tuple(SceneObject(name, mesh=Mesh(vertices=vertices, faces=faces)) for name in request.names), engine="draft")


def request(seed: int = 0) -> ReconstructRequest:
    masks = np.zeros((MASKS, SIZE, SIZE), bool)
    masks[:, 100:900, 100:900] = True
    return ReconstructRequest(image=np.zeros((SIZE, SIZE, 3), np.uint8), masks=masks, outputs=(), seed=seed)


def milliseconds(call: Callable[[], object], times: int) -> list[float]:
    took = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        took.append(1000 * (time.perf_counter() - start))
    return took


def cancelled(backend: LocalBackend) -> float:
    job = backend.reconstruct(request(seed=1))
    while not isinstance(job.poll(1.0), Progress):
        pass
    start = time.perf_counter()
    job.cancel()
    for _ in job:
        pass
    return 1000 * (time.perf_counter() - start)


def main() -> int:
    command = [sys.executable, __file__, "worker"]
    once = request()
    bare = statistics.median(milliseconds(lambda: engine(once, QuietJob()), 20))
    with LocalBackend(command) as backend:
        backend.reconstruct(once).result()
        through = statistics.median(milliseconds(lambda: backend.reconstruct(once).result(), 40))
        cancel = max(cancelled(backend) for _ in range(20))
    starts = []
    for _ in range(5):
        with LocalBackend(command) as backend:
            starts += milliseconds(backend.start, 1)
    heavy = json.loads(subprocess.run([sys.executable, str(HEAVY), "1024"], capture_output=True, check=True).stdout)
    figures = [
        ("overhead of a round trip, ms", through - bare, 40.0),
        ("cancel at the next step, ms", cancel, 500.0),
        ("1 GB through one request or answer, s", statistics.median(heavy["seconds"]), 5.0),
        ("memory for that in the client, GiB", heavy["client"]["end"] / 2**30, 1.5),
        ("memory for that in the worker, GiB", heavy["worker"]["end"] / 2**30, 1.5),
        ("start of a worker, to its Hello, ms", statistics.median(starts), float("inf")),
    ]
    rows = [(what, f"{figure:.2f}", "-" if limit == float("inf") else f"{limit:g}") for what, figure, limit in figures]
    table(rows, f"A worker's round trip: {SIZE}x{SIZE}, {MASKS} masks, an answer of {ANSWER >> 20} MiB")
    return int(any(figure > limit for _, figure, limit in figures))


def no_files(scene: Scene, formats: Iterable[str], options: object, job: object) -> Mapping[str, bytes]:
    return {}


if __name__ == "__main__":
    if sys.argv[1:] == ["worker"]:
        from comfyui_sam3d.worker.channel import claim_stdio
        from comfyui_sam3d.worker.loop import serve

        serve(claim_stdio(), {"draft": lambda: engine}, no_files)
    sys.exit(main())
