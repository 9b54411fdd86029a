"""What the job server costs: `python benchmarks/server.py [--jobs 500] [--clients 50]` prints the figures, their limits and the machine.

    throughput   jobs per second of the server with its clients, against the same requests through a bare worker, one after another
    status       GET /jobs/{id} while all that goes on (median, 95 %)
    events       from the moment that the server wrote an event down to the moment that a client has read it (median, 95 %)

The engine is the draft, at `standard` or as --quality says, one worker, mesh and splats of a picture of 512 x 512. Each client sends a job, follows its events, asks for its state every second, and
sends the next one. Clients share the machine with the server, and so its cores.
"""

from __future__ import annotations

import argparse
import http.client
import json
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
from comfyui_sam3d.contract import ReconstructRequest  # noqa: E402
from comfyui_sam3d.contract.images import read_image  # noqa: E402

PICTURE = ROOT / "examples" / "steak.png"
SETTINGS = {"engine": "draft", "quality": "standard", "outputs": ["glb", "ply"]}
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
        quality=SETTINGS["quality"],  # type: ignore[arg-type]
        seed=seed,
        outputs=("glb", "ply"),
    )


def bare(backend: LocalBackend, seeds: range) -> float:
    """Seconds that a worker without a server takes."""
    start = time.perf_counter()
    for seed in seeds:
        backend.reconstruct(request(seed)).result()
    return time.perf_counter() - start


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
        connection = http.client.HTTPConnection(self.address, timeout=120)  # kept, as a browser keeps its own
        while not over.wait(1.0):
            start = time.perf_counter()
            connection.request("GET", f"{V1}/jobs/{job}")
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200
            self.status.append(time.perf_counter() - start)
        connection.close()

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


def serve(folder: str) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "comfyui_sam3d.factory.cli", "serve", "--port", "0", "--data", folder, "--quiet", "--no-build"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
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


def served(address: str, image: str, seeds: range, clients: int) -> tuple[float, list[Client]]:
    """Seconds that the server takes, and the clients with what they saw."""
    waiting = list(seeds)
    crowd = [Client(address, image, waiting) for _ in range(clients)]
    start = time.perf_counter()
    for client in crowd:
        client.start()
    for client in crowd:
        client.join()
    return time.perf_counter() - start, crowd


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--jobs", type=int, default=500)
    options.add_argument("--clients", type=int, default=50)
    options.add_argument(
        "--rounds", type=int, default=5, help="bare worker and server take turns, so that both meet what else the machine does"
    )
    options.add_argument("--bare", type=int, default=50, help="jobs of the bare worker in each round")
    options.add_argument("--quality", choices=("fast", "standard", "best"), default="standard")
    given = options.parse_args()
    SETTINGS["quality"] = given.quality
    status: list[float] = []
    late: list[float] = []
    alone, together = [], []
    each = given.jobs // given.rounds
    with tempfile.TemporaryDirectory() as folder, LocalBackend() as backend:
        process, address = serve(folder)
        try:
            image = upload(address)
            bare(backend, range(WARM))
            served(address, image, range(10**6, 10**6 + WARM), 1)
            for number in range(given.rounds):
                alone.append(given.bare / bare(backend, range(given.bare)))
                seconds, crowd = served(address, image, range(number * each, (number + 1) * each), given.clients)
                together.append(each / seconds)
                status += [t for client in crowd for t in client.status]
                late += [t for client in crowd for t in client.late]
        finally:
            process.terminate()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
    shares = [b / a for a, b in zip(alone, together)]
    rows = [
        ("bare worker", f"{statistics.mean(alone):.2f} jobs/s ({min(alone):.2f} to {max(alone):.2f})", ""),
        (
            f"{given.clients} clients, {each * given.rounds} jobs",
            f"{statistics.mean(together):.2f} jobs/s ({min(together):.2f} to {max(together):.2f})",
            "",
        ),
        (f"share, median of {given.rounds} rounds", f"{statistics.median(shares):.0%} ({min(shares):.0%} to {max(shares):.0%})", ">= 90 %"),
        ("status, median", f"{1000 * statistics.median(status):.1f} ms of {len(status)}", ""),
        ("status, 95 %", f"{1000 * float(np.quantile(status, 0.95)):.1f} ms", "<= 50 ms"),
        ("events, median", f"{1000 * statistics.median(late):.1f} ms of {len(late)}", ""),
        ("events, 95 %", f"{1000 * float(np.quantile(late, 0.95)):.1f} ms", "<= 200 ms"),
        ("events, worst", f"{1000 * max(late):.1f} ms", ""),
    ]
    table(rows, "the job server")


if __name__ == "__main__":
    main()
