"""How far an installation came: `.sam3d_install/state.json`, written anew after every step. For `status`, and for the run after one that was killed.

    planned -> prechecked -> tool_ready -> solved -> python_done -> packages_done -> extras_done -> audited -> doctored -> ready

A build is never continued from the middle: what was begun is removed and made again from the caches. So the steps are for people and for tests; what
counts afterwards is the journal inside the environment. `building` alone is read back: it says that a folder without a journal is ours.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from typing import Any

from .errors import InstallError
from .process import Say, mask

STEPS = ("planned", "prechecked", "tool_ready", "solved", "python_done", "packages_done", "extras_done", "audited", "doctored", "ready")
SCHEMA = 1


def path(root: str) -> str:
    return os.path.join(root, ".sam3d_install", "state.json")


def read(root: str) -> dict[str, Any]:
    try:
        with open(path(root), encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and found.get("schema") == SCHEMA else {}


class Steps:
    """The record of one run. Each method writes the whole file aside and renames it."""

    def __init__(self, root: str, say: Say) -> None:
        self.root, self.say = root, say
        self.record: dict[str, Any] = {"schema": SCHEMA, "status": "running", "pid": os.getpid(), "began": _now(), "steps": []}

    def done(self, step: str, **facts: object) -> None:
        """A step is behind us; `facts` are added to the record."""
        assert step in STEPS
        self.record.update(facts)
        self.record["steps"].append({"step": step, "at": _now()})
        if step == "ready":
            self.record.update(status="ready", building="")
        self._write()

    def building(self, env: str) -> None:
        """From here on what is in the folder `env` is ours to remove. "": it is finished, or gone."""
        self.record["building"] = env
        self._write()

    def failed(self, error: InstallError | None) -> None:
        """None: interrupted."""
        self.record["status"] = "failed" if error else "interrupted"
        error = error or InstallError("E_INTERRUPTED", "It was stopped.")
        self.record["error"] = {key: mask(value) for key, value in error.to_dict().items()}
        self._write()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Tells people the phase's name, and how long it took."""
        self.say(f"   {name}")
        began = time.perf_counter()
        yield
        self.say(f"      {time.perf_counter() - began:.1f} s")

    def _write(self) -> None:
        target = path(self.root)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target + ".tmp", "w", encoding="utf-8") as file:
            json.dump(self.record, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(target + ".tmp", target)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
