"""While a worker runs, install.py leaves the environment below it alone: a shared lock of the operating system on `_env/.sam3d_in_use`,
which ends with the process, however it ends (environment/lock.py holds the other side)."""

from __future__ import annotations

import contextlib
import os
import sys

READY, IN_USE = ".sam3d_ready.json", ".sam3d_in_use"


def hold() -> None:
    """Take the lock and keep it until this process ends. Does nothing in an interpreter that install.py didn't make, nor on Windows, which refuses
    to rename a folder whose libraries are loaded."""
    if sys.platform == "win32" or not os.path.exists(os.path.join(sys.prefix, READY)):
        return
    import fcntl

    with contextlib.suppress(OSError):  # an environment that can't be written can't be rebuilt either
        handle = os.open(os.path.join(sys.prefix, IN_USE), os.O_RDWR | os.O_CREAT, 0o666)  # never closed, not inherited
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
