"""A result that is there counts only where what would make it now has made it: the pack's version, the engine that `auto` is, its weights."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from comfyui_sam3d.contract.version import VERSION
from comfyui_sam3d.factory import maker as module
from comfyui_sam3d.factory.maker import Maker

from .factory_cli import cli, here, is_complete, sprite

DRAFT = {"version": VERSION, "engine": "draft"}
SAM3D = {"version": VERSION, "engine": "sam3d", "in_effect": {"weights_digest": "abc"}}


class Environment:
    """What the worker's environment answers, and how often it was asked."""

    def __init__(self, auto: str, weights: str = "") -> None:
        self.answer, self.asked = {"event": "engines", "auto": auto, "weights": weights}, 0

    def __call__(self, *command: str):
        assert command == ("weights", "engines")
        self.asked += 1
        yield self.answer


@pytest.fixture
def environment(monkeypatch):
    for name in ("SAM3D_SERVER", "SAM3D_WORKER_COMMAND"):
        monkeypatch.delenv(name, raising=False)

    def has(auto: str, weights: str = "") -> Environment:
        made = Environment(auto, weights)
        monkeypatch.setattr(module, "run_tool", made)
        return made

    return has


def test_what_counts(environment):
    environment("draft")
    assert Maker().made(DRAFT, "auto") and Maker().made(DRAFT, "draft")
    assert Maker().made(SAM3D, "auto") and Maker().made(SAM3D, "sam3d"), "the weights are gone; the result isn't"
    environment("sam3d", "abc")
    assert not Maker().made(DRAFT, "auto"), "weights came: `auto` is another engine now"
    assert Maker().made(DRAFT, "draft")
    assert Maker().made(SAM3D, "auto") and Maker().made(SAM3D, "sam3d")
    environment("sam3d", "other weights")
    assert not Maker().made(SAM3D, "auto") and not Maker().made(SAM3D, "sam3d")
    for made in (DRAFT, SAM3D):
        assert not Maker().made({**made, "version": "0.0.1"}, made["engine"])
        assert not Maker().made({"engine": made["engine"]}, made["engine"])


def test_it_asks_once_and_only_where_that_matters(environment, monkeypatch):
    asked = environment("sam3d", "abc")
    maker = Maker()
    assert maker.made(DRAFT, "draft") and not maker.made({**DRAFT, "version": "0"}, "auto") and asked.asked == 0
    assert [maker.made(SAM3D, "auto") for _ in range(3)] == [True] * 3 and asked.asked == 1
    assert Maker(here=False).made(DRAFT, "auto")
    for name in ("SAM3D_SERVER", "SAM3D_WORKER_COMMAND"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "elsewhere")
            assert Maker().made(DRAFT, "auto"), "what another machine has isn't asked"
    assert asked.asked == 1
    monkeypatch.undo()
    monkeypatch.setenv("SAM3D_WORKER_PYTHON", "no-such-python")
    assert Maker().made(DRAFT, "auto"), "without an environment nothing better can be made"


def test_another_version_makes_a_batch_and_a_reconstruction_anew(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SAM3D_WORKER_PYTHON", sys.executable)
    picture = sprite(tmp_path / "in" / "a.png")
    options = ("--format", "ply", "--engine", "draft", "--set", "splat_target=2000", "--json")
    single, many = ("reconstruct", picture, "--out", tmp_path / "one"), ("batch", tmp_path / "in", "--out", tmp_path / "many")
    for command in (single, many):
        assert [e["state"] for e in here(*command, *options, capsys=capsys).only("done")] == ["made"]
        assert [e["state"] for e in here(*command, *options, capsys=capsys).only("done")] == ["there"]
    for folder in ("one", "many"):
        meta = json.loads((tmp_path / folder / "a" / "meta.json").read_text())
        (tmp_path / folder / "a" / "meta.json").write_text(json.dumps({**meta, "version": "0.0.1"}))
    assert [e["state"] for e in here(*many, *options, "--dry-run", capsys=capsys).only("plan")] == ["make"]
    for command in (single, many):
        assert [e["state"] for e in here(*command, *options, capsys=capsys).only("done")] == ["replaced"]


def test_a_failure_of_another_version_is_tried_again():
    from comfyui_sam3d.contract.pairing import Pair
    from comfyui_sam3d.factory.batch import plan

    picture = Path(__file__).resolve().parent.parent / "examples" / "steak.png"
    item = plan.Item("a", Pair("a", picture, rule="alpha"), ("a.png", (), 1), {})
    options = plan.BatchOptions(picture.parent, picture.parent)
    before = plan.stamp_of(item, options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "VERSION", "9.9")
        assert plan.stamp_of(item, options) != before
    assert plan.stamp_of(item, options) == before


@pytest.fixture
def real(tmp_path):
    """The command line with a real worker, in an environment whose weights are the folder `weights`: state and engine of its only result."""
    pytest.importorskip("torch", reason="the layer `model` isn't installed: python sam3d.py test adds it")
    found = {"SAM3D_WEIGHTS": "weights", "SAM3D_CACHE": "cache", "HF_HOME": "hub"}
    variables = {name: str(tmp_path / folder) for name, folder in found.items()} | {"OMP_NUM_THREADS": "1"}
    picture = sprite(tmp_path / "in" / "a.png", size=48)
    small = [part for text in ("steps=1", "latent_steps=1", "mesh=raw") for part in ("--set", text)]

    def run(command: str) -> str:
        if command == "convert":
            return str(cli("weights", "convert", stub=False, variables=variables).code)
        source = picture if command == "reconstruct" else picture.parent
        ran = cli(command, source, "--out", tmp_path / command, "--format", "glb", *small, "--json", stub=False, variables=variables)
        assert ran.code == 0, ran.err + ran.out
        (event,) = ran.only("done")
        return f"{event['state']} {event['engine']}"

    return run


def weights_in(folder: Path, seed: int = 0) -> None:
    from comfyui_sam3d.worker.weights.fake import write

    write(folder, tiny=True, seed=seed, report=lambda *args, **fields: None)


def test_weights_that_came_later_replace_the_draft(real, tmp_path):
    assert real("reconstruct") == "made draft"
    weights_in(tmp_path / "weights")
    assert real("reconstruct") == "replaced sam3d"
    assert real("reconstruct") == "there sam3d"


@pytest.mark.full
def test_weights_that_come_and_go(real, tmp_path):
    assert real("batch") == "made draft"
    weights_in(tmp_path / "weights")
    assert real("batch") == "replaced sam3d" and real("reconstruct") == "made sam3d"
    assert real("convert") == "0"
    assert real("batch") == real("reconstruct") == "there sam3d", "converting changes no result"
    digest = is_complete(tmp_path / "reconstruct" / "a")["in_effect"]["weights_digest"]
    shutil.rmtree(tmp_path / "weights")
    weights_in(tmp_path / "weights", seed=5)
    assert real("batch") == real("reconstruct") == "replaced sam3d"
    assert is_complete(tmp_path / "reconstruct" / "a")["in_effect"]["weights_digest"] != digest
    shutil.rmtree(tmp_path / "weights")
    assert real("batch") == real("reconstruct") == "there sam3d"
