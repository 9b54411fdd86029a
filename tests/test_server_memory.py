"""A server process stays under a gigabyte, whatever is sent (docs/server.md, "What is kept out"): many uploads, the largest pictures, clicks on them, soft masks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from comfyui_sam3d.factory.server.limits import MIB

from .server_app import encoded, upload
from .server_process import Served

pytestmark = pytest.mark.full


@contextmanager
def weighed(pid: int) -> Iterator[list[int]]:
    """The most memory that a process has had, in MiB, as the one number of a list."""
    import psutil

    process, peak, over = psutil.Process(pid), [0], threading.Event()

    def weigh() -> None:
        while not over.wait(0.005):
            peak[0] = max(peak[0], process.memory_info().rss // MIB)

    watcher = threading.Thread(target=weigh)
    watcher.start()
    try:
        yield peak
    finally:
        over.set()
        watcher.join()


def together(calls: Iterable[Callable[[], object]]) -> None:
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_200_uploads_of_30_megabytes_stay_under_a_gigabyte(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, (3200, 3200, 3), np.uint8)
    found: list[tuple[int, dict[str, object]]] = []
    data = [encoded(np.roll(base, n, axis=0), compress_level=0) for n in range(8)]
    assert 29 * MIB < len(data[0]) < 31 * MIB
    with Served(tmp_path) as served, weighed(served.pid) as peak:
        together(lambda n=n: found.append(upload(served.url, data[n % 8])) for n in range(200))  # type: ignore[misc]
    assert len(found) == 200 and {status for status, _ in found} <= {200, 201, 429}
    print(f"peak {peak[0]} MiB, {sum(status != 429 for status, _ in found)} stored")
    assert peak[0] < 1024


def largest(alpha: bool) -> bytes:
    """40 megapixels, two things on a plain or transparent ground."""
    pixels = np.zeros((5000, 8000, 4 if alpha else 3), np.uint8)
    for columns, colour in ((slice(1000, 3000), (200, 100, 50, 200)), (slice(4000, 7000), (20, 100, 50, 255))):
        pixels[1000:4000, columns] = colour[: pixels.shape[2]]
    return encoded(pixels, compress_level=1)


def test_the_largest_picture_stays_under_a_gigabyte(tmp_path: Path) -> None:
    data = largest(alpha=True)
    with Served(tmp_path) as served, weighed(served.pid) as peak:
        assert upload(served.url, data)[0] == 201
    print(f"peak {peak[0]} MiB")
    assert peak[0] < 1024


@pytest.mark.parametrize("alpha", [True, False])
def test_clicks_on_the_largest_picture_beside_uploads_stay_under_a_gigabyte(tmp_path: Path, alpha: bool) -> None:
    """Every way of the weight-free segmentation, while the same and another picture of 40 megapixels are sent again and again."""
    one, other = largest(alpha), largest(not alpha)
    clicks: list[dict[str, object]] = [
        {},
        {"points": [{"x": 2000, "y": 2000}]},
        {"points": [{"x": 2000, "y": 2000}, {"x": 1500, "y": 3500, "label": 0}]},
        {"points": [{"x": 500, "y": 500}], "box": [100, 100, 7900, 4900]},
    ]
    found: list[int] = []
    with Served(tmp_path) as served, weighed(served.pid) as peak:
        url = f"/images/{upload(served.url, one)[1]['id']}/segment"
        uploads = [lambda data=data: found.append(upload(served.url, data)[0]) for data in (one, other) * 3]
        together([*uploads, lambda: found.extend(served.call("POST", url, click)[0] for click in clicks * 2)])
    assert len(found) == 14 and set(found) <= {200, 201}
    print(f"peak {peak[0]} MiB")
    assert peak[0] < 1024


def test_as_many_soft_masks_as_a_job_may_have_beside_uploads_stay_under_a_gigabyte(tmp_path: Path) -> None:
    one, other = largest(False), largest(True)
    soft = np.zeros((5000, 8000), np.uint8)
    soft[500:4500, 500:7500] = np.linspace(0, 255, 7000, dtype=np.uint8)
    found: list[int] = []
    with Served(tmp_path) as served, weighed(served.pid) as peak:
        image = str(upload(served.url, one)[1]["id"])
        masks = []
        for n in range(5):
            soft[:400, : 1000 * (n + 1)] = 200
            masks.append(str(upload(served.url, encoded(soft, compress_level=1), image)[1]["id"]))
        assert served.call("POST", "/jobs", {"image_id": image, "mask_ids": [*masks, masks[0]]})[0] == 422  # 240 megapixels
        status, job = served.call("POST", "/jobs", {"image_id": image, "mask_ids": masks})
        assert status == 201
        together([lambda data=data: found.append(upload(served.url, data)[0]) for data in (one, other) * 3])  # type: ignore[misc]
        end = time.monotonic() + 120
        while (state := served.call("GET", f"/jobs/{job['id']}")[1])["status"] in ("queued", "starting") and time.monotonic() < end:
            time.sleep(0.1)
        while served.call("GET", f"/jobs/{job['id']}")[1]["status"] == "running" and time.monotonic() < end:
            time.sleep(0.1)
    assert set(found) <= {200, 201} and state["status"] in ("running", "succeeded")
    print(f"peak {peak[0]} MiB")
    assert peak[0] < 1024


def test_four_workers_with_all_that_their_jobs_may_have_beside_uploads_stay_under_a_gigabyte(tmp_path: Path) -> None:
    """Four jobs at once of a picture of 40 megapixels, its back, and 200 megapixels of soft masks."""
    one, other = largest(True), largest(False)
    soft = np.zeros((5000, 8000), np.uint8)
    soft[500:4500, 500:7500] = np.linspace(0, 255, 7000, dtype=np.uint8)
    found: list[int] = []
    with Served(tmp_path, "--workers", 4) as served, weighed(served.pid) as peak:
        image, back = (str(upload(served.url, data)[1]["id"]) for data in (other, one))
        masks = []
        for n in range(5):
            soft[:400, : 1000 * (n + 1)] = 200
            masks.append(str(upload(served.url, encoded(soft, compress_level=1), image)[1]["id"]))
        jobs = [{"image_id": image, "mask_ids": masks, "params": {"seed": seed, "back_image": back}} for seed in range(4)]
        ids = [served.call("POST", "/jobs", job)[1]["id"] for job in jobs]
        together([lambda data=data: found.append(upload(served.url, data)[0]) for data in (one, other) * 2])  # type: ignore[misc]
        end, states = time.monotonic() + 240, [""]
        while not set(states) <= {"succeeded", "failed"} and time.monotonic() < end:
            states = [str(served.call("GET", f"/jobs/{id}")[1]["status"]) for id in ids]
            time.sleep(0.2)
    assert set(found) <= {200, 201} and states == ["succeeded"] * 4
    print(f"peak {peak[0]} MiB")
    assert peak[0] < 1024


def test_a_result_of_a_gigabyte_stays_under_a_gigabyte(tmp_path: Path) -> None:
    """Two objects with all the detail that may be asked for."""
    noise = np.random.default_rng(0).integers(0, 255, (2500, 2500, 3), np.uint8)
    settings = {"quality": "best", "texture_size": 4096, "splat_target": 500_000, "outputs": ["glb", "ply"], "engine": "draft"}
    with Served(tmp_path, stub=False) as served, weighed(served.pid) as peak:
        image = str(upload(served.url, encoded(noise, compress_level=1))[1]["id"])
        masks = []
        for n in range(2):
            mask = np.zeros((2500, 2500), np.uint8)
            mask[50 + n : -50, 50:-50] = 255
            masks.append(str(upload(served.url, encoded(mask), image)[1]["id"]))
        status, job = served.call("POST", "/jobs", {"image_id": image, "mask_ids": masks, "params": settings})
        assert status == 201, job
        end = time.monotonic() + 240
        while (job := served.call("GET", f"/jobs/{job['id']}")[1])["status"] not in ("succeeded", "failed") and time.monotonic() < end:
            time.sleep(0.2)
    assert job["status"] == "succeeded", job
    print(f"peak {peak[0]} MiB, files {sum(file['bytes'] for file in job['outputs']) // MIB} MiB")
    assert peak[0] < 1024
