"""What would make a result now, and whether it is what made the one that is there (docs/cli.md, What is there already).

A result says in its meta.json which version and engine made it, and of which weights. The request's key doesn't: it is the same whatever `auto` becomes.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import Any

from ..client.tools import run_tool
from ..contract.errors import Sam3dError
from ..contract.version import VERSION


class Maker:
    """Asks the worker's environment for its engines, once and only where that matters; from several threads.

    here: whether it is this machine's worker that would make the result; what a job server or a cluster has isn't asked.
    """

    def __init__(self, *, here: bool = True) -> None:
        self._here = here and not os.environ.get("SAM3D_SERVER", "").strip() and not os.environ.get("SAM3D_WORKER_COMMAND", "").strip()
        self._lock = threading.Lock()
        self._asked = False
        self._auto: str | None = None  # None: unknown
        self._weights = ""

    def made(self, meta: Mapping[str, Any], engine: str) -> bool:
        """Whether a result with this meta.json is what a request for `engine` would get now. Unknown counts as yes, and a
        result of sam3d isn't given up where there are no weights any more."""
        if meta.get("version") != VERSION:
            return False
        if engine == "draft" or not self._here:
            return True
        with self._lock:
            self._ask()
            if self._auto != "sam3d":
                return True
            return meta.get("engine") == "sam3d" and _weights(meta) in (self._weights, None)

    def _ask(self) -> None:
        if self._asked:
            return
        self._asked = True
        try:
            for event in run_tool("weights", "engines"):
                if event.get("event") == "engines":
                    self._auto, self._weights = str(event.get("auto")), str(event.get("weights"))
        except Sam3dError:  # no environment: nothing could be made anew either
            pass


def _weights(meta: Mapping[str, Any]) -> str | None:
    in_effect = meta.get("in_effect")
    found = in_effect.get("weights_digest") if isinstance(in_effect, dict) else None
    return found if isinstance(found, str) else None
