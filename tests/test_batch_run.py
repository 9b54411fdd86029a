"""Batches over a real worker process: what is made, what is made again, what fails, what stops, and what the streams say."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import sys
import time
import unicodedata
from pathlib import Path

import pytest

from factory_cli import STUB, Ran, check_events, cli, here, hidden, is_complete, mask, rows, sprite, start, states

FAST = ("-f", "glb")


@pytest.fixture(autouse=True)
def stub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAM3D_WORKER_COMMAND", STUB)


@pytest.fixture
def batch(tmp_path, capsys):
    """Runs `batch in --out out --json ...` in this process."""

    def run(*arguments: object, json: bool = True) -> Ran:
        return here("batch", tmp_path / "in", "--out", tmp_path / "out", *FAST, *(["--json"] if json else []), *arguments, capsys=capsys)

    (tmp_path / "in").mkdir()
    return run


def manifest(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]


def test_a_folder_of_everything(tmp_path):
    """In a process of its own: pictures of every rule, wrong ones between them, plain output."""
    source, out = tmp_path / "in", tmp_path / "out"
    nfd = unicodedata.normalize("NFD", "ガーリック")
    sprite(source / f"{nfd}.png")
    sprite(source / "焼き鳥2.PNG")
    sprite(source / "焼き鳥10.png")
    sprite(source / "opaque.png", alpha=False)
    mask(source / "opaque_mask.png")
    sprite(source / "room" / "image.png", alpha=False)
    mask(source / "room" / "0.png"), mask(source / "room" / "1.png", where=(slice(2, 8), slice(2, 8)))
    sprite(source / "bare.png", alpha=False)
    sprite(source / "tall.png", alpha=False)
    mask(source / "masks" / "tall.png", height=99)
    (source / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n, then nothing")
    ran = cli("batch", source, "--out", out, *FAST)
    assert ran.code == 1, ran.err
    done = {p.name for p in out.iterdir() if (p / "meta.json").exists()}
    assert done == {unicodedata.normalize("NFC", nfd), "焼き鳥2", "焼き鳥10", "opaque", "room_0", "room_1"}
    for name in done:
        is_complete(out / name)
    assert "6 made, 3 failed" in ran.out and "report:" in ran.out and "\x1b" not in ran.out
    for text in ("bare: error E_PAIRING", "tall: error E_MASK_SIZE", "broken: error E_IMAGE"):
        assert text in ran.err
    assert {e["name"]: e["status"] for e in manifest(out)} == {
        **dict.fromkeys(done, "done"),
        **dict.fromkeys(("bare", "tall", "broken"), "refused"),
    }
    assert hidden(out) == []


def test_what_is_done_is_not_done_again(batch, tmp_path, monkeypatch):
    sprite(tmp_path / "in" / "a.png")
    sprite(tmp_path / "in" / "b.png", shade=90)
    first = batch()
    assert first.code == 0 and states(first) == {"a": "made", "b": "made"}
    monkeypatch.setenv("SAM3D_WORKER_COMMAND", "no-such-worker")  # nothing to do: no worker is started
    again = batch()
    assert again.code == 0 and states(again) == {"a": "there", "b": "there"} and again.only("progress") == []
    assert [e["made"] for e in again.only("end")] == [0]
    entries = manifest(tmp_path / "out")
    assert len(entries) == 2 and all(e["status"] == "done" and e["attempt"] == 1 and e["outputs"]["model.glb"]["size"] > 0 for e in entries)
    assert {"image_sha", "mask_sha", "params_hash", "key", "seconds", "engine", "seed", "time", "rule"} <= set(entries[0])


def test_what_changed_is_made_again(batch, tmp_path):
    for name in ("same", "picture", "cut", "gone", "edited"):
        sprite(tmp_path / "in" / f"{name}.png")
    batch()
    out = tmp_path / "out"
    sprite(tmp_path / "in" / "picture.png", shade=30)
    (out / "cut" / "model.glb").write_bytes((out / "cut" / "model.glb").read_bytes()[:-1])
    (out / "gone" / "model.glb").unlink()
    data = bytearray((out / "edited" / "model.glb").read_bytes())
    data[-1] ^= 1
    (out / "edited" / "model.glb").write_bytes(data)
    (out / "edited" / "mine.txt").write_text("mine")
    ran = batch()
    assert states(ran) == {"same": "there", "picture": "replaced", "cut": "replaced", "gone": "replaced", "edited": "replaced"}
    assert (out / "edited" / "mine.txt").exists()
    assert set(states(batch("--seed", 3)).values()) == {"replaced"}
    assert set(states(batch("--seed", 3, "--force")).values()) == {"replaced"}
    assert set(states(batch("--seed", 3)).values()) == {"there"}


def test_complete_results_are_adopted(batch, tmp_path, capsys, monkeypatch):
    sprite(tmp_path / "in" / "a.png")
    sprite(tmp_path / "in" / "b.png")
    batch()
    assert here("reconstruct", sprite(tmp_path / "in" / "c.png"), "--out", tmp_path / "out", *FAST, capsys=capsys).code == 0
    (tmp_path / "out" / "manifest.jsonl").unlink()
    shutil.rmtree(tmp_path / "out" / "report_files")
    (tmp_path / "out" / "b" / "model.glb").write_bytes(b"damaged")
    ran = batch()
    assert states(ran) == {"a": "adopted", "b": "replaced", "c": "adopted"}
    assert {e["name"]: e.get("adopted", False) for e in manifest(tmp_path / "out")} == {"a": True, "b": False, "c": True}
    assert sorted(p.name for p in (tmp_path / "out" / "report_files").iterdir()) == ["a.webp", "b.webp", "c.webp"]
    assert set(states(batch()).values()) == {"there"}


def test_a_crash_is_tried_again_and_never_stops_the_others(batch, tmp_path):
    sprite(tmp_path / "in" / "a.png")
    rows(
        tmp_path / "in",
        *[{"image": "a.png", "name": n, "seed": s} for n, s in (("good", 1), ("dies", 666), ("memory", 667), ("noisy", 668), ("last", 2))],
    )
    ran = batch()
    assert ran.code == 1
    assert states(ran) == {"good": "made", "dies": "E_WORKER_CRASH", "memory": "E_MEMORY", "noisy": "made", "last": "made"}
    assert [(e["name"], e["attempt"], e["retry"]) for e in ran.only("failed")] == [
        ("dies", 1, True), ("dies", 2, False), ("memory", 1, True), ("memory", 2, False),
    ]  # fmt: skip
    assert "SIGKILL" in ran.only("failed")[0]["error"]["message"]
    assert [e.get("quarantined", False) for e in ran.only("failed")] == [False, True, False, False], "memory kills no worker"
    lines = [(e["status"], e["attempt"], e["kills"]) for e in manifest(tmp_path / "out") if e["name"] == "dies"]
    assert lines == [("failed", 1, 1), ("quarantined", 2, 2)]
    assert {k: ran.only("end")[0][k] for k in ("made", "failed", "quarantined")} == {"made": 3, "failed": 2, "quarantined": 1}
    assert sorted(p.name for p in (tmp_path / "out").iterdir() if p.is_dir()) == ["good", "last", "noisy", "report_files"]

    again = batch()  # what failed stays failed, until somebody asks for it
    assert again.code == 1 and again.only("item") == [] and [e["earlier"] for e in again.only("failed")] == [True, True]
    tried = batch("--retry-failed", "--retries", 0)
    assert [(e["name"], e["attempt"], e.get("earlier", False)) for e in tried.only("failed")] == [("dies", 2, True), ("memory", 3, False)]
    tried = batch("--retry-quarantined")
    assert [(e["name"], e["attempt"], e["retry"], e.get("quarantined", False)) for e in tried.only("failed")] == [
        ("dies", 3, True, False), ("dies", 4, False, True), ("memory", 3, False, False),
    ]  # fmt: skip
    assert "dies" in [e["name"] for e in batch("--dry-run").only("plan") if e["state"] == "quarantined"]
    rows(tmp_path / "in", {"image": "a.png", "name": "dies", "seed": 5})
    assert states(batch()) == {"dies": "made"}  # other parameters: another job


def test_fail_fast(batch, tmp_path):
    sprite(tmp_path / "in" / "a.png")
    rows(tmp_path / "in", *[{"image": "a.png", "name": n, "seed": s} for n, s in (("a", 1), ("b", 666), ("c", 2), ("d", 3))])
    ran = batch("--fail-fast", "--retries", 0)
    assert ran.code == 1 and states(ran) == {"a": "made", "b": "E_WORKER_CRASH"}
    assert {k: ran.only("end")[0][k] for k in ("made", "failed", "left")} == {"made": 1, "failed": 1, "left": 2}


def test_a_defect_of_ours_fails_its_item_alone(batch, tmp_path, monkeypatch):
    from comfyui_sam3d.factory.batch import run

    for name in ("a", "b", "c"):
        sprite(tmp_path / "in" / f"{name}.png")
    real = run.request_of

    def broken(item, options):
        if item.name == "b":
            raise ZeroDivisionError("oh")
        return real(item, options)

    monkeypatch.setattr(run, "request_of", broken)
    ran = batch()
    assert ran.code == 1 and states(ran) == {"a": "made", "b": "E_SAM3D", "c": "made"}
    assert "ZeroDivisionError: oh" in ran.only("failed")[0]["error"]["message"]


def test_two_kills_are_enough(batch, tmp_path):
    sprite(tmp_path / "in" / "a.png")
    rows(tmp_path / "in", {"image": "a.png", "name": "dies", "seed": 666})
    ran = batch("--retries", 5)
    assert ran.code == 1 and [(e["attempt"], e["retry"]) for e in ran.only("failed")] == [(1, True), (2, False)]
    assert manifest(tmp_path / "out")[-1]["status"] == "quarantined"


def test_names_are_asked_for_while_lines_are_written(tmp_path):
    from comfyui_sam3d.factory.batch.ledger import Ledger

    class Entry(dict):
        def get(self, *args):  # another thread, at the worst moment
            ledger.append({"name": f"b{len(ledger.last)}"})
            return super().get(*args)

    ledger = Ledger(tmp_path)
    ledger.last["a"] = Entry(name="a", image="a.png", masks=[])
    assert ledger.names() == {("a.png", (), 1): "a"}


def test_a_defect_outside_every_item_is_no_success(batch, tmp_path, monkeypatch):
    """A thread that dies of it must not leave its items unmade and the exit code 0."""
    from comfyui_sam3d.factory.batch import run

    sprite(tmp_path / "in" / "a.png")
    monkeypatch.setattr(run.Report, "add", lambda *args: 1 / 0)
    ran = batch()
    assert ran.code == 1 and "ZeroDivisionError" in ran.only("failed")[0]["error"]["message"]


def test_the_environment_stops_everything(batch, tmp_path, monkeypatch):
    for name in ("a", "b", "c"):
        sprite(tmp_path / "in" / f"{name}.png")
    ran = batch("--engine", "sam3d")
    assert ran.code == 3 and states(ran) == {"a": "E_SETUP"} and ran.only("end")[0]["left"] == 2
    monkeypatch.setenv("SAM3D_WORKER_COMMAND", "no-such-worker")
    ran = batch()
    assert ran.code == 3 and states(ran) == {"a": "E_WORKER_START"}
    monkeypatch.delenv("SAM3D_WORKER_COMMAND")
    monkeypatch.setenv("SAM3D_WORKER_PYTHON", "no-such-python")
    assert batch("--force").code == 3


def test_exit_codes_without_work(batch, tmp_path, capsys):
    ran = batch()
    assert ran.code == 0 and ran.only("end")[0]["made"] == 0  # an empty folder is nothing to do
    sprite(tmp_path / "in" / "bare.png", alpha=False)
    assert batch().code == 2  # everything was refused
    assert batch().code == 2
    assert len(manifest(tmp_path / "out")) == 1  # said twice, written down once
    assert here("batch", tmp_path / "gone", "--out", tmp_path / "o2", "--json", capsys=capsys).code == 2
    ran = batch("--gpus", "0,0")
    assert ran.code == 2 and ran.only("failed")[0]["error"]["code"] == "E_OPTION"
    (tmp_path / "in" / "pairs.csv").write_text("nonsense")
    assert batch().code == 2
    assert batch("--auto-mask", "rembg").code == 3


def test_auto_mask(batch, tmp_path):
    sprite(tmp_path / "in" / "bare.png", alpha=False)
    ran = batch("--auto-mask", "border")
    assert ran.code == 0 and states(ran) == {"bare": "made"} and ran.only("item")[0]["rule"] == "auto"


def test_dry_run(batch, tmp_path, monkeypatch):
    sprite(tmp_path / "in" / "a.png")
    sprite(tmp_path / "in" / "[b].png", alpha=False)
    mask(tmp_path / "in" / "[b]_mask.png")
    monkeypatch.setenv("SAM3D_WORKER_COMMAND", "no-such-worker")
    ran = batch("--dry-run")
    assert ran.code == 0 and not (tmp_path / "out").exists()
    assert [(e["name"], e["rule"], e["objects"], e["size"], e["state"]) for e in ran.only("plan")] == [
        ("[b]", "suffix", 1, [24, 24], "make"),
        ("a", "alpha", 1, [24, 24], "make"),
    ]
    plain = batch("--dry-run", json=False)
    assert "[b]_mask.png" in plain.out and "2 to make, 0 wrong" in plain.out
    monkeypatch.setenv("SAM3D_WORKER_COMMAND", STUB)
    batch("--only", "a*")
    mask(tmp_path / "in" / "[b]_mask.png", where=(slice(0), slice(0)))
    before = sorted(p.name for p in (tmp_path / "out").iterdir())
    ran = batch("--dry-run")
    assert ran.code == 2
    assert [(e["name"], e["state"], e["error"] and e["error"]["code"]) for e in ran.only("plan")] == [
        ("[b]", "wrong", "E_MASK_EMPTY"),
        ("a", "there", None),
    ]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == before
    assert batch("--dry-run", "-q", json=False).out == ""


def test_flat_template_filters_and_limit(batch, tmp_path):
    for name in ("a", "b", "c", "d"):
        sprite(tmp_path / "in" / f"{name}.png")
    ran = batch("--flat", "--template", "{stem}_{seed}", "--seed", 7, "--exclude", "b*", "--limit", 2)
    assert states(ran) == {"a_7": "made", "c_7": "made"}
    assert ran.only("done")[0]["files"] == ["a_7.model.glb", "a_7.meta.json"]
    assert (tmp_path / "out" / "a_7.model.glb").read_bytes()[:4] == b"glTF"
    again = batch("--flat", "--template", "{stem}_{seed}", "--seed", 7)
    assert states(again) == {"a_7": "there", "b_7": "made", "c_7": "there", "d_7": "made"}


def test_several_workers(batch, tmp_path):
    for number in range(4):
        sprite(tmp_path / "in" / f"{number}.png")
    ran = batch("--workers", 2, "--seed", 1001)  # a second each
    assert ran.code == 0 and len(states(ran)) == 4
    kinds = [(e["event"], e["name"]) for e in ran.events if e["event"] in ("item", "done")]
    assert {kind for kind, _ in kinds[:2]} == {"item"}, "two at a time"


def test_gpus(batch, tmp_path, monkeypatch):
    worker = tmp_path / "which.py"
    worker.write_text(
        "import os\nfrom comfyui_sam3d.worker.channel import claim_stdio\nchannel = claim_stdio()\n"
        "from comfyui_sam3d.worker.loop import serve\nfrom comfyui_sam3d.worker.geometry import encode\n"
        "def engine(request, job):\n    raise ValueError('on ' + os.environ['CUDA_VISIBLE_DEVICES'])\n"
        "serve(channel, {'draft': lambda: engine}, encode)\n"
    )
    monkeypatch.setenv("SAM3D_WORKER_COMMAND", shlex.join([sys.executable, str(worker)]))
    for name in ("a", "b", "c", "d"):
        sprite(tmp_path / "in" / f"{name}.png")
    texts = [e["error"]["message"] for e in batch("--gpus", "3,5").only("failed")]
    assert len(texts) == 4, "an error of the engine isn't tried again"
    assert any("on 3" in t for t in texts) and any("on 5" in t for t in texts)


def test_the_second_batch_is_refused(batch, tmp_path):
    sprite(tmp_path / "in" / "a.png")
    process = start("batch", tmp_path / "in", "--out", tmp_path / "out", "--seed", 1060, "--json", *FAST)
    try:
        wait_for(process, '"progress"')
        ran = batch()
        assert ran.code == 1 and "Another batch" in ran.only("failed")[0]["error"]["message"]
    finally:
        process.kill()
        process.communicate()
    assert batch().code == 0


# --- stopping ---


def wait_for(process, text: str) -> list[str]:
    lines = []
    while not lines or text not in lines[-1]:
        lines.append(process.stdout.readline())
        assert lines[-1], process.stderr.read()
    return lines


def stoppable(tmp_path: Path, seconds: int) -> Path:
    for name in ("a", "b", "c"):
        sprite(tmp_path / "in" / f"{name}.png")
    return start("batch", tmp_path / "in", "--out", tmp_path / "out", "--seed", 1000 + seconds, "--json", *FAST)


def test_ctrl_c_once_finishes_what_is_under_way(tmp_path, batch):
    process = stoppable(tmp_path, 1)
    lines = wait_for(process, '"progress"')
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    events = check_events("".join(lines) + out)
    assert process.returncode == 130, err
    assert [e["name"] for e in events if e["event"] == "done"] == ["a"]
    assert events[-1]["event"] == "end" and (events[-1]["made"], events[-1]["left"], events[-1]["exit"]) == (1, 2, 130)
    is_complete(tmp_path / "out" / "a")
    assert states(batch("--seed", 1001, "--limit", 1)) == {"a": "there"}


@pytest.mark.parametrize("how", ["twice", "sigterm"])
def test_stop_now(tmp_path, how):
    process = stoppable(tmp_path, 60)
    lines = wait_for(process, '"progress"')
    if how == "twice":
        process.send_signal(signal.SIGINT)
        lines += wait_for(process, "Ctrl-C again")
        process.send_signal(signal.SIGINT)
    else:
        process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    events = check_events("".join(lines) + out)
    assert process.returncode == 130, err
    assert [e["name"] for e in events if e["event"] == "cancelled"] == ["a"] and events[-1]["left"] == 3
    assert not (tmp_path / "out" / "a").exists() and hidden(tmp_path / "out") == []
    assert not (tmp_path / "out" / "manifest.jsonl").exists()


# --- watching ---


def test_watch(tmp_path, batch):
    source, out = tmp_path / "in", tmp_path / "out"
    sprite(source / "first.png")
    process = start("batch", source, "--out", out, "--watch", "--interval", 0.1, "--json", *FAST)
    lines = wait_for(process, '"done"')
    sprite(source / "bare.png", alpha=False)
    lines += wait_for(process, '"waiting"')  # no mask yet: that is no failure
    whole = sprite(tmp_path / "slow.png").read_bytes()
    with open(source / "slow.png", "wb", buffering=0) as file:  # written slowly: not taken before it stands still
        for start_at in range(0, len(whole), len(whole) // 6 + 1):
            file.write(whole[start_at : start_at + len(whole) // 6 + 1])
            time.sleep(0.05)
    lines += wait_for(process, '"done"')
    mask(source / "bare_mask.png")
    lines += wait_for(process, '"done"')
    sprite(source / "first.png", shade=20)  # changed: made again
    lines += wait_for(process, '"done"')
    (source / "wrong.png").write_bytes(b"no picture")
    lines += wait_for(process, '"failed"')
    process.send_signal(signal.SIGINT)
    rest, err = process.communicate(timeout=30)
    events = check_events("".join(lines) + rest)
    assert process.returncode == 130, err
    assert [(e["name"], e["state"]) for e in events if e["event"] == "done"] == [
        ("first", "made"), ("slow", "made"), ("bare", "made"), ("first", "replaced"),
    ]  # fmt: skip
    assert [e["name"] for e in events if e["event"] == "failed"] == ["wrong"]
    assert events[0]["watch"] is True and (out / "report.html").exists()
    assert set(states(batch()).values()) == {"there", "E_IMAGE"}


def test_a_watch_with_a_limit_ends(batch, tmp_path):
    sprite(tmp_path / "in" / "a.png")
    sprite(tmp_path / "in" / "b.png")
    ran = batch("--watch", "--interval", 0.05, "--limit", 1)
    assert ran.code == 0 and states(ran) == {"a": "made"}


def test_plain_words(batch, tmp_path):
    sprite(tmp_path / "in" / "a.png")
    rows(tmp_path / "in", {"image": "a.png", "name": "ok", "seed": 1}, {"image": "a.png", "name": "dies", "seed": 666})
    ran = batch(json=False)
    assert "2 items" in ran.out and "ok: " in ran.out and "engine draft" in ran.out and "1 made, 1 failed" in ran.out
    assert "dies: error E_WORKER_CRASH" in ran.err and "trying again" in ran.err and ran.err.count("--retry-quarantined") == 1
    assert ran.err.count("warning: This is a stub.") == 1
    ran = batch("-q", json=False)
    assert ran.out == "" and "dies: error" in ran.err
    assert "already there" in batch(json=False).out


def test_a_foreign_file_in_the_way_is_said_before_the_work(tmp_path, batch):
    """No attempt is spent on it; once the file is moved away, the next run makes the item."""
    sprite(tmp_path / "in" / "a.png"), sprite(tmp_path / "in" / "b.png")
    theirs = tmp_path / "out" / "a" / "model.glb"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"theirs")
    ran = batch()
    assert states(ran) == {"a": "E_OUTPUT", "b": "made"}
    assert [e["attempt"] for e in ran.only("failed")] == [0] and "a" not in [e["name"] for e in ran.only("item")]
    assert theirs.read_bytes() == b"theirs" and len(list(theirs.parent.iterdir())) == 1
    theirs.rename(tmp_path / "elsewhere.glb")
    assert states(batch()) == {"a": "made", "b": "there"}
