"""What a worker died of, in words: from its exit code and the end of its stderr."""

from __future__ import annotations

import signal

from ..contract.errors import Sam3dError, WorkerHung, WorkerStartError

LINES = 15  # of stderr, kept as the error's detail

_LIKELY = {
    "SIGKILL": "something killed it; usually the system ran out of memory",
    "SIGSEGV": "a native library crashed",
    "SIGABRT": "a native library gave up",
    "SIGFPE": "a native library crashed",
    "SIGILL": "a native library needs a newer processor",
    "SIGBUS": "a native library crashed, or the disk is full",
    "SIGTERM": "somebody asked it to stop",
}


def explain(code: int, stderr: str, kind: type[Sam3dError], silence: float) -> Sam3dError:
    """The error for a process that ended by itself. kind: WorkerCrashed, or WorkerStartError where it never said Hello."""
    lines = [line.rstrip() for line in stderr.splitlines() if line.strip()]
    detail = "\n".join(lines[-LINES:])
    if code == 1 and any(line.startswith("Timeout (") for line in lines):  # faulthandler's words: worker/loop.py arms it
        return WorkerHung(f"The worker held the interpreter lock for more than {silence:g} s and ended itself.", detail=detail)
    name, cause = _name(code)
    likely = f" ({cause})" if cause else ""
    words = _last_words(lines)
    when = "before it was ready" if kind is WorkerStartError else "in the middle of its work"
    return kind(f"The worker died {when}: {name}{likely}{words}.", detail=detail)


def _name(code: int) -> tuple[str, str]:
    """How it ended, and the likely cause."""
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"killed by {name}", _LIKELY.get(name, "")
    if code >= 0xC0000000:  # Windows: an unhandled exception's code
        return f"exit code 0x{code:08X}", "a native library crashed"
    return f"exit code {code}", ""


def _last_words(lines: list[str]) -> str:
    """The line that says most: faulthandler's first one, else the last one."""
    fatal = [line for line in lines if line.startswith("Fatal Python error")]
    words = (fatal or lines)[-1].strip()[:300] if lines else ""
    return f"; its last words: {words.rstrip('.')}" if words else ""
