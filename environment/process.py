"""Starting programs: what of the caller's environment reaches them, their output into the log, and their end when ours is near.

Of the caller's settings these count for uv: PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS and PIP_CERT (uv.py), the proxies, and SAM3D_*.
Every other PIP_*, UV_*, CONDA_* and MAMBA_*, and whatever belongs to another Python, is kept away: a stray UV_BUILD_CONSTRAINT or PYTHONPATH
of the host has broken installs of this kind before.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

from .errors import InstallError

Say = Callable[[str], None]  # takes one line of progress
HEARTBEAT = 15.0  # seconds without a new line until people are told how long it has been

_FOREIGN = {
    "PYTHONPATH",
    "PYTHONHOME",
    "PYTHONSTARTUP",
    "PYTHONUSERBASE",
    "VIRTUAL_ENV",
    "__PYVENV_LAUNCHER__",
    "CONDARC",
    "MAMBARC",
}
_KEPT = ("CONDA_OVERRIDE_CUDA", "CONDA_OVERRIDE_GLIBC")  # what a machine without a GPU may claim for a solve


def child_environment(environ: dict[str, str]) -> dict[str, str]:
    """What a tool, and what it starts, may see of the caller's environment."""
    env = {
        key: value
        for key, value in environ.items()
        if key.upper() in _KEPT or (not key.upper().startswith(("PIP_", "UV_", "CONDA_", "MAMBA_")) and key.upper() not in _FOREIGN)
    }
    if environ.get("PIP_CERT"):
        env["SSL_CERT_FILE"] = environ["PIP_CERT"]
    env["PYTHONUTF8"] = "1"
    env["UV_HTTP_TIMEOUT"] = "300"  # large wheels over slow lines
    return env


def mask(text: str) -> str:
    """The text without the user names, passwords and channel tokens of its addresses."""
    text = re.sub(r"(?<=://)[^/\s]+@", "***@", text)
    return re.sub(r"(://[^\s]*?/t/)[^/\s]+", r"\1***", text)


def run(
    argv: list[str],
    *,
    log: str,
    say: Say,
    tells: tuple[str, ...] = (),
    lock: int | None = None,
    variables: dict[str, str] | None = None,
    text: str = "",
) -> tuple[int, str]:
    """Run a program to its end; its exit code and all that it printed. Every line goes to `log`, those that begin with one of `tells` to `say` too.

    lock: a descriptor that the child keeps open, so that the lock of an installer that was killed holds until its child has ended.
    text: what the program reads on its stdin. When this function is left by an exception (Ctrl-C), the program and what it started are ended first.
    """
    lines: list[str] = []
    group = os.name != "nt"
    with open(log, "a", encoding="utf-8") as file:
        file.write(mask(" ".join(["$", *(f"{name}={value}" for name, value in (variables or {}).items()), *argv])) + "\n")
        try:
            child = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE if text else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**child_environment(dict(os.environ)), **(variables or {})},
                encoding="utf-8",
                errors="replace",
                pass_fds=() if lock is None or not group else (lock,),
                start_new_session=group,
            )
        except OSError as error:
            raise InstallError("E_ENGINE", f"{argv[0]} can't be started: {error.strerror}.") from None
        stream = child.stdout
        assert stream is not None
        ended = threading.Event()
        threading.Thread(target=_heartbeat, args=(lines, say, ended), daemon=True).start()
        try:
            if child.stdin:
                with contextlib.suppress(BrokenPipeError), child.stdin:
                    child.stdin.write(text)
            for line in stream:
                line = mask(line.rstrip())
                lines.append(line)
                file.write(line + "\n")
                file.flush()
                if tells and line.lstrip().startswith(tells):
                    say("      " + line.strip())
        except BaseException:
            _end(child)
            raise
        finally:
            ended.set()
            stream.close()
            code = child.wait()
    return code, "\n".join(lines)


def _heartbeat(lines: list[str], say: Say, ended: threading.Event) -> None:
    """A sign of life while a tool works on without a line: large packages take minutes."""
    began = time.monotonic()
    known = -1
    while not ended.wait(HEARTBEAT):
        if len(lines) == known or not lines:
            last = next((line.strip() for line in reversed(lines) if line.strip()), "")
            say(f"      {time.monotonic() - began:.0f} s {last}".rstrip())
        known = len(lines)


def _end(child: subprocess.Popen[str]) -> None:
    """Ask, then kill: a tool that removes its temporary files gets five seconds. On POSIX what it started ends with it."""
    _signal(child, kill=False)
    try:
        child.wait(5)
    except subprocess.TimeoutExpired:
        _signal(child, kill=True)


def _signal(child: subprocess.Popen[str], *, kill: bool) -> None:
    with contextlib.suppress(ProcessLookupError):
        if sys.platform != "win32":
            os.killpg(child.pid, signal.SIGKILL if kill else signal.SIGTERM)
        else:
            child.kill() if kill else child.terminate()


def output(argv: list[str], *, timeout: float = 30, variables: dict[str, str] | None = None) -> str | None:
    """What a program prints within `timeout` seconds; None where it isn't there, fails or takes longer."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            env={**child_environment(dict(os.environ)), **(variables or {})},
        )
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None
