"""Ray for real, on this machine: `python -m pytest tests/test_executors_ray.py --full`. Its servers listen on the loopback interface alone, and end with the batch.

Starting Ray takes 6 to 15 s, so nothing of it is in the default suite; test_executors.py has what needs no cluster.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from factory_cli import STUB, TESTS, check_events, command, environment, hidden, is_complete, sprite

pytest.importorskip("ray", reason="layer `ray`: python install.py --layers base,ray")
pytestmark = [pytest.mark.full, pytest.mark.skipif(sys.platform == "win32", reason="Ray on Windows is in beta; the kills are POSIX's")]

LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")
ACTOR = "ray::Relay"


class Batch:
    """A batch on a Ray of its own, in a process of its own; its JSON lines go to a file, so that nothing waits for a reader."""

    def __init__(self, folder: Path, worker: str, *more: object, **variables: str) -> None:
        self.out, self.log = folder / "out", folder / "events.jsonl"
        args = ("batch", folder / "in", "--out", self.out, "--executor", "ray", "--engine", "draft", "-f", "glb", "--json", *more)
        variables = {"SAM3D_WORKER_COMMAND": worker, "PYTHONWARNINGS": "", "RAY_ADDRESS": "", **variables}
        with open(self.log, "wb") as log, open(folder / "err.txt", "wb") as err:
            self.process = psutil.Popen(
                command(*args), env=environment(**variables), stdin=subprocess.DEVNULL, stdout=log, stderr=err, start_new_session=True
            )
        self.seen: set[psutil.Process] = set()
        self.strangers: set[str] = set()

    def look(self) -> list[psutil.Process]:
        """The processes that it has now; notes who listens where."""
        try:
            found = [self.process, *self.process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []
        for one in found[1:]:
            self.seen.add(one)
        for one in found:
            try:
                ears = [c.laddr.ip for c in one.net_connections("inet") if c.status == psutil.CONN_LISTEN]
                self.strangers |= {f"{one.name()} listens on {ip}" for ip in ears if ip not in LOOPBACK}
            except psutil.Error:
                pass
        return found

    def actors(self) -> list[psutil.Process]:
        found = []
        for one in self.look():
            try:
                found += [one] if " ".join(one.cmdline()).startswith(ACTOR) else []
            except psutil.Error:
                pass
        return found

    def lines(self) -> list[dict]:
        manifest = self.out / "manifest.jsonl"
        return [json.loads(line) for line in manifest.read_text().splitlines() if line.endswith("}")] if manifest.exists() else []

    def wait_for(self, done: int, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while sum(line["status"] == "done" for line in self.lines()) < done:
            assert time.monotonic() < deadline and self.process.poll() is None, self.error()
            self.look()
            time.sleep(0.1)

    def end(self, seconds: float = 300) -> int:
        deadline = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.error()
            self.look()
            time.sleep(0.2)
        return int(self.process.wait())

    def events(self) -> list[dict]:
        return check_events(self.log.read_text(encoding="utf-8"))

    def error(self) -> str:
        return (self.out.parent / "err.txt").read_text(errors="replace")

    def left(self) -> list[psutil.Process]:
        """What it started and what still runs 10 s after its end."""
        _, alive = psutil.wait_procs(list(self.seen), timeout=10)
        return alive


@pytest.fixture
def batches(tmp_path) -> Iterator[list[Batch]]:
    made: list[Batch] = []
    yield made
    for one in made:
        one.look()
        if one.process.poll() is None:
            one.process.kill()
        for child in one.left():
            child.kill()


def test_200_sprites_4_actors_one_killed_one_poison(tmp_path, batches):
    """199 done, 1 quarantined, no item with two results, nothing lost; each attempt that began is one line of the ledger, and none is Ray's."""
    names = [f"{n:03}" for n in range(200)]
    poison = names[97]
    for number, name in enumerate(names):
        sprite(tmp_path / "in" / f"{name}.png", shade=number)
    rows = [{"image": f"{name}.png", "name": name, "seed": 666 if name == poison else 1} for name in names]
    (tmp_path / "in" / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    journal = tmp_path / "journal.txt"
    worker = shlex.join([sys.executable, str(TESTS / "poison_worker.py"), str(journal)])
    batch = Batch(tmp_path, worker, "--workers", 4, "--quality", "fast")
    batches.append(batch)
    batch.wait_for(40)
    actors = batch.actors()
    assert len(actors) == 4
    workers = actors[1].children(recursive=True)
    actors[1].kill()
    assert batch.end() == 1, batch.error()

    lines = batch.lines()
    done = Counter(line["name"] for line in lines if line["status"] == "done")
    assert set(done) == set(names) - {poison} and set(done.values()) == {1}
    assert [(line["status"], line["attempt"], line["kills"]) for line in lines if line["name"] == poison] == [
        ("failed", 1, 1),
        ("quarantined", 2, 2),
    ]
    bereft = [line for line in lines if line["status"] == "failed" and line["name"] != poison]
    assert len(bereft) <= 1 and all(line["attempt"] == 1 and "Ray actor died" in line["error"]["message"] for line in bereft)
    for name in done:
        assert is_complete(batch.out / name)["engine"] == "draft"
    assert not (batch.out / poison).exists() and hidden(batch.out) == []
    tried, began = Counter(line["name"] for line in lines), Counter(journal.read_text().split())
    assert tried[poison] == began[poison] == 2
    differ = {name for name in names if tried[name] != began[name]}
    assert differ <= {line["name"] for line in bereft}, "a job that its killed actor had not yet handed on"
    end = batch.events()[-1]
    assert {k: end[k] for k in ("made", "failed", "quarantined", "left")} == {"made": 199, "failed": 1, "quarantined": 1, "left": 0}
    assert any(e["event"] == "progress" for e in batch.events()), "progress comes back"

    assert batch.strangers == set()
    assert batch.left() == [] and psutil.wait_procs(workers, timeout=5)[1] == []

    again = Batch(tmp_path, "no-such-worker", "--workers", 4, "--quality", "fast")  # nothing to do: no actor is started
    batches.append(again)
    assert again.end() == 1 and len(again.lines()) == len(lines)
    assert Counter(e["state"] for e in again.events() if e["event"] == "done") == {"there": 199}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all_of_it(tmp_path, batches, number):
    for name in range(4):
        sprite(tmp_path / "in" / f"{name}.png")
    batch = Batch(tmp_path, STUB, "--workers", 2, "--seed", 1000 + (60 if number == signal.SIGTERM else 3))
    batches.append(batch)
    while '"progress"' not in batch.log.read_text():
        assert batch.process.poll() is None, batch.error()
        batch.look()
        time.sleep(0.1)
    batch.process.send_signal(number)
    assert batch.end(60) == 130
    made = [e["name"] for e in batch.events() if e["event"] == "done"]
    assert len(made) == (0 if number == signal.SIGTERM else 2), "once: what is under way is finished"
    assert batch.left() == [] and hidden(batch.out) == []


HEAD = """
import os, sys, time
os.environ.update(RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0", RAY_USAGE_STATS_ENABLED="0", RAY_ADDRESS="")
import ray
made = ray.init(address="local", num_cpus=2, num_gpus=int(sys.argv[1]), include_dashboard=False, object_store_memory=256 << 20, log_to_driver=False)
print("address", made["gcs_address"] if "gcs_address" in made else made.address_info["gcs_address"], flush=True)
sys.stdin.read()
"""


TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}


@contextmanager
def cluster(worker: str, gpus: int = 0) -> Iterator[tuple[dict[str, str], psutil.Popen]]:
    """A Ray of two cores that asks for a token -> the variables that lead to it, and its first process. gpus: as many as it is told to have."""
    head = psutil.Popen(
        [sys.executable, "-c", HEAD, str(gpus)],
        env={**os.environ, "SAM3D_WORKER_COMMAND": worker, **TOKEN},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    processes: list[psutil.Process] = []
    try:
        words = next(line for line in head.stdout if line.startswith("address")).split()
        yield {"RAY_ADDRESS": words[1], "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", **TOKEN}, head
        processes = head.children(recursive=True)
    finally:
        head.communicate("", timeout=30)
        psutil.wait_procs(processes, timeout=20)


def test_a_cluster_that_is_there(tmp_path, batches):
    """It is used, not ended; more actors than it has room for are refused, and so is one that isn't there."""
    for name in range(3):
        sprite(tmp_path / "in" / f"{name}.png")
    with cluster(STUB) as (own, head):
        batch = Batch(tmp_path, STUB, **own)
        batches.append(batch)
        assert batch.end() == 0, batch.error()
        assert batch.events()[-1]["made"] == 3
        many = Batch(tmp_path, STUB, "--workers", 3, **own)
        batches.append(many)
        assert many.end() == 2
        assert "3 actors of one CPU each: the Ray cluster has 2." in many.events()[-1]["error"]["message"]
        assert head.children(recursive=True), "the cluster still runs"
    gone = Batch(tmp_path, STUB, **own)
    batches.append(gone)
    assert gone.end() == 3
    assert "can't be reached" in gone.events()[-1]["error"]["message"]


def test_one_gpu_for_each_actor(tmp_path, batches):
    """On a cluster that says it has two: as many actors, each with its own."""
    which = tmp_path / "which.py"
    which.write_text(
        "import os, time\nfrom comfyui_sam3d.worker.channel import claim_stdio\nchannel = claim_stdio()\n"
        "from comfyui_sam3d.worker.loop import serve\nfrom comfyui_sam3d.worker.geometry import encode\n"
        "def engine(request, job):\n    time.sleep(2)\n    raise ValueError('on ' + os.environ['CUDA_VISIBLE_DEVICES'] + '.')\n"
        "serve(channel, {'draft': lambda: engine}, encode)\n"
    )
    worker = shlex.join([sys.executable, str(which)])
    for name in range(4):
        sprite(tmp_path / "in" / f"{name}.png")
    with cluster(worker, gpus=2) as (own, _):
        batch = Batch(tmp_path, worker, "--engine", "auto", **own)
        batches.append(batch)
        assert batch.end() == 1, batch.error()
    texts = [line["error"]["message"] for line in batch.lines()]
    assert len(texts) == 4 and any("on 0." in text for text in texts) and any("on 1." in text for text in texts), texts
