"""uv: where it comes from, what of the caller's environment reaches it, how it is run, and what its failures mean.

Of the caller's settings exactly four pip variables count, and they mean here what they mean to pip:

    PIP_INDEX_URL         --default-index
    PIP_EXTRA_INDEX_URL   --index, and the best version of all indexes wins, as with pip
    PIP_FIND_LINKS        --find-links
    PIP_CERT              SSL_CERT_FILE

and `SAM3D_CACHE_DIR`, which moves the package cache. Every other PIP_* and UV_* and whatever belongs to another Python environment is kept
away: a stray UV_BUILD_CONSTRAINT or PYTHONPATH of the host has broken installs of this kind before. Proxies pass.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from typing import NamedTuple

MINIMUM = (0, 5, 0)  # has every option that is used here
EXE = "uv.exe" if os.name == "nt" else "uv"
_FOREIGN = {
    "PYTHONPATH",
    "PYTHONHOME",
    "PYTHONSTARTUP",
    "PYTHONUSERBASE",
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
    "CONDA_DEFAULT_ENV",
    "__PYVENV_LAUNCHER__",
}

Say = Callable[[str], None]


class InstallError(Exception):
    """An expected failure: what happened, and what to do. Shown without a traceback. `network`: the registry couldn't be reached."""

    def __init__(self, message: str, hint: str = "", *, network: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.network = network


class Uv(NamedTuple):
    path: str
    version: str
    source: str


def child_environment(environ: dict[str, str]) -> dict[str, str]:
    """What uv, and the build it starts, may see of the caller's environment."""
    env = {key: value for key, value in environ.items() if not key.upper().startswith(("PIP_", "UV_")) and key.upper() not in _FOREIGN}
    if environ.get("PIP_CERT"):
        env["SSL_CERT_FILE"] = environ["PIP_CERT"]
    env["PYTHONUTF8"] = "1"
    env["UV_HTTP_TIMEOUT"] = "300"  # large wheels over slow lines
    return env


def index_flags(environ: dict[str, str]) -> list[str]:
    """The pip variables as options of `uv pip install`."""
    flags = []
    if environ.get("PIP_INDEX_URL"):
        flags += ["--default-index", environ["PIP_INDEX_URL"].strip()]
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


def mask(text: str) -> str:
    """The text without the user names and passwords of its addresses."""
    return re.sub(r"(?<=://)[^/\s@]+@", "***@", text)


def run(uv: Uv, args: list[str], *, log: str, say: Say, lock: int | None = None) -> None:
    """Run uv to its end. Its lines go to `log`, those that tell of progress to `say` too.

    lock: a descriptor that the child keeps open, so that the lock of an installer that was killed holds until its uv has ended.
    """
    argv = [uv.path, *args, "--no-config", "--no-progress", "--color", "never", *cache_flags(dict(os.environ))]
    lines: list[str] = []
    with open(log, "a", encoding="utf-8") as file:
        file.write(mask("$ " + " ".join(argv)) + "\n")
        try:
            child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=child_environment(dict(os.environ)),
                encoding="utf-8",
                errors="replace",
                pass_fds=() if lock is None or os.name == "nt" else (lock,),
            )
        except OSError as error:
            raise InstallError(f"uv at {uv.path} can't be started: {error.strerror}.", "Set SAM3D_UV to a working uv.") from None
        stream = child.stdout
        assert stream is not None
        try:
            for line in stream:
                line = mask(line.rstrip())
                lines.append(line)
                file.write(line + "\n")
                file.flush()
                if line.lstrip().startswith(("Resolved", "Downloading", "Building", "Prepared", "Installed", "warning")):
                    say("      " + line.strip())
        except BaseException:
            child.terminate()
            raise
        finally:
            stream.close()
            code = child.wait()
    if code:
        raise explain("\n".join(lines), code, log)


# What uv prints -> what it means, what to do, whether the network is to blame. The first that fits counts.
_FAILURES = (
    (
        r"No space left|os error 28\b|os error 112\b",
        "The disk is full.",
        "Free some space, or set SAM3D_CACHE_DIR to a folder on another disk.",
        False,
    ),
    (
        r"Permission denied|Access is denied|Read-only file system|os error (?:13|30|5)\b",
        "A folder can't be written.",
        "Check the rights of the pack's folder and of the package cache (SAM3D_CACHE_DIR moves it).",
        False,
    ),
    (
        r"invalid peer certificate|UnknownIssuer|certificate verify",
        "The registry's certificate isn't trusted.",
        "Set PIP_CERT to your network's CA bundle.",
        True,
    ),
    (
        r"\b40[13] (?:Unauthorized|Forbidden)|status code 40[13]",
        "The registry refused the login.",
        "Check PIP_INDEX_URL and PIP_EXTRA_INDEX_URL.",
        False,
    ),
    (
        r"dns error|error sending request|[Cc]onnect(?:ion)? (?:error|refused|timed out)|timed out|network was disabled|Failed to fetch|Could not connect|error trying to connect",
        "The package registry can't be reached, and the package cache doesn't hold everything.",
        "Check the network and the proxy (HTTPS_PROXY), or set PIP_INDEX_URL to a mirror; then run the same command again.",
        True,
    ),
    (
        r"no wheels with a matching|no usable wheels|has no (?:usable )?wheels|Building source distributions",
        "A package has no wheel for this machine and Python, and nothing is compiled here.",
        "Use a Python from 3.10 to 3.13 on a common platform.",
        False,
    ),
    (
        r"No solution found|not found in the package registry|unsatisfiable",
        "The packages don't fit together, or one isn't in the registry.",
        "If you use a mirror, check that it is complete.",
        False,
    ),
)


def explain(output: str, code: int, log: str) -> InstallError:
    """uv's output as one of our errors: a sentence, uv's own words below it, what to do."""
    tail = [line for line in output.splitlines() if line.strip()][-6:]
    said = "\n".join("      " + line for line in tail)
    for pattern, message, hint, network in _FAILURES:
        if re.search(pattern, output):
            return InstallError(f"{message}\n{said}", f"{hint} The whole output: {log}", network=network)
    return InstallError(f"uv failed (exit code {code}).\n{said}", f"The whole output: {log}")


def find(root: str, say: Say) -> Uv:
    """SAM3D_UV, else beside the running Python, else on PATH, else fetched from the registry into `_tools/uv`."""
    named = os.environ.get("SAM3D_UV")
    if named:
        path = shutil.which(named) or named
        version = _version(path)
        if version is None:
            raise InstallError(f"SAM3D_UV is {named}, which is no uv of {'.'.join(map(str, MINIMUM))} or later.", "Correct it or unset it.")
        return Uv(path, version, "SAM3D_UV")
    for path, source in _places():
        version = _version(path)
        if version is not None:
            return Uv(path, version, source)
    return _fetch(root, say)


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
    if not os.path.isfile(path):
        return None
    try:
        said = subprocess.run(
            [path, "--version"], capture_output=True, stdin=subprocess.DEVNULL, timeout=30, env=child_environment(dict(os.environ))
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.match(rb"uv (\d+)\.(\d+)\.(\d+)", said)
    if not found or tuple(int(part) for part in found.groups()) < MINIMUM:
        return None
    return b".".join(found.groups()).decode()


def _fetch(root: str, say: Say) -> Uv:
    with open(os.path.join(root, "environment", "uv.txt"), encoding="utf-8") as file:
        pin = next(line.strip() for line in file if line.startswith("uv=="))
    target = os.path.join(root, "_tools", "uv")
    path = os.path.join(target, "bin", EXE)
    if _version(path) != pin.partition("==")[2]:
        say(f"      no uv here: fetching {pin} into _tools/uv")
        if not importlib.util.find_spec("pip"):
            raise InstallError(
                f"There is no uv on this machine, and {sys.executable} has no pip to fetch it.",
                "Install uv or pip (Debian, Ubuntu: apt install python3-pip), or set SAM3D_UV.",
            )
        shutil.rmtree(target, ignore_errors=True)
        keep = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_CERT")
        env = {key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "UV_", "PYTHON")) or key in keep}
        argv = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--quiet", "--only-binary", ":all:"]
        done = subprocess.run(
            [*argv, "--target", target, pin], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", env=env
        )
        if done.returncode:
            said = "\n".join("      " + mask(line) for line in done.stderr.strip().splitlines()[-3:])
            raise InstallError(
                f"uv can't be fetched from the package registry.\n{said}",
                "Check the network, or set SAM3D_UV to a uv of your own.",
                network=True,
            )
    version = _version(path)
    if version is None:
        raise InstallError(f"The uv that was fetched doesn't run here: {path}", "Install uv yourself and set SAM3D_UV.")
    return Uv(path, version, "_tools/uv")
