"""One worker, and the thread that gives it jobs. The order in which an attempt is written down stands in dispatcher.py.

A second thread writes what was made: the worker begins the next job meanwhile. At most one result waits for it.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import Any

from ...contract.backend import Backend, Cancelled, Done, Event, Failed, Log, Preview, Progress, Reconstruction
from ...contract.errors import JobCancelled, OutOfMemoryError, Sam3dError, SetupError, TimeLimitError, WorkerError
from ...contract.messages import Hello
from ...contract.scene import Scene
from ...contract.version import VERSION
from . import params, previews, work
from .limits import Limits
from .room import Room
from .store import Row, Store
from .vault import Vault

TICK = 0.1  # seconds between two looks at a running job's cancel flag and time limit
PROGRESS_EVERY = 0.1  # seconds between two progress events of one stage
RECORD_EVERY = 1.0  # seconds between two attempts to write to a database that can't be written
PAUSES = (0.0, 0.5, 2.0, 8.0, 30.0)  # seconds after so many deaths of a worker in a row
log = logging.getLogger("sam3d.server")

Open = Callable[[Mapping[str, str]], Backend]


class Keys:
    """Results under way. A second worker that would make the same one waits for it, and then adopts it."""

    def __init__(self) -> None:
        self._busy: set[str] = set()
        self._changed = threading.Condition()

    def take(self, key: str, stopped: Callable[[], Sam3dError | None]) -> None:
        """From now on this caller makes it, until `give`. Raises what `stopped` says while it waits for another one."""
        with self._changed:
            while key in self._busy:
                if (why := stopped()) is not None:
                    raise why
                self._changed.wait(TICK)
            self._busy.add(key)

    def give(self, key: str) -> None:
        with self._changed:
            self._busy.discard(key)
            self._changed.notify_all()


class Slot:
    """One worker and its thread. `problem`: why it can't work; `hello`: what it said of itself when it last started; `preview`: the last picture that
    a job sent, the job and a PNG."""

    def __init__(
        self,
        name: str,
        environment: Mapping[str, str],
        store: Store,
        vault: Vault,
        limits: Limits,
        keys: Keys,
        memory: Room,
        open_backend: Open,
    ) -> None:
        self.name = name
        self.hello: Hello | None = None
        self.problem: Sam3dError | None = None
        self.job: str | None = None
        self.preview: tuple[str, bytes] = ("", b"")  # stays behind the job's end: whoever has just heard of it may still be on the way
        self._previewed = 0.0
        self._store, self._vault, self._limits, self._keys, self._memory = store, vault, limits, keys, memory
        self._backend = open_backend(environment)
        self._deaths = 0
        self._stop = threading.Event()
        self._writer = ThreadPoolExecutor(1, f"sam3d-writer-{name}")
        self._written: Future[None] = Future()
        self._written.set_result(None)
        self._thread = threading.Thread(target=self._run, name=f"sam3d-slot-{name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ask for the end; the job under way goes back into the queue."""
        self._stop.set()
        with self._store.work:
            self._store.work.notify_all()

    def join(self) -> None:
        if self._thread.is_alive():
            self._thread.join(30.0)

    @property
    def state(self) -> str:
        if self.job is not None:
            return "busy"
        if self.problem is not None:
            return "failed"
        return "ready" if self.hello is not None else "starting"

    # -- the thread

    def _run(self) -> None:
        try:
            self._greet()
            while not self._stop.is_set():
                try:
                    row = self._next()
                    if row is not None:
                        self.job = row["id"]
                        self._attempt(row)
                except Exception:  # not of the job: the database, most likely
                    log.exception("slot %s", self.name)
                    self._stop.wait(1.0)
                self.job = None
                self._stop.wait(PAUSES[min(self._deaths, len(PAUSES) - 1)])
        finally:
            self._writer.shutdown()  # waits for what is being written
            self._backend.close()

    def _greet(self) -> None:
        """Start the worker before there is work, so that its faults are seen early."""
        try:
            self.hello = self._backend.start()
        except Sam3dError as problem:
            self.problem = problem
            log.error("slot %s: %s", self.name, problem)

    def _next(self) -> Row | None:
        idle = time.monotonic()
        with self._store.work:
            while not self._stop.is_set():
                row = self._store.claim()
                if row is not None:
                    return row
                self._store.work.wait(1.0)
                if self._limits.idle_unload and time.monotonic() - idle > self._limits.idle_unload:
                    self._backend.close()
                    idle = float("inf")
        return None

    def _attempt(self, row: Row) -> None:
        """One attempt, from `starting` to another state, or to a result that is handed to the writer."""
        job, began = row["id"], time.perf_counter()
        deadline = time.monotonic() + self._limits.job_time
        try:
            self.hello = self._backend.start()
            self.problem = None
            extra = job if row["fresh"] else ""
            key = params.result_key(row["request_key"], VERSION, self.hello.engines, self.hello.weights, extra)
            self._keys.take(key, lambda: self._stopped(job, deadline))
            try:
                meta = self._vault.result(key)
                if meta is None:
                    self._vault.check_room(0)
                    made, about = self._make(row, deadline)
                    self._deaths = 0
                    self._written.result()
                    self._written = self._writer.submit(self._write, row, key, about, made, began)
                    return
                told = work.summary(meta)
                self._surely(lambda: self._store.succeeded(job, key, told, cached=True, seconds=round(time.perf_counter() - began, 3)))
            except BaseException:
                self._keys.give(key)
                raise
            self._keys.give(key)
        except Exception as problem:
            self._failed(row, problem)

    def _make(self, row: Row, deadline: float) -> tuple[Scene | dict[str, bytes], dict[str, Any]]:
        """What the worker makes of a job, and what meta.json says of that. The job's pictures wait for room in memory, which is given back when they are sent."""
        job = row["id"]

        def look() -> None:
            if (why := self._stopped(job, deadline)) is not None:
                raise why

        with ExitStack() as room:
            room.enter_context(self._memory.take(work.need(self._vault, row), look))
            piece = work.load(self._vault, row)
            about = piece.about or {}
            sent = piece.holds

            def look_again() -> None:
                if sent is None or sent() is None:
                    room.close()

            if piece.call is not None:
                self._surely(lambda: self._store.running(job))
                return self._call(job, piece.call, deadline, look_again), about
            return self._watch(job, piece.start(self._backend), deadline, look_again), about

    def _call(self, job: str, call: Callable[[Backend], dict[str, bytes]], deadline: float, look: Callable[[], None]) -> dict[str, bytes]:
        """A call that can't be cancelled: where it must end, it does with its worker. look: called often. Raises the job's Sam3dError."""
        why: list[Sam3dError] = []
        over = threading.Event()

        def watch() -> None:
            while not over.wait(TICK):
                look()
                with suppress(sqlite3.Error):  # it is asked again
                    if not why and (found := self._stopped(job, deadline)) is not None:
                        why.append(found)
                if why:  # again and again: it may have been about to start one
                    self._backend.close()

        watcher = threading.Thread(target=watch, name=f"sam3d-watch-{self.name}", daemon=True)
        watcher.start()
        try:
            return call(self._backend)
        except Sam3dError as problem:
            raise (why[0] if why else problem) from None
        finally:
            over.set()
            watcher.join()

    def _write(self, row: Row, key: str, about: dict[str, Any], made: Scene | dict[str, bytes], began: float) -> None:
        """On the writer's thread: the end of an attempt."""
        try:
            place = self._vault.place(key)
            seconds = time.perf_counter() - began
            if isinstance(made, Scene):
                meta = work.write_scene(place, made, about, key, seconds)
            else:
                meta = work.write_files(place, made, about, key, seconds)
            told = work.summary(meta)
            self._surely(lambda: self._vault.record_result(key, meta))
            self._surely(lambda: self._store.succeeded(row["id"], key, told, cached=False, seconds=round(time.perf_counter() - began, 3)))
        except Exception as problem:
            self._failed(row, problem)
        finally:
            self._keys.give(key)

    def _watch(self, job: str, running: Reconstruction, deadline: float, look: Callable[[], None]) -> Scene:
        """The scene. Hands on what the worker says; cancels where that is asked for, or when the time is over. look: called often. Raises the job's Sam3dError."""
        why: Sam3dError | None = None
        said, stage, begun = 0.0, "", False
        while True:
            event = running.poll(TICK)
            look()
            if why is None and (why := self._stopped(job, deadline)) is not None:
                running.cancel()
            if event is None:
                continue
            if not begun:
                begun = True
                self._surely(lambda: self._store.running(job))
            if isinstance(event, Done):
                return event.scene
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Cancelled):
                raise why or JobCancelled("The job was cancelled.")
            now = time.monotonic()
            if not isinstance(event, Progress) or event.stage != stage or now - said >= PROGRESS_EVERY:
                said, stage = now, event.stage if isinstance(event, Progress) else stage
                self._say(job, event)

    def _stopped(self, job: str, deadline: float) -> Sam3dError | None:
        if self._stop.is_set():
            return _Stopping("The server was stopped.")
        if time.monotonic() > deadline:
            return TimeLimitError(f"The job took more than {self._limits.job_time:g} s.", "Choose a lower quality, or raise --job-time.")
        return JobCancelled("The job was cancelled.") if self._store.cancel_asked(job) else None

    def _say(self, job: str, event: Event) -> None:
        try:
            if isinstance(event, Progress):
                self._store.progress(job, event.stage, event.step, event.total, event.fraction, event.eta)
            elif isinstance(event, Log):
                self._store.log(job, event.level, event.text)
            elif isinstance(event, Preview) and (self.preview[0] != job or time.monotonic() - self._previewed >= previews.EVERY):
                self._previewed = time.monotonic()
                self.preview = (job, previews.png(event.image))
                self._store.previewed(job)
        except sqlite3.Error as problem:  # no reason to end a job
            log.warning("job %s: what it says can't be written: %s", job, problem)

    def _failed(self, row: Row, problem: Exception) -> None:
        job = row["id"]
        if not isinstance(problem, Sam3dError):
            log.error("job %s: %s", job, "".join(traceback.format_exception(problem)))
            problem = Sam3dError("The server made a mistake with this job.", "This is a defect: please report it with the server's log.")
        elif problem.detail:
            log.warning("job %s: %s\n%s", job, problem, problem.detail)
        if isinstance(problem, SetupError):
            self.problem = problem
        again = isinstance(problem, (WorkerError, OutOfMemoryError))
        self._deaths = self._deaths + 1 if isinstance(problem, WorkerError) else 0
        if isinstance(problem, OutOfMemoryError):
            self._backend.close()  # a fresh worker has the most memory
        self._surely(lambda: self._end(row, problem, again))

    def _end(self, row: Row, problem: Sam3dError, again: bool) -> None:
        job = row["id"]
        if isinstance(problem, _Stopping):
            self._store.lost(job, problem, counted=False)
        elif isinstance(problem, JobCancelled) or (again and self._store.cancel_asked(job)):
            self._store.canceled(job)
        elif again and row["attempts"] < self._limits.attempts:
            self._store.lost(job, problem)
        else:
            self._store.failed(job, problem)

    def _surely(self, record: Callable[[], None]) -> None:
        """Write down the end of an attempt, when the disk is full as soon as it isn't any more: nobody else would ever look at this job again."""
        while True:
            try:
                return record()
            except sqlite3.Error as problem:
                log.error("slot %s: the database can't be written: %s", self.name, problem)
                if self._stop.wait(RECORD_EVERY):
                    raise


class _Stopping(JobCancelled):
    """The server ends; the job doesn't."""

    code = "E_STOPPING"
