"""Checkpoints of stage 1: official keys, strict loading, both file forms, memory."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch", reason="the layer `model` isn't installed: python sam3d.py test adds it")

from comfyui_sam3d.contract.errors import SetupError  # noqa: E402
from comfyui_sam3d.worker.sam3d import checkpoint  # noqa: E402
from comfyui_sam3d.worker.sam3d.flow import SparseStructureFlow  # noqa: E402
from comfyui_sam3d.worker.sam3d.fuser import stage1_fuser  # noqa: E402
from comfyui_sam3d.worker.sam3d.occupancy import OccupancyDecoder  # noqa: E402
from golden import replay  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

BUILD = {"flow": SparseStructureFlow, "embedder": stage1_fuser, "decoder": OccupancyDecoder}


def small_flow():
    return SparseStructureFlow(width=24, context=16, blocks=1, heads=2, resolution=2)


@pytest.mark.parametrize("stem", checkpoint.STAGE1)
def test_full_size_keys_and_shapes(stem: str) -> None:
    lists = [path for path in replay.files(".json") if path.name == f"official_keys_{stem}.json"]
    if not lists:
        pytest.skip("no golden vectors on this machine")
    wanted = {name: tuple(shape) for name, shape in json.loads(lists[0].read_text())["tensors"].items()}
    have = {}
    with torch.device("meta"):
        for part, prefix in checkpoint.STAGE1[stem].items():
            have.update({prefix + name: tuple(tensor.shape) for name, tensor in BUILD[part]().state_dict().items()})
    assert have == wanted


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


@pytest.mark.parametrize("damage, words", [("missing", "lacks"), ("extra", "unknown"), ("shape", "misshapen")])
def test_loading_is_strict_and_names_the_key(damage: str, words: str) -> None:
    state = {f"p.{name}": value for name, value in small_flow().state_dict().items()}
    key = "p.blocks.0.cross_attn.shape.to_q.weight"
    if damage == "missing":
        del state[key]
    elif damage == "extra":
        key = "p.blocks.0.surprise"
        state[key] = torch.zeros(1)
    else:
        state[key] = state[key][:, :-1]
    with pytest.raises(SetupError) as caught:
        checkpoint.load(small_flow, state, "p.")
    assert words in caught.value.message and key.removeprefix("p.") in caught.value.message


class Mischief:
    def __reduce__(self):
        return print, ("never run",)


def test_files_with_code_or_damage_are_refused(tmp_path, capsys) -> None:
    torch.save({"state_dict": {"x": Mischief()}}, tmp_path / "evil.ckpt")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    (tmp_path / "cut.ckpt").write_bytes(b"PK\x03\x04 not a file")
    torch.save({"epoch": 1}, tmp_path / "empty.ckpt")
    for name in ("evil.ckpt", "cut.safetensors", "cut.ckpt", "empty.ckpt", "absent.ckpt"):
        with pytest.raises(SetupError):
            checkpoint.Weights(tmp_path / name)
    assert "never run" not in capsys.readouterr().out


@pytest.mark.full
def test_full_size_float16_file_loads_without_a_second_copy(tmp_path) -> None:
    """Random full-size weights in the official key layout, saved by us, come back mapped: anonymous memory stays small."""
    path, prefixes = tmp_path / "ss_generator.safetensors", checkpoint.STAGE1["ss_generator"]
    with torch.device("meta"):
        shapes = {prefixes[part] + n: t.shape for part in ("flow", "embedder") for n, t in BUILD[part]().state_dict().items()}
    save_file({name: torch.empty(shape, dtype=torch.float16).normal_(0, 0.02) for name, shape in shapes.items()}, path)
    code = """
import sys, torch
from comfyui_sam3d.worker.sam3d import checkpoint
from comfyui_sam3d.worker.sam3d.flow import SparseStructureFlow
def anonymous():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) / 1024
before = anonymous()
weights = checkpoint.Weights(sys.argv[1])
model = checkpoint.load(SparseStructureFlow, weights, checkpoint.STAGE1["ss_generator"]["flow"], dtype=torch.float16)
total = sum(p.float().abs().sum().item() for p in model.parameters())
print(anonymous() - before, total > 0, next(model.parameters()).dtype)
"""
    out = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True).stdout.split()
    assert float(out[0]) < 400 and out[1:] == ["True", "torch.float16"]  # MB; the network itself is 1,840
