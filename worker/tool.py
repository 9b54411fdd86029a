"""What the small programs beside the worker have in common: events as JSON lines on stdout, an exit code, and an end when nobody listens any more."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TextIO

from ..contract.errors import EngineError, OutOfMemoryError, Sam3dError, SetupError

EVERY = 0.1  # seconds between two events `bytes` of the same work
Report = Callable[..., None]


def run(work: Callable[[Report], bool]) -> int:
    """work(report) -> whether all is well. Returns 0, 1 (it isn't, or an error), 3 (an error of the setup), 130. Errors become the event `failed`."""
    out = _claim_stdout()
    threading.Thread(target=_end_with_parent, name="sam3d-parent", daemon=True).start()
    report = _Lines(out)
    try:
        return 0 if work(report) else 1
    except KeyboardInterrupt:
        return 130
    except Sam3dError as problem:
        report("failed", error=problem.to_json())
        return 3 if isinstance(problem, SetupError) else 1
    except MemoryError as problem:
        report("failed", error=OutOfMemoryError("There isn't enough memory.", "Close other programs.", detail=str(problem)).to_json())
        return 1
    except Exception as problem:
        text = f"{type(problem).__name__}: {problem}"
        report("failed", error=EngineError(f"It failed: {text}.", "This is a defect: please report it.", detail=text).to_json())
        return 1


class _Lines:
    """Writes events; of the many about bytes only some, and the last."""

    def __init__(self, out: TextIO) -> None:
        self._out, self._lock, self._said = out, threading.Lock(), 0.0

    def __call__(self, kind: str, /, **fields: Any) -> None:
        with self._lock:
            if kind == "bytes":
                now = time.monotonic()
                if now - self._said < EVERY and fields["done"] != fields["total"]:
                    return
                self._said = now
            self._out.write(json.dumps({"event": kind, **fields}, ensure_ascii=False) + "\n")
            self._out.flush()


def _claim_stdout() -> TextIO:
    """stdout for events alone: what a library prints goes to stderr."""
    own = os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n")
    sys.stdout.flush()
    os.dup2(2, 1)
    return own


def _end_with_parent() -> None:
    """stdin is a pipe that its caller holds open: its end is the caller's."""
    try:
        while os.read(0, 1024):
            pass
    except OSError:
        pass
    os._exit(130)
