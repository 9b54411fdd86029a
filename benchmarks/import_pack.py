"""What the pack adds to ComfyUI's start: `python benchmarks/import_pack.py` prints the figures, the limit and the machine.

import      the root module and the node mappings, loaded as ComfyUI loads them, numpy being there already (median of fresh processes)
first time  the same without compiled bytecode, as after an update
modules     how many modules that loads, the standard library's included
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from _pack import ROOT, table

LIMIT = 0.15
TIMES = 15
SCRIPT = """
import importlib.util, json, sys, time
import numpy
before, start = len(sys.modules), time.perf_counter()
spec = importlib.util.spec_from_file_location("custom_nodes/sam3d", sys.argv[1] + "/__init__.py")
module = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = module
spec.loader.exec_module(module)
found = len(module.NODE_CLASS_MAPPINGS)
print(json.dumps([time.perf_counter() - start, len(sys.modules) - before, found]))
"""


def measure(**environment: str) -> tuple[float, int]:
    """Seconds and modules of one import in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(ROOT)], capture_output=True, text=True, check=True, env={**os.environ, **environment}
    )
    seconds, modules, nodes = json.loads(done.stdout)
    assert nodes == 5
    return seconds, modules


def main() -> int:
    measure()  # writes the bytecode
    warm = [measure() for _ in range(TIMES)]
    cold = []
    for _ in range(5):
        with tempfile.TemporaryDirectory() as empty:
            cold.append(measure(PYTHONPYCACHEPREFIX=empty)[0])
    seconds = statistics.median(s for s, _ in warm)
    rows = [
        ("import beyond numpy", f"{seconds:.3f} s", f"{LIMIT} s"),
        ("first time, no bytecode", f"{statistics.median(cold):.3f} s", "-"),
        ("modules loaded", str(warm[0][1]), "-"),
    ]
    table(rows, "Importing the pack as ComfyUI does")
    return 0 if seconds <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
