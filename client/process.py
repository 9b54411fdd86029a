"""One life of a worker process: start it, read it, notice its end, whatever that looks like.

Three threads: a reader (messages), a listener on stderr (its last lines explain a crash), and a watch that waits for the process, looks
at the heartbeat and carries out deadlines. The end is reported exactly once, after the process has been waited for.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from ..contract.errors import ProtocolError, Sam3dError, WorkerCrashed, WorkerHung, WorkerStartError
from ..contract.frames import read_frame, write_frame
from ..contract.messages import FROM_WORKER, Beat, Hello, from_wire, to_wire
from ..contract.record import Record
from ..contract.version import PROTOCOL

TICK = 0.1  # seconds between two looks of the watch
STDERR_KEPT = 16384  # bytes
PIPE_SIZE = 1 << 20

_LIKELY = {
    "SIGKILL": "something killed it; usually the system ran out of memory",
    "SIGSEGV": "a native library crashed",
    "SIGABRT": "a native library gave up",
    "SIGILL": "a native library needs a newer processor",
    "SIGBUS": "a native library crashed, or the disk is full",
    "SIGTERM": "somebody asked it to stop",
}


class WorkerProcess:
    """A running worker. `on_message` is called on the reader thread, `on_end` once on the watch thread with the reason.

    silence: seconds without any byte from the worker after which it counts as hung. start_timeout: the same until its Hello.
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
    ) -> None:
        self.hello: Hello | None = None
        self.greeted = threading.Event()  # set at the Hello, and at the end
        self.ended = threading.Event()
        self._silence, self._start_timeout = silence, start_timeout
        self._on_message, self._on_end = on_message, on_end
        self._writing = threading.Lock()
        self._stderr = bytearray()
        self._reason: Sam3dError | None = None  # why we killed it
        self._deadline: float | None = None
        self._last_seen = time.monotonic()
        self._popen = self._start(list(command), dict(environment))
        self.pid = self._popen.pid
        self._reader = self._thread(self._read, "reader")
        self._listener = self._thread(self._listen, "stderr")
        self._thread(self._watch, "watch")

    def _start(self, command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        environment["SAM3D_WORKER_SILENCE"] = str(self._silence)
        lifeline: tuple[int, ...] = ()
        self._lifeline = -1
        if sys.platform == "linux":  # worker/channel.py says what it is for
            far, self._lifeline = os.pipe()
            lifeline = (far,)
            environment["SAM3D_LIFELINE_FD"] = str(far)
        try:
            popen = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                env=environment,
                pass_fds=lifeline,
                # A group of its own: Ctrl-C in a terminal reaches the client alone, and a kill reaches the worker's children.
                start_new_session=sys.platform != "win32",
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )
        except OSError as problem:
            self._close_lifeline()
            raise WorkerStartError(f"The worker can't be started: {command[0]}: {problem.strerror or problem}.") from problem
        finally:
            for fd in lifeline:
                os.close(fd)
        _widen(popen.stdin, popen.stdout)
        return popen

    def _thread(self, target: Callable[[], None], name: str) -> threading.Thread:
        thread = threading.Thread(target=target, name=f"sam3d-{name}-{self.pid}", daemon=True)
        thread.start()
        return thread

    # -- towards the worker

    def send(self, message: Record) -> None:
        """Write one message; blocks while the worker doesn't read. Raises OSError where it is gone."""
        plain, arrays = to_wire(message)
        stdin = self._popen.stdin
        assert stdin is not None

        def write(piece: memoryview) -> None:
            while piece:
                piece = piece[stdin.write(piece) or 0 :]

        with self._writing:
            write_frame(write, plain, arrays)

    def kill_after(self, seconds: float, reason: Sam3dError) -> None:
        """Kill the worker unless `spare` is called before the time is over; it then ends with this reason."""
        self._deadline, self._reason_then = time.monotonic() + seconds, reason

    def spare(self) -> None:
        self._deadline = None

    def kill(self, reason: Sam3dError) -> None:
        """End the worker and its children now. The first reason given is the one that is reported."""
        self._reason = self._reason or reason
        self._kill()

    def stop(self, patience: float) -> None:
        """End in good order: close stdin, wait, then kill. Returns when the process has been waited for."""
        self._reason = self._reason or WorkerCrashed("The worker was stopped.")
        if self._writing.acquire(timeout=patience):  # not in the middle of a frame
            self._close(self._popen.stdin)
            self._writing.release()
        if not self.ended.wait(patience):
            self._kill()
            self.ended.wait()

    # -- from the worker

    def _read(self) -> None:
        stdout = self._popen.stdout
        assert stdout is not None

        def read_into(view: memoryview) -> int:
            got: int = stdout.readinto(view) or 0  # type: ignore[attr-defined]
            self._last_seen = time.monotonic()
            return got

        try:
            while (found := read_frame(read_into)) is not None:
                message = from_wire(*found, FROM_WORKER)
                if isinstance(message, Hello):
                    self._greet(message)
                elif not isinstance(message, Beat):
                    self._on_message(message)
        except ProtocolError as problem:
            if self._popen.poll() is None:  # a stream that breaks off with the process is its death, not a wrong message
                time.sleep(TICK)
            if self._popen.poll() is None:
                self.kill(problem)
        except (OSError, ValueError):
            pass  # closed under our feet by the watch

    def _greet(self, hello: Hello) -> None:
        if hello.protocol != PROTOCOL:
            self.kill(ProtocolError(f"The worker speaks protocol {hello.protocol}, this side speaks {PROTOCOL}."))
            return
        self.hello = hello
        self.greeted.set()

    def _listen(self) -> None:
        stderr = self._popen.stderr
        assert stderr is not None
        try:
            while chunk := stderr.read(65536):
                self._stderr += chunk
                del self._stderr[:-STDERR_KEPT]
        except (OSError, ValueError):
            pass

    # -- the watch

    def _watch(self) -> None:
        while self._popen.poll() is None:
            now = time.monotonic()
            if self._deadline is not None and now > self._deadline:
                self._deadline = None
                self.kill(self._reason_then)
            elif self.hello is None and now - self._last_seen > self._start_timeout:
                self.kill(WorkerStartError(f"The worker didn't answer within {self._start_timeout:g} s of its start."))
            elif self.hello is not None and now - self._last_seen > self._silence:
                self.kill(WorkerHung(f"The worker gave no sign of life for {self._silence:g} s and was killed."))
            self.ended.wait(TICK)
        self._kill()  # its children, which may hold our pipes open
        self._reader.join(5)  # what it said before it died still counts
        self._listener.join(1)
        reason = self._reason or self._explain(self._popen.returncode)
        for stream in (self._popen.stdin, self._popen.stdout, self._popen.stderr):
            self._close(stream)
        self._close_lifeline()
        self._on_end(reason)
        self.ended.set()
        self.greeted.set()

    def _explain(self, code: int) -> Sam3dError:
        tail = bytes(self._stderr).decode("utf-8", "replace").strip()
        last = "\n".join(tail.splitlines()[-15:])
        how, likely = _describe_exit(code)
        if "Timeout (" in tail and code == 1:
            return WorkerHung(f"The worker held the interpreter lock for more than {self._silence:g} s and ended itself.", detail=last)
        if self.hello is None:
            return WorkerStartError(f"The worker ended before it was ready: {how}{_last_line(last)}.", detail=last)
        return WorkerCrashed(f"The worker died in the middle of its work: {how}{likely}{_last_line(last)}.", detail=last)

    def _kill(self) -> None:
        try:
            if sys.platform == "win32":
                self._popen.kill()
            else:
                os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass

    def _close_lifeline(self) -> None:
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1

    @staticmethod
    def _close(stream: object) -> None:
        try:
            stream.close()  # type: ignore[attr-defined]
        except (OSError, ValueError):
            pass


def _describe_exit(code: int) -> tuple[str, str]:
    """How it ended, and the likely cause."""
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        cause = _LIKELY.get(name)
        return f"killed by {name}", f" ({cause})" if cause else ""
    if code >= 0xC0000000:  # Windows' own codes
        return f"exit code 0x{code:08X}", " (a native library crashed)"
    return f"exit code {code}", ""


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f"; its last words: {lines[-1][:300]}" if lines else ""


def _widen(*streams: object) -> None:
    """Larger pipes mean fewer wake-ups; a system that refuses keeps its own size."""
    if sys.platform != "linux":
        return
    import fcntl

    for stream in streams:
        try:
            fcntl.fcntl(stream.fileno(), 1031, PIPE_SIZE)  # type: ignore[attr-defined]  # F_SETPIPE_SZ, named from Python 3.10 on
        except OSError:
            pass
