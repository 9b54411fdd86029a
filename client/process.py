"""One life of a worker process: start it, talk to it, notice its end, whatever that looks like.

Four threads, and what each owns; nobody closes a descriptor that another thread may be using:

    sender     writes the messages in the order of `send`; owns stdin
    reader     takes messages off stdout and hands them to `on_message`; owns stdout
    listener   keeps the last bytes of stderr, which explain a crash; owns stderr
    watch      looks at the process, its heartbeat and the deadlines; owns the process itself; reports the end, once, after it was waited for

A worker that is to die is *doomed*: it has a reason, and from then on nothing new is given to it. The first reason counts.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..contract.errors import OutOfMemoryError, ProtocolError, Sam3dError, WorkerCrashed, WorkerHung, WorkerStartError
from ..contract.frames import Body, read_frame
from ..contract.messages import FROM_WORKER, SILENCE_VARIABLE, Beat, Hello, from_wire
from ..contract.record import Record
from ..contract.version import PROTOCOL
from .group import KILLED, ChildGroup
from .obituary import explain

TICK = 0.1  # seconds between two looks of the watch
LINGER = 2.0  # seconds that a process may outlive its stream
DRAIN = 1.0  # seconds without a byte after which what is left in a dead worker's pipes is given up: somebody else holds them open
UNKILLABLE = 30.0  # seconds after which a killed process that doesn't end (a driver holds it) is given up
STDERR_KEPT = 16384  # bytes

Frame = Iterator[memoryview]  # of contract.frames.encode_frame


class WorkerProcess:
    """A running worker. Methods may be called from any thread and don't wait. Raises WorkerStartError where it can't be started.

    silence: seconds without any byte from the worker after which it counts as hung. start_timeout: seconds until its Hello.
    take: see contract.frames.read_frame. on_message is called on the reader thread, on_end once on the watch thread, with `reason` set.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        silence: float,
        start_timeout: float,
        on_message: Callable[[Record], None],
        on_end: Callable[[Sam3dError], None],
        take: Body | None = None,
    ) -> None:
        self.hello: Hello | None = None
        self.greeted = threading.Event()  # set at the Hello, or at the end without one
        self.ended = threading.Event()  # set after on_end has returned
        self.reason: Sam3dError | None = None  # why it ended; None before
        self._silence, self._start_timeout = silence, start_timeout
        self._on_message, self._on_end, self._take = on_message, on_end, take
        self._outbox: queue.SimpleQueue[tuple[Callable[[], bool], Frame] | None] = queue.SimpleQueue()
        self._stderr = bytearray()
        # Guarded by _fate: what is going to happen to the process.
        self._fate = threading.Lock()
        self._doom: Sam3dError | None = None
        self._stopping = False  # doomed by stop(): every exit code is a good one
        self._kill_at: float | None = None  # monotonic seconds
        self._deadline: tuple[float, Sam3dError] | None = None
        self._broken: tuple[float, Sam3dError] | None = None  # since when a stream is over while the process lives, and what that means
        self._born = self._last_seen = time.monotonic()
        try:
            self._group = ChildGroup(command, {**environment, SILENCE_VARIABLE: f"{silence:g}"})
        except OSError as problem:
            raise WorkerStartError(f"The worker can't be started: {command[0]}: {problem.strerror or problem}.") from problem
        self.pid = self._group.pid
        self._sender, self._reader = self._thread(self._send, "sender"), self._thread(self._read, "reader")
        self._listener = self._thread(self._listen, "stderr")
        self._thread(self._watch, "watch")

    def _thread(self, target: Callable[[], None], name: str) -> threading.Thread:
        thread = threading.Thread(target=target, name=f"sam3d-{name}-{self.pid}", daemon=True)
        thread.start()
        return thread

    # -- from the backend

    @property
    def doomed(self) -> bool:
        """Whether it has ended, or is going to: nothing should be sent to it any more."""
        return self._doom is not None or self._group.exited()

    def send(self, frame: Frame, begin: Callable[[], bool] = lambda: True) -> None:
        """Queue one encoded message. `begin` is asked on the sender thread when its turn has come, and may still withdraw it."""
        self._outbox.put((begin, frame))

    def kill_after(self, seconds: float, reason: Sam3dError) -> None:
        """Kill the worker unless `spare` is called before the time is over. A deadline that is already running isn't put off."""
        with self._fate:
            self._deadline = self._deadline or (time.monotonic() + seconds, reason)

    def spare(self) -> None:
        """Call off the deadline. Where it was too late, the worker is doomed."""
        with self._fate:
            self._deadline = None

    def kill(self, reason: Sam3dError) -> None:
        """End the worker and its children now."""
        with self._fate:
            self._condemn(reason, 0.0)

    def stop(self, reason: Sam3dError, patience: float) -> None:
        """End in good order: close stdin, and kill what is left after `patience` seconds. `ended` tells when it is over."""
        with self._fate:
            self._stopping = True
            self._condemn(reason, patience if self.hello is not None else 0.0)
        self._outbox.put(None)

    def _condemn(self, reason: Sam3dError, patience: float) -> None:
        """With _fate held."""
        self._doom = self._doom or reason
        at = time.monotonic() + patience
        self._kill_at = at if self._kill_at is None else min(at, self._kill_at)
        if patience <= 0:
            self._group.kill()

    # -- the sender

    def _send(self) -> None:
        self.greeted.wait()
        try:
            while self.hello is not None and (item := self._outbox.get()) is not None:
                begin, frame = item
                if begin():
                    self._write(frame)
                del item, begin, frame  # a gigabyte must not wait here for the next message
        except OSError:
            self._stream_over(ProtocolError("The worker closed its input and lived on."))
        except MemoryError:
            self.kill(OutOfMemoryError("There isn't enough memory on this side to send the request."))
        finally:
            self._group.stdin.close()

    def _write(self, frame: Frame) -> None:
        for piece in frame:
            while piece:
                piece = piece[self._group.stdin.write(piece) :]

    # -- the reader

    def _read(self) -> None:
        over = False

        def read_into(view: memoryview) -> int:
            nonlocal over
            got: int = self._group.stdout.readinto(view)  # type: ignore[attr-defined]
            self._last_seen = time.monotonic()
            over = got == 0
            return got

        try:
            while (found := read_frame(read_into, self._take)) is not None:
                self._receive(*found)
                del found
            self._stream_over(ProtocolError("The worker closed its output and lived on."))
        except ProtocolError as problem:
            if over:  # the stream broke off: most often because the process did
                self._stream_over(problem)
            else:
                self.kill(problem)
        except OSError as problem:
            self._stream_over(ProtocolError(f"The worker's output can't be read: {problem}."))
        except MemoryError:
            self.kill(OutOfMemoryError("There isn't enough memory on this side to receive the worker's answer."))
        finally:
            self._group.stdout.close()

    def _receive(self, plain: dict[str, Any], arrays: dict[str, Any]) -> None:
        if plain.get("type") == "Hello" and plain.get("protocol") != PROTOCOL:  # before its fields, which may be others
            raise ProtocolError(f"The worker speaks protocol {plain.get('protocol')}, this side speaks {PROTOCOL}.")
        message = from_wire(plain, arrays, FROM_WORKER)
        if isinstance(message, Hello):
            self.hello = message
            self.greeted.set()
        elif self.hello is None:
            raise ProtocolError(f"The worker's first message is {plain['type']}, not Hello.")
        elif not isinstance(message, Beat):
            self._on_message(message)

    def _stream_over(self, problem: Sam3dError) -> None:
        with self._fate:
            self._broken = self._broken or (time.monotonic(), problem)

    # -- the listener

    def _listen(self) -> None:
        with self._group.stderr as stderr, contextlib.suppress(OSError):
            while chunk := stderr.read(65536):
                self._stderr += chunk
                del self._stderr[:-STDERR_KEPT]

    # -- the watch

    def _watch(self) -> None:
        looked = time.monotonic()
        while not self._group.exited():
            now = time.monotonic()
            if now - looked > 10 * TICK:  # this whole process was stopped or starved: it listened to nobody
                self._last_seen, self._born = now, self._born + now - looked
            looked = now
            if self._judge(now):
                break
            time.sleep(TICK if self._broken is None else TICK / 20)
        code = self._group.reap() if self._group.exited() else KILLED
        self._let_finish(self._reader)  # what it said before it died still counts
        self._listener.join(DRAIN)
        self.reason = self._why(code)
        self.greeted.set()
        self._outbox.put(None)
        self._sender.join(DRAIN)
        self._group.release()
        self._on_end(self.reason)
        self.ended.set()

    def _judge(self, now: float) -> bool:
        """Carry out what is due. True: the process was killed and doesn't end."""
        with self._fate:
            if self._kill_at is not None:
                if now >= self._kill_at:
                    self._group.kill()
                return now >= self._kill_at + UNKILLABLE
            if self._deadline is not None and now > self._deadline[0]:
                self._condemn(self._deadline[1], 0.0)
            elif self._broken is not None and now > self._broken[0] + LINGER:
                self._condemn(self._broken[1], 0.0)
            elif self.hello is None and now > self._born + self._start_timeout:
                self._condemn(WorkerStartError(f"The worker didn't answer within {self._start_timeout:g} s of its start."), 0.0)
            elif self.hello is not None and now > self._last_seen + self._silence:
                self._condemn(WorkerHung(f"The worker gave no sign of life for {self._silence:g} s and was killed."), 0.0)
        return False

    def _let_finish(self, reader: threading.Thread) -> None:
        """The pipe may hold much, or be held open by a process that left the group: wait as long as bytes come."""
        start = time.monotonic()
        while reader.is_alive() and time.monotonic() < max(self._last_seen, start) + DRAIN:
            reader.join(TICK)

    def _why(self, code: int) -> Sam3dError:
        tail = bytes(self._stderr).decode("utf-8", "replace")
        if self._doom is not None and (self._stopping or code == KILLED):
            self._doom.detail = self._doom.detail or tail.strip()
            return self._doom
        started = WorkerCrashed if self.hello is not None else WorkerStartError
        return explain(code, tail, started, self._silence)
