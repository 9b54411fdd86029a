"""The database: the table of states, what a kill leaves behind, and what the store promises whatever happens in whichever order."""

from __future__ import annotations

import itertools
import json
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from comfyui_sam3d.contract.errors import BusyError, ConflictError, NotFoundError, StorageError, WorkerCrashed
from comfyui_sam3d.factory.server.database import MIGRATIONS, Database
from comfyui_sam3d.factory.server.dispatcher import recover
from comfyui_sam3d.factory.server.limits import Limits
from comfyui_sam3d.factory.server.states import BORN, CLAIMED, LEGAL, TERMINAL, Status
from comfyui_sam3d.factory.server.store import NewJob, Once, Store
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

LIMITS = Limits()
OUTPUTS: dict[str, Any] = {"files": {"model.glb": {"size": 1, "sha256": "0" * 64}}}


_open: list[Database] = []


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    while _open:
        _open.pop().close()


def store(path: Path | str = ":memory:", max_queue: int = 100) -> Store:
    _open.append(Database(path))  # type: ignore[arg-type]
    return Store(_open[-1], max_queue=max_queue, log_lines=5)


def new(key: str = "k", **fields: Any) -> NewJob:
    return NewJob(request_key=key, **fields)


def stories(found: Store) -> dict[str, list[tuple[str | None, str]]]:
    """The transitions of each job, from its events."""
    told: dict[str, list[tuple[str | None, str]]] = {}
    for row in found.events(None, 0, 100_000):
        if row["kind"] == "status":
            data = json.loads(row["data"])
            told.setdefault(row["job"], []).append((data["from"], data["status"]))
    return told


def test_terminal_states_are_final_and_every_state_can_be_reached() -> None:
    assert all(not LEGAL[status] for status in TERMINAL) and set(LEGAL) == set(Status)
    reached = set(BORN)
    for _ in Status:
        reached |= {to for status in reached for to in LEGAL[status]}
    assert reached == set(Status)
    assert all(Status.QUEUED in LEGAL[status] for status in CLAIMED)  # nothing is lost with its worker


@pytest.mark.parametrize(("before", "to"), list(itertools.product(Status, Status)))
def test_only_the_table_is_possible(before: Status, to: Status) -> None:
    found = store()
    row, _ = found.add(new())
    job = row["id"]
    paths = {
        Status.QUEUED: [],
        Status.STARTING: [Status.STARTING],
        Status.RUNNING: [Status.STARTING, Status.RUNNING],
        Status.SUCCEEDED: [Status.STARTING, Status.SUCCEEDED],
        Status.FAILED: [Status.FAILED],
        Status.CANCELED: [Status.CANCELED],
    }
    given = {Status.SUCCEEDED: {"outputs": json.dumps(OUTPUTS)}}
    for step in paths[before]:
        found._change(job, step, **given.get(step, {}))
    if to in LEGAL[before]:
        found._change(job, to, **given.get(to, {}))
        assert found.job(job)["status"] == to
    else:
        with pytest.raises(ConflictError):
            found._change(job, to, **given.get(to, {}))
        assert found.job(job)["status"] == before  # and nothing was written


def test_each_job_is_claimed_once_whoever_asks(tmp_path: Path) -> None:
    found = store(tmp_path / "x.sqlite3", 1000)
    jobs = {found.add(new(str(n)))[0]["id"] for n in range(200)}
    claimed: list[str] = []

    def work() -> None:
        while (row := found.claim()) is not None:
            claimed.append(row["id"])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(claimed) == 200 and set(claimed) == jobs


def test_the_queue_has_an_end() -> None:
    found = store(max_queue=2)
    for n in range(2):
        found.add(new(str(n)))
    with pytest.raises(BusyError):
        found.add(new("3"))
    with pytest.raises(BusyError):
        found.add_batch("b", [new("4")])
    assert found.claim() is not None
    found.add(new("3"))
    with pytest.raises(BusyError):
        found.add_batch("b", [new("4"), new("5")])
    assert len(found.batches()) == 0 and found.queued() == 2  # nothing of the batch was kept


def test_idempotency_holds_for_jobs_and_batches() -> None:
    found = store()
    first, made = found.add(new(), Once("key", "a"))
    again, second = found.add(new(), Once("key", "a"))
    assert made and not second and first["id"] == again["id"]
    with pytest.raises(ConflictError):
        found.add(new(), Once("key", "b"))
    batch, made = found.add_batch("b", [new("1")], Once("other", "a"))
    assert made and found.add_batch("b", [new("1")], Once("other", "a")) == (batch, False)


def test_progress_never_falls_and_goes_with_the_job() -> None:
    found = store()
    job = found.add(new())[0]["id"]
    found.claim()
    found.running(job)
    for fraction in (0.2, 0.6, 0.4):
        found.progress(job, "x", 1, 2, fraction, None)
    assert found.job(job)["progress"] == 0.6
    found.failed(job, WorkerCrashed("Boom."))
    assert not [row for row in found.events(job, 0) if row["kind"] == "progress"]


def test_a_talkative_job_is_cut_short() -> None:
    found = store()
    job = found.add(new())[0]["id"]
    for n in range(20):
        found.log(job, "info", str(n))
    assert len([row for row in found.events(job, 0) if row["kind"] == "log"]) == 5


def test_a_server_that_is_killed_gives_back_what_it_had(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite3"
    before = store(path)
    jobs = [before.add(new(str(n)))[0]["id"] for n in range(4)]
    for _ in range(3):
        before.claim()
    before.running(jobs[1])
    before.cancel(jobs[2])
    after = store(path)  # the one before was killed: it closed nothing
    recover(after, LIMITS)
    assert [after.job(job)["status"] for job in jobs] == ["queued", "queued", "canceled", "queued"]
    assert [after.job(job)["attempts"] for job in jobs] == [1, 1, 1, 0]
    row = after.claim()
    assert row is not None and row["id"] == jobs[0] and row["attempts"] == 2


def test_a_job_that_takes_every_server_with_it_ends(tmp_path: Path) -> None:
    found = store(tmp_path / "x.sqlite3")
    job = found.add(new())[0]["id"]
    for _ in range(10):
        if found.claim() is None:
            break
        recover(found, LIMITS)
    assert found.job(job)["status"] == "failed" and found.job(job)["attempts"] == LIMITS.attempts + 1


def test_deleting_and_asking_for_what_is_not_there() -> None:
    found = store()
    job = found.add(new())[0]["id"]
    with pytest.raises(ConflictError):
        found.delete(job)
    found.cancel(job)
    with pytest.raises(ConflictError):
        found.cancel(job)
    found.delete(job)
    for call in (found.job, found.delete, found.cancel, found.batch):
        with pytest.raises(NotFoundError):
            call(job)
    assert found.cancel_asked(job)  # whoever works on it may stop


def test_event_numbers_rise_over_restarts_and_deletions(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite3"
    one = store(path)
    job = one.add(new())[0]["id"]
    one.cancel(job)
    last = one.last_event()
    one.delete(job)
    two = store(path)
    two.add(new())
    assert two.last_event() > last and two.events(None, last)[0]["n"] > last


def test_migrations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.sqlite3"
    job = store(path).add(new())[0]["id"]
    more = (*MIGRATIONS, "ALTER TABLE jobs ADD COLUMN color TEXT NOT NULL DEFAULT 'red';")
    monkeypatch.setattr("comfyui_sam3d.factory.server.database.MIGRATIONS", more)
    assert store(path).job(job)["color"] == "red"
    assert store(path).job(job)["color"] == "red"  # each runs once
    broken = (*more, "CREATE TABLE half (x); CREATE TABLE jobs (x);")
    monkeypatch.setattr("comfyui_sam3d.factory.server.database.MIGRATIONS", broken)
    with pytest.raises(StorageError):
        Database(path)
    monkeypatch.setattr("comfyui_sam3d.factory.server.database.MIGRATIONS", MIGRATIONS)
    with pytest.raises(StorageError, match="newer"):
        Database(path)
    raw = sqlite3.connect(path)
    assert raw.execute("SELECT name FROM sqlite_master WHERE name = 'half'").fetchone() is None
    raw.close()
    (tmp_path / "text").write_text("no database " * 100)
    with pytest.raises(StorageError):
        Database(tmp_path / "text")


class Life(RuleBasedStateMachine):
    """Callers, worker threads and kills in any order. The store and the dispatcher's rules, without processes."""

    def __init__(self) -> None:
        super().__init__()
        self.limits = replace(LIMITS, attempts=3, max_queue=8)
        self.database = Database(":memory:")  # type: ignore[arg-type]
        self.store = Store(self.database, max_queue=8)
        self.held: list[str] = []  # claimed by a thread that lives
        self.known: dict[str, int] = {}  # job -> claims
        self.results: dict[str, int] = {}

    def teardown(self) -> None:
        self.database.close()

    @rule(key=st.sampled_from("abc"), priority=st.integers(-1, 1))
    def submit(self, key: str, priority: int) -> None:
        try:
            row, _ = self.store.add(new(key, priority=priority))
        except BusyError:
            assert self.store.queued() >= 8  # more where a kill put claimed jobs back: what was taken in is never refused
            return
        self.known[row["id"]] = 0

    @rule()
    def claim(self) -> None:
        row = self.store.claim()
        if row is not None:
            assert row["id"] not in self.held
            self.held.append(row["id"])
            self.known[row["id"]] += 1

    @rule(which=st.integers(0, 20), how=st.sampled_from(["running", "progress", "succeeded", "adopted", "failed", "lost", "canceled"]))
    def work(self, which: int, how: str) -> None:
        if not self.held:
            return
        job = self.held[which % len(self.held)]
        status = Status(self.store.job(job)["status"])
        if how == "running" and status == Status.STARTING:
            self.store.running(job)
        elif how == "progress":
            self.store.progress(job, "s", 1, 2, 0.5, None)
        elif how in ("succeeded", "adopted"):
            self.store.succeeded(job, "0" * 64, OUTPUTS, cached=how == "adopted", seconds=1.0)
            self.results[job] = self.results.get(job, 0) + 1
        elif how == "failed":
            self.store.failed(job, WorkerCrashed("Boom."))
        elif how == "lost":
            self.store.lost(job, WorkerCrashed("Boom."))
        elif how == "canceled" and self.store.cancel_asked(job):
            self.store.canceled(job)
        if how in ("succeeded", "adopted", "failed", "lost") or self.store.job(job)["status"] == Status.CANCELED:
            self.held.remove(job)

    @rule(which=st.integers(0, 50))
    def cancel(self, which: int) -> None:
        if self.known:
            job = sorted(self.known)[which % len(self.known)]
            over = Status(self.store.job(job)["status"]) in TERMINAL
            try:
                self.store.cancel(job)
                assert not over
            except ConflictError:
                assert over

    @rule()
    def kill(self) -> None:
        """The server dies and comes back: what was committed is there, its threads aren't."""
        self.held.clear()
        self.store = Store(self.database, max_queue=8)
        recover(self.store, self.limits)

    @invariant()
    def nothing_is_lost_or_done_twice(self) -> None:
        told = stories(self.store)
        assert set(told) == set(self.known)
        for job, story in told.items():
            row = self.store.job(job)
            assert story[0] == (None, "queued") and row["status"] == story[-1][1]
            for (_, before), (origin, to) in itertools.pairwise(story):
                assert origin == before and Status(to) in LEGAL[Status(before)]
            assert [to for _, to in story].count("succeeded") == self.results.get(job, 0) <= 1
            assert row["attempts"] == self.known[job]
            assert (row["status"] in ("starting", "running")) == (job in self.held)


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
