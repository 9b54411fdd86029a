"""Jobs, batches and their events in the database. Every change of a job's state goes through `_move`, which knows the table in states.py.

What happens to a job is also an event with a number that only rises, over all jobs and over restarts: that is what a browser that was away asks for
(Last-Event-ID). Events of kind progress are dropped when their job ends; all others stay as long as the job.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...contract.errors import BusyError, ConflictError, NotFoundError, Sam3dError
from .database import Database
from .ids import ulid
from .states import BORN, LEGAL, TERMINAL, Status

Row = sqlite3.Row


@dataclass(frozen=True)
class NewJob:
    """What a job is made of. kind: reconstruct, or what came as a frame (frame: its id in the vault). request_key: sha256 of all that decides the result."""

    request_key: str
    kind: str = "reconstruct"
    name: str = "object"
    image: str | None = None
    masks: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    frame: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    priority: int = 0
    fresh: bool = False  # make it even where the same result is there
    batch: str | None = None
    retry_of: str | None = None


@dataclass(frozen=True)
class Once:
    """An Idempotency-Key and a digest of the call that it came with."""

    key: str
    digest: str


class Store:
    """Methods may be called from any thread. `listen` is told the id of a job whenever it has a new event, on the thread that made it."""

    def __init__(self, database: Database, *, max_queue: int, log_lines: int = 200) -> None:
        self._db = database
        self._max_queue, self._log_lines = max_queue, log_lines
        self.listen: Callable[[str], None] = lambda job: None
        self.work = threading.Condition()  # notified when there may be something to claim

    # -- new jobs

    def add(self, new: NewJob, once: Once | None = None, done: tuple[str, dict[str, Any]] | None = None) -> tuple[Row, bool]:
        """The job, and whether it was made now. done: the key and the outputs of a complete result of the same request: the job is born succeeded.

        Raises BusyError where the queue is full, ConflictError for an Idempotency-Key that was used for something else.
        """
        with self._db.write():
            if once is not None and (earlier := self._earlier(once)) is not None:
                return self.job(earlier), False
            if done is None:
                self._room(1)
            job = self._insert(new, done)
            self._remember(once, job)
        self._said(job, queued=done is None)
        return self.job(job), True

    def add_batch(self, name: str, items: Sequence[NewJob], once: Once | None = None) -> tuple[str, bool]:
        """The id of a batch with a job for each item, all or none, and whether it was made now."""
        with self._db.write() as db:
            if once is not None and (earlier := self._earlier(once)) is not None:
                return earlier, False
            self._room(len(items))
            batch = ulid()
            db.execute("INSERT INTO batches (id, name, created) VALUES (?, ?, ?)", (batch, name, time.time()))
            for new in items:
                self._insert(NewJob(**{**new.__dict__, "batch": batch}), None)
            self._remember(once, batch)
        self._said(batch, queued=True)
        return batch, True

    def _earlier(self, once: Once) -> str | None:
        row = self._db.row("SELECT digest, target FROM idempotency WHERE key = ?", (once.key,))
        if row is None:
            return None
        if row["digest"] != once.digest:
            raise ConflictError("This Idempotency-Key was used for another call.", "Use a new key for each new piece of work.")
        return str(row["target"])

    def _remember(self, once: Once | None, target: str) -> None:
        if once is not None:
            with self._db.write() as db:
                db.execute("INSERT INTO idempotency VALUES (?, ?, ?, ?)", (once.key, once.digest, target, time.time()))

    def _room(self, count: int) -> None:
        if self.queued() + count > self._max_queue:
            raise BusyError(f"The queue is full: {self._max_queue} jobs wait.", "Try again when some of them are done.")

    def _insert(self, new: NewJob, done: tuple[str, dict[str, Any]] | None) -> str:
        job, now = ulid(), time.time()
        status = Status.SUCCEEDED if done else Status.QUEUED
        assert status in BORN
        values: dict[str, Any] = {
            "id": job,
            "kind": new.kind,
            "status": status.value,
            "name": new.name,
            "image": new.image,
            "masks": json.dumps(new.masks),
            "names": json.dumps(new.names),
            "frame": new.frame,
            "params": json.dumps(new.params),
            "request_key": new.request_key,
            "fresh": int(new.fresh),
            "priority": new.priority,
            "batch": new.batch,
            "retry_of": new.retry_of,
            "created": now,
        }
        if done:
            values |= {"result": done[0], "outputs": json.dumps(done[1]), "cached": 1, "progress": 1.0, "finished": now}
        with self._db.write() as db:
            db.execute(f"INSERT INTO jobs ({', '.join(values)}) VALUES ({', '.join('?' * len(values))})", tuple(values.values()))
            self._event(job, "status", {"status": status.value, "from": None, "attempt": 0})
            if done:
                self._event(job, "output", {"files": sorted(done[1]["files"])})
                self._event(job, "done", {"status": status.value, "error": None})
        return job

    # -- what is there

    def job(self, job: str) -> Row:
        """Raises NotFoundError."""
        row = self._db.row("SELECT * FROM jobs WHERE id = ?", (job,))
        if row is None:
            raise NotFoundError(f"There is no job {job}.", "It may have been deleted.")
        return row

    def jobs(self, *, status: str | None = None, batch: str | None = None, before: str | None = None, limit: int = 50) -> list[Row]:
        """Newest first. before: the id of the last one of the page before."""
        rules, values = ["1"], list[Any]()
        for rule, value in (("status = ?", status), ("batch = ?", batch), ("n < (SELECT n FROM jobs WHERE id = ?)", before)):
            if value is not None:
                rules.append(rule)
                values.append(value)
        return self._db.rows(f"SELECT * FROM jobs WHERE {' AND '.join(rules)} ORDER BY n DESC LIMIT ?", (*values, limit))

    def position(self, row: Row) -> int | None:
        """How many jobs are worked off before this one; None where it doesn't wait."""
        if row["status"] != Status.QUEUED:
            return None
        rule = "status = 'queued' AND (priority > ? OR (priority = ? AND n < ?))"
        found = self._db.row(f"SELECT count(*) FROM jobs WHERE {rule}", (row["priority"], row["priority"], row["n"]))
        return int(found[0]) if found else 0

    def queued(self) -> int:
        found = self._db.row("SELECT count(*) FROM jobs WHERE status = 'queued'")
        return int(found[0]) if found else 0

    def counts(self, batch: str | None = None) -> dict[str, int]:
        """How many jobs, of all or of a batch, are in each state."""
        rule, values = ("WHERE batch = ?", (batch,)) if batch else ("", ())
        found = {row[0]: row[1] for row in self._db.rows(f"SELECT status, count(*) FROM jobs {rule} GROUP BY status", values)}
        return {status.value: found.get(status.value, 0) for status in Status}

    def batch(self, batch: str) -> Row:
        row = self._db.row("SELECT * FROM batches WHERE id = ?", (batch,))
        if row is None:
            raise NotFoundError(f"There is no batch {batch}.", "It may have been deleted.")
        return row

    def batches(self, limit: int = 50) -> list[Row]:
        return self._db.rows("SELECT * FROM batches ORDER BY created DESC, id DESC LIMIT ?", (limit,))

    # -- events

    def events(self, job: str | None, after: int, limit: int = 500) -> list[Row]:
        """Of one job or of all, those with a number above `after`."""
        if job is None:
            return self._db.rows("SELECT * FROM events WHERE n > ? ORDER BY n LIMIT ?", (after, limit))
        return self._db.rows("SELECT * FROM events WHERE job = ? AND n > ? ORDER BY n LIMIT ?", (job, after, limit))

    def last_event(self) -> int:
        found = self._db.row("SELECT seq FROM sqlite_sequence WHERE name = 'events'")
        return int(found[0]) if found else 0

    def _event(self, job: str, kind: str, data: Mapping[str, Any]) -> None:
        with self._db.write() as db:
            db.execute("INSERT INTO events (job, kind, data, at) VALUES (?, ?, ?, ?)", (job, kind, json.dumps(data), time.time()))

    def _said(self, job: str, *, queued: bool = False) -> None:
        self.listen(job)
        if queued:
            with self.work:
                self.work.notify_all()

    # -- a job's life

    def claim(self) -> Row | None:
        """The next job of the queue, now `starting`; this is the one place where attempts are counted."""
        with self._db.write() as db:
            row = db.execute("SELECT * FROM jobs WHERE status = 'queued' ORDER BY priority DESC, n LIMIT 1").fetchone()
            if row is None:
                return None
            job = str(row["id"])
            self._move(
                job, Status.STARTING, attempts=row["attempts"] + 1, started=time.time(), stage="start", progress=0.0, eta=None, error=None
            )
        self._said(job)
        return self.job(job)

    def running(self, job: str) -> None:
        self._change(job, Status.RUNNING)

    def lost(self, job: str, why: Sam3dError, *, counted: bool = True) -> None:
        """The attempt is over without a result, and another one may be made. counted: it was the job's own fault, or may have been."""
        self.log(job, "warning", str(why))
        attempts = self.job(job)["attempts"] - (0 if counted else 1)
        self._change(job, Status.QUEUED, attempts=attempts, started=None, stage=None, progress=0.0, eta=None)
        with self.work:
            self.work.notify_all()

    def succeeded(self, job: str, result: str, outputs: dict[str, Any], *, cached: bool, seconds: float) -> None:
        known = {"result": result, "outputs": json.dumps(outputs), "cached": int(cached), "progress": 1.0, "eta": 0.0, "seconds": seconds}
        self._change(job, Status.SUCCEEDED, **known)

    def failed(self, job: str, why: Sam3dError) -> None:
        told = {"code": why.code, "message": why.message, "hint": why.hint}
        self._change(job, Status.FAILED, error=json.dumps(told), eta=None)

    def canceled(self, job: str) -> None:
        self._change(job, Status.CANCELED, eta=None)

    def cancel(self, job: str) -> bool:
        """Whether it is over already; else its worker's thread has been told. Raises ConflictError for one that ended before."""
        with self._db.write() as db:
            row = self.job(job)
            status = Status(row["status"])
            if status in TERMINAL:
                raise ConflictError(f"The job has ended: {status.value}.", "Only a job that waits or runs can be cancelled.")
            over = status == Status.QUEUED
            if over:
                self._move(job, Status.CANCELED, cancel=1)
            else:
                db.execute("UPDATE jobs SET cancel = 1 WHERE id = ?", (job,))
        self._said(job)
        return over

    def cancel_asked(self, job: str) -> bool:
        row = self._db.row("SELECT cancel FROM jobs WHERE id = ?", (job,))
        return row is None or bool(row["cancel"])

    def progress(self, job: str, stage: str, step: int, total: int, fraction: float, eta: float | None) -> None:
        with self._db.write() as db:
            db.execute("UPDATE jobs SET stage = ?, progress = max(progress, ?), eta = ? WHERE id = ?", (stage, fraction, eta, job))
            known = {"stage": stage, "step": step, "total": total, "progress": round(fraction, 4)}
            self._event(job, "progress", {**known, "eta_s": None if eta is None else round(eta, 2)})
        self._said(job)

    def log(self, job: str, level: str, text: str) -> None:
        """A line for a person; a job that talks too much is not listened to any more."""
        with self._db.write():
            found = self._db.row("SELECT count(*) FROM events WHERE job = ? AND kind = 'log'", (job,))
            if found is not None and found[0] >= self._log_lines:
                return
            self._event(job, "log", {"level": level, "text": text[:2000]})
        self._said(job)

    def previewed(self, job: str) -> None:
        """There is a new picture of the job; the event holds no picture, whoever wants it asks for it."""
        self._event(job, "preview", {})
        self._said(job)

    def unfinished(self) -> list[Row]:
        """Those that a server which is no more had claimed."""
        return self._db.rows("SELECT * FROM jobs WHERE status IN ('starting', 'running') ORDER BY n")

    def delete(self, job: str) -> None:
        """Forget a job that has ended. Its files go when nobody else refers to them. Raises ConflictError for one that hasn't."""
        with self._db.write() as db:
            if Status(self.job(job)["status"]) not in TERMINAL:
                raise ConflictError("The job hasn't ended.", "Cancel it first.")
            db.execute("DELETE FROM jobs WHERE id = ?", (job,))
            db.execute("DELETE FROM events WHERE job = ?", (job,))
            db.execute("DELETE FROM idempotency WHERE target = ?", (job,))
        self.listen(job)

    def ended_before(self, moment: float) -> list[str]:
        rule = "status IN ('succeeded', 'failed', 'canceled') AND finished < ?"
        return [row[0] for row in self._db.rows(f"SELECT id FROM jobs WHERE {rule} ORDER BY n LIMIT 1000", (moment,))]

    def drop_empty_batches(self, moment: float) -> None:
        with self._db.write() as db:
            db.execute("DELETE FROM batches WHERE created < ? AND id NOT IN (SELECT batch FROM jobs WHERE batch IS NOT NULL)", (moment,))
            db.execute("DELETE FROM idempotency WHERE created < ?", (moment,))

    def _change(self, job: str, to: Status, **fields: Any) -> None:
        with self._db.write():
            self._move(job, to, **fields)
        self._said(job)

    def _move(self, job: str, to: Status, **fields: Any) -> None:
        """The one way from state to state, inside a transaction. Raises ConflictError for a step that the table doesn't have."""
        row = self.job(job)
        before = Status(row["status"])
        if to not in LEGAL[before]:
            raise ConflictError(f"A job that is {before.value} can't become {to.value}.")
        over = to in TERMINAL
        if over:
            fields = {**fields, "finished": time.time()}
        names = ", ".join(f"{name} = ?" for name in ("status", *fields))
        with self._db.write() as db:
            db.execute(f"UPDATE jobs SET {names} WHERE id = ?", (to.value, *fields.values(), job))
            attempt = fields.get("attempts", row["attempts"])
            self._event(job, "status", {"status": to.value, "from": before.value, "attempt": attempt})
            if to == Status.SUCCEEDED:
                self._event(job, "output", {"files": sorted(json.loads(fields["outputs"])["files"])})
            if over:
                db.execute("DELETE FROM events WHERE job = ? AND kind IN ('progress', 'preview')", (job,))
                self._event(job, "done", {"status": to.value, "error": json.loads(fields["error"]) if fields.get("error") else None})


def ids_of(rows: Iterable[Row]) -> list[str]:
    return [str(row["id"]) for row in rows]
