"""The Backend that owns a worker process on this machine: starts it when there is work, watches it, stops it.

States: `dead` (no process; the next call starts one), `starting`, `ready`, `busy`, `stopping`. One job at a time: a second one while the first
runs is a WorkerStateError. After a crash the next call starts a fresh worker; a job is never repeated here - attempts are counted in one place,
by the batch ledger or the dispatcher.
"""

from __future__ import annotations

import enum
import itertools
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from ..contract import messages
from ..contract.backend import Cancelled, Done, Event, Failed, Log, Preview, Progress
from ..contract.errors import JobCancelled, OptionError, Sam3dError, WorkerStateError
from ..contract.record import Record
from ..contract.request import FORMATS, ExportOptions, ReconstructRequest
from ..contract.scene import Scene
from .interpreter import worker_command, worker_environment
from .process import WorkerProcess


class State(enum.Enum):
    STARTING = "starting"
    READY = "ready"
    BUSY = "busy"
    STOPPING = "stopping"
    DEAD = "dead"


class LocalJob:
    """A job of a LocalBackend; see contract.backend.Reconstruction. May be used from any one thread, `cancel` from every thread."""

    def __init__(self, cancel: Callable[[], None]) -> None:
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._cancel = cancel
        self._last: Event | None = None
        self._finished = False  # the last event is in the queue; set by whoever puts it there
        self._guard = threading.Lock()
        self.files: Mapping[str, bytes] = {}

    def __iter__(self) -> Iterator[Event]:
        while self._last is None:
            event = self._take(None)
            assert event is not None
            yield event

    def poll(self, timeout: float) -> Event | None:
        return self._last if self._last is not None else self._take(timeout)

    def cancel(self) -> None:
        if not self._finished:
            self._cancel()

    def result(self) -> Scene:
        for _ in self:
            pass
        if isinstance(self._last, Done):
            return self._last.scene
        if isinstance(self._last, Failed):
            raise self._last.error
        raise JobCancelled("The job was cancelled.")

    @property
    def finished(self) -> bool:
        return self._finished

    def put(self, event: Event) -> bool:
        """From the backend: one more event. After the last one nothing counts any more; returns whether this one did."""
        with self._guard:
            if self._finished:
                return False
            self._finished = isinstance(event, (Done, Failed, Cancelled))
            self._events.put(event)
            return True

    def _take(self, timeout: float | None) -> Event | None:
        try:
            event = self._events.get(timeout=timeout)
        except queue.Empty:
            return None
        if isinstance(event, (Done, Failed, Cancelled)):
            self._last = event
        return event


class LocalBackend:
    """A worker process behind the two verbs of contract.backend.Backend. Usable as a context manager.

    command: the argument list (default: client.interpreter decides). silence: seconds without a heartbeat after which a worker counts
    as hung. grace: seconds that a cancelled job gets to reach its next step before the process is killed. start_timeout: seconds until the worker's greeting.
    """

    def __init__(
        self,
        command: Sequence[str] | None = None,
        *,
        silence: float = 120.0,
        grace: float = 5.0,
        start_timeout: float = 60.0,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._command = command
        self._extra = dict(environment or {})
        self._silence, self._grace, self._start_timeout = silence, grace, start_timeout
        self._lock = threading.RLock()
        self._worker: WorkerProcess | None = None
        self._job: tuple[int, LocalJob] | None = None
        self._numbers = itertools.count(1)
        self._stopping = False

    # -- the two verbs

    def reconstruct(self, request: ReconstructRequest) -> LocalJob:
        """Start a job, and a worker if there is none; returns at once. Raises SetupError or WorkerStateError; what happens later is an event."""
        if not isinstance(request, ReconstructRequest):
            raise OptionError(f"reconstruct() takes a ReconstructRequest, not {type(request).__name__}.")
        return self._submit(lambda number: messages.Reconstruct(number, request))

    def export(self, scene: Scene, formats: Iterable[str], options: ExportOptions | None = None) -> dict[str, bytes]:
        """Encode a scene: file name -> bytes. Waits; raises a Sam3dError."""
        wanted = tuple(formats)
        for name in wanted:
            if name not in FORMATS:
                raise OptionError(f"{name!r} is no output format.", f"Choose among: {', '.join(FORMATS)}.")
        bare = scene.replace(files={})
        job = self._submit(lambda number: messages.Export(number, bare, wanted, options or ExportOptions()))
        job.result()
        return dict(job.files)

    def close(self) -> None:
        """Stop the worker, whatever it does; a job under way ends as cancelled. Safe to call twice. A later call starts a new worker."""
        with self._lock:
            worker, self._stopping = self._worker, True
            if self._job is not None:
                self._job[1].put(Cancelled())
        if worker is not None:
            worker.stop(patience=2.0)
        with self._lock:
            self._stopping = False

    def __enter__(self) -> LocalBackend:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- what it is doing

    @property
    def state(self) -> State:
        with self._lock:
            if self._worker is None:
                return State.DEAD
            if self._stopping:
                return State.STOPPING
            if self._worker.hello is None:
                return State.STARTING
            return State.BUSY if self._job is not None else State.READY

    @property
    def worker_pid(self) -> int | None:
        with self._lock:
            return self._worker.pid if self._worker else None

    def start(self) -> messages.Hello:
        """Start the worker now and wait for its greeting (a call does this by itself). Raises a Sam3dError."""
        with self._lock:
            worker = self._ensure()
        worker.greeted.wait()
        if worker.hello is None:
            raise self._end_reason
        return worker.hello

    # -- inside

    def _ensure(self) -> WorkerProcess:
        if self._stopping:
            raise WorkerStateError("The backend is being closed.", "Wait for close() to return.")
        if self._worker is None:
            command = self._command if self._command is not None else worker_command()
            self._worker = WorkerProcess(
                command,
                {**worker_environment(), **self._extra},
                silence=self._silence,
                start_timeout=self._start_timeout,
                on_message=self._on_message,
                on_end=self._on_end,
            )
        return self._worker

    def _submit(self, make: Callable[[int], Record]) -> LocalJob:
        with self._lock:
            if self._job is not None:
                raise WorkerStateError("The worker is busy with another job.", "Wait for it, cancel it, or open a second backend.")
            worker = self._ensure()
            number = next(self._numbers)
            job = LocalJob(lambda: self._cancel(number))
            self._job = (number, job)
        threading.Thread(target=self._send, args=(worker, make(number), job), name=f"sam3d-send-{number}", daemon=True).start()
        return job

    def _send(self, worker: WorkerProcess, message: Record, job: LocalJob) -> None:
        """A thread of its own: neither a slow start nor a gigabyte keeps the caller from watching, or cancelling."""
        worker.greeted.wait()
        if job.finished:
            return
        try:
            worker.send(message)
        except (OSError, ValueError):
            pass  # the worker is gone: the watch tells the job why

    def _cancel(self, number: int) -> None:
        with self._lock:
            if self._job is None or self._job[0] != number or self._worker is None:
                return
            worker = self._worker
            worker.kill_after(self._grace, JobCancelled("The job was cancelled; the worker didn't react and was killed."))
        threading.Thread(target=self._send, args=(worker, messages.Cancel(number), LocalJob(lambda: None)), daemon=True).start()

    def _on_message(self, message: Record) -> None:
        """On the reader thread."""
        with self._lock:
            if self._job is None or getattr(message, "job", None) != self._job[0]:
                return  # of a job that is over
            job = self._job[1]
            event: Event
            if isinstance(message, messages.JobProgress):
                event = message.progress
            elif isinstance(message, messages.JobLog):
                event = message.log
            elif isinstance(message, messages.JobPreview):
                event = message.preview
            elif isinstance(message, messages.JobDone):
                event = Done(message.scene)
            elif isinstance(message, messages.JobExported):
                job.files = {name: data.tobytes() for name, data in message.files.items()}
                event = Done(_NOTHING)
            elif isinstance(message, messages.JobFailed):
                event = Failed(Sam3dError.from_json(dict(message.error)))
            else:
                event = Cancelled()
            self._finish_or_put(job, event)

    def _finish_or_put(self, job: LocalJob, event: Event) -> None:
        if isinstance(event, (Progress, Log, Preview)):
            job.put(event)
            return
        self._job = None  # first: whoever reads the last event may submit the next job at once
        if self._worker is not None:
            self._worker.spare()
        job.put(event)

    def _on_end(self, reason: Sam3dError) -> None:
        """On the watch thread, after the process has been waited for."""
        with self._lock:
            self._worker, self._end_reason = None, reason
            if self._job is not None:
                job = self._job[1]
                self._job = None
                job.put(Cancelled() if isinstance(reason, JobCancelled) else Failed(reason))


_NOTHING = Scene(objects=(), engine="none")
