"""Removes what install.py made: the environment, what was set aside, the tools with their caches, the notes, the logs. Nothing else, and through no link."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil

from . import journal
from .errors import InstallError
from .folders import is_ours, remove, writable_and_again
from .lock import installer, unused
from .process import Say
from .settings import Settings


def uninstall(root: str, settings: Settings, say: Say, *, keep_cache: bool = False) -> int:
    """The bytes that were freed. keep_cache: the packages that conda and uv fetched stay for the next installation.

    Raises E_IN_USE while a worker runs, E_FOREIGN for an `_env` that install.py didn't make.
    """
    env, link = journal.env_dir(root), os.path.join(root, "_env")
    with installer(root, say, wait=settings.wait):
        freed = 0
        if os.path.isdir(env):
            if os.listdir(env) and not is_ours(root, env):
                raise InstallError("E_FOREIGN", f"{env} was not made by install.py.", "Remove it yourself.")
            with unused(env):
                freed += _size(env)
                remove(env, env + ".trash")
        if os.path.islink(link) or _is_junction(link):
            os.rmdir(link) if os.name == "nt" else os.remove(link)
        for folder in [env + ".prev", env + ".trash", *glob.glob(glob.escape(env) + ".failed-*")]:
            freed += _away(folder)
        tools = os.path.join(root, "_tools")
        caches = ("mamba",) if keep_cache else ()
        if os.path.isdir(tools) and not os.path.islink(tools):
            for name in os.listdir(tools):
                if name not in caches:
                    freed += _away(os.path.join(tools, name))
            with contextlib.suppress(OSError):
                os.rmdir(tools)
        if settings.cache_dir and not keep_cache:  # a folder of the user's own: what others keep in its uv/ can't be told from ours
            say(f"SAM3D_CACHE_DIR is left as it is: {settings.cache_dir}")
        for log in glob.glob(os.path.join(glob.escape(root), "install.log*")):
            freed += os.path.getsize(log)
            os.remove(log)
        freed += _away(os.path.join(root, "sam3d_pack.egg-info"))  # left by the installation of the pack itself
        if os.name != "nt":
            freed += _away(os.path.join(root, ".sam3d_install"))  # still under the lock: after it, it might be another's
    return freed + (_away(os.path.join(root, ".sam3d_install")) if os.name == "nt" else 0)


def _away(folder: str) -> int:
    if os.path.islink(folder) or not os.path.isdir(folder):
        return 0
    size = _size(folder)
    shutil.rmtree(folder, onerror=writable_and_again)
    return size


def _size(folder: str) -> int:
    """Bytes of the files below it; a file with several names counts once."""
    total, seen = 0, set()
    for where, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                found = os.lstat(os.path.join(where, name))
                if found.st_nlink == 1 or (found.st_dev, found.st_ino) not in seen:
                    total += found.st_size
                    seen.add((found.st_dev, found.st_ino))
    return total


def _is_junction(path: str) -> bool:
    """A junction on Windows: `islink` doesn't know them."""
    return os.name == "nt" and os.path.isdir(path) and os.path.realpath(path) != os.path.abspath(path)
