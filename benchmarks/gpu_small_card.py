"""Small cards: fresh workers that see no more than 12, 8, 7 or 5.5 GB, with full-size converted weights read from disk.

    python3 benchmarks/gpu_small_card.py [FOLDER] [--cards 12 8 7 5.5]      from the root of the checkout; needs what gpu_cold_start.py needs

Each worker's allocator is capped, and what it asks about the device is answered as a card of that size would, half a gigabyte taken by the driver. `auto`
chooses the plan. Two jobs run one after the other, then 2 objects: the plan should be the same each time, and nothing should run out of memory. Last
the plan `staged`, forced. A real small card is slower, too: this shows that the work fits, not how long it takes there.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from _pack import mount, table

mount()

from comfyui_sam3d.client.local import LocalBackend  # noqa: E402
from comfyui_sam3d.contract.errors import Sam3dError  # noqa: E402
from comfyui_sam3d.worker.weights import layout  # noqa: E402

from gpu_cold_start import converted, wanted  # noqa: E402

DRIVER = 0.5e9  # bytes that a context and its libraries take from a card
WORKER = (
    "import runpy, sys; sys.path.insert(0, sys.argv[1]); import gpu_small_card; gpu_small_card.shrink(float(sys.argv[2])); "
    "sys.argv[1:] = []; runpy.run_module('comfyui_sam3d.worker', run_name='__main__')"
)


def shrink(size: float) -> None:
    """From now on this process has a card of `size` bytes."""
    if not torch.cuda.is_available():
        return
    real = torch.cuda.mem_get_info
    torch.cuda.set_per_process_memory_fraction((size - DRIVER) / torch.cuda.get_device_properties(0).total_memory)

    def small(device: object = None) -> tuple[int, int]:
        left = int(size - DRIVER) - torch.cuda.memory_reserved(device)  # type: ignore[arg-type]
        return max(0, min(left, real(device)[0])), int(size)  # type: ignore[arg-type]

    torch.cuda.mem_get_info = small  # type: ignore[assignment]


def runs(folder: Path, size: float) -> list[tuple[str, str, str]]:
    rows: list[tuple[str, str, str]] = []
    command = [sys.executable, "-c", WORKER, str(Path(__file__).resolve().parent), str(size * 1e9)]
    with (
        tempfile.TemporaryDirectory() as cache,
        LocalBackend(command, environment={"SAM3D_WEIGHTS": str(folder), "SAM3D_CACHE": cache}) as backend,
    ):
        for what, objects, own in (("first", 1, {}), ("second", 1, {}), ("2 objects", 2, {}), ("staged, forced", 1, {"memory": "staged"})):
            start = time.perf_counter()
            title = f"{size:g} GB: {what}"
            try:
                scene = backend.reconstruct(wanted(objects, quality="standard", seed=len(rows), sam3d=own)).result()
            except Sam3dError as problem:
                rows.append((title, f"failed: {problem.message}", ""))
                continue
            spent = time.perf_counter() - start
            rows.append((title, f"{spent:.2f} s, plan {scene.parameters['in_effect']['memory']}", ""))
            rows += [(title, f"warning: {warning}", "") for warning in scene.warnings[1:]]
    for row in rows:
        print(" | ".join(row), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--cards", type=float, nargs="+", default=[12, 8, 7, 5.5], help="gigabytes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch, "weights")
        if not (folder / layout.PIPELINE).is_file():
            if not torch.cuda.is_available():
                sys.exit("gpu_small_card.py needs a CUDA device (with a FOLDER of tiny weights it tries the script without one).")
            converted(folder)
        table([row for size in options.cards for row in runs(folder, size)], "Small cards, random weights")


if __name__ == "__main__":
    main()
