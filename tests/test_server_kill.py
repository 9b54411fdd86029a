"""The server and its workers, killed at any moment: no job is lost, none is recorded twice, what was complete is not made again."""

from __future__ import annotations

import itertools
import json
import random
import signal
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from comfyui_sam3d.factory import output
from comfyui_sam3d.factory.server.slot import Slot
from comfyui_sam3d.factory.server.states import LEGAL, Status
from comfyui_sam3d.factory.server.store import Store

from .server_app import V1, png, send_job, server, wait
from .server_process import Served


def submit(served: Served, image: str, seed: int, key: str) -> str:
    """A job, sent again until somebody answers: the key makes it one."""
    while True:
        try:
            status, job = served.call(
                "POST", "/jobs", {"image_id": image, "params": {"seed": seed, "outputs": ["glb", "ply"]}}, {"Idempotency-Key": key}
            )
        except OSError:
            time.sleep(0.05)
            continue
        if status == 429:
            time.sleep(0.2)
            continue
        assert status in (200, 201), job
        return str(job["id"])


def picture(served: Served) -> str:
    import urllib.request

    boundary = "xxxxxxxxxxxx"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="x.png"\r\n\r\n'.encode()
    kind = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    request = urllib.request.Request(f"{served.url}{V1}/images", head + png(alpha=True) + f"\r\n--{boundary}--\r\n".encode(), kind)
    with urllib.request.urlopen(request, timeout=20) as answer:
        return str(json.loads(answer.read())["id"])


def ended(served: Served, job: str, seconds: float = 60.0) -> dict[str, Any]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            _, found = served.call("GET", f"/jobs/{job}")
        except OSError:
            time.sleep(0.05)
            continue
        if found["status"] in ("succeeded", "failed", "canceled"):
            return dict(found)
        time.sleep(0.02)
    raise AssertionError(served.log)


def check_history(root: Path, jobs: dict[str, int]) -> None:
    """From the database alone: every job ended well and once, each step is in the table, each result is complete."""
    database = sqlite3.connect(root / "data" / "sam3d.sqlite3")
    try:
        told: dict[str, list[tuple[str | None, str]]] = {}
        for job, data in database.execute("SELECT job, data FROM events WHERE kind = 'status' ORDER BY n"):
            found = json.loads(data)
            told.setdefault(job, []).append((found["from"], found["status"]))
        rows = {row[0]: row[1:] for row in database.execute("SELECT id, status, result, attempts FROM jobs")}
        done = dict(database.execute("SELECT job, count(*) FROM events WHERE kind = 'done' GROUP BY job"))
    finally:
        database.close()
    assert set(rows) == set(jobs)
    for job, story in told.items():
        assert [to for _, to in story].count("succeeded") == 1 == done[job] and rows[job][0] == "succeeded", (job, story)
        for (_, before), (origin, to) in itertools.pairwise(story):
            assert origin == before and Status(to) in LEGAL[Status(before)], story
        meta = output.complete_meta(output.Place(root / "data" / "results", rows[job][1]))
        assert meta is not None and meta["seed"] == jobs[job]
    folders = {path.name for path in (root / "data" / "results").iterdir() if not path.name.startswith(".")}
    assert folders == {row[1] for row in rows.values()}


def test_kill_of_the_server_in_the_middle_of_a_job(tmp_path: Path) -> None:
    with Served(tmp_path) as served:
        image = picture(served)
        jobs = {submit(served, image, seed, str(seed)): seed for seed in (1002, 7, 8)}
        first = next(iter(jobs))
        while served.call("GET", f"/jobs/{first}")[1]["status"] != "running":
            time.sleep(0.01)
        served.kill()
        served.start()
        assert submit(served, image, 1002, "1002") == first
        assert all(ended(served, job)["status"] == "succeeded" for job in jobs)
        assert ended(served, first)["attempts"] == 2
    check_history(tmp_path, jobs)


def test_kill_of_the_worker_in_the_middle_of_a_job(tmp_path: Path) -> None:
    with Served(tmp_path) as served:
        job = submit(served, picture(served), 1001, "a")
        while served.call("GET", f"/jobs/{job}")[1]["status"] != "running":
            time.sleep(0.01)
        assert served.kill_worker()
        assert ended(served, job)["attempts"] == 2
    check_history(tmp_path, {job: 1001})


def test_a_stop_in_good_order_costs_no_attempt(tmp_path: Path) -> None:
    with Served(tmp_path) as served:
        job = submit(served, picture(served), 1003, "a")
        while served.call("GET", f"/jobs/{job}")[1]["status"] != "running":
            time.sleep(0.01)
        assert served.kill(signal.SIGTERM) in (0, -signal.SIGTERM), served.log
        served.start()
        assert ended(served, job)["attempts"] == 1
        assert "Traceback" not in served.log
    check_history(tmp_path, {job: 1003})


def test_a_result_without_its_record_is_adopted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that dies between writing a result and saying so: simulated by one that never says so."""
    died = threading.Event()

    def die(*_: object, **__: object) -> None:
        died.set()
        raise SystemExit  # ends the slot's thread, as a kill would

    with monkeypatch.context() as patch:
        patch.setattr(Store, "succeeded", die)
        patch.setattr(Slot, "_failed", die)
        patch.setattr(threading, "excepthook", lambda _: None)
        with server(tmp_path) as client:
            job = send_job(client)["id"]
            assert died.wait(20)
    written = next((tmp_path / "results").rglob("model.glb")).stat().st_mtime_ns
    with server(tmp_path) as client:
        found = wait(client, job)
        assert found["status"] == "succeeded" and found["cached"] and found["attempts"] == 2
        assert [e["status"] for e in statuses(client, job)] == ["queued", "starting", "running", "queued", "starting", "succeeded"]
    assert next((tmp_path / "results").rglob("model.glb")).stat().st_mtime_ns == written


def statuses(client: Any, job: str) -> list[dict[str, Any]]:
    from .server_app import events

    return [event["data"] for event in events(client.get(f"{V1}/jobs/{job}/events").text) if event["event"] == "status"]


def test_a_damaged_result_is_made_again(tmp_path: Path) -> None:
    with server(tmp_path) as client:
        first = wait(client, send_job(client)["id"])
        file = next((tmp_path / "results").rglob("model.glb"))
        file.write_bytes(file.read_bytes()[:-1])
        again = wait(client, send_job(client)["id"])
        assert again["status"] == "succeeded" and not again["cached"]
        assert again["outputs"] == [{**o, "url": o["url"].replace(first["id"], again["id"])} for o in first["outputs"]]


def test_what_a_kill_left_on_the_disk_is_swept(tmp_path: Path) -> None:
    with server(tmp_path) as client:
        wait(client, send_job(client)["id"])
    stray = [
        tmp_path / "spool" / "half",
        tmp_path / "images" / "ab" / f"{'ab' * 32}.png",
        tmp_path / "results" / ("cd" * 32) / "model.glb",
        tmp_path / "results" / ".sam3d-server-0123" / "model.glb",
    ]
    for path in stray:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    gone = next(tmp_path.glob("images/*/*.png"))
    kept = [path for path in tmp_path.glob("images/*/*.png") if path not in stray]
    with server(tmp_path) as client:
        assert not any(path.exists() for path in stray) and all(path.exists() for path in kept)
        assert client.get(f"{V1}/info").json()["storage"]["used"] > 0
    kept[0].unlink()
    with server(tmp_path) as client:
        assert client.get(f"{V1}/images/{kept[0].stem}").status_code == 404
    assert gone is not None


@pytest.mark.full
def test_500_jobs_while_everything_is_killed(tmp_path: Path) -> None:
    """Random kills of the server and of its workers while 500 jobs are sent and worked off. Prints what it saw, for docs/log.md."""
    rng = random.Random(8)
    kills = {"server": 0, "worker": 0}
    jobs: dict[str, int] = {}
    with Served(tmp_path, "--attempts", 10, "--workers", 2) as served:
        image = picture(served)
        over, alive = threading.Event(), threading.Event()
        alive.set()

        def send() -> None:
            for seed in range(500):
                jobs[submit(served, image, seed, f"job-{seed}")] = seed

        def kill() -> None:
            while not over.wait(rng.uniform(0.02, 0.6)):
                if rng.random() < 0.3:
                    served.kill()
                    kills["server"] += 1
                    served.start()
                else:
                    kills["worker"] += served.kill_worker()

        began = time.monotonic()
        threads = [threading.Thread(target=send), threading.Thread(target=kill)]
        for thread in threads:
            thread.start()
        threads[0].join()
        while True:
            try:
                waiting = [
                    job
                    for status in ("queued", "starting", "running")
                    for job in served.call("GET", f"/jobs?status={status}&limit=1")[1]["jobs"]
                ]
                if not waiting:
                    break
            except (OSError, ValueError):
                pass
            time.sleep(0.5)
        over.set()
        threads[1].join()
        served.wait()
        seconds = time.monotonic() - began
    check_history(tmp_path, jobs)
    database = sqlite3.connect(tmp_path / "data" / "sam3d.sqlite3")
    attempts, most, cached = database.execute("SELECT sum(attempts), max(attempts), sum(cached) FROM jobs").fetchone()
    database.close()
    print(f"500 jobs in {seconds:.0f} s, {kills}, {attempts} attempts, at most {most} at one job, {cached} results adopted")


def test_a_stop_ends_the_streams(tmp_path: Path) -> None:
    import http.client

    with Served(tmp_path) as served:
        stream = http.client.HTTPConnection(served.url.removeprefix("http://"), timeout=30)
        stream.request("GET", f"{V1}/events")
        answer = stream.getresponse()
        assert answer.readline() == b"retry: 1000\n"
        began = time.monotonic()
        served.kill(signal.SIGTERM)
        assert time.monotonic() - began < 4
        assert answer.read() == b"\n"
        stream.close()
