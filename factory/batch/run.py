"""The work of a batch: items from the plan (or the watch) over the slots of an executor, each attempt in the ledger.

One thread for each slot of the executor takes items from an inbox and posts events; the main thread alone speaks (Show), looks at
Ctrl-C, feeds the inbox and writes the report. A failing item is a line in the ledger and an event, never an exception.
"""

from __future__ import annotations

import errno
import queue
import threading
import time
import traceback
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from ...contract.backend import Event
from ...contract.errors import (
    DeniedError,
    InputError,
    JobCancelled,
    OutOfMemoryError,
    OutputError,
    Sam3dError,
    SetupError,
    StorageError,
    UnreachableError,
    WorkerCrashed,
    WorkerError,
    WorkerHung,
    WorkerStartError,
)
from ...contract.request import FORMATS, ReconstructRequest
from .. import output
from ..events import FAILED, INTERRUPTED, OK, USAGE, Emit, done_fields, error_event, exit_code, job_event
from ..executors import Executor, Slot, open_executor
from ..jobs import Interrupts, watch
from ..maker import Maker
from ..settings import unused
from .ledger import FolderLock, Ledger, entry_of, is_tried_again
from .plan import BatchOptions, Item, Stamp, make_plan, request_of, stamp_of
from .report import Report
from .watch import Watcher

TICK = 0.1  # seconds between two looks at Ctrl-C and at the watched folder
REPORT_EVERY = 2.0  # seconds between two reports while a watch goes on


KILLS = 2  # workers that an item may kill before it is quarantined


def run(options: BatchOptions, emit: Emit, interrupts: Interrupts, executor: Executor | None = None) -> int:
    """Do the whole batch; returns the exit code. Raises a Sam3dError where it can't begin (wrong options, a folder in use).

    executor: None opens the one that the options name. It is closed in any case.
    """
    options.check()
    output.check_writable(options.out)
    with FolderLock(options.out):
        output.remove_leftovers(options.out, "batch")
        ledger = Ledger(options.out)
        items = [] if options.watch else make_plan(options, ledger.names())
        report = Report(options.out, options.flat, ledger)
        report.clear_leftovers()
        if executor is None:
            on_cpu = options.settings.get("engine") == "draft"
            executor = open_executor(options.executor, workers=options.workers, gpus=options.gpus, on_cpu=on_cpu)
        with closing(executor):
            return _Run(options, emit, interrupts, ledger, report, executor).run(items)


@dataclass
class _Run:
    options: BatchOptions
    emit: Emit
    interrupts: Interrupts
    ledger: Ledger
    report: Report
    executor: Executor
    inbox: queue.Queue[Item | None] = field(default_factory=queue.Queue)
    posts: queue.Queue[tuple[str, dict[str, Any]]] = field(default_factory=queue.Queue)
    counts: Counter[str] = field(default_factory=Counter)  # made, there, failed (quarantined among them; tried: after an attempt), left
    said: set[str] = field(default_factory=set)  # what is true of all items
    stopping: bool = False  # take no further item
    fatal: Sam3dError | None = None

    def __post_init__(self) -> None:
        self.maker = Maker(here=self.options.executor == "local")

    def run(self, items: list[Item]) -> int:
        start = time.perf_counter()
        watcher = Watcher(self.options, self.ledger.names) if self.options.watch else None
        what: dict[str, Any] = {"watch": True} if watcher is not None else {"items": len(items)}
        self.emit("start", command="batch", source=str(self.options.source), out=str(self.options.out), **what)
        if watcher is None and not items:
            self.emit("log", name=None, level="warning", text=_why_nothing(self.options))
        slots = self.executor.slots
        for item in items:
            self.inbox.put(item)
        if watcher is None:
            self._close_inbox(slots)
        threads = [threading.Thread(target=self._work, args=(i,), name=f"sam3d-batch-{i}") for i in range(slots)]
        for thread in threads:
            thread.start()
        self._attend(threads, watcher)
        exit_with = self._exit_code()
        report = self._write_report()
        seconds = round(time.perf_counter() - start, 3)
        if watcher is None:  # with what lay in the inbox still, and what was under way when the batch had to stop
            self.counts["left"] = len(items) - sum(self.counts[key] for key in ("made", "there", "failed"))
        if self.fatal is not None and self.counts["left"]:
            self.emit(
                "log",
                name=None,
                level="warning",
                text="stopped: the others would meet the same. Once it is mended, the same command goes on here",
            )
        found = {key: self.counts[key] for key in ("made", "there", "failed", "quarantined", "left")}
        self.emit("end", exit=exit_with, **found, seconds=seconds, report=report)
        return exit_with

    # -- main thread

    def _attend(self, threads: list[threading.Thread], watcher: Watcher | None) -> None:
        next_look, last_report, changed = 0.0, time.monotonic(), False
        closed = watcher is None
        while any(thread.is_alive() for thread in threads) or not self.posts.empty():
            try:
                kind, fields = self.posts.get(timeout=TICK)
            except queue.Empty:
                kind, fields = "", {}
            if kind:
                self._count(kind, fields)
                if kind != "left":
                    self.emit(kind, **fields)
                changed = changed or kind in ("done", "failed")
                if watcher is not None and kind in ("done", "failed", "cancelled") and not fields.get("retry"):
                    watcher.finished(fields["name"])
            if self.interrupts.count >= 2 or self.fatal is not None:
                self.stopping = True
            if self.interrupts.count == 1 and not self.stopping:
                self.stopping = True
                self.emit("log", name=None, level="warning", text="finishing what is under way; Ctrl-C again stops now")
            now = time.monotonic()
            if watcher is not None and not closed:
                if not self.stopping and now >= next_look:
                    next_look = now + self.options.interval
                    for item in watcher.look(self.emit):
                        self.inbox.put(item)
                if self.stopping or watcher.full:
                    closed = True
                    self._close_inbox(len(threads))
                if changed and now - last_report > REPORT_EVERY:
                    self._write_report()
                    last_report, changed = now, False

    def _count(self, kind: str, fields: dict[str, Any]) -> None:
        if kind == "done":
            self.counts["made" if fields["state"] in ("made", "replaced") else "there"] += 1
        elif kind == "failed" and fields["name"] is not None and not fields["retry"]:
            self.counts["failed"] += 1
            self.counts["quarantined"] += fields.get("quarantined", False)
            self.counts["tried"] += fields["attempt"] > 0
        elif kind in ("left", "cancelled"):
            self.counts["left"] += 1

    def _close_inbox(self, workers: int) -> None:
        for _ in range(workers):
            self.inbox.put(None)

    def _exit_code(self) -> int:
        if self.interrupts.count:
            return INTERRUPTED
        if self.fatal is not None:
            return exit_code(self.fatal)
        if not self.counts["failed"]:
            return OK
        worked = self.counts["made"] + self.counts["there"] + self.counts["tried"]
        return FAILED if worked else USAGE

    def _write_report(self) -> str | None:
        try:
            return str(self.report.write())
        except OSError as problem:
            self.emit("log", name=None, level="warning", text=f"The report can't be written: {problem.strerror or problem}.")
            return None

    # -- worker threads

    def post(self, kind: str, /, **fields: Any) -> None:
        self.posts.put((kind, fields))

    def _work(self, number: int) -> None:
        backend: Slot | None = None
        try:
            backend = self.executor.lease(number)
            while (item := self.inbox.get()) is not None:
                if self.stopping or self.interrupts.count or self.fatal is not None:  # the main thread may not have looked yet
                    self.post("left")
                else:
                    self._one(item, backend)
        except Exception as problem:  # of the environment or the manifest: it would meet every item
            error = problem if isinstance(problem, Sam3dError) else _defect(problem)
            self.fatal = self.fatal or error
            self.post("failed", name=None, error=error_event(error), attempt=0, retry=False)
        finally:
            if backend is not None:
                backend.close()

    def _one(self, item: Item, backend: Slot) -> None:
        place = output.Place(self.options.out, item.name, self.options.flat)
        stamp: Stamp | None = None
        try:
            if item.error is not None:
                raise item.error
            stamp = stamp_of(item, self.options)
            if self._is_settled(item, stamp, place):
                return
            request = request_of(item, self.options)
        except InputError as problem:
            self._refuse(item, stamp, problem)
            return
        except Sam3dError:
            raise
        except Exception as problem:
            self._refuse(item, stamp, _defect(problem))
            return
        key = request.content_key()
        if not self.options.force:
            meta = output.complete_meta(place)
            # Made by a run that was killed before it could say so, or by `reconstruct`.
            if meta is not None and meta.get("key") == key and self.maker.made(meta, request.engine):
                self.ledger.append(self._entry(item, "done", stamp, meta, adopted=True))
                self.report.add(item.name, request, item.pair.rule)
                self.post("done", **done_fields(place, meta, "adopted", 0.0))
                return
        try:
            output.check_free(place, [FORMATS[kind][0] for kind in request.outputs])
        except OutputError as problem:  # somebody else's file is in the way: better said before the work than after it
            self._refuse(item, stamp, problem)
            return
        self._make(item, stamp, place, request, key, backend)

    def _is_settled(self, item: Item, stamp: Stamp, place: output.Place) -> bool:
        """Done earlier, or failed earlier and not to be tried again: same files, same parameters, results untouched."""
        entry = self.ledger.same(item, stamp)
        if entry is None or self.options.force:
            return False
        if entry["status"] == "done":
            meta = output.complete_meta(place)
            if meta is None or meta.get("key") != entry.get("key") or not self.maker.made(meta, item.engine):
                return False
            if not self.report.has(item.name):
                self.report.add(item.name, request_of(item, self.options), item.pair.rule)
            self.post("done", **done_fields(place, meta, "there", 0.0))
            return True
        if not is_tried_again(entry, self.options):
            fields = {"quarantined": True} if entry["status"] == "quarantined" else {}
            self.post("failed", name=item.name, error=entry["error"], attempt=entry["attempt"], retry=False, earlier=True, **fields)
            return True
        return False

    def _make(self, item: Item, stamp: Stamp, place: output.Place, request: ReconstructRequest, key: str, backend: Slot) -> None:
        """The attempts at one item."""
        earlier = self.ledger.same(item, stamp)
        if earlier is None or earlier["status"] not in ("failed", "quarantined"):
            earlier = {}
        before, kills = int(earlier.get("attempt", 0)), int(earlier.get("kills", 0))
        forgiven = kills if earlier.get("status") == "quarantined" else 0  # asked for again by name
        for number in range(1, self.options.retries + 2):
            attempt = before + number
            self.post("item", name=item.name, image=item.identity[0], masks=list(item.identity[1]), rule=item.pair.rule, attempt=attempt)
            start = time.perf_counter()
            try:
                meta, state = self._attempt(item, place, request, key, backend)
            except JobCancelled:
                self.post("cancelled", name=item.name)
                return
            except Exception as problem:
                error = problem if isinstance(problem, Sam3dError) else _defect(problem)
                kills += isinstance(error, (WorkerCrashed, WorkerHung))
                again = number <= self.options.retries and isinstance(error, (WorkerError, OutOfMemoryError)) and not self._stop_now()
                again = again and kills - forgiven < KILLS  # however many attempts were allowed
                quarantined = kills >= KILLS and not again
                seconds = round(time.perf_counter() - start, 3)
                status, said = ("quarantined", {"quarantined": True}) if quarantined else ("failed", {})
                more = {"attempt": attempt, "kills": kills, "seconds": seconds, "error": error_event(error), "time": _now()}
                self.ledger.append(entry_of(item, status, stamp=stamp, key=key, **more))
                self.post("failed", name=item.name, error=error_event(error), attempt=attempt, retry=again, **said)
                if again:
                    if isinstance(error, OutOfMemoryError):
                        backend.close()  # a fresh worker has the most memory
                    continue
                self.report.add(item.name, request, item.pair.rule)
                self.stopping = self.stopping or self.options.fail_fast
                if isinstance(error, (SetupError, WorkerStartError)) or (not self.options.watch and _meets_every_item(error)):
                    self.fatal, self.stopping = self.fatal or error, True
                return
            self.ledger.append(self._entry(item, "done", stamp, meta, attempt=attempt))
            self.report.add(item.name, request, item.pair.rule)
            if (idle := unused(self.options.settings, str(meta["engine"]))) and idle not in self.said:
                self.said.add(idle)
                self.post("log", name=None, level="warning", text=idle)
            self.post("done", **done_fields(place, meta, state, meta["seconds"]))
            return

    def _attempt(self, item: Item, place: output.Place, request: ReconstructRequest, key: str, backend: Slot) -> tuple[dict[str, Any], str]:
        """One attempt: the result is complete on disk when this returns its meta, and whether it was made or replaced."""
        start = time.perf_counter()

        def on_event(event: Event) -> None:
            job_event(self.post, item.name, event)

        scene = watch(backend.reconstruct(request), on_event, self._stop_now)
        if self._stop_now():
            raise JobCancelled("The job was cancelled.")
        self.report.forget(item.name)
        source = output.source_of(item.pair.image, item.pair.masks, rule=item.pair.rule)
        return output.write_scene(place, scene, request, key=key, source=source, since=start, owner="batch")

    def _stop_now(self) -> bool:
        return self.interrupts.count >= 2 or self.fatal is not None

    def _refuse(self, item: Item, stamp: Stamp | None, problem: Sam3dError) -> None:
        """The input is wrong: said again in every run, written down once."""
        entry = entry_of(item, "refused", stamp=stamp, attempt=0, error=error_event(problem))
        last = self.ledger.last.get(item.name, {})
        if {k: v for k, v in last.items() if k != "time"} != entry:
            self.ledger.append({**entry, "time": _now()})
        self.stopping = self.stopping or self.options.fail_fast
        self.post("failed", name=item.name, error=error_event(problem), attempt=0, retry=False)

    @staticmethod
    def _entry(item: Item, status: str, stamp: Stamp, meta: dict[str, Any], **more: Any) -> dict[str, Any]:
        known = {key: meta.get(key) for key in ("key", "engine", "seed", "seconds", "warnings")}
        return entry_of(item, status, stamp=stamp, **known, outputs=meta["files"], time=_now(), **more)


def _why_nothing(options: BatchOptions) -> str:
    """A folder without work is no error, but mostly a mistake."""
    if options.only or options.exclude:
        return "no picture is left by --only and --exclude"
    deeper = "" if options.recursive else "; folders inside it are searched with --recursive"
    return f"there is no picture in {options.source}{deeper}"


def _meets_every_item(error: Sam3dError) -> bool:
    """A full disk, a server that is gone or doesn't know us: better the others are left than failed, each after minutes. A watch waits for better times."""
    cause = error.__cause__
    full = isinstance(error, OutputError) and isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
    return full or isinstance(error, (UnreachableError, DeniedError, StorageError))


def _defect(problem: Exception) -> Sam3dError:
    """Something that no rule foresaw; it fails its item, not the batch."""
    text = f"{type(problem).__name__}: {problem}".rstrip(": ")
    return Sam3dError(f"Unexpected: {text}.", "This is a defect: please report it.", detail="".join(traceback.format_exception(problem)))


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
