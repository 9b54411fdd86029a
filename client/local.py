"""The Backend that owns a worker process on this machine: starts it when there is work, watches it, stops it.

One job at a time: a second one while the first runs is a WorkerStateError. After a crash the next call starts a fresh worker; a job is
never repeated here - attempts are counted in one place, by the batch ledger or the dispatcher.

    state      what is there                           leads to
    dead       no process                              starting (a call)
    starting   a process that hasn't said Hello        ready or busy (Hello), stopping, dead
    ready      a process without a job                 busy (a call), stopping, dead
    busy       a process with a job                    ready (the job's end), stopping, dead
    stopping   a process that is to die, or is dead    dead (when it has been waited for)
               and not yet waited for

The state isn't stored: it follows from the process and the job that are there, so the two can't disagree.
"""

from __future__ import annotations

import atexit
import enum
import functools
import itertools
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence

from ..contract import messages
from ..contract.backend import Cancelled, Done, Event, Failed, Log, Preview, Progress
from ..contract.errors import JobCancelled, OptionError, Sam3dError, WorkerStateError
from ..contract.frames import Body, encode_frame
from ..contract.record import Record
from ..contract.request import FORMATS, ExportOptions, PrepareRequest, ReconstructRequest
from ..contract.scene import Scene
from .interpreter import worker_command, worker_environment
from .job import LocalJob
from .process import WorkerProcess

PATIENCE = 2.0  # seconds that close() gives the worker to end by itself


class State(enum.Enum):
    STARTING = "starting"
    READY = "ready"
    BUSY = "busy"
    STOPPING = "stopping"
    DEAD = "dead"


class LocalBackend:
    """A worker process behind the verbs of contract.backend.Backend. Usable as a context manager, and from several threads.

    command: the argument list (default: client.interpreter decides). silence: seconds without a heartbeat after which a worker counts
    as hung. grace: seconds that a cancelled job gets to reach its next step before the process is killed. start_timeout: seconds until
    the worker's greeting. environment: variables added to the worker's. take: where an answer's arrays go (contract.frames.read_frame); default: into memory.

    It belongs to the process that made it: a forked copy must open its own. What isn't closed is closed when the interpreter ends.
    """

    def __init__(
        self,
        command: Sequence[str] | None = None,
        *,
        silence: float = 120.0,
        grace: float = 5.0,
        start_timeout: float = 60.0,
        environment: Mapping[str, str] | None = None,
        take: Body | None = None,
    ) -> None:
        self._command = command
        self._extra = dict(environment or {})
        self._silence, self._grace, self._start_timeout = silence, grace, start_timeout
        self._take = take
        self._owner = os.getpid()
        self._numbers = itertools.count(1)
        # Guards everything below; notified when a worker has ended. Taken before a WorkerProcess's or a LocalJob's own lock, never after.
        self._changed = threading.Condition(threading.RLock())
        self._worker: WorkerProcess | None = None
        self._job: LocalJob | None = None
        self._closing = 0  # calls of close() under way
        _open.add(self)

    # -- the verbs

    def reconstruct(self, request: ReconstructRequest) -> LocalJob:
        """Start a job, and a worker if there is none; returns at once. Raises OptionError, SetupError, WorkerStartError or WorkerStateError;
        what happens later is an event."""
        if not isinstance(request, ReconstructRequest):
            raise OptionError(f"reconstruct() takes a ReconstructRequest, not {type(request).__name__}.")
        return self._submit(lambda number: messages.Reconstruct(number, request))

    def prepare(self, request: PrepareRequest) -> LocalJob:
        """Start the job that makes later requests with this picture shorter; as `reconstruct` otherwise."""
        if not isinstance(request, PrepareRequest):
            raise OptionError(f"prepare() takes a PrepareRequest, not {type(request).__name__}.")
        return self._submit(lambda number: messages.Prepare(number, request))

    def export(self, scene: Scene, formats: Iterable[str], options: ExportOptions | None = None) -> dict[str, bytes]:
        """Encode a scene: file name -> bytes. Waits; raises a Sam3dError."""
        if not isinstance(scene, Scene):
            raise OptionError(f"export() takes a Scene, not {type(scene).__name__}.")
        wanted = (formats,) if isinstance(formats, str) else tuple(formats)
        for name in wanted:
            if name not in FORMATS:
                raise OptionError(f"{name!r} is no output format.", f"Choose among: {', '.join(FORMATS)}.")
        bare = [scene.replace(files={})]
        del scene  # hundreds of megabytes maybe: in memory until they are sent, and not until the answer comes
        job = self._submit(lambda number: messages.Export(number, bare.pop(), wanted, options or ExportOptions()))
        job.result()
        return {name: data.tobytes() for name, data in job.files.items()}

    def close(self) -> None:
        """Stop the worker, whatever it does; a job under way ends as cancelled. Safe to call twice. A later call starts a new worker."""
        if self._owner != os.getpid():
            return
        with self._changed:
            worker, job, self._job = self._worker, self._job, None
            if worker is None:
                return
            self._closing += 1
            worker.stop(WorkerStateError("The backend was closed."), PATIENCE)
        try:
            if job is not None:
                job.put(Cancelled())
            worker.ended.wait()
        finally:
            with self._changed:
                self._closing -= 1

    def __enter__(self) -> LocalBackend:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- what it is doing

    @property
    def state(self) -> State:
        with self._changed:
            if self._worker is None:
                return State.DEAD
            if self._worker.doomed:
                return State.STOPPING
            if self._worker.hello is None:
                return State.STARTING
            return State.BUSY if self._job is not None else State.READY

    @property
    def worker_pid(self) -> int | None:
        with self._changed:
            return self._worker.pid if self._worker else None

    def start(self) -> messages.Hello:
        """Start the worker now and wait for its greeting (a call does this by itself). Raises a Sam3dError."""
        with self._changed:
            worker = self._living()
        worker.greeted.wait()
        if worker.hello is None:
            worker.ended.wait()
            assert worker.reason is not None
            raise worker.reason
        return worker.hello

    # -- calls

    def _submit(self, make: Callable[[int], Record]) -> LocalJob:
        with self._changed:
            self._refuse_busy()
            job = LocalJob(next(self._numbers), self._cancel)
            try:
                frame = encode_frame(*messages.to_wire(make(job.number)))
            except TypeError as problem:
                raise OptionError(f"This can't be sent to the worker: {problem}.") from problem
            worker = self._living()
            self._refuse_busy()  # again: _living may have waited
            self._job = job
            worker.send(frame, functools.partial(self._begin, job))
            return job

    def _refuse_busy(self) -> None:
        if self._job is not None:
            raise WorkerStateError("The worker is busy with another job.", "Wait for it, cancel it, or open a second backend.")

    def _living(self) -> WorkerProcess:
        """With the lock: a worker that can be given work, started if there is none. Waits for the end of one that is dying by itself."""
        if self._owner != os.getpid():
            raise WorkerStateError("This backend belongs to the process that this one was forked from.", "Open one here.")
        while True:
            if self._closing:
                raise WorkerStateError("The backend is being closed.", "Wait for close() to return.")
            if self._worker is None:
                break
            if not self._worker.doomed:
                return self._worker
            self._changed.wait(1.0)
        self._worker = WorkerProcess(
            self._command if self._command is not None else worker_command(),
            {**worker_environment(), **self._extra},
            silence=self._silence,
            start_timeout=self._start_timeout,
            on_message=self._on_message,
            on_end=self._on_end,
            take=self._take,
        )
        return self._worker

    def _begin(self, job: LocalJob) -> bool:
        """On the sender thread: the job's turn has come. False where it has ended in the meantime."""
        with self._changed:
            job.sent = self._job is job
            return job.sent

    def _cancel(self, job: LocalJob) -> None:
        with self._changed:
            if self._job is not job or self._worker is None:
                return
            if not job.sent:  # the worker has never heard of it
                self._end_job(Cancelled())
                return
            self._worker.kill_after(self._grace, JobCancelled("The job was cancelled; the worker didn't react and was killed."))
            self._worker.send(encode_frame(*messages.to_wire(messages.Cancel(job.number))))

    # -- what comes back

    def _on_message(self, message: Record) -> None:
        """On the reader thread. A message of a job that is over is dropped."""
        with self._changed:
            job = self._job
            if job is None or getattr(message, "job", None) != job.number:
                return
            if isinstance(message, messages.JobDone):
                self._end_job(Done(message.scene))
            elif isinstance(message, messages.JobExported):
                job.files = message.files
                self._end_job(Done(_NOTHING))
            elif isinstance(message, messages.JobFailed):
                self._end_job(Failed(Sam3dError.from_json(dict(message.error))))
            elif isinstance(message, messages.JobStopped):
                self._end_job(Cancelled())
            else:
                job.put(_event(message))

    def _on_end(self, reason: Sam3dError) -> None:
        """On the watch thread, after the process has been waited for."""
        with self._changed:
            self._worker = None
            if self._job is not None:
                self._end_job(Cancelled() if isinstance(reason, JobCancelled) else Failed(reason))
            self._changed.notify_all()

    def _end_job(self, event: Event) -> None:
        job, self._job = self._job, None  # first: whoever reads the last event may submit the next job at once
        assert job is not None
        if self._worker is not None:
            self._worker.spare()  # before the next job: this one's deadline must not meet it
        job.put(event)


def _event(message: Record) -> Event:
    for name in ("progress", "log", "preview"):
        event = getattr(message, name, None)
        if isinstance(event, (Progress, Log, Preview)):
            return event
    raise AssertionError(f"no event in {type(message).__name__}")


_NOTHING = Scene(objects=(), engine="none")
_open: weakref.WeakSet[LocalBackend] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for backend in list(_open):
        backend.close()
