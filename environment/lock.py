"""Who may change an environment, and when: locks of the operating system, which end with the process that holds them.

`.sam3d_install/lock` is held by the one installer that works; `_env/.sam3d_in_use` is held, shared, by every worker that runs from the environment.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator

from .errors import InstallError
from .process import Say

IN_USE = ".sam3d_in_use"


@contextlib.contextmanager
def installer(root: str, say: Say, *, wait: bool = True) -> Iterator[int]:
    """An exclusive lock on this pack's environment: the descriptor that holds it. Waits for another holder and says so, or raises E_LOCKED."""
    folder = os.path.join(root, ".sam3d_install")
    handle = _open(folder)
    try:
        if not _take(handle):
            who = _holder(folder)
            if not wait:
                raise InstallError("E_LOCKED", f"Another install of this pack is running{who}.")
            say(f"another install of this pack is running{who}: waiting for it")
            while not _take(handle):
                time.sleep(0.2)
        while not _is_there(folder, handle):  # whom we waited for was an uninstall: a lock on a deleted file keeps nobody out
            os.close(handle)
            handle = _open(folder)
            while not _take(handle):
                time.sleep(0.2)
        _note(folder)
        yield handle
    finally:
        os.close(handle)  # which also lets go of the lock


def _open(folder: str) -> int:
    os.makedirs(folder, exist_ok=True)
    return os.open(os.path.join(folder, "lock"), os.O_RDWR | os.O_CREAT, 0o666)


def _is_there(folder: str, handle: int) -> bool:
    """Whether the lock is on the file that the next one will open. Windows deletes no open file."""
    try:
        return sys.platform == "win32" or os.path.samestat(os.fstat(handle), os.stat(os.path.join(folder, "lock")))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def unused(env: str) -> Iterator[None]:
    """Nobody works in the environment while this block changes it. Raises E_IN_USE where a worker runs from it.

    Windows needs no such lock: it refuses to rename a folder whose libraries are loaded.
    """
    if sys.platform == "win32" or not os.path.isdir(env):
        yield
        return
    import fcntl

    handle = os.open(os.path.join(env, IN_USE), os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InstallError("E_IN_USE", f"A worker is running from {env}.") from None
        yield
    finally:
        os.close(handle)


def _take(handle: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _note(folder: str) -> None:
    """Who holds the lock, beside it: on Windows a locked file can't be read."""
    with contextlib.suppress(OSError), open(os.path.join(folder, "holder.json"), "w", encoding="utf-8") as file:
        json.dump({"pid": os.getpid(), "since": time.strftime("%H:%M:%S")}, file)


def _holder(folder: str) -> str:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError), open(os.path.join(folder, "holder.json"), encoding="utf-8") as file:
        read = json.load(file)
        return f" (process {read['pid']}, since {read['since']})"
    return ""
