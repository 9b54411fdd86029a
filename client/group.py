"""A child process and everything that it starts: killed as one, and gone when this process is gone.

                      POSIX                                             Windows
    one group         a session of its own, ended by killpg             a job object, ended by TerminateJobObject
    Ctrl-C            reaches the terminal's group, not the session     not sent to a new process group
    dies with us      the lifeline pipe (Linux; worker/channel.py)      the job's last handle closes with us
    the child's id    ours while it is a zombie, i.e. until `reap`      a handle, which is never reused

docs/windows.md says what of this has been run and what is reasoned.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import BinaryIO

from ..contract.messages import LIFELINE_VARIABLE

if sys.platform == "win32":  # pragma: no cover
    from . import winjob

    FLAGS = winjob.FLAGS
else:
    import signal

    FLAGS = 0

PIPE_SIZE = 1 << 20
KILLED = 1 if sys.platform == "win32" else -9  # the exit code of a process that `kill` ended


class ChildGroup:
    """A started process with three unbuffered pipes, `stdin`, `stdout` and `stderr`, which belong to the caller.

    Methods may be called from any thread. Raises OSError where the process can't be started.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._guard = threading.Lock()  # no signal after the id was given back
        self._reaped = False
        self._lifeline: int | None = None
        variables = dict(environment)
        inherited: tuple[int, ...] = ()
        if sys.platform == "linux":
            far, self._lifeline = os.pipe()
            variables[LIFELINE_VARIABLE], inherited = str(far), (far,)
        try:
            self._popen = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                env=variables,
                pass_fds=inherited,
                start_new_session=sys.platform != "win32",
                creationflags=FLAGS,
            )
        except BaseException:
            self.release()
            raise
        finally:
            for fd in inherited:
                os.close(fd)
        self._job: int | None = None
        if sys.platform == "win32":  # pragma: no cover
            self._job = winjob.confine(self._popen)
        self.pid = self._popen.pid
        self.stdin, self.stdout, self.stderr = _pipe(self._popen.stdin), _pipe(self._popen.stdout), _pipe(self._popen.stderr)
        _widen(self.stdin, self.stdout)
        _alive.add(self)

    def exited(self) -> bool:
        """Whether the process has ended. It isn't waited for: its id stays ours."""
        with self._guard:
            if self._reaped or self._popen.returncode is not None:
                return True
            if sys.platform == "win32" or not hasattr(os, "waitid"):  # pragma: no cover  # macOS has it from Python 3.13 on
                return self._popen.poll() is not None
            try:
                return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
            except ChildProcessError:  # the host waits for all its children, or ignores SIGCHLD
                return True

    def kill(self) -> None:
        """End the whole group now; nothing happens once it has been reaped."""
        with self._guard:
            if not self._reaped:
                self._kill()

    def reap(self) -> int:
        """Wait for the process, end what is left of its group. Returns the exit code, -N for signal N."""
        with self._guard:
            self._kill()  # first: while the process is a zombie its id, and so the group's, can't become somebody else's
            code = self._popen.wait()
            self._reaped = True
        return code

    def release(self) -> None:
        """Give back what dies-with-us is made of; to be called last."""
        _alive.discard(self)
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None
        if sys.platform == "win32" and self._job is not None:  # pragma: no cover
            winjob.close(self._job)
            self._job = None

    def _kill(self) -> None:
        if sys.platform == "win32":  # pragma: no cover
            if self._job is not None:
                winjob.kill(self._job)
            self._popen.kill()
        else:
            try:
                os.killpg(self.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):  # nobody left (macOS says EPERM for a zombie)
                pass

    def _let_go(self) -> None:
        """In a forked copy of this process: close the copies of our ends, or the child would outlive the original."""
        for stream in (self.stdin, self.stdout, self.stderr):
            stream.close()
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None
        self._popen.returncode = 0  # not this process's child


_alive: set[ChildGroup] = set()  # from start to release


def _let_go_of_all() -> None:
    for group in list(_alive):
        group._let_go()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_let_go_of_all)


def _pipe(stream: object) -> BinaryIO:
    return stream  # type: ignore[return-value]  # Popen with PIPE and bufsize=0: always a raw, binary FileIO


def _widen(*streams: BinaryIO) -> None:
    """Larger pipes mean fewer wake-ups; a system that refuses keeps its own size."""
    if sys.platform != "linux":  # pragma: no cover
        return
    import fcntl

    for stream in streams:
        try:
            fcntl.fcntl(stream.fileno(), fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        except OSError:
            pass
