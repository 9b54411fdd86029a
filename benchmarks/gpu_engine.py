"""The whole sam3d engine at full size on a CUDA device: time of each stage, memory, plans, several objects, next to the original's figures.

    python3 benchmarks/gpu_engine.py [--voxels 20000] [--objects 8] [--no-overlap] [--only objects]
                                        from the root of the checkout; needs torch, no _env, no network, no weights

Weights are random (worker/weights/fake.py), so what comes out is no reconstruction. Random weights decide the number of voxels, which decides the time of
all that follows: so stage 1 runs in full, and then every object gets the same voxels, those nearest to an ellipsoid's surface. The mesh decoder's random
weights call every voxel inside, so its raw mesh is that shell with an outer and an inner surface, as a real object has.

Several objects are run twice: finished while others are sampled, and one after another. `finishing, not hidden` is the time from the last step of stage 2 to
the scene, `hidden` what finishing would have added without overlap. Both must give the same splats; where meshes differ, look whether two equal runs do too.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from _pack import mount, table

mount()

from comfyui_sam3d.contract.record import content_key  # noqa: E402
from comfyui_sam3d.contract.request import ReconstructRequest, Sam3dOptions  # noqa: E402
from comfyui_sam3d.contract.scene import Scene  # noqa: E402
from comfyui_sam3d.worker.cache import Cache  # noqa: E402
from comfyui_sam3d.worker.engines.sam3d.engine import Engine  # noqa: E402
from comfyui_sam3d.worker.geometry.encode import encode  # noqa: E402
from comfyui_sam3d.worker.job import QuietJob  # noqa: E402
from comfyui_sam3d.worker.sam3d.architecture import TINY, Architecture  # noqa: E402
from comfyui_sam3d.worker.weights.fake import fill  # noqa: E402

AFTER = "finishing, not hidden"
ORIGINAL = {"structure": "3.2 s", "latents": "3.5 s", "decode": "0.24 s (+ 0.03 FlexiCubes)"}  # spec: performance.md, sum with DINO 7.0 s


class RandomStore:
    """Stands in for weights on disk: networks of the given sizes, filled where they are wanted."""

    digest, origin, warnings = "random", "random weights", ("Random weights: not a reconstruction.",)

    def __init__(self, architecture: Architecture, device: torch.device) -> None:
        self.architecture, self.dtype = architecture, torch.float16 if device.type == "cuda" else torch.float32

    def load(self, name: str, device: torch.device) -> torch.nn.Module:
        part = self.architecture.parts()[name]
        with device:
            module = fill(part.build(), 1)
        return part.to_precision(module, self.dtype)


def shell(count: int, side: int) -> torch.Tensor:
    """int32 (count, 4): the voxels nearest to an ellipsoid's surface."""
    axis = torch.arange(side, dtype=torch.float32) - (side - 1) / 2
    x, y, z = torch.meshgrid(axis / (0.45 * side), axis / (0.39 * side), axis / (0.42 * side), indexing="ij")
    chosen = ((x * x + y * y + z * z).sqrt() - 1).abs().flatten().topk(count, largest=False).indices.sort().values
    return torch.stack([torch.zeros_like(chosen), chosen // side**2, chosen // side % side, chosen % side], dim=1).int()


def request(objects: int, side: int, **options: object) -> ReconstructRequest:
    """A picture of noise with `objects` masks, and a plane as its point map."""
    image = np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8)
    masks = np.zeros((objects, side, side), bool)
    for i in range(objects):
        low = side // 8 + i * side // 32
        masks[i, low : low + side // 3, low : low + side // 3] = True
    v, u = np.mgrid[:side, :side] / side - 0.5
    points = np.stack([2 * u, 2 * v, np.full((side, side), 2.0)], axis=-1).astype(np.float32)
    own = options.pop("sam3d", {})
    return ReconstructRequest(
        image=image, masks=masks, engine="sam3d", outputs=("glb", "ply"), sam3d=Sam3dOptions(pointmap=points, **own), **options
    )


class Watch(QuietJob):
    """Knows when stage 2 was over."""

    sampled = 0.0

    def step(self, stage: str, step: int, total: int) -> None:
        if stage == "latents" and step == total:
            self.sampled = time.perf_counter()


class Bench:
    def __init__(self, architecture: Architecture, voxels: int, device: torch.device) -> None:
        self.device = device
        self.engine = Engine(RandomStore(architecture, device), Cache(Path(tempfile.gettempdir()), limit=0), device)
        coords = shell(voxels, architecture.grid)
        sampled = self.engine.pipeline.structures

        def fixed(*args: object, **named: object) -> list:
            return [type(item)(coords, item.original, item.downsample, item.pose) for item in sampled(*args, **named)]

        self.engine.pipeline.structures = fixed

    def once(self, wanted: ReconstructRequest) -> tuple[dict[str, float], Scene]:
        """Seconds of each stage, of the files, and of all; memory at the most."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        watch, start = Watch(), time.perf_counter()
        scene = self.engine(wanted, watch)
        made = time.perf_counter()
        encode(scene, wanted.outputs, wanted.export)
        end = time.perf_counter()
        spent = {**scene.timings, AFTER: made - watch.sampled, "files": end - made, "all": end - start}
        if self.device.type == "cuda":
            spent["peak GB"] = torch.cuda.max_memory_allocated() / 1e9
        return spent, scene

    def warm(self, wanted: ReconstructRequest, runs: int = 3) -> dict[str, float]:
        """The best after a first one; on a CPU, where nothing is measured, the first."""
        spent = [self.once(wanted)[0] for _ in range(runs if self.device.type == "cuda" else 1)]
        return min(spent[1:] or spent, key=lambda one: one["all"])

    def overlapped(self, wanted: ReconstructRequest, one: dict[str, float]) -> Iterator[tuple[str, str, str]]:
        """Several objects without and with overlap. one: of a single object."""
        count = len(wanted.masks)
        spent, digest = {}, {}
        for overlap in (False, True):
            self.engine.overlap = overlap
            spent[overlap] = self.warm(wanted, 2)
            made = self.once(wanted)[1].objects
            digest[overlap] = [content_key([getattr(item, part) for item in made]) for part in ("splats", "mesh")]
            title = f"{count} objects, {'overlapped' if overlap else 'one stage after another'}"
            yield from rows_of(title, spent[overlap], f"6 x one, here {spent[overlap]['all'] / one['all']:.1f} x")
        before, after = spent[False][AFTER], spent[True][AFTER]
        yield f"{count} objects: finishing, hidden", f"{before - after:.2f}", f"of {before:.2f}"
        yield f"{count} objects: stage 2 takes longer by", f"{spent[True]['latents'] - spent[False]['latents']:.2f}", ""
        for part, one_way, other in zip(("splats", "meshes"), digest[False], digest[True]):
            yield f"{count} objects: the same bits, {part}", "yes" if one_way == other else "NO", ""


class Rows(list[tuple[str, str, str]]):
    """A table that says each part when it is there: a run of minutes may be cut short."""

    def __iadd__(self, more: Iterable[tuple[str, str, str]]) -> Rows:  # type: ignore[override,misc]
        for row in more:
            self.append(row)
        return self

    def append(self, row: tuple[str, str, str]) -> None:
        print(" | ".join(row), flush=True)
        super().append(row)


def rows_of(title: str, spent: dict[str, float], limit: str = "", last: str = "all") -> list[tuple[str, str, str]]:
    """last: `all`, or `scene`, which is all without the files."""
    value = spent["all"] - (spent["files"] if last == "scene" else 0.0)
    shown = [(f"{title}: {name}", f"{value:.2f}", ORIGINAL.get(name, "")) for name, value in spent.items() if name not in ("all", last)]
    return [*shown, (f"{title}: {last}", f"{value:.2f}", limit)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voxels", type=int, default=20000)
    parser.add_argument("--objects", type=int, default=8)
    parser.add_argument("--tiny", action="store_true", help="a tiny architecture on the CPU: tries the script, measures nothing")
    parser.add_argument("--no-overlap", action="store_true", help="several objects: sample all before any is finished, and compare nothing")
    parser.add_argument("--only", choices=("one", "objects", "plans"), help="one part of it")
    parser.add_argument("--hands", type=int, help="objects finished at a time (default: as the engine chooses; on the CPU 2)")
    parser.add_argument("--group", type=int, help="objects sampled together while others are finished")
    parser.add_argument("--skip-plans", action="store_true", help="leave the capped memory plans out")
    options = parser.parse_args()
    if not options.tiny and not torch.cuda.is_available():
        sys.exit("gpu_engine.py needs a CUDA device (--tiny tries the script on the CPU).")
    device = torch.device("cpu" if options.tiny else "cuda")
    architecture, side = (TINY, 64) if options.tiny else (Architecture(), 1024)
    bench = Bench(architecture, 60 if options.tiny else options.voxels, device)
    small: dict[str, object] = {"face_budget": 1000, "texture_size": 256} if options.tiny else {}
    rows = Rows()
    bench.engine.hands = options.hands or (2 if options.tiny else None)
    bench.engine.group = options.group or (1 if options.tiny else bench.engine.group)
    first, _ = bench.once(request(1, side, quality="standard", **small))
    rows.append(("first run, compiling included: all", f"{first['all']:.2f} s", ""))
    rows += rows_of("standard", one := bench.warm(request(1, side, quality="standard", **small)), "4.5 s")
    if options.only in (None, "one"):
        rows += rows_of("fast", bench.warm(request(1, side, quality="fast", **small)), "2 s")
        alone = bench.warm(request(1, side, sam3d={"mesh": "raw", "texture": "colors"}, **small))
        rows += rows_of("networks alone, without files", alone, "1.9 s", last="scene")
    if options.only in (None, "objects"):
        several = request(options.objects, side, quality="standard", **small)
        if options.no_overlap:
            bench.engine.overlap = False
            many = bench.warm(several, 2)
            rows += rows_of(f"{options.objects} objects", many, f"6 x one, here {many['all'] / one['all']:.1f} x")
        else:
            rows += bench.overlapped(several, one)
    if device.type == "cuda" and options.only in (None, "plans") and not options.skip_plans:
        rows += plans(bench, request)
    what = "a tiny architecture, which measures nothing" if options.tiny else f"full size, {options.voxels} voxels"
    table(rows, f"The engine with random weights, {what} (seconds; last column: limit, or the original's figure)")


def plans(bench: Bench, make: Callable[..., ReconstructRequest]) -> Iterator[tuple[str, str, str]]:
    """Each plan under a cap of the allocator."""
    total = torch.cuda.get_device_properties(0).total_memory
    for plan, cap in (("resident", 12e9), ("swapped", 8e9), ("staged", 7e9), ("staged", 5.5e9)):
        bench.engine.networks.release()
        torch.cuda.set_per_process_memory_fraction(cap / total)
        try:
            spent = bench.warm(make(1, 1024, quality="standard", sam3d={"memory": plan}), 2)
            told = f"{spent['all']:.2f} s, peak {spent['peak GB']:.2f} GB, then the plan is {bench.engine.networks.plan}"
            yield f"{plan} in {cap / 1e9:.1f} GB", told, ""
        except Exception as problem:
            yield f"{plan} in {cap / 1e9:.1f} GB", f"failed: {type(problem).__name__}: {problem}"[:200], ""
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)


if __name__ == "__main__":
    main()
