"""What the job server costs: `python benchmarks/server.py [--jobs 500] [--clients 50]` prints the figures, their limits and the machine.

    throughput   jobs per second of the server with its clients, against the same requests through a bare worker, one after another
    status       GET /jobs/{id} while all that goes on (median, 95 %)
    events       from the moment that the server wrote an event down to the moment that a client has read it (median, 95 %)

The engine is the draft with a small picture, one worker, mesh and splats. Each client sends a job, follows its events, asks for its state twice a second, and
sends the next one. Clients share the machine with the server, and so its cores.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from _pack import ROOT, mount, table

mount()
import numpy as np  # noqa: E402
from comfyui_sam3d.client import LocalBackend  # noqa: E402
from comfyui_sam3d.contract import DraftOptions, ReconstructRequest  # noqa: E402
from comfyui_sam3d.contract.images import read_image  # noqa: E402

PICTURE = ROOT / "examples" / "steak.png"
SETTINGS = {"engine": "draft", "quality": "fast", "outputs": ["glb", "ply"], "grid": 48, "splat_target": 5000, "texture_size": 256}
V1 = "/api/v1"
WARM = 3  # jobs before the clock runs


def request(seed: int) -> ReconstructRequest:
    picture = read_image(PICTURE)
    assert picture.alpha is not None
    return ReconstructRequest(
        image=picture.image,
        masks=(picture.alpha >= 128)[None],
        alpha=picture.alpha[None],
        engine="draft",
        quality="fast",
        seed=seed,
        outputs=("glb", "ply"),
        texture_size=256,
        draft=DraftOptions(grid=48, splat_target=5000),
    )


def bare(jobs: int) -> float:
    """Jobs per second of a worker without a server."""
    with LocalBackend() as backend:
        for seed in range(WARM):
            backend.reconstruct(request(seed)).result()
        start = time.perf_counter()
        for seed in range(jobs):
            backend.reconstruct(request(seed)).result()
        return jobs / (time.perf_counter() - start)


class Client(threading.Thread):
    """Works off the seeds of a shared list."""

    def __init__(self, address: str, image: str, seeds: list[int]) -> None:
        super().__init__()
        self.address, self.image, self.seeds = address, image, seeds
        self.status: list[float] = []
        self.late: list[float] = []

    def call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        connection = http.client.HTTPConnection(self.address, timeout=120)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, V1 + path, data, {"Content-Type": "application/json"} if data else {})
            answer = connection.getresponse()
            found: dict[str, Any] = json.loads(answer.read())
            assert answer.status < 300, found
            return found
        finally:
            connection.close()

    def run(self) -> None:
        while self.seeds:
            try:
                seed = self.seeds.pop()
            except IndexError:
                return
            job = self.call("POST", "/jobs", {"image_id": self.image, "params": {**SETTINGS, "seed": seed}})["id"]
            over = threading.Event()
            asking = threading.Thread(target=self.ask, args=(job, over))
            asking.start()
            self.follow(job)
            over.set()
            asking.join()

    def ask(self, job: str, over: threading.Event) -> None:
        while not over.wait(0.5):
            start = time.perf_counter()
            self.call("GET", f"/jobs/{job}")
            self.status.append(time.perf_counter() - start)

    def follow(self, job: str) -> None:
        connection = http.client.HTTPConnection(self.address, timeout=300)
        connection.request("GET", f"{V1}/jobs/{job}/events")
        answer = connection.getresponse()
        first = True
        while line := answer.readline():
            if line.startswith(b"data: "):
                data = json.loads(line[6:])
                if not first:  # the first one happened before we listened
                    self.late.append(time.time() - data["at"])
                first = False
                assert data.get("status") != "failed", data
        connection.close()


def serve(folder: str, variables: dict[str, str]) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "comfyui_sam3d.factory.cli", "serve", "--port", "0", "--data", folder, "--quiet", "--no-build"]
    process = subprocess.Popen(command, env={**os.environ, **variables}, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip().removeprefix("http://").rstrip("/")


def upload(address: str) -> str:
    boundary = "sam3d-benchmark"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="x.png"\r\n\r\n'.encode()
    connection = http.client.HTTPConnection(address, timeout=60)
    body = head + PICTURE.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
    connection.request("POST", f"{V1}/images", body, {"Content-Type": f"multipart/form-data; boundary={boundary}"})
    found = json.loads(connection.getresponse().read())
    connection.close()
    return str(found["id"])


def served(jobs: int, clients: int) -> tuple[float, list[float], list[float]]:
    with tempfile.TemporaryDirectory() as folder:
        process, address = serve(folder, {})
        try:
            image = upload(address)
            warm = Client(address, image, list(range(10**6, 10**6 + WARM)))
            warm.run()
            seeds = list(range(jobs))
            crowd = [Client(address, image, seeds) for _ in range(clients)]
            start = time.perf_counter()
            for client in crowd:
                client.start()
            for client in crowd:
                client.join()
            rate = jobs / (time.perf_counter() - start)
        finally:
            process.terminate()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
    return rate, [t for client in crowd for t in client.status], [t for client in crowd for t in client.late]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--jobs", type=int, default=500)
    options.add_argument("--clients", type=int, default=50)
    options.add_argument("--bare", type=int, default=60, help="jobs of the bare worker, half before and half after")
    given = options.parse_args()
    before = bare(given.bare // 2)
    rate, status, late = served(given.jobs, given.clients)
    after = bare(given.bare // 2)
    alone = statistics.mean((before, after))
    rows = [
        ("bare worker", f"{alone:.2f} jobs/s ({before:.2f} before, {after:.2f} after)", ""),
        (f"{given.clients} clients, {given.jobs} jobs", f"{rate:.2f} jobs/s, {rate / alone:.0%}", ">= 90 %"),
        ("status, median", f"{1000 * statistics.median(status):.1f} ms of {len(status)}", ""),
        ("status, 95 %", f"{1000 * float(np.quantile(status, 0.95)):.1f} ms", "<= 50 ms"),
        ("events, median", f"{1000 * statistics.median(late):.1f} ms of {len(late)}", ""),
        ("events, 95 %", f"{1000 * float(np.quantile(late, 0.95)):.1f} ms", "<= 200 ms"),
        ("events, worst", f"{1000 * max(late):.1f} ms", ""),
    ]
    table(rows, "the job server")


if __name__ == "__main__":
    main()
