"""kill -9 of a batch, or of its worker, at any moment: nothing finished is lost, nothing half-written is visible, the next run does the rest."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from factory_cli import STUB, Ran, check_events, environment, here, hidden, is_complete, sprite, start

COUNT = 3  # items of a batch
FORMATS = ("-f", "glb,stl")

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX's; docs/protocol.md says what Windows does instead")


@pytest.fixture(autouse=True)
def stub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAM3D_WORKER_COMMAND", STUB)


@pytest.fixture
def folder(tmp_path) -> Path:
    for number in range(COUNT):
        sprite(tmp_path / "in" / f"{number}.png", shade=60 + 20 * number)
    return tmp_path


def finished(out: Path) -> dict[str, int]:
    """Names of complete results -> the time at which their mesh was written. Whatever else is visible is an error."""
    found = {}
    for entry in out.iterdir() if out.exists() else ():
        if entry.name.startswith(".") or not entry.is_dir() or entry.name == "report_files":
            continue
        is_complete(entry)
        found[entry.name] = (entry / "model.glb").stat().st_mtime_ns
    return found


def check_the_next_run(folder: Path, capsys) -> None:
    """What was finished is taken as it is, the rest is made, and nothing is left over."""
    out = folder / "out"
    before = finished(out)
    ran: Ran = here("batch", folder / "in", "--out", out, *FORMATS, "--json", capsys=capsys)
    assert ran.code == 0, ran.out
    states = {e["name"]: e["state"] for e in ran.only("done")}
    assert {name for name, state in states.items() if state in ("there", "adopted")} == set(before)
    after = finished(out)
    assert set(after) == {str(n) for n in range(COUNT)} and {name: after[name] for name in before} == before
    assert hidden(out) == []
    assert {e["state"] for e in here("batch", folder / "in", "--out", out, *FORMATS, "--json", capsys=capsys).only("done")} == {"there"}


def kill_after(folder: Path, line: int, seconds: float) -> None:
    """Start a batch and kill it this long after its n-th line."""
    process = start("batch", folder / "in", "--out", folder / "out", *FORMATS, "--json")
    for _ in range(line):
        if not process.stdout.readline():
            break
    time.sleep(seconds)
    workers = psutil.Process(process.pid).children()
    process.kill()
    process.communicate()
    psutil.wait_procs(workers, timeout=10)


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(n, marks=pytest.mark.full) for n in range(2, 50))])
def test_killed_at_a_random_moment(folder, capsys, seed):
    chance = random.Random(seed)
    for _ in range(chance.choice((1, 1, 2, 3))):
        kill_after(folder, chance.randrange(1, 12), chance.uniform(0, 0.12))
        finished(folder / "out")
    check_the_next_run(folder, capsys)


_DIE = """
import os, signal, sys, threading
left, lock = [int(sys.argv.pop(1))], threading.Lock()
def deadly(real):
    def call(*arguments, **more):
        with lock:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **more)
    return call
for name in ("fsync", "replace", "rename"):
    setattr(os, name, deadly(getattr(os, name)))
from comfyui_sam3d.factory.cli import main
main()
"""


def killed_at_call(folder: Path, number: int, *more: str) -> bool:
    """A batch that kills itself at its n-th fsync, rename or replace; False where it had fewer."""
    arguments = [sys.executable, "-c", _DIE, str(number), "batch", str(folder / "in"), "--out", str(folder / "out"), *FORMATS, *more]
    done = subprocess.run(arguments, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr.decode()
    return done.returncode != 0


@pytest.mark.parametrize("number", [3, 5, 8, *(pytest.param(n, marks=pytest.mark.full) for n in (0, 1, 2, 4, 6, 7, *range(9, 26)))])
def test_killed_at_each_step_that_others_can_see(folder, capsys, number):
    killed_at_call(folder, number)
    check_the_next_run(folder, capsys)


def test_between_the_result_and_its_line(folder, capsys):
    """The result is complete, the manifest doesn't know it: the next run takes it."""
    out = folder / "out"
    for number in (5, *range(20)):
        assert killed_at_call(folder, number)
        lines = (out / "manifest.jsonl").read_bytes() if (out / "manifest.jsonl").exists() else b""
        if finished(out) and not lines:
            break
    else:
        pytest.fail("no kill fell between the two")
    ran = here("batch", folder / "in", "--out", out, *FORMATS, "--json", capsys=capsys)
    assert sorted(e["state"] for e in ran.only("done")) == ["adopted", "made", "made"]


@pytest.mark.parametrize("number", [6, 12, *(pytest.param(n, marks=pytest.mark.full) for n in (*range(6), *range(7, 12), *range(13, 40)))])
def test_killed_while_results_are_replaced(folder, capsys, number):
    """--force over complete results: each is the old one, the new one, or marked as incomplete; never something that counts and is neither."""
    from comfyui_sam3d.factory.output import Place, complete_meta

    out = folder / "out"
    here("batch", folder / "in", "--out", out, *FORMATS, "--seed", 5, capsys=capsys)
    killed_at_call(folder, number)
    whole = [name for name in map(str, range(COUNT)) if complete_meta(Place(out, name))]
    for name in whole:
        is_complete(out / name)
    assert len(whole) >= COUNT - 1
    ran = here("batch", folder / "in", "--out", out, *FORMATS, "--json", capsys=capsys)
    assert ran.code == 0 and {is_complete(out / str(n))["seed"] for n in range(COUNT)} == {0} and hidden(out) == []
    assert sorted(p.name for p in (out / "report_files").iterdir()) == [f"{n}.webp" for n in range(COUNT)]


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(n, marks=pytest.mark.full) for n in range(2, 40))])
def test_the_worker_is_killed_at_a_random_moment(folder, seed):
    chance = random.Random(1000 + seed)
    process = start("batch", folder / "in", "--out", folder / "out", *FORMATS, "--json", "--seed", 1000)
    lines = [process.stdout.readline() for _ in range(chance.randrange(1, 10))]
    time.sleep(chance.uniform(0, 0.05))
    killed = [child.pid for child in psutil.Process(process.pid).children() if process.poll() is None]
    for pid in killed:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    out, err = process.communicate(timeout=60)
    events = check_events("".join(lines) + out)
    assert process.returncode == 0, err
    assert set(finished(folder / "out")) == {str(n) for n in range(COUNT)}
    failures = [e for e in events if e["event"] == "failed"]
    assert len(failures) <= len(killed) and all(e["retry"] and e["error"]["code"].startswith("E_WORKER") for e in failures)


@pytest.mark.full
def test_the_worker_is_killed_all_the_time(folder, capsys):
    """Each item costs two workers, however many attempts are allowed; then it is set aside. Asked for again, all are made."""
    process = start("batch", folder / "in", "--out", folder / "out", *FORMATS, "--json", "--seed", 1001, "--retries", 10)
    kills = 0
    while process.poll() is None and kills < 10 * COUNT:
        time.sleep(0.7)
        for child in psutil.Process(process.pid).children() if process.poll() is None else ():
            child.kill()
            kills += 1
    out, err = process.communicate(timeout=120)
    failures = [e for e in check_events(out) if e["event"] == "failed"]
    assert process.returncode == 1, err
    for name in "012":  # one that is killed before its greeting has cost the item nothing
        crashes = [e["retry"] for e in failures if e["name"] == name and e["error"]["code"] == "E_WORKER_CRASH"]
        assert crashes == [True, False]
    assert all(e.get("quarantined", False) != e["retry"] for e in failures) and finished(folder / "out") == {}
    again = ("batch", folder / "in", "--out", folder / "out", *FORMATS, "--json", "--seed", 1001)
    assert here(*again, capsys=capsys).code == 1
    assert here(*again, "--retry-quarantined", capsys=capsys).code == 0
    assert set(finished(folder / "out")) == {str(n) for n in range(COUNT)} and hidden(folder / "out") == []
