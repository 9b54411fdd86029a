"""Files of tensors, and the records beside them."""

from __future__ import annotations

import os

import pytest

torch = pytest.importorskip("torch", reason="the layer `model` isn't installed: python sam3d.py test adds it")
yaml = pytest.importorskip("yaml", reason="the layer `model` isn't installed: python sam3d.py test adds it")

from comfyui_sam3d.contract.errors import SetupError  # noqa: E402
from comfyui_sam3d.worker.weights import files, layout, records, tensors  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")


# -- tensors


def test_our_files_are_read_by_the_safetensors_library(tmp_path):
    from safetensors.torch import load_file

    values = {
        "a": torch.arange(6.0).reshape(2, 3),
        "b": torch.ones(3, dtype=torch.float16),
        "c": torch.tensor(2.0),
        "d": torch.zeros(0, 4),
        "é": torch.ones(5, 2).T,
    }
    items = [tensors.Item(name, tuple(v.shape), v.dtype, lambda v=v: v) for name, v in values.items()]
    sha256 = tensors.write(tmp_path / "x.safetensors", items, {"k": "v"})
    found = load_file(tmp_path / "x.safetensors")
    assert found.keys() == values.keys() and all(torch.equal(found[name], values[name]) for name in values)
    assert files.metadata(tmp_path / "x.safetensors") == {"k": "v"} and files.hash_file(tmp_path / "x.safetensors") == sha256


@pytest.mark.parametrize("data", [b"", b"\x01", b"\xff" * 8 + b"x", b"\x02" + b"\0" * 7 + b"[]", b"\x02" + b"\0" * 7 + b"{}" + b"more"])
def test_files_that_are_no_tensors(tmp_path, data):
    (tmp_path / "x.safetensors").write_bytes(data)
    with pytest.raises(SetupError, match="isn't a whole safetensors file"):
        files.header(tmp_path / "x.safetensors")


def test_records_survive_nonsense(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    assert records.of(tmp_path, tmp_path / "a") is None
    (tmp_path / layout.RECORD_FILE).write_text("[")
    records.save(tmp_path, tmp_path / "a", "0" * 64, "hub")
    assert records.of(tmp_path, tmp_path / "a")["source"] == "hub"
    os.utime(tmp_path / "a", (1, 1))
    assert records.of(tmp_path, tmp_path / "a") is None
