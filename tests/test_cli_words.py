"""What the command line says beside errors: how to write a name with a dash, settings that nobody looks at, how far a batch is."""

from __future__ import annotations

import pytest

from factory_cli import STUB, here, sprite


@pytest.fixture
def run(monkeypatch, capsys):
    """The command in this process, over the stub's worker process."""
    monkeypatch.setenv("SAM3D_WORKER_COMMAND", STUB)
    return lambda *arguments: here(*arguments, capsys=capsys)


@pytest.mark.parametrize("name", ["-dash.png", "-out.png", "-mask.png", "--x.png"])
def test_a_name_that_begins_with_a_dash(name, tmp_path, monkeypatch, capsys):
    """It is taken for options: what to write is said, whatever its letters happen to mean."""
    monkeypatch.chdir(tmp_path)
    sprite(tmp_path / name)
    ran = here("reconstruct", name, capsys=capsys)
    assert ran.code == 2 and f"./{name}" in ran.err and not (tmp_path / "outputs").exists()
    ran = here("reconstruct", "--nope", f"./{name}", capsys=capsys)
    assert ran.code == 2 and "--nope" in ran.err and "dash" not in ran.err


def test_the_batchs_bar_counts(capsys):
    from comfyui_sam3d.factory.cli.bars import Bars

    bars = Bars()
    error = {"code": "E_MASK", "message": "None.", "hint": ""}
    bars.event("start", command="batch", source="in", out="out", items=3)
    for name, retry in (("a", True), ("a", False), ("b", False)):
        bars.event("item", name=name, image="", masks=[], rule="alpha", attempt=1)
        bars.event("failed", name=name, error=error, attempt=1, retry=retry)
    (whole,) = bars._progress.tasks
    assert whole.fields["stage"] == "2 of 3"


def test_settings_of_the_other_engine_are_no_secret(tmp_path, run):
    """Nothing is wrong with them, but nobody looks at them either."""
    ran = run(
        "reconstruct",
        sprite(tmp_path / "a.png"),
        "--out",
        tmp_path / "o",
        "--set",
        "steps=3",
        "--set",
        "thickness=0.4",
        "--set",
        "pointmap=none",
        "--json",
    )
    (said,) = [e["text"] for e in ran.only("log") if "steps" in e["text"]]
    assert ran.code == 0 and "draft" in said and "sam3d" in said and "thickness" not in said and "pointmap" not in said
    ran = run("reconstruct", tmp_path / "a.png", "--out", tmp_path / "o", "--force", "--set", "thickness=0.4", "--json")
    assert not [e for e in ran.only("log") if "thickness" in e["text"]]
    (tmp_path / "in").mkdir()
    sprite(tmp_path / "in" / "a.png"), sprite(tmp_path / "in" / "b.png")
    ran = run("batch", tmp_path / "in", "--out", tmp_path / "ob", "--set", "steps=3", "--json")
    assert len([e for e in ran.only("log") if "steps" in e["text"]]) == 1
