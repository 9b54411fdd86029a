"""Replay of the golden vectors: numbers recorded from the original modules decide whether the model code is right.

GOLDEN_DIR names another folder of the same form. On a machine without them these tests skip and say so.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the layer `model` isn't installed: python sam3d.py test adds it")

from golden import moge, postprocess, postprocess_holes, replay, stage1, stage1_errors, stage2  # noqa: E402

REPLAYED = {**stage1.KINDS, **stage2.KINDS, **postprocess.KINDS, **postprocess_holes.KINDS, **moge.KINDS}
SECOND = {**stage1.SECOND}  # kinds that are computed in two ways, which must both fit

FILES = replay.files()


pytestmark = pytest.mark.usefixtures("one_thread")


def test_golden_files_are_there() -> None:
    if not FILES:
        pytest.skip(f"no golden vectors at {replay.WHERE} (set GOLDEN_DIR): the model's numbers are not checked on this machine")


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_replay(path: Path) -> None:
    kind = replay.kind_of(path)
    assert kind in REPLAYED, f"{path.name} has the unknown kind {kind!r}"
    for module in (stage2, postprocess, postprocess_holes, moge):  # files of another form
        if kind in module.KINDS:
            assert module.differences(path) == []
            return
    golden = replay.read(path)
    assert golden.wanted, "a golden file without outputs checks nothing"
    for way in (REPLAYED[kind], SECOND.get(kind)):
        if way is not None:
            with torch.inference_mode():
                got = way(golden.inputs, golden.weights, golden.config)
            assert replay.compare(got, golden.wanted, golden.tolerance) == [], way.__name__


@pytest.mark.parametrize(
    "path", [path for path in replay.files(".json") if replay.kind_of(path)], ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_replay_documents(path: Path) -> None:
    assert replay.kind_of(path) == "error_cases", f"{path.name} has the unknown kind {replay.kind_of(path)!r}"
    assert stage1_errors.error_cases(json.loads(path.read_text(encoding="utf-8"))) == []
