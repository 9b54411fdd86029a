"""uv: where it comes from, how the indexes are told to it, and running it.

Of pip's variables exactly four count, and they mean here what they mean to pip:

    PIP_INDEX_URL         --default-index (SAM3D_PYPI_INDEX wins over it)
    PIP_EXTRA_INDEX_URL   --index, and the best version of all indexes wins, as with pip
    PIP_FIND_LINKS        --find-links
    PIP_CERT              SSL_CERT_FILE

An address with a login in it reaches uv by its own variable instead of by an option: options stand in the list of processes.

`SAM3D_CACHE_DIR` moves the package cache. uv's configuration files, every other PIP_* and every UV_* are kept away (process.py).
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from typing import NamedTuple

from . import process
from .errors import InstallError, explain
from .process import Say, mask

MINIMUM = (0, 5, 0)  # has every option that is used here
EXE = "uv.exe" if os.name == "nt" else "uv"
TELLS = ("Resolved", "Downloading", "Building", "Prepared", "Installed", "warning")


class Uv(NamedTuple):
    path: str
    version: str
    source: str


def index_flags(environ: dict[str, str]) -> list[str]:
    """The registry's variables as options of `uv pip install`."""
    flags = []
    default = environ.get("SAM3D_PYPI_INDEX", "").strip() or environ.get("PIP_INDEX_URL", "").strip()
    if default:
        flags += ["--default-index", default]
    extra = environ.get("PIP_EXTRA_INDEX_URL", "").split()
    for url in extra:
        flags += ["--index", url]
    if extra:
        flags += ["--index-strategy", "unsafe-best-match"]
    for place in environ.get("PIP_FIND_LINKS", "").split():
        if "://" in place or os.path.exists(place):  # pip only warns of a missing folder; uv would stop
            flags += ["--find-links", place]
    return flags


def cache_flags(environ: dict[str, str]) -> list[str]:
    where = environ.get("SAM3D_CACHE_DIR")
    return ["--cache-dir", os.path.join(os.path.abspath(where), "uv")] if where else []


def argv(uv: Uv, args: list[str], *, offline: bool = False) -> list[str]:
    """The whole command line."""
    words = [uv.path, *args, "--no-config", "--no-progress", "--color", "never", *cache_flags(dict(os.environ))]
    return [*words, "--offline"] if offline else words


def run(uv: Uv, args: list[str], *, log: str, say: Say, lock: int | None = None, offline: bool = False) -> None:
    """Run uv to its end. Raises InstallError with what its failure means."""
    words, variables = discreet(argv(uv, args, offline=offline))
    code, said = process.run(words, log=log, say=say, tells=TELLS, lock=lock, variables=variables)
    if code:
        raise explain("uv", said, code, log)


_SPOKEN = {"--default-index": ("UV_DEFAULT_INDEX", " "), "--index": ("UV_INDEX", " "), "--find-links": ("UV_FIND_LINKS", ",")}


def discreet(words: list[str]) -> tuple[list[str], dict[str, str]]:
    """(words, variables): addresses with a login in them as variables, because everybody on a machine can read a process's words."""
    variables = {}
    for option, (variable, between) in _SPOKEN.items():
        places = [i for i, word in enumerate(words[:-1]) if word == option]
        values = [words[i + 1] for i in places]
        if any(re.search(r"://[^/\s]+@", value) for value in values):
            variables[variable] = between.join(values)
            words = [word for i, word in enumerate(words) if i not in places and i - 1 not in places]
    return words, variables


def find(root: str, say: Say, *, offline: bool = False) -> Uv:
    """SAM3D_UV, else beside the running Python, else on PATH, else fetched from the registry into `_tools/uv`."""
    return locate(root) or _fetch(root, say, offline=offline)


def locate(root: str) -> Uv | None:
    """The uv that is on this machine; None where one would have to be fetched. Raises E_UV_NOT_FOUND for a SAM3D_UV that is none."""
    named = os.environ.get("SAM3D_UV")
    if named:
        path = shutil.which(named) or named
        version = _version(path)
        if version is None:
            message = f"SAM3D_UV is {named}, which is no uv of {'.'.join(map(str, MINIMUM))} or later."
            raise InstallError("E_UV_NOT_FOUND", message, "Correct it or unset it.")
        return Uv(path, version, "SAM3D_UV")
    inside = os.path.realpath(os.path.join(root, "_env")) + os.sep  # a uv in there would go away with it
    for path, source in _places():
        version = None if os.path.abspath(path).startswith(inside) else _version(path)
        if version is not None:
            return Uv(path, version, source)
    path = os.path.join(_target(root), "bin", EXE)
    if _version(path) == pin(root):
        return Uv(path, pin(root), "_tools/uv")
    for place in ("bin", "Scripts", os.path.join("Library", "bin")):
        path = os.path.join(conda_target(root), place, EXE)
        version = _version(path)
        if version is not None:
            return Uv(path, version, "conda-forge")
    return None


def pin(root: str) -> str:
    """The version of the uv that is fetched where there is none."""
    with open(os.path.join(root, "environment", "uv.txt"), encoding="utf-8") as file:
        return next(line.strip() for line in file if line.startswith("uv==")).partition("==")[2]


def _target(root: str) -> str:
    return os.path.join(root, "_tools", "uv")


def conda_target(root: str) -> str:
    """Where a uv from conda-forge lies: for a machine whose Python has no pip."""
    return os.path.join(root, "_tools", "uv-conda")


def _places() -> list[tuple[str, str]]:
    places = [(os.path.join(folder, EXE), "beside Python") for folder in (os.path.dirname(sys.executable), sysconfig.get_path("scripts"))]
    if importlib.util.find_spec("uv"):
        try:
            import uv  # type: ignore[import-not-found,unused-ignore]

            places.append((uv.find_uv_bin(), "package uv"))
        except Exception:  # an unusable installation of uv is as good as none; its errors are of many kinds
            pass
    on_path = shutil.which("uv")
    return [*places, (on_path, "PATH")] if on_path else places


def _version(path: str) -> str | None:
    """The version that this executable prints; None if it isn't there, isn't uv, doesn't run or is too old."""
    said = process.output([path, "--version"]) if os.path.isfile(path) else None
    found = re.match(r"uv (\d+)\.(\d+)\.(\d+)", said or "")
    if not found or tuple(int(part) for part in found.groups()) < MINIMUM:
        return None
    return ".".join(found.groups())


def _fetch(root: str, say: Say, *, offline: bool) -> Uv:
    target = _target(root)
    path = os.path.join(target, "bin", EXE)
    say(f"      no uv here: fetching uv {pin(root)} into _tools/uv")
    if offline:
        raise InstallError(
            "E_OFFLINE_MISS", "There is no uv on this machine, and nothing may be fetched.", "Set SAM3D_UV, or drop --offline."
        )
    if not importlib.util.find_spec("pip"):
        raise InstallError("E_UV_NOT_FOUND", f"There is no uv on this machine, and {sys.executable} has no pip to fetch it.")
    shutil.rmtree(target, ignore_errors=True)
    keep = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_CERT")
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "UV_", "PYTHON")) or key in keep}
    if os.environ.get("SAM3D_PYPI_INDEX"):
        env["PIP_INDEX_URL"] = os.environ["SAM3D_PYPI_INDEX"]
    words = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--quiet", "--only-binary", ":all:"]
    done = subprocess.run(
        [*words, "--target", target, f"uv=={pin(root)}"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        env=env,
    )
    if done.returncode:
        said = "\n".join("      " + mask(line) for line in done.stderr.strip().splitlines()[-3:])
        message = f"uv can't be fetched from the package registry.\n{said}"
        raise InstallError("E_NETWORK", message, "Check the network, or set SAM3D_UV to a uv of your own.", network=True)
    version = _version(path)
    if version is None:
        raise InstallError("E_UV_NOT_FOUND", f"The uv that was fetched doesn't run here: {path}", "Install uv yourself and set SAM3D_UV.")
    return Uv(path, version, "_tools/uv")
