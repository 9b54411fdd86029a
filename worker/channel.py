"""The worker's end of the wire: private duplicates of stdin and stdout, and the lifeline to the parent.

A library's `printf` writes to descriptor 1, and a child process inherits descriptors 0 and 1; after `claim_stdio` these are stderr and the
null device, and the stream lives on descriptors that nobody else knows.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from ..contract.frames import read_frame, write_frame
from ..contract.messages import FROM_CLIENT, from_wire, to_wire
from ..contract.record import Record

LIFELINE = "SAM3D_LIFELINE_FD"


class Channel:
    """Messages in, messages out. `send` may be called from any thread; `receive` from one."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self._in = os.fdopen(read_fd, "rb", buffering=0)
        self._out = os.fdopen(write_fd, "wb", buffering=0)
        self._writing = threading.Lock()

    def receive(self) -> Record | None:
        """The next message, or None where the client has closed its end. Raises ProtocolError."""
        found = read_frame(self._in.readinto)
        return None if found is None else from_wire(*found, FROM_CLIENT)

    def send(self, message: Record) -> None:
        """Write one message. A client that is gone raises BrokenPipeError."""
        plain, arrays = to_wire(message)
        with self._writing:
            write_frame(self._write_all, plain, arrays)

    def _write_all(self, piece: memoryview) -> None:
        while piece:
            piece = piece[self._out.write(piece) :]


def claim_stdio() -> Channel:
    """Take stdin and stdout for the stream; what the process reads or prints afterwards goes elsewhere."""
    read_fd, write_fd = os.dup(0), os.dup(1)  # dup'ed descriptors aren't inherited by children (PEP 446)
    if sys.platform == "win32":
        import msvcrt

        msvcrt.setmode(read_fd, os.O_BINARY)
        msvcrt.setmode(write_fd, os.O_BINARY)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    _arm_lifeline()
    return Channel(read_fd, write_fd)


def _arm_lifeline() -> None:
    """Die with the parent, even while a library holds the interpreter lock.

    The parent holds the other end of this pipe and never writes to it. When the parent goes, however it goes, the kernel sends SIGIO,
    whose default action is to end the process; no Python code has to run. Linux only: elsewhere, and behind ssh or a container, where
    no such descriptor arrives, the reader thread (stdin's end) and the faulthandler timer of loop.py do it later.
    """
    text = os.environ.pop(LIFELINE, "")
    if not (sys.platform == "linux" and text.isdigit()):
        return
    import fcntl
    import select

    fd = int(text)
    try:
        os.set_inheritable(fd, False)
        signal.signal(signal.SIGIO, signal.SIG_DFL)
        fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
    except OSError:
        return  # not our pipe: somebody else's variable
    poller = select.poll()
    poller.register(fd, 0)
    if poller.poll(0):  # the parent was gone before the signal was armed
        os._exit(0)
