"""The worker's end of the wire: private duplicates of stdin and stdout, and the lifeline to the parent.

A library's `printf` writes to descriptor 1, and a child process inherits descriptors 0 and 1; after `claim_stdio` these are stderr and the
null device, and the stream lives on descriptors that nobody else knows.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading

from ..contract.frames import encode_frame, read_frame
from ..contract.messages import FROM_CLIENT, LIFELINE_VARIABLE, from_wire, to_wire
from ..contract.record import Record


class Channel:
    """Messages in, messages out. `send` may be called from any thread; `receive` from one."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self._in = io.FileIO(read_fd, "r")
        self._out = io.FileIO(write_fd, "w")
        self._writing = threading.Lock()

    def receive(self) -> Record | None:
        """The next message, or None where the client has closed its end. Raises ProtocolError."""
        found = read_frame(self._in.readinto)
        return None if found is None else from_wire(*found, FROM_CLIENT)

    def send(self, message: Record) -> None:
        """Write one message whole; what can't be sent is a TypeError before its first byte.

        Ends the process where that is impossible: a client that is gone needs no answer, and half a frame can't be taken back.
        """
        frame = encode_frame(*to_wire(message))
        try:
            with self._writing:
                for piece in frame:
                    while piece:
                        piece = piece[self._out.write(piece) :]
        except OSError:
            os._exit(0)
        except BaseException as problem:
            complain(f"an answer broke off: {problem!r}")
            os._exit(4)


def complain(text: str) -> None:
    """One line on stderr, where the client looks for the reason of a crash."""
    with contextlib.suppress(OSError):
        os.write(2, f"sam3d worker: {text}\n".encode("utf-8", "replace"))


def claim_stdio() -> Channel:
    """Take stdin and stdout for the stream; what the process reads or prints afterwards goes elsewhere."""
    read_fd, write_fd = os.dup(0), os.dup(1)  # dup'ed descriptors aren't inherited by children (PEP 446)
    if sys.platform == "win32":  # pragma: no cover
        import msvcrt

        msvcrt.setmode(read_fd, os.O_BINARY)
        msvcrt.setmode(write_fd, os.O_BINARY)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # a crash must not lose the last lines
    _arm_lifeline()
    return Channel(read_fd, write_fd)


def _arm_lifeline() -> None:
    """Die with the parent, even while a library holds the interpreter lock.

    The parent holds the other end of this pipe and never writes to it. When the parent goes, however it goes, the kernel sends SIGIO to
    this process's group, which the parent has made for it and its children; SIGIO's default action ends a process, and no Python
    code has to run. Linux only: elsewhere, and behind ssh or a container, where no such descriptor arrives, the reader thread (stdin's
    end) and the faulthandler timer of loop.py do it later.
    """
    text = os.environ.pop(LIFELINE_VARIABLE, "")
    if not (sys.platform == "linux" and text.isdigit()):
        return
    import fcntl
    import select

    fd = int(text)
    try:
        os.set_inheritable(fd, False)
        signal.signal(signal.SIGIO, signal.SIG_DFL)
        fcntl.fcntl(fd, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
    except OSError:
        return  # not our pipe: somebody else's variable
    poller = select.poll()
    poller.register(fd, 0)
    if poller.poll(0):  # the parent was gone before the signal was armed
        os._exit(0)
