"""What a transformer needs between its matrix products, and attention: each operation against its formula, each kernel against its twin.

On the CPU that is the plain twins, with TRITON_INTERPRET=1 Triton's kernels too (slowly); on CUDA all of it.
"""

from __future__ import annotations

import math
import os

import pytest

torch = pytest.importorskip("torch", reason="the layer `model` isn't installed: python sam3d.py test adds it")

from comfyui_sam3d.contract.errors import SetupError  # noqa: E402
from comfyui_sam3d.worker.ops import attention, backends, fused  # noqa: E402

from golden.replay import near  # noqa: E402

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
RUNS = backends.has("triton") and (DEVICE.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1")
needs_triton = pytest.mark.skipif(not RUNS, reason="needs Triton, and a CUDA device or TRITON_INTERPRET=1")

pytestmark = pytest.mark.usefixtures("one_thread")


PARTS = ["", "u", "ug", "ugma", "cma", "ugcma"]  # update, gate, mult, add, const


def test_forced_backends_run_or_refuse() -> None:
    x = torch.randn(2, 5, 16)
    with backends.force("torch"):
        assert fused.residual_norm(x.clone(), None, None, None, None, eps=1e-6, dtype=torch.float16).dtype == torch.float16
    with backends.force("triton"), pytest.raises(SetupError, match="triton"):
        fused.residual_norm(x, None, None, None, None, eps=1e-6, dtype=torch.float32)


@pytest.mark.parametrize("given_out", [False, True])
@pytest.mark.parametrize("parts", PARTS)
def test_residual_norm_is_its_formula(parts: str, given_out: bool) -> None:
    source = torch.Generator().manual_seed(3)
    x, update = (torch.randn(2, 5, 16, generator=source) * 0.01 for _ in range(2))
    gate, mult, add, const = (torch.randn(16, generator=source) for _ in range(4))
    u, g, m, a, c = (value if letter in parts else None for letter, value in zip("ugmac", (update, gate, mult, add, const)))
    stream = x + (0 if u is None else update * (1 if g is None else gate)) + (0 if c is None else const)
    centred = stream - stream.mean(-1, keepdim=True)
    wanted = centred / (centred.square().mean(-1, keepdim=True) + 1e-4).sqrt() * (1 if m is None else mult) + (0 if a is None else add)
    out = torch.empty_like(x, dtype=torch.float64) if given_out else None
    got = fused.residual_norm(x, u, g, m, a, const=c, eps=1e-4, dtype=torch.float64, out=out)
    assert got.dtype == torch.float64 and (out is None or got is out)
    near(got.float(), wanted, atol=1e-5, rtol=1e-4)
    near(x, stream)  # the stream itself moved on


def test_head_norm_leaves_the_values_alone() -> None:
    qkv, gamma = torch.randn(2, 5, 3, 4, 8), torch.randn(2, 4, 8)
    got = fused.head_norm_(qkv.clone(), gamma)
    for part in (0, 1):
        unit = qkv[:, :, part] / qkv[:, :, part].norm(dim=-1, keepdim=True)
        near(got[:, :, part], unit * gamma[part] * 8**0.5)
    assert torch.equal(got[:, :, 2], qkv[:, :, 2])
    part = qkv.clone()
    fused.head_norm_(part[:, 1:4], gamma)  # in place, in a part of each row
    assert torch.equal(part[:, 1:4], got[:, 1:4]) and torch.equal(part[:, ::4], qkv[:, ::4])


@needs_triton
@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("width", [48, 1024])
def test_tritons_residual_norm_is_its_twin(width: int, parts: str) -> None:
    from comfyui_sam3d.worker.ops import fused_triton

    source = torch.Generator().manual_seed(3)
    x = torch.randn(2, 7, width, generator=source).to(DEVICE) * 0.01  # so small that eps matters
    update = (torch.randn(2, 9, width, generator=source) * 0.01).to(DEVICE, torch.float16)[:, :7]
    vectors = torch.randn(4, width, generator=source).to(DEVICE).unbind(0)
    u, g, m, a, c = (value if letter in parts else None for letter, value in zip("ugmac", (update, *vectors)))
    stream, out = x.clone(), torch.empty(x.shape, dtype=torch.float16, device=DEVICE)
    fused_triton.residual_norm(stream, u, g, m, a, c, 1e-4, out)
    with backends.force("torch"):
        wanted = fused.residual_norm(x, u, g, m, a, const=c, eps=1e-4, dtype=torch.float32)
    near(stream, x)
    near(out.float(), wanted, atol=2e-3, rtol=1e-3)


@needs_triton
@pytest.mark.parametrize("heads, width", [(3, 16), (16, 64)])
@pytest.mark.parametrize("part", [False, True], ids=["whole", "part"])
def test_tritons_head_norm_is_its_twin(heads: int, width: int, part: bool) -> None:
    from comfyui_sam3d.worker.ops import fused_triton

    source = torch.Generator().manual_seed(4)
    whole, gamma = torch.randn(2, 6, 3, heads, width, generator=source), torch.randn(2, heads, width, generator=source).to(DEVICE)
    fast, twin = whole.to(DEVICE).clone(), whole.to(DEVICE)
    chosen = slice(1, 5) if part else slice(None)
    fused_triton.head_norm_(fast[:, chosen], gamma)
    with backends.force("torch"):
        fused.head_norm_(twin[:, chosen], gamma)
    near(fast, twin)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_linear_gelu_is_its_formula(dtype: torch.dtype) -> None:
    source = torch.Generator().manual_seed(5)
    x, weight, bias = (torch.randn(*size, generator=source).to(DEVICE, dtype) for size in ((2, 5, 16), (24, 16), (24,)))
    y = x.double() @ weight.double().T + bias.double()
    wanted = y / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))
    got = fused.linear_gelu(x, weight, bias)
    assert got.dtype == dtype
    near(got.double(), wanted, **({"atol": 1e-5} if dtype == torch.float32 else {"atol": 1e-2, "rtol": 2e-3}))


HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0) and backends.has("triton")


@pytest.mark.skipif(not HOPPER, reason="needs a Hopper GPU and triton")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("queries", "keys"), [(192, 256), (1, 1), (65, 129), (200, 1000), (4096, 7528)])
def test_long_attention_equals_its_twin(queries: int, keys: int, dtype: torch.dtype) -> None:
    source = torch.Generator("cuda").manual_seed(1)
    q = torch.randn(2, queries + 4, 3, 64, generator=source, device="cuda").to(dtype)[:, :queries]
    k, v = torch.randn(2, keys, 2, 3, 64, generator=source, device="cuda").to(dtype).unbind(2)
    k = k * 20 if keys == 1000 else k  # sharp: a running maximum that moves
    wanted = attention.attend(*(x.double() for x in (q, k, v)))
    got = attention.attend_long(q, k.contiguous(), v)
    assert attention._hopper(q.device)
    near(got.double().cpu(), wanted.cpu(), atol=0.02 if dtype == torch.bfloat16 else 0.003, rtol=0.02)
    assert torch.equal(attention.attend_long(q[1:], k[1:].contiguous(), v[1:]), got[1:])  # alone or not: the same bits
