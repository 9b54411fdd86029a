"""MoGe version 1 at full size with random weights on a CUDA device: times, memory, and the distance of float16 to float32.

    python3 benchmarks/gpu_moge.py [--small]      from the root of the checkout; needs torch and scipy, no _env, no network

Random weights are real work for speed and memory; they say nothing about what the released model makes. --small tries the script without a GPU.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from _pack import mount, table

mount()

from comfyui_sam3d.vendor.moge import checkpoint, focal  # noqa: E402
from comfyui_sam3d.vendor.moge.config import OFFICIAL_V1, ViTSize  # noqa: E402
from comfyui_sam3d.vendor.moge.infer import infer, token_count  # noqa: E402

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"


def wait() -> None:
    if CUDA:
        torch.cuda.synchronize()


def timed(call, repeat: int = 7) -> float:
    """Median milliseconds, after two rounds that don't count."""
    call()
    call()
    times = []
    for _ in range(repeat):
        wait()
        start = time.perf_counter()
        call()
        wait()
        times.append(1e3 * (time.perf_counter() - start))
    return sorted(times)[len(times) // 2]


def peak(call) -> float:
    """GB at the most while it runs, weights included."""
    if not CUDA:
        return float("nan")
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    call()
    wait()
    return torch.cuda.max_memory_allocated() / 1e9


def weights(vit: ViTSize | None) -> dict[str, torch.Tensor]:
    """Of a trained network's size: outputs neither vanish nor explode."""
    with torch.device(DEVICE):
        model = checkpoint.build(OFFICIAL_V1, vit)
    source = torch.Generator(DEVICE).manual_seed(0)
    state = model.state_dict()
    for name, value in state.items():
        if not name.startswith("image_"):
            value.normal_(0, 0.7 / value[0].numel() ** 0.5 if value.ndim > 1 and "token" not in name else 0.02, generator=source)
        if re.search(r"norm\d?\.weight$|gamma$|layers\.[03]\.weight$", name):
            value += 1
    for name in ("head.output_block.0.2.weight", "head.output_block.1.2.weight"):
        state[name] *= 0.1
    return state


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true", help="a tiny backbone and a small picture")
    small = parser.parse_args().small
    vit, side = (ViTSize(64, 4, 2), 64) if small else (None, 1024)
    state = weights(vit)
    picture = torch.rand(3, side, side, device=DEVICE, generator=torch.Generator(DEVICE).manual_seed(1))
    rows: list[tuple[str, str, str]] = []
    made = {}
    for name, dtype in (("float32", torch.float32), ("float16", torch.float16)):
        model = checkpoint.fill(OFFICIAL_V1, state, vit, device=DEVICE, dtype=dtype)
        counts = [64] if small else [token_count(model.config.tokens, level) for level in (9, 0)]
        for tokens in counts:
            spent = timed(lambda model=model, tokens=tokens: model(picture[None], tokens))
            rows.append((f"{name}: network, {side}x{side}, {tokens} tokens", f"{spent:.1f} ms", ""))
        tokens = counts[0]
        _, patched = model.prepare(picture[None], tokens)
        spent = timed(lambda model=model, patched=patched: model.backbone(patched, model.config.taps))
        rows.append((f"{name}: of it the backbone", f"{spent:.1f} ms", ""))
        spent = timed(lambda model=model, tokens=tokens: infer(model, picture, num_tokens=tokens))
        rows.append((f"{name}: infer, camera included", f"{spent:.1f} ms", ""))
        most = peak(lambda model=model, tokens=tokens: infer(model, picture, num_tokens=tokens))
        held = sum(value.nbytes for value in model.state_dict().values()) / 1e9
        other = (
            sum(value.nbytes for value in state.values()) / 1e9 if dtype != torch.float32 else 0.0
        )  # the float32 weights stay for comparison
        rows.append((f"{name}: weights, and memory at the most", f"{held:.2f} GB, {most - other:.2f} GB", ""))
        if CUDA:
            model.to(memory_format=torch.channels_last)
            spent = timed(lambda model=model, tokens=tokens: model(picture[None], tokens))
            rows.append((f"{name}: network, convolutions in channels-last", f"{spent:.1f} ms", ""))
            model.to(memory_format=torch.contiguous_format)
        made[name] = model(picture[None], tokens)
        del model
    points = made["float32"].points[0].cpu().numpy()
    rows.append(("focal length and shift, on the CPU", f"{timed(lambda: focal.recover(points)):.1f} ms", ""))
    difference = made["float16"].points.double() - made["float32"].points.double()
    rows.append(
        (
            "float16 to float32, relative L2 of the points",
            f"{float(difference.norm() / made['float32'].points.double().norm()):.1e}",
            "1e-3",
        )
    )
    rows.append(("and of the mask, largest difference", f"{float((made['float16'].mask - made['float32'].mask).abs().max()):.1e}", ""))
    table(rows, "MoGe version 1, random weights")


if __name__ == "__main__":
    main()
