"""From nothing to the first result: a fresh worker process with full-size converted weights on a warm disk cache, and what requests cost after that.

    python3 benchmarks/gpu_cold_start.py [FOLDER]      from the root of the checkout; needs torch, safetensors, pyyaml; no _env, no network

Makes the files itself (7 GB, random weights, in FOLDER or a temporary one): the result is a ball with noise for colours and no reconstruction. Unlike
gpu_engine.py nothing is put in between: the worker loads, samples, decodes and encodes as it would with the official weights.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))
from _pack import mount, table  # noqa: E402

mount()

from comfyui_sam3d.client.local import LocalBackend  # noqa: E402
from comfyui_sam3d.contract.backend import Progress  # noqa: E402
from comfyui_sam3d.contract.request import ReconstructRequest, Sam3dOptions  # noqa: E402
from comfyui_sam3d.vendor.moge import checkpoint as moge_files  # noqa: E402
from comfyui_sam3d.vendor.moge.config import OFFICIAL_V1  # noqa: E402
from comfyui_sam3d.worker.sam3d.architecture import Architecture  # noqa: E402
from comfyui_sam3d.worker.weights import config, layout, tensors  # noqa: E402
from comfyui_sam3d.worker.weights.fake import WARNING, fill  # noqa: E402
from comfyui_sam3d.worker.weights.store import dtypes  # noqa: E402

SIDE = 1024
WORKER = (
    "import runpy, sys; sys.path.insert(0, sys.argv[1]); from _pack import mount; mount(); "
    "sys.argv[1:] = []; runpy.run_module('comfyui_sam3d.worker', run_name='__main__')"
)


def converted(folder: Path) -> None:
    """What `weights fake` and `weights convert` leave, without the official form in between: there the tensors are three times as large."""
    import yaml

    device = torch.device("cuda")
    (folder / layout.MOGE).mkdir(parents=True, exist_ok=True)
    (folder / layout.FAKE_FILE).write_text(json.dumps({"what": WARNING}), encoding="utf-8")
    architecture = Architecture()
    for stem in layout.STEMS:
        items = []
        for part in architecture.parts().values():
            if part.stem == stem:
                with device:
                    module = part.build()
                found, kinds = fill(module, 0).state_dict(), dtypes(part, torch.float16)
                items += [tensors.Item(part.prefix + name, tuple(v.shape), kinds[name], lambda v=v: v) for name, v in found.items()]
        tensors.write(folder / f"{stem}.safetensors", items, {"format": "pt"})
        del items, found, module
    with device:
        moge = fill(moge_files.build(OFFICIAL_V1), 0).state_dict()
    kinds = {name: torch.float32 if name.endswith(("image_mean", "image_std")) else torch.float16 for name in moge}
    tensors.write(
        folder / layout.MOGE / "model.safetensors",
        [tensors.Item(name, tuple(v.shape), kinds[name], lambda v=v: v) for name, v in moge.items()],
        {"model_config": json.dumps(dict(OFFICIAL_V1))},
    )
    for name, tree in config.documents(architecture).items():
        (folder / name).write_text(yaml.safe_dump(tree), encoding="utf-8")
    torch.cuda.empty_cache()


def wanted(objects: int = 1, **options: object) -> ReconstructRequest:
    image = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
    masks = np.zeros((objects, SIDE, SIDE), bool)
    for i in range(objects):
        low = SIDE // 8 + i * SIDE // 32
        masks[i, low : low + SIDE // 3, low : low + SIDE // 3] = True
    own = Sam3dOptions(**options.pop("sam3d", {}))
    return ReconstructRequest(image=image, masks=masks, engine="sam3d", outputs=("glb", "ply"), sam3d=own, **options)


def free() -> float:
    return torch.cuda.mem_get_info()[0] / 1e9


def main() -> None:
    if not torch.cuda.is_available():
        sys.exit("gpu_cold_start.py needs a CUDA device.")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(scratch, "weights")
        start = time.perf_counter()
        if not (folder / layout.PIPELINE).is_file():
            converted(folder)
        size = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
        rows = [("converted files", f"{size / 1e9:.1f} GB, made in {time.perf_counter() - start:.0f} s", "")]
        for path in folder.rglob("*.safetensors"):
            path.read_bytes()  # the cache is warm: they were just written, but not all systems keep what is written
        rows += runs(folder, Path(scratch, "cache"))
    table(rows, "A fresh worker, full size, random weights")


def runs(folder: Path, cache: Path) -> list[tuple[str, str, str]]:
    rows: list[tuple[str, str, str]] = []
    command = [sys.executable, "-c", WORKER, str(ROOT)]
    environment = {"SAM3D_WEIGHTS": str(folder), "SAM3D_CACHE": str(cache), "PYTHONUNBUFFERED": "1"}

    def once(what: str, request: ReconstructRequest, limit: str = "") -> None:
        start = time.perf_counter()
        job = backend.reconstruct(request)
        scene = job.result()
        spent = time.perf_counter() - start
        told = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in scene.timings.items() if seconds >= 0.005)
        rows.append((what, f"{spent:.2f} s ({told}; {[item.info['voxels'] for item in scene.objects][:3]} voxels)", limit))
        for warning in scene.warnings[1:]:
            rows.append((f"{what}: warning", warning, ""))

    before = free()
    with LocalBackend(command, environment=environment) as backend:
        once("process, imports, loading, compiling, first result", wanted(quality="standard"), "20 s")
        once("another seed: all is sampled again", wanted(quality="standard", seed=1))
        once("another size of texture: nothing is sampled", wanted(quality="standard", seed=1, texture_size=512))
        once("the same once more", wanted(quality="standard", seed=1, texture_size=512))
        once("another seed of stage 2", wanted(quality="standard", seed=1, sam3d={"latent_seed": 5}))
        once("fast, first", wanted(quality="fast", seed=2))
        once("fast", wanted(quality="fast", seed=3))
        once("8 objects", wanted(8, quality="standard", seed=4))
        rows.append(("memory held by the worker between jobs", f"{before - free():.1f} GB", ""))
        rows += cancelled(backend, before)
        once("after the cancelled one", wanted(quality="standard", seed=6))
    time.sleep(1)
    rows.append(("memory held after the worker's end", f"{before - free():.1f} GB", "0"))
    return rows


def cancelled(backend: LocalBackend, before: float) -> list[tuple[str, str, str]]:
    job = backend.reconstruct(wanted(quality="standard", seed=5))
    for event in job:
        if isinstance(event, Progress) and event.stage == "structure" and event.step >= 5:
            break
    start = time.perf_counter()
    job.cancel()
    for _ in job:
        pass
    spent = time.perf_counter() - start
    time.sleep(0.5)
    return [("cancel within stage 1 until the job has ended", f"{1e3 * spent:.0f} ms; {before - free():.1f} GB still held", "")]


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
