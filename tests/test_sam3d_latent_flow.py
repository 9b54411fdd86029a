"""The cached latent flow against its plain twin: values, one call for a step, batches, half precision, graphs, and the kernels under it."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

torch = pytest.importorskip("torch", reason="the layer `model` isn't installed: python sam3d.py test adds it")

from comfyui_sam3d.worker.ops import backends  # noqa: E402
from comfyui_sam3d.worker.ops.packed_attention import Lengths, packed_attention  # noqa: E402
from comfyui_sam3d.worker.ops.sparse_conv import submanifold_conv3  # noqa: E402
from comfyui_sam3d.worker.ops.sparse_fused import gather_sum, norm_silu  # noqa: E402
from comfyui_sam3d.worker.sam3d import latents  # noqa: E402
from comfyui_sam3d.worker.sam3d.architecture import mix_precision  # noqa: E402
from comfyui_sam3d.worker.sam3d.latent_flow import LatentFlow  # noqa: E402
from comfyui_sam3d.worker.sam3d.latent_flow_cached import CachedLatentFlow, Fold, Grid  # noqa: E402
from comfyui_sam3d.worker.sam3d.latents import sample_latents  # noqa: E402
from comfyui_sam3d.worker.sam3d.sampler import SamplerOptions  # noqa: E402
from comfyui_sam3d.worker.sam3d.sparse import Voxels, pool, unpool  # noqa: E402

from voxel_shapes import randomised, scattered, source  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
OPTIONS = SamplerOptions(4, 1.0, 1.0)  # guided at t = 0, 250 and 500
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available() or not backends.has("triton"), reason="needs a CUDA device and Triton")


def build(seed: int = 0, **sizes: object) -> LatentFlow:
    """A small network."""
    model = LatentFlow(**{"width": 48, "context": 24, "blocks": 3, "heads": 3, "io_channels": (16,), **sizes})  # type: ignore[arg-type]
    return randomised(model, seed)


def two_objects(empty_between: bool = True) -> tuple[Voxels, torch.Tensor, torch.Tensor]:
    """Voxels, noise and tokens, of objects 0 and 2, with none in object 1, or of 0 and 1."""
    last = 2 if empty_between else 1
    voxels = Voxels(torch.cat([scattered(8, 0.3, 1), scattered(8, 0.1, 2, batch=last)]))
    draw = source(3)
    return voxels, torch.randn(len(voxels), 8, generator=draw), torch.randn(last + 1, 7, 24, generator=draw)


def count_calls(model: LatentFlow) -> list[int]:
    """Grows by the number of rows in each call of the transformer's last block."""
    calls: list[int] = []
    model.blocks[-1].self_attn.to_qkv.register_forward_hook(lambda layer, args, out: calls.append(args[0].shape[:-1].numel()))
    return calls


# -- the network


@pytest.mark.parametrize("sizes", [{}, {"blocks": 1}, {"io_channels": (16, 24), "io_blocks": 3}, {"io_blocks": 1}], ids=str)
def test_a_velocity_is_the_plain_twins(sizes) -> None:
    model, (voxels, x, tokens) = build(**sizes), two_objects()
    flow, time = CachedLatentFlow(model), torch.tensor([320.0])
    with torch.inference_mode():
        wanted = model(x, time, tokens, voxels), model(x, time, 0 * tokens, voxels)
        row, context, grid = flow.modulation_at(time)[0], flow.prepare(tokens), Grid(voxels, model)
        guided = flow.velocity(x, row, context, grid, guided=True)
        alone, nothing = flow.velocity(x, row, context, grid, guided=False)
    assert nothing is None and not torch.allclose(wanted[0], wanted[1], atol=1e-2)
    for have, want in zip((*guided, alone), (*wanted, wanted[0])):
        assert torch.allclose(have, want, atol=2e-5)


@pytest.mark.parametrize("guidance", [0.0, 1.0, 3.0])
def test_a_sampling_is_the_plain_twins_with_one_call_for_a_step(guidance) -> None:
    model, (voxels, x, tokens) = build(), two_objects()
    options, calls, seen = SamplerOptions(4, 2.0, guidance, (100.0, 500.0)), count_calls(model), []
    fast = sample_latents(model, tokens, x, voxels, options, lambda done, steps, latents: seen.append((done, steps, latents)))
    rows = len(voxels.coarse)
    assert calls == [2 * rows if options.guided(1000 * t) else rows for t in options.times()[:-1].tolist()]
    assert torch.allclose(fast, sample_latents(model, tokens, x, voxels, options, plain=True), atol=5e-5)
    assert [entry[:2] for entry in seen] == [(i, 4) for i in (1, 2, 3, 4)] and torch.equal(seen[-1][2], fast)
    assert not torch.equal(seen[0][2], seen[1][2])  # each its own copy


def test_objects_packed_together_come_out_as_alone() -> None:
    model, (voxels, x, tokens) = build(), two_objects()
    together = sample_latents(CachedLatentFlow(model), tokens, x, voxels, OPTIONS)
    for index in (0, 2):
        rows = voxels.slices[index]
        alone = Voxels(voxels.coords[rows] * torch.tensor([0, 1, 1, 1], dtype=torch.int32))
        assert torch.allclose(sample_latents(model, tokens[index : index + 1], x[rows], alone, OPTIONS), together[rows], atol=1e-4)


def test_no_voxels_at_all() -> None:
    none = Voxels(torch.zeros(0, 4, dtype=torch.int32))
    assert sample_latents(build(), torch.zeros(1, 3, 24), torch.zeros(0, 8), none, OPTIONS).shape == (0, 8)


def test_half_precision_stays_near_float32() -> None:
    """The residual stream in float32: nearer than the plain twin in half precision is."""
    voxels, x, tokens = two_objects()
    exact = sample_latents(build(), tokens, x, voxels, OPTIONS, plain=True)
    model = mix_precision(build())
    half, plain = (sample_latents(model, tokens, x, voxels, OPTIONS, plain=way) for way in (False, True))
    assert half.dtype == torch.float32
    assert 0 < (half - exact).norm() < 1.2 * (plain - exact).norm() < 0.01 * exact.norm()


def test_once_the_table_is_made_its_weights_are_not_read() -> None:
    model, (voxels, x, tokens) = build(), two_objects()
    with torch.inference_mode():
        flow = CachedLatentFlow(model)
        table, context, grid = flow.modulation(OPTIONS), flow.prepare(tokens), Grid(voxels, model)
        assert table.shape == (4, flow.modulation_size)
        wanted = flow.velocity(x, table[1], context, grid, guided=True)
        for name, value in model.named_parameters():
            if "adaLN_modulation" in name or "emb_layers" in name or "t_embedder" in name:
                value.data.fill_(torch.nan)
        for have, want in zip(flow.velocity(x, table[1], context, grid, guided=True), wanted):
            assert torch.equal(have, want)


@pytest.mark.parametrize("ahead", [False, True])
def test_what_a_step_raises_ends_the_sampling(ahead) -> None:
    model, (voxels, x, tokens) = build(), two_objects()
    calls = count_calls(model)

    def stop(done: int, steps: int, latents: torch.Tensor) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample_latents(model, tokens, x, voxels, OPTIONS, stop, ahead=ahead)
    assert len(calls) == 2 + ahead  # the next one had begun


def test_a_step_ahead_changes_nothing_that_is_told() -> None:
    model, (voxels, x, tokens) = build(), two_objects()
    told: dict[bool, list[tuple[int, int, torch.Tensor]]] = {False: [], True: []}
    made = [
        sample_latents(model, tokens, x, voxels, OPTIONS, lambda *step, ahead=ahead: told[ahead].append(step), ahead=ahead)
        for ahead in (False, True)
    ]
    assert torch.equal(*made) and len(told[True]) == OPTIONS.steps
    assert all(a[:2] == b[:2] and torch.equal(a[2], b[2]) for a, b in zip(told[False], told[True]))


@pytest.mark.parametrize("where", ["begin", "inside"])
def test_a_graph_that_can_not_be_captured_is_done_without(monkeypatch, where) -> None:
    """It has memory of its own, which may be lacking; and other threads work meanwhile. (A stand-in, on the CPU.)"""
    model, (voxels, x, tokens) = build(), two_objects()
    wanted = sample_latents(model, tokens, x, voxels, OPTIONS)
    told: list[str] = []

    class Graph:
        def capture_begin(self, *pool: object, capture_error_mode: str) -> None:
            told.append(f"{capture_error_mode} {len(pool)}")
            if where == "begin":
                raise RuntimeError("no memory")

        def capture_end(self) -> None:
            told.append("end")
            raise RuntimeError("invalid")

    def velocity(flow: CachedLatentFlow, *args: object, **named: object) -> object:
        if told and told[-1] != "end" and where == "inside":
            raise RuntimeError("no memory")
        return real(flow, *args, **named)

    real = CachedLatentFlow.velocity
    monkeypatch.setattr(CachedLatentFlow, "velocity", velocity)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "stream", nullcontext)
    monkeypatch.setattr(latents, "stream", lambda device, use: None if use != "capture" else object())
    assert torch.equal(sample_latents(model, tokens, x, voxels, OPTIONS, graphs=True), wanted)
    assert told == ["thread_local 0"] + ["end"] * (where == "inside"), "tried once"


# -- its tables and operations


def test_folds_are_pooling_and_copying() -> None:
    voxels, _, _ = two_objects(empty_between=False)
    fold, x = Fold.of(voxels), torch.randn(len(voxels), 5, generator=source(4))
    pooled = gather_sum(x[:, None].expand(-1, 8, -1), fold.children, weight=fold.share)
    assert torch.allclose(pooled, pool(x, voxels), atol=1e-6)
    assert torch.equal(pooled[fold.parents], unpool(pooled, voxels))
    twice, other = fold.twice(), torch.randn(len(voxels), 5, generator=source(5))
    both = gather_sum(torch.cat([x, other])[:, None].expand(-1, 8, -1), twice.children, weight=twice.share)
    assert torch.allclose(both, torch.cat([pool(x, voxels), pool(other, voxels)]), atol=1e-6)
    assert torch.equal(both[twice.parents], torch.cat([unpool(half, voxels) for half in both.chunk(2)]))


def test_products_summed_afterwards_are_the_convolution_of_copied_rows() -> None:
    voxels, draw = two_objects(empty_between=False)[0], source(6)
    fold, x = Fold.of(voxels), torch.randn(len(voxels.coarse), 12, generator=draw)
    weight, bias = torch.randn(7, 3, 3, 3, 12, generator=draw), torch.randn(7, generator=draw)
    products = torch.einsum("rc,okc->rko", x, weight.flatten(1, 3))
    wanted = submanifold_conv3(unpool(x, voxels), voxels.neighbours, weight, bias)
    assert torch.allclose(gather_sum(products, fold.beside, bias=bias), wanted, atol=1e-4)


def sequences(width: int, device: str = "cpu", dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    """Five sequences, the second without a query: q, k, v, and their lengths."""
    queries, keys = (Lengths.of(each, torch.device(device)) for each in ((70, 0, 1, 130, 64), (64, 3, 200, 1, 129)))
    q = torch.randn(sum(queries.each), 3, 4, width, generator=source(8)).to(device, dtype)[:, 0]
    k, v = torch.randn(sum(keys.each), 2, 4, width, generator=source(9)).to(device, dtype).unbind(1)
    return q, k, v, queries, keys


def test_packed_attention_is_masked_attention() -> None:
    q, k, v, queries, keys = sequences(8)
    owner = [torch.repeat_interleave(torch.arange(5), torch.tensor(lengths.each)) for lengths in (queries, keys)]
    mask = owner[0][:, None] == owner[1]
    wanted = torch.nn.functional.scaled_dot_product_attention(*(t.transpose(0, 1) for t in (q, k, v)), attn_mask=mask).transpose(0, 1)
    assert torch.allclose(packed_attention(q, k, v, queries, keys), wanted.flatten(1), atol=1e-5)


@needs_gpu
@pytest.mark.parametrize("width", [16, 64, 128])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_tritons_packed_attention_is_its_twin(width, dtype) -> None:
    q, k, v, queries, keys = sequences(width, "cuda", dtype)
    exact = packed_attention(q.double(), k.double(), v.double(), queries, keys)
    with backends.force("triton"):
        fast = packed_attention(q, k, v, queries, keys)
    with backends.force("torch"):
        twin = packed_attention(q, k, v, queries, keys)
    assert fast.dtype == dtype and (fast - exact).norm() < 2 * (twin - exact).norm() < 0.02 * exact.norm()


def operands(rows: int, width: int, parts: int, dtype: torch.dtype, device: str) -> tuple[torch.Tensor, ...]:
    draw = source(7)
    x, mult, add, weight = (torch.randn(*size, generator=draw).to(device) for size in ((rows, width), (width,), (width,), (rows,)))
    values = torch.randn(rows + 5, parts, width, generator=draw).to(device, dtype)
    table = torch.randint(-rows // 3, rows + 5, (rows, parts), generator=draw).clamp(min=-1).int().to(device)
    return (3 * x + 1).to(dtype), mult, add, weight, values, table


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("rows", "width", "parts"), [(1000, 128, 27), (37, 200, 8), (3, 2048, 27), (257, 24, 27)])
def test_the_triton_kernels_are_their_twins(dtype, rows, width, parts) -> None:
    x, mult, add, weight, values, table = operands(rows, width, parts, dtype, "cuda")
    expanded = values[:, :1].expand(-1, parts, -1)

    def results() -> list[torch.Tensor]:
        return [
            norm_silu(x, mult, add.to(dtype), eps=1e-6),
            gather_sum(values, table),
            gather_sum(values, table, bias=add.to(dtype), weight=weight),
            gather_sum(expanded, table, weight=weight),
        ]

    with backends.force("triton"):
        fast = results()
    with backends.force("torch"):
        wanted = results()
    step = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}[dtype]
    for have, want in zip(fast, wanted):
        assert have.dtype == dtype and (have.float() - want.float()).abs().max() <= step * want.float().abs().max()


@needs_gpu
def test_graphs_eager_and_the_twin_agree_on_a_gpu() -> None:
    voxels, x, tokens = two_objects(empty_between=False)
    options = SamplerOptions(7, 1.0, 1.0)
    exact = sample_latents(build(), tokens, x, voxels, options, plain=True)
    there, x, tokens = Voxels(voxels.coords.cuda()), x.cuda(), tokens.cuda()
    for model, limit in ((build().cuda(), 2e-3), (mix_precision(build()).cuda(), 1e-2)):
        captured = sample_latents(model, tokens, x, there, options, graphs=True)
        assert torch.equal(captured, sample_latents(model, tokens, x, there, options, graphs=True))  # same numbers, every time
        eager = sample_latents(model, tokens, x, there, options, graphs=False)
        assert torch.equal(captured, eager)
        assert (captured.cpu() - exact).norm() < limit * exact.norm()


@needs_gpu
def test_without_memory_for_graphs_the_steps_run_as_they_are(monkeypatch) -> None:
    voxels, x, tokens = two_objects(empty_between=False)
    there, x, tokens, flow = Voxels(voxels.coords.cuda()), x.cuda(), tokens.cuda(), CachedLatentFlow(build().cuda())
    options = SamplerOptions(9, 1.0, 1.0)
    wanted, velocity = sample_latents(flow, tokens, x, there, options, graphs=False), flow.velocity

    def hungry(*args: object, **kwargs: object) -> object:
        result = velocity(*args, **kwargs)  # type: ignore[arg-type]
        if torch.cuda.is_current_stream_capturing():
            raise torch.OutOfMemoryError("no memory for a graph")
        return result

    monkeypatch.setattr(flow, "velocity", hungry)
    assert torch.equal(sample_latents(flow, tokens, x, there, options), wanted)
    monkeypatch.undo()
    assert torch.equal(sample_latents(flow, tokens, x, there, options), wanted)
