"""`python heavy.py MEGABYTES`: one request and one answer of that size, three times. Prints as JSON what it took of time and memory."""

from __future__ import annotations

import json
import sys
import time

import numpy as np
from comfyui_sam3d.contract import ReconstructRequest
from comfyui_sam3d.tests.zoo.keeper import ask, backend

MB = 1 << 20


def peak() -> int:
    """Bytes of memory at most held since the program began. (getrusage's figure begins with what the parent held when it forked.)"""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))


def main(megabytes: int) -> None:
    side = int((megabytes * MB / 16) ** 0.5)  # 3 bytes of picture, 6 masks, 6 + 1 of alpha
    with backend() as zoo:
        before = dict(zoo.reconstruct(ask("measures")).result().parameters)
        own = peak()
        seconds = []
        for i in range(3):
            request = ReconstructRequest(
                image=np.full((side, side, 3), 1 + i, np.uint8),
                masks=np.ones((6, side, side), bool),
                alpha=np.full((6, side, side), 255, np.uint8),
                names=("measures", "b", "c", "d", "e", "f"),
            )
            start = time.perf_counter()
            after = zoo.reconstruct(request).result().parameters
            seconds.append(time.perf_counter() - start)
            assert after["total"] == side * side * (3 * (1 + i) + 6)
            size = request.image.nbytes + request.masks.nbytes + (request.alpha.nbytes if request.alpha is not None else 0)
            del request
        own_peak = peak()
        for _ in range(3):
            start = time.perf_counter()
            scene = zoo.reconstruct(ask("answers", size)).result()
            seconds.append(time.perf_counter() - start)
            assert len(scene.parameters["big"]) == size and scene.parameters["big"][-1] == 7
            del scene
        last = zoo.reconstruct(ask("measures")).result().parameters
    print(
        json.dumps(
            {
                "bytes": size,
                "seconds": seconds,
                "client": {"before": own, "request": own_peak, "end": peak()},
                "worker": {"before": before["peak"], "request": after["peak"], "end": last["peak"], "rss": last["rss"]},
            }
        )
    )


if __name__ == "__main__":
    main(int(sys.argv[1]))
