"""Server-sent events: what the database holds, then what comes, without a gap; `Last-Event-ID` goes on where a connection broke off."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress

from ...contract.errors import BusyError, NotFoundError
from .states import TERMINAL, Status
from .store import Row, Store

PING = 15.0  # seconds of silence after which a comment shows that the connection lives
MAX_LISTENERS = 256


class Hub:
    """Wakes those who wait for a job's events. `tell` may be called from any thread, all else on the event loop's."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: dict[str | None, set[asyncio.Event]] = {}
        self._count = 0
        self.closing = asyncio.Event()

    def open(self) -> None:
        self._loop = asyncio.get_running_loop()

    def close(self) -> None:
        """Ends all streams: the server stops."""
        self.closing.set()
        for waiting in self._waiting.values():
            for event in waiting:
                event.set()

    def close_soon(self) -> None:
        """`close`, from a signal's handler or another thread."""
        if self._loop is not None:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self.close)

    def tell(self, job: str) -> None:
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._wake, job)

    def _wake(self, job: str) -> None:
        for key in (job, None):
            for event in self._waiting.get(key, ()):
                event.set()

    @contextmanager
    def waiting(self, job: str | None) -> Iterator[asyncio.Event]:
        event = asyncio.Event()
        self._waiting.setdefault(job, set()).add(event)
        self._count += 1
        try:
            yield event
        finally:
            self._count -= 1
            self._waiting[job].discard(event)
            if not self._waiting[job]:
                del self._waiting[job]

    def check_room(self) -> None:
        if self._count >= MAX_LISTENERS:
            raise BusyError(f"{MAX_LISTENERS} streams of events are open.", "Ask for the job's state instead, or try again later.")


async def stream(store: Store, hub: Hub, job: str | None, after: int, once: bool = False) -> AsyncIterator[str]:
    """The events of a job until its end, or of all jobs without end, as text/event-stream. once: end where the present is reached."""
    after = after if after <= store.last_event() else 0  # a number that this database never gave
    with hub.waiting(job) as changed:
        yield "retry: 1000\n\n"
        while not hub.closing.is_set():
            changed.clear()
            rows = store.events(job, after)
            for row in rows:
                after = row["n"]
                yield _text(row)
                if job is not None and row["kind"] == "done":
                    return
            if rows:
                continue
            if once or (job is not None and _is_over(store, job)):
                return
            try:
                await asyncio.wait_for(changed.wait(), PING)
            except asyncio.TimeoutError:
                yield ": ping\n\n"


def _is_over(store: Store, job: str) -> bool:
    try:
        return Status(store.job(job)["status"]) in TERMINAL
    except NotFoundError:
        return True


def _text(row: Row) -> str:
    data = json.dumps({"job": row["job"], "at": round(row["at"], 3), **json.loads(row["data"])}, separators=(",", ":"))
    return f"id: {row['n']}\nevent: {row['kind']}\ndata: {data}\n\n"
