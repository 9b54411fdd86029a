"""Checkpoints of stage 1: official keys, strict loading, both file forms, memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the layer `model` isn't installed: python sam3d.py test adds it")

from comfyui_sam3d.contract.errors import SetupError  # noqa: E402
from comfyui_sam3d.worker.sam3d import checkpoint  # noqa: E402
from comfyui_sam3d.worker.sam3d.architecture import BACKBONE, Architecture  # noqa: E402
from comfyui_sam3d.worker.sam3d.flow import SparseStructureFlow  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from golden import replay  # noqa: E402


def official_shapes(stem: str) -> dict[str, tuple[int, ...]]:
    """Every key of one of our files at full size."""
    with torch.device("meta"):
        parts = [(part.prefix, part.build().state_dict()) for part in Architecture().parts().values() if part.stem == stem]
    return {prefix + name: tuple(tensor.shape) for prefix, state in parts for name, tensor in state.items()}


def small_flow():
    return SparseStructureFlow(width=24, context=16, blocks=1, heads=2, resolution=2)


@pytest.mark.parametrize("stem", ["ss_generator", "ss_decoder"])
def test_full_size_keys_and_shapes(stem: str) -> None:
    lists = [path for path in replay.files(".json") if path.name == f"official_keys_{stem}.json"]
    if not lists:
        pytest.skip("no golden vectors on this machine")
    wanted = {name: tuple(shape) for name, shape in json.loads(lists[0].read_text())["tensors"].items()}
    assert official_shapes(stem) == wanted


def test_building_for_a_checkpoint_imports_no_compiler() -> None:
    """Some operations on the meta device make PyTorch import its compiler: seconds of every start."""
    program = (
        "import sys, torch\n"
        "from comfyui_sam3d.worker.sam3d.architecture import Architecture\n"
        "with torch.device('meta'):\n"
        "    modules = [part.build() for part in Architecture().parts().values()]\n"
        "assert all(tensor.is_meta for module in modules for tensor in module.state_dict().values())\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt", ".pt"])
def test_both_file_forms_load(tmp_path, suffix: str) -> None:
    model = small_flow()
    state = {f"p.{name}": value for name, value in model.state_dict().items()} | {"other.x": torch.zeros(2)}
    path = tmp_path / f"ss_generator{suffix}"
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "epoch": 3} if suffix == ".ckpt" else state, path)
    weights = checkpoint.find(tmp_path, "ss_generator")
    loaded = checkpoint.load(small_flow, weights, "p.", dtype=torch.float16)
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value.half()), name


DAMAGE = {
    "lacks": "p.blocks.0.cross_attn.shape.to_q.weight",
    "unknown": "p.blocks.0.surprise",
    "misshapen": "p.t_embedder.mlp.0.bias",
    "floating-point": "p.latent_mapping.scale.pos_emb",
}


def damage(state: dict[str, torch.Tensor], kind: str) -> None:
    key = DAMAGE[kind]
    if kind == "lacks":
        del state[key]
    elif kind == "unknown":
        state[key] = torch.zeros(1)
    elif kind == "misshapen":
        state[key] = state[key][:-1]
    else:
        state[key] = state[key].long()


@pytest.mark.parametrize("kinds", [*([kind] for kind in DAMAGE), list(DAMAGE)], ids=lambda kinds: "+".join(kinds))
def test_loading_is_strict_and_names_every_bad_key(kinds: list[str]) -> None:
    state = {f"p.{name}": value for name, value in small_flow().state_dict().items()}
    for kind in kinds:
        damage(state, kind)
    with pytest.raises(SetupError) as caught:
        checkpoint.load(small_flow, state, "p.")
    for kind, key in DAMAGE.items():
        assert (kind in caught.value.message) == (key in caught.value.message) == (kind in kinds)


def test_weights_of_any_float_kind_load_without_a_copy_where_none_is_needed() -> None:
    for have in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        state = {name: value.to(have) for name, value in small_flow().state_dict().items()}
        same, half = checkpoint.load(small_flow, state), checkpoint.load(small_flow, state, dtype=torch.float16)
        for name, value in state.items():
            assert same.state_dict()[name].data_ptr() == value.data_ptr()
            assert torch.equal(half.state_dict()[name], value.half())
        assert not any(p.requires_grad for p in same.parameters()) and not same.training


def test_old_torch_files_load_too(tmp_path) -> None:
    state = small_flow().state_dict()
    torch.save(state, tmp_path / "ss_decoder.pt", _use_new_zipfile_serialization=False)
    loaded = checkpoint.load(small_flow, checkpoint.find(tmp_path, "ss_decoder"))
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in state.items())


class Mischief:
    def __reduce__(self):
        return print, ("never run",)


def test_files_with_code_or_damage_are_refused(tmp_path, capsys) -> None:
    torch.save({"state_dict": {"x": Mischief()}}, tmp_path / "evil.ckpt")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    (tmp_path / "cut.ckpt").write_bytes(b"PK\x03\x04 not a file")
    torch.save({"epoch": 1}, tmp_path / "empty.ckpt")
    torch.save({"state_dict": [torch.zeros(1)]}, tmp_path / "list.ckpt")
    for name in ("evil.ckpt", "cut.safetensors", "cut.ckpt", "empty.ckpt", "list.ckpt", "absent.ckpt"):
        with pytest.raises(SetupError):
            checkpoint.Weights(tmp_path / name)
    assert "never run" not in capsys.readouterr().out


LOADING = """
import json, sys, threading, time
import torch
from comfyui_sam3d.worker.sam3d import checkpoint
from comfyui_sam3d.worker.sam3d.flow import SparseStructureFlow
def anonymous():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) / 1024
def watch():
    while True:
        seen.append(anonymous())
        time.sleep(0.005)
path, prefix, sizes = sys.argv[1:]
tiny = lambda: SparseStructureFlow(24, 16, 1, 2, resolution=2)
checkpoint.load(tiny, tiny().state_dict(), dtype=torch.float16)  # what PyTorch imports on the way isn't counted
before, seen = anonymous(), []
threading.Thread(target=watch, daemon=True).start()
weights = checkpoint.Weights(path)
model = checkpoint.load(lambda: SparseStructureFlow(**json.loads(sizes)), weights, prefix, dtype=torch.float16)
total = sum(p.float().abs().sum().item() for p in model.parameters())
print(max([*seen, anonymous()]) - before, total > 0, next(model.parameters()).dtype)
"""


def memory_of_loading(path: Path, prefix: str = "", **sizes: int) -> float:
    """The most anonymous memory, in MB, that a process takes for a flow network in float16; a file's mapped pages don't count."""
    child = subprocess.run(
        [sys.executable, "-c", LOADING, str(path), prefix, json.dumps(sizes)], capture_output=True, text=True, check=True
    )
    most, *rest = child.stdout.split()
    assert rest == ["True", "torch.float16"]
    return float(most)


needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")


@needs_proc
def test_a_float32_checkpoint_becomes_float16_without_being_held(tmp_path) -> None:
    sizes = {"width": 512, "context": 512, "blocks": 3, "heads": 8, "resolution": 2}
    path = tmp_path / "ss_generator.ckpt"
    torch.save({"state_dict": {name: torch.ones_like(value) for name, value in SparseStructureFlow(**sizes).state_dict().items()}}, path)
    file = path.stat().st_size / 2**20
    assert file > 100 and memory_of_loading(path, **sizes) < file / 2 + 30  # the network itself, and a tensor on its way


@needs_proc
@pytest.mark.full
def test_full_size_float16_file_loads_without_a_second_copy(tmp_path) -> None:
    """Random full-size weights in the official key layout, saved by us, come back mapped: anonymous memory stays small."""
    path = tmp_path / "ss_generator.safetensors"
    save_file({name: torch.empty(shape, dtype=torch.float16).normal_(0, 0.02) for name, shape in official_shapes(path.stem).items()}, path)
    assert memory_of_loading(path, BACKBONE) < 400  # the network itself is 1,840
