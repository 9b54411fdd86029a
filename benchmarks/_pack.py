"""Lets a benchmark run from a bare checkout with any Python that has torch: the folder becomes the package `comfyui_sam3d`."""

from __future__ import annotations

import importlib.util
import platform
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def mount() -> None:
    """Make `import comfyui_sam3d` work, whatever the checkout's folder is called. Does nothing where the pack is installed."""
    if importlib.util.find_spec("comfyui_sam3d") is not None:
        return
    spec = importlib.util.spec_from_file_location("comfyui_sam3d", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["comfyui_sam3d"] = module
    spec.loader.exec_module(module)


def machine() -> str:
    """The machine that a figure was taken on, in words."""
    text = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        text += f", torch {torch.__version__}"
        if torch.cuda.is_available():
            text += f", {torch.cuda.get_device_name()}"
    return text


def table(rows: list[tuple[str, str, str]], title: str) -> None:
    """Print (what, figure, limit) rows."""
    print(f"\n{title}\n{machine()}")
    widths = [max(len(row[i]) for row in [("what", "figure", "limit"), *rows]) for i in range(3)]
    for row in [("what", "figure", "limit"), tuple("-" * w for w in widths), *rows]:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |")
