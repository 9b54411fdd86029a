"""Where the CPU build of torch comes from: a folder of wheels, PyTorch's own index, or the package registry.

On Linux the registry's torch is the CUDA build: 5 GB that a machine without a GPU has no use for. So the CPU build is looked for first
and installed alone (`--no-deps`); the installation of the whole layer then finds torch in place and adds only what torch needs.
On Windows and macOS the registry's build is the CPU build.
"""

from __future__ import annotations

import glob
import os
import re
import ssl
import sys
import threading
import urllib.request
from collections.abc import Iterator

from .journal import PROFILE
from .uv import Say

PATIENCE = 8.0  # seconds until an index that doesn't answer is given up


def requirement(root: str) -> str:
    """torch's line of model.txt."""
    with open(os.path.join(root, "environment", "model.txt"), encoding="utf-8") as file:
        return next(line.split("#")[0].strip() for line in file if re.match(r"torch\b", line))


def sources(root: str, python: tuple[int, int], say: Say) -> Iterator[tuple[str, list[str]]]:
    """(where, arguments for `uv pip install`) of each place that may have a CPU build, best first. When all fail, the registry's it is."""
    for folder, spec in _wheels(python):
        yield "a wheel in PIP_FIND_LINKS", ["--no-index", "--find-links", folder, spec]
    url = index_url(root)
    if sys.platform == "linux" and url:
        if answers(url + "/torch/"):
            yield "PyTorch's CPU index", ["--default-index", url, requirement(root)]
        else:
            say("      PyTorch's CPU index doesn't answer")


def index_url(root: str) -> str | None:
    with open(os.path.join(root, "environment", "torch_index.txt"), encoding="utf-8") as file:
        rows = [line.split() for line in file if not line.startswith("#")]
    return next((row[1].rstrip("/") for row in rows if len(row) == 2 and row[0] == PROFILE), None)


def _wheels(python: tuple[int, int]) -> list[tuple[str, str]]:
    """(folder, exact requirement) of each torch wheel with a local version `+cpu` for this Python, newest first. uv judges the platform."""
    found = []
    tag = f"cp{python[0]}{python[1]}"
    for folder in os.environ.get("PIP_FIND_LINKS", "").split():
        folder = folder[7:] if folder.startswith("file://") else folder
        for path in glob.glob(os.path.join(glob.escape(folder), "torch-*.whl")):
            match = re.match(rf"torch-(\d[\d.]*)(?:\+|%2B)(cpu[\w.]*)-{tag}-", os.path.basename(path))
            if match:
                version = tuple(int(part) for part in match[1].split("."))
                found.append((version, folder, f"torch=={match[1]}+{match[2]}"))
    return [(folder, spec) for _, folder, spec in sorted(found, reverse=True)]


def answers(url: str) -> bool:
    """Whether the address answers within PATIENCE. In a thread, because a name look-up can't be timed out."""
    result: list[bool] = []

    def ask() -> None:
        try:
            trust = ssl.create_default_context(cafile=os.environ.get("PIP_CERT") or None)
            with urllib.request.urlopen(url, timeout=PATIENCE, context=trust) as reply:
                result.append(bool(reply.read(1)))
        except (OSError, ValueError):
            result.append(False)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return result == [True]
