"""Stage 1 at full size with random weights on a CUDA device: times, memory, and the distance to the float32 twin.

    python3 benchmarks/gpu_stage1.py [--quick]      from the root of the checkout; needs torch and triton, no _env, no network

Random weights are real work for speed and memory; they say nothing about what the released model makes.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent))
from _pack import mount, table

mount()

from comfyui_sam3d.worker.ops.attention import attend_long, fused_attention  # noqa: E402
from comfyui_sam3d.worker.sam3d import structure  # noqa: E402
from comfyui_sam3d.worker.sam3d.dino import Dino  # noqa: E402
from comfyui_sam3d.worker.sam3d.flow import SparseStructureFlow  # noqa: E402
from comfyui_sam3d.worker.sam3d.flow_cached import CachedFlow  # noqa: E402
from comfyui_sam3d.worker.sam3d.occupancy import OccupancyDecoder, as_cube  # noqa: E402
from comfyui_sam3d.worker.sam3d.sampler import Noise, SamplerOptions, sample  # noqa: E402

TOKENS, WIDTH = 7528, 1024
GUIDED, FEW = SamplerOptions(), SamplerOptions(steps=4, shortcut=True)


def timed(call, repeat: int = 5) -> float:
    """Median milliseconds."""
    call()
    times = []
    for _ in range(repeat):
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - start))
    return sorted(times)[len(times) // 2]


def randomise(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Weights of a trained network's size: outputs neither vanish nor explode."""
    source = torch.Generator("cuda").manual_seed(seed)
    for name, value in module.named_parameters():
        scale = 0.7 / value[0].numel() ** 0.5 if value.ndim > 1 and "emb" not in name and "gamma" not in name else 0.02
        value.data.normal_(0, scale, generator=source)
        if re.search(r"(^|\.)(norm\d?|[qk]_rms_norm)\.", name) and name.endswith(("weight", "gamma")):
            value.data += 1
    return module.requires_grad_(False).eval()


def bare(objects: int) -> tuple[float, float]:
    """24 blocks' matrix products and attention of the shape stream alone: (conditional, unconditional) ms. Nothing else can be faster."""

    def rand(*size: int) -> torch.Tensor:
        return torch.randn(*size, device="cuda", dtype=torch.float16)

    x, kv = rand(objects, 4096, WIDTH), rand(objects, TOKENS, 2, 16, 64)
    qkv, square, up, down = rand(3 * WIDTH, WIDTH), rand(WIDTH, WIDTH), rand(4 * WIDTH, WIDTH), rand(WIDTH, 4 * WIDTH)

    def blocks(conditional: bool) -> None:
        for _ in range(24):
            q = F.linear(x, qkv).unflatten(-1, (3, 16, 64))
            F.linear(attend_long(*q.unbind(2)), square)
            if conditional:
                F.linear(attend_long(F.linear(x, square).unflatten(-1, (16, 64)), *kv.unbind(2)), square)
            F.linear(F.linear(x, up), down)

    with fused_attention(x.device):
        return timed(lambda: blocks(True)), timed(lambda: blocks(False))


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="without the float32 twin and the eight objects")
    quick = parser.parse_args().quick
    if not torch.cuda.is_available():
        sys.exit("gpu_stage1.py needs a CUDA device; this machine has none that torch can use.")
    rows: list[tuple[str, str, str]] = []

    for objects in (1, 8):
        with_context, without = bare(objects)
        rows.append((f"floor: bare products + attention, {objects} object(s)", f"{with_context:.1f} / {without:.1f} ms", "cond. / uncond."))
    rows.append(("floor: keys and values of the shape stream, one object", f"{24 * TOKENS * 2 * WIDTH * 2 / 1e9:.2f} GB", ""))
    torch.cuda.empty_cache()

    with torch.device("cuda"):
        model = randomise(SparseStructureFlow(), 0)
        tokens = torch.randn(1, TOKENS, WIDTH)
    noise = {k: v.cuda() for k, v in structure.noise_for(Noise(7), 1).items()}
    wanted: dict[str, dict[str, torch.Tensor]] = {}
    if not quick:
        for name, options in (("guided", GUIDED), ("few", FEW)):
            wanted[name] = sample(twin(model, tokens), noise, options)
    half = model.half()
    torch.cuda.empty_cache()

    torch.cuda.reset_peak_memory_stats()
    sampler = structure.StructureSampler(half)
    start = time.perf_counter()
    got = sampler.sample(tokens, noise, GUIDED)
    torch.cuda.synchronize()
    rows.append(("first sampling: context, Triton, graphs and all", f"{time.perf_counter() - start:.2f} s", ""))
    rows.append(("25 steps, guidance 7 (44 evaluations)", f"{timed(lambda: sampler.sample(tokens, noise, GUIDED)):.0f} ms", "750 ms"))
    rows.append(("peak memory of it, flow network alone", f"{torch.cuda.max_memory_allocated() / 1e9:.2f} GB", "3.2 GB"))
    few = sampler.sample(tokens, noise, FEW)
    rows.append(("4 steps, shortcut", f"{timed(lambda: sampler.sample(tokens, noise, FEW)):.1f} ms", "85 ms"))
    step = sampler.step_for(tokens, GUIDED.guidance)
    rows.append(("one conditional evaluation, graph", f"{timed(lambda: step.run(False), 20):.2f} ms", "20 ms"))
    rows.append(("one guided pair, graph", f"{timed(lambda: step.run(True), 20):.2f} ms", ""))
    eager(half, tokens, noise, rows)
    again = sampler.sample(tokens, noise, GUIDED)
    rows.append(("same seed twice, same numbers", str(all(torch.equal(got[k], again[k]) for k in got)), "True"))
    for name, have in (("guided", got), ("few", few)):
        for latent, value in wanted.get(name, {}).items():
            rows.append((f"relative L2 to the float32 twin, {name}, {latent}", f"{distance(have[latent], value):.1e}", "1e-2"))
    if wanted:
        with torch.device("cuda"):
            decoder = randomise(OccupancyDecoder(), 1)
        a, b = (decoder(as_cube(x["shape"])).flatten() for x in (wanted["guided"], got))
        level = a.median()
        both, either = ((a > level) & (b > level)).sum(), ((a > level) | (b > level)).sum()
        rows.append(("occupancy IoU (half of the grid occupied)", f"{float(both / either):.4f}", "0.99"))
        eight(sampler, tokens, rows)
    sampler.release()
    torch.cuda.empty_cache()
    dino(rows)
    table(rows, "Stage 1, full size, random weights, float16")


def twin(model: SparseStructureFlow, tokens: torch.Tensor):
    def velocity(latents, t, d, conditional):
        scalar = [torch.tensor([float(v)], device="cuda") for v in (t, d)]
        return model(latents, *scalar, tokens if conditional else 0 * tokens)

    return velocity


def eager(half: SparseStructureFlow, tokens: torch.Tensor, noise: dict[str, torch.Tensor], rows: list[tuple[str, str, str]]) -> None:
    flow = CachedFlow(half)
    context, row = flow.prepare(tokens), flow.modulation(GUIDED)[3]
    spent = timed(lambda: flow.velocity(noise, row, context, guided=False), 20)
    rows.append(("one conditional evaluation, eager", f"{spent:.2f} ms", "30 ms"))
    rows.append(("keys and values of one context", f"{timed(lambda: flow.prepare(tokens, into=context)):.2f} ms", ""))


def eight(sampler: structure.StructureSampler, tokens: torch.Tensor, rows: list[tuple[str, str, str]]) -> None:
    """8 objects of one picture as one batch, against the same 8 one by one."""
    noise = {k: v.cuda() for k, v in structure.noise_for(Noise(7), 8).items()}
    contexts = tokens + 0.1 * torch.randn(8, *tokens.shape[1:], device="cuda")

    def one(i: int) -> dict[str, torch.Tensor]:
        return sampler.sample(contexts[i : i + 1], {k: v[i : i + 1] for k, v in noise.items()}, GUIDED)

    single = [one(i) for i in range(8)]
    alone = timed(lambda: one(0), 3)
    batch = sampler.sample(contexts, noise, GUIDED)
    together = timed(lambda: sampler.sample(contexts, noise, GUIDED), 3)
    rows.append(("8 objects as one batch", f"{together:.0f} ms = {together / alone:.2f} x one", "6 x"))
    pairs = [(batch[k][i : i + 1], single[i][k], f"{k}, object {i}") for i in range(8) for k in batch]
    worst = max((distance(a, b), where) for a, b, where in pairs)
    furthest = max((float((a - b).abs().max()), where) for a, b, where in pairs)
    rows.append(("the same one by one, every bit equal", str(all(torch.equal(a, b) for a, b, _ in pairs)), "or 1e-3"))
    rows.append((f"the same, worst relative L2 ({worst[1]})", f"{worst[0]:.1e}", "1e-3"))
    rows.append((f"the same, largest absolute difference ({furthest[1]})", f"{furthest[0]:.1e}", "1e-3"))


def dino(rows: list[tuple[str, str, str]]) -> None:
    with torch.device("cuda"):
        vits = [randomise(Dino(), seed).half() for seed in (2, 3)]
        pictures = torch.rand(2, 3, 518, 518)
    rows.append(("DINO, 4 pictures in 2 batches, eager", f"{timed(lambda: [vit(pictures) for vit in vits], 10):.1f} ms", ""))
    eagerly = [vit(pictures) for vit in vits]
    for vit in vits:
        vit.stays()
    rows.append(
        (
            "DINO, 4 pictures in 2 batches, as the engine's second picture has it",
            f"{timed(lambda: [vit(pictures) for vit in vits], 10):.1f} ms",
            "15 ms",
        )
    )
    rows.append(("DINO, the same bits as eager", str(all(torch.equal(vit(pictures), want) for vit, want in zip(vits, eagerly))), "True"))
    both = torch.cat([pictures, pictures])
    rows.append(("DINO, 4 pictures in 1 batch (equal weights)", f"{timed(lambda: vits[0](both), 10):.1f} ms", ""))
    full = randomise(Dino().cuda(), 2)
    want = full(pictures)
    rows.append(("DINO, relative L2 to float32", f"{distance(vits[0](pictures), want):.1e}", ""))


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


if __name__ == "__main__":
    main()
