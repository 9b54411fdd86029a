"""What the sam3d engine needs, looked at from inside the worker's interpreter: GPU, driver, memory, packages, fast operations, weights. For `sam3d doctor`.

{"event": "check", "name", "state": "ok" | "note" | "wrong", "text", "hint"}, one a line. Nothing here is wrong as long as only the draft engine is
wanted, so what lacks is a note with the sentence to act on.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from ..contract.errors import Sam3dError
from .tool import Report, run

# module -> package and what it is for; the first three are what the engine can't do without
NEEDED = {"torch": "torch", "safetensors": "safetensors", "yaml": "pyyaml"}
USEFUL = {"fast_simplification": "fast-simplification", "xatlas": "xatlas", "huggingface_hub": "huggingface_hub", "triton": "triton"}
LAYER = "Type: python install.py --layers model"
Check = tuple[str, str, str, str]  # name, state, text, hint
_NO_GPU: Check = (
    "gpu", "note", "none: the sam3d engine takes many minutes an object on a CPU", "Use a machine with an NVIDIA GPU; the draft engine needs none.",
)  # fmt: skip


def checks() -> Iterator[Check]:
    lacking = [package for module, package in NEEDED.items() if importlib.util.find_spec(module) is None]
    yield _packages(lacking)
    if "torch" not in lacking:
        yield from _device()
    else:
        seen = _driver()
        yield ("gpu", "note", f"the NVIDIA driver {seen} is there", "") if seen else _NO_GPU
    yield _weights(lacking)


def _packages(lacking: list[str]) -> Check:
    if lacking:
        return ("packages", "note", f"the sam3d engine needs {', '.join(lacking)}, which this environment lacks", LAYER)
    here = {**NEEDED, **USEFUL}
    found = [f"{package} {_version(package)}" for module, package in here.items() if importlib.util.find_spec(module) is not None]
    absent = [package for module, package in USEFUL.items() if module != "triton" and importlib.util.find_spec(module) is None]
    return (
        "packages",
        "note" if absent else "ok",
        ", ".join(found),
        f"Without {', '.join(absent)} some things are slower or missing. {LAYER}" if absent else "",
    )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "?"


def _device() -> Iterator[Check]:
    """The GPU as torch sees it, its memory, and which fast operations run on it."""
    import torch

    from .ops import backends

    driver = _driver()
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda")
        try:
            free, total = torch.cuda.mem_get_info(device)
            major, minor = torch.cuda.get_device_capability(device)
            name = torch.cuda.get_device_name(device)
        except RuntimeError as problem:
            yield ("gpu", "wrong", f"it doesn't answer: {problem}", "Restart the machine, or update the driver.")
            return
        yield ("gpu", "ok", f"{name}, compute capability {major}.{minor}, driver {driver or '?'}, CUDA {torch.version.cuda}", "")
        yield _memory(free, total)
    elif torch.backends.mps.is_available():
        device = torch.device("mps")
        yield ("gpu", "ok", "Apple's, through Metal", "")
    elif driver and torch.version.cuda is None:
        hint = "Type: python install.py   (it chooses the profile by the GPU; docs/install.md)"
        yield ("gpu", "note", f"the NVIDIA driver {driver} is there, but torch {torch.__version__} computes on the CPU alone", hint)
    elif torch.version.cuda is not None:
        what = f"the driver {driver} doesn't go with" if driver else "no NVIDIA driver for"
        yield (
            "gpu",
            "note",
            f"{what} torch {torch.__version__} (CUDA {torch.version.cuda}): it computes on the CPU",
            "Install NVIDIA's newest driver.",
        )
    else:
        yield _NO_GPU
    try:
        backends.check(device)
    except Sam3dError as problem:
        yield ("operations", "wrong", f"SAM3D_OPS: {problem.message}", problem.hint)
        return
    fast = {name: offered for name, offered in backends.available(device).items() if offered != ["torch"]}
    if device.type == "cuda" and not any("triton" in offered for offered in fast.values()):
        yield ("operations", "note", "all run, but none of the fast ones", "Install triton (on Windows: triton-windows) beside torch.")
    else:
        words = ", ".join(f"{name} {'/'.join(offered[:-1])}" for name, offered in fast.items())
        yield ("operations", "ok", words or "plain PyTorch", "")


def _memory(free: int, total: int) -> Check:
    """What the engine will do with it (worker/sam3d/networks.py)."""
    text = f"{free / 1e9:.1f} of {total / 1e9:.1f} GB are free"
    if free >= 11e9:
        return ("memory", "ok", f"{text}: all networks stay on the GPU", "")
    if free >= 4.5e9:
        return ("memory", "ok", f"{text}: networks come and go", "")
    return ("memory", "note", f"{text}: too little for the sam3d engine", "Close other programs that use the GPU; it needs about 5 GB.")


def _driver() -> str:
    """The NVIDIA driver's version; `?` where only its devices show; empty: none."""
    try:
        found = re.search(r"\d+\.\d+(\.\d+)?", Path("/proc/driver/nvidia/version").read_text(encoding="utf-8", errors="replace"))
        return found[0] if found else "?"
    except OSError:
        pass
    windows = Path(os.environ.get("SYSTEMROOT", "C:/Windows"), "System32", "nvcuda.dll")
    return "?" if any(Path("/dev").glob("nvidia[0-9]*")) or (sys.platform == "win32" and windows.exists()) else ""


def _weights(lacking: list[str]) -> Check:
    from .weights import layout, locate

    try:
        folder = locate.find()
    except Sam3dError as problem:
        return (
            "weights",
            "note",
            problem.message.replace("\n  ", " "),
            "Type: python sam3d.py weights fetch   (14 GB; it needs a free account and Meta's consent, and explains how)\nUntil then `auto` takes the draft engine.",
        )
    moge = locate.find_moge(folder)
    if moge is None:
        problem = locate.no_moge(folder)
        return ("weights", "note", f"in {folder}; but {problem.message[0].lower()}{problem.message[1:]}".replace("\n  ", " "), problem.hint)
    if lacking:
        return ("weights", "ok", f"in {folder}", "")
    from .weights import config, status

    try:
        config.architecture_of(folder)
    except Sam3dError as problem:
        return ("weights", "wrong", problem.message, problem.hint)
    if (folder / layout.FAKE_FILE).is_file():
        return (
            "weights",
            "note",
            f"in {folder}: random ones, whose results are no reconstructions",
            "Unset SAM3D_WEIGHTS, or remove the folder.",
        )
    slow = [network.stem for network in layout.NETWORKS if (path := network.there(folder)) and path.suffix != ".safetensors"]
    if slow or status.stale(folder):
        return ("weights", "note", f"in {folder}, not converted: each start reads twice as much", "Type: python sam3d.py weights convert")
    return ("weights", "ok", f"in {folder}", "")


def main() -> int:
    def work(report: Report) -> bool:
        for name, state, text, hint in checks():
            report("check", name=name, state=state, text=text, hint=hint)
        return True

    return run(work)


if __name__ == "__main__":
    sys.exit(main())
