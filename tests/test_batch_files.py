"""What a batch keeps on disk: results that are whole or not there, the manifest, the lock, names that stay."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from comfyui_sam3d.contract.errors import OptionError, OutputError, PairingError, SetupError
from comfyui_sam3d.factory import output
from comfyui_sam3d.factory.batch import BatchOptions, ledger
from comfyui_sam3d.factory.batch.ledger import FolderLock, Ledger
from comfyui_sam3d.factory.batch.plan import make_plan, request_of, stamp_of
from comfyui_sam3d.factory.executors.local import environments
from comfyui_sam3d.factory.inputs import MaskOptions
from comfyui_sam3d.factory.output import Place, complete_meta, read_meta, write_result

from factory_cli import hidden, mask, sprite

OLD = {"model.glb": b"old mesh", "objects/plate.glb": b"old plate", "splat.ply": b"old splat"}
NEW = {"model.glb": b"new mesh", "objects/fork.glb": b"new fork", "splat.ply": b"new splat!"}


# --- results ---


@pytest.mark.parametrize("flat", [False, True])
def test_write_and_read_back(tmp_path, flat):
    place = Place(tmp_path, "a", flat)
    write_result(place, NEW, {"name": "a", "key": "k"})
    meta = complete_meta(place)
    assert meta is not None and meta["key"] == "k" and list(meta["files"]) == list(NEW)
    assert {name: place.path(name).read_bytes() for name in NEW} == NEW and hidden(tmp_path) == []
    place.path("splat.ply").write_bytes(b"new splat?")  # same size, another byte
    assert complete_meta(place) is None and read_meta(place) is not None


@pytest.mark.parametrize("flat", [False, True])
def test_a_new_result_takes_the_place_of_the_old_one(tmp_path, flat):
    place = Place(tmp_path, "a", flat)
    (tmp_path / "other").write_text("not ours")
    write_result(place, OLD, {"key": "1"})
    write_result(place, NEW, {"key": "2"})
    assert complete_meta(place)["key"] == "2"
    assert not place.path("objects/plate.glb").exists() and (tmp_path / "other").read_text() == "not ours"


class Killed(BaseException):
    """As sudden as a kill: no handler of ours is allowed to know it."""


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("fresh", [False, True])
def test_killed_at_every_step_of_writing(tmp_path, monkeypatch, flat, fresh):
    """Each call that changes what others can see is the last one once. A reader finds the old result, the new one, or none; never a mixture."""
    calls = ("replace", "rename", "open")
    real = {name: getattr(os, name) for name in calls} | {"unlink": Path.unlink}
    seen = set()
    for last in range(200):
        out = tmp_path / str(last)
        place = Place(out, "a", flat)
        if not fresh:
            write_result(place, OLD, {"key": "old"})
            place.path("notes.txt").write_text("somebody's")
        left = [last]

        def counted(real_call, left=left):
            def call(*arguments, **more):
                if left[0] == 0:
                    raise Killed
                left[0] -= 1
                return real_call(*arguments, **more)

            return call

        with monkeypatch.context() as patch:
            for name in calls:
                patch.setattr(os, name, counted(real[name]))
            patch.setattr(Path, "unlink", counted(real["unlink"]))
            patch.setattr(output.shutil, "rmtree", lambda *_, **__: None)  # a kill runs no clean-up either
            try:
                write_result(place, NEW, {"key": "new"}, owner="batch")
                finished = True
            except Killed:
                finished = False
        meta = complete_meta(place)
        seen.add(meta and meta["key"])
        if meta is not None:
            wanted = {"old": OLD, "new": NEW}[meta["key"]]
            assert {name: place.path(name).read_bytes() for name in wanted} == wanted
        for name in {**OLD, **NEW}:  # whatever can be seen is a whole file
            if place.path(name).exists():
                assert place.path(name).read_bytes() in (OLD.get(name), NEW.get(name))
        if fresh and meta is None and not flat:
            assert not place.folder.exists()
        output.remove_leftovers(out, "batch")
        write_result(place, NEW, {"key": "again"})  # the next run isn't in the way of itself
        assert complete_meta(place)["key"] == "again" and hidden(out) == []
        assert fresh or place.path("notes.txt").read_text() == "somebody's"
        if finished:
            break
    assert finished and last >= 3 and seen == ({None, "new"} if fresh else {None, "old", "new"})


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "", "a\\b", "c:x"])
def test_names_that_lead_elsewhere(tmp_path, name):
    with pytest.raises(OutputError):
        Place(tmp_path, "a").path(name)
    (tmp_path / "a").mkdir()
    (tmp_path / "x").write_text("precious")
    meta = {"sam3d": 1, "complete": True, "files": {name: {"size": 8, "sha256": "0"}}}
    (tmp_path / "a" / "meta.json").write_text(json.dumps(meta))
    assert complete_meta(Place(tmp_path, "a")) is None
    with pytest.raises(OutputError):
        write_result(Place(tmp_path, "a"), {name: b"x"}, {})
    assert (tmp_path / "x").read_text() == "precious"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"files": {}}', '{"sam3d": 1, "files": []}', '{"sam3d": 1, "complete": true, "files": {}}']
)
def test_a_meta_json_that_says_nothing(tmp_path, text):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "meta.json").write_text(text)
    assert complete_meta(Place(tmp_path, "a")) is None


# --- manifest and lock ---


def test_a_torn_line_is_left_out(tmp_path):
    path = tmp_path / "manifest.jsonl"
    path.write_bytes(b'{"name": "a", "n": 1}\n\xff\xfe\n[]\n{"name": 3}\n{"name": "a", "n": 2}\n{"name": "b", "sta')
    ledger = Ledger(tmp_path)
    assert ledger.last == {"a": {"name": "a", "n": 2}}
    ledger.append({"name": "b", "n": 3})
    ledger.append({"name": "日本\udcff", "n": 4})  # a file name that is no Unicode
    assert {name: entry["n"] for name, entry in Ledger(tmp_path).last.items()} == {"a": 2, "b": 3, "日本\udcff": 4}
    assert path.read_bytes().count(b"\n") == 8


def test_lines_from_many_threads_stay_whole(tmp_path):
    ledger = Ledger(tmp_path)
    threads = [
        threading.Thread(target=lambda i=i: [ledger.append({"name": f"{i}-{j}", "x": "y" * 500}) for j in range(10)]) for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(Ledger(tmp_path).last) == 80


def test_the_lock_is_one_process_s_and_goes_with_it(tmp_path):
    code = (
        "import sys, pathlib; from comfyui_sam3d.factory.batch.ledger import FolderLock\n"
        "with FolderLock(pathlib.Path(sys.argv[1])): print('mine', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"mine\n"
    with pytest.raises(OutputError, match="Another batch"), FolderLock(tmp_path):
        pass
    holder.kill()
    holder.communicate()
    with FolderLock(tmp_path):
        pass


# --- the plan ---


def options(source: Path, **more) -> BatchOptions:
    return BatchOptions(source=source, out=source / "out", **more)


def names(plan) -> list[str]:
    return [item.name for item in plan]


def test_names_that_collide_get_numbers(tmp_path):
    for name in ("a.png", "A.webp", "a.bmp", "sub/a.png", "report.html.png", "con.png"):
        sprite(tmp_path / name)
    assert names(make_plan(options(tmp_path, recursive=True))) == ["a", "a-2", "A-3", "_con", "report.html-2", "a-4"]


def test_an_item_keeps_its_name(tmp_path):
    sprite(tmp_path / "b.png")
    first = make_plan(options(tmp_path))
    known = {item.identity: item.name for item in first}
    sprite(tmp_path / "b.bmp")  # sorts before b.png
    assert names(make_plan(options(tmp_path))) == ["b", "b-2"]
    plan = make_plan(options(tmp_path), known)
    assert {item.pair.image.name: item.name for item in plan} == {"b.bmp": "b-2", "b.png": "b"}
    assert names(make_plan(options(tmp_path, only=("*.bmp",)), known)) == ["b-2"]  # left out, but its result is still its own
    (tmp_path / "b.png").unlink()
    assert names(make_plan(options(tmp_path), known)) == ["b"]  # gone: the name is free
    assert names(make_plan(options(tmp_path, template="{stem}_{seed}", settings={"seed": "7"}), known)) == ["b_7"]


def test_templates(tmp_path):
    sprite(tmp_path / "set" / "a.png")
    plan = make_plan(options(tmp_path / "set", template="{folder}_{stem}_{seed}_{quality}_{preset}_{engine}", settings={"seed": "3"}))
    assert names(plan) == ["set_a_3_standard_auto_auto"]
    for template in ("{stem.__class__}", "{0}", "{}", "{stem!r}", "{stem:>9}", "{other}", "{stem", "fixed", "{seed}"):
        with pytest.raises(OptionError):
            options(tmp_path, template=template).check()


@pytest.mark.parametrize(
    "more",
    [
        {"gpus": "0,0"},
        {"gpus": "0,,1"},
        {"gpus": "0;rm"},
        {"gpus": "0,1", "workers": 3},
        {"pair": "auto"},
        {"flat": True, "settings": {"outputs": ["glb,obj"]}},
        {"flat": True, "settings": {"outputs": "OBJ"}},
        {"settings": {"quality": "perfect"}},
        {"settings": {"nonsense": "1"}},
        {"masks": MaskOptions(auto="magic")},
    ],
)
def test_options_that_cannot_be_meant(tmp_path, more):
    with pytest.raises(OptionError):
        options(tmp_path, **more).check()


def test_methods_that_are_not_there(tmp_path):
    for method in ("rembg", "sam"):
        with pytest.raises(SetupError, match="not installed"):
            options(tmp_path, masks=MaskOptions(auto=method)).check()


def test_workers():
    assert environments(None, None) == [{}]
    assert environments(2, None) == [{}, {}]
    assert environments(None, "0, GPU-ab12") == [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "GPU-ab12"}]


def test_parameters_of_a_table(tmp_path):
    sprite(tmp_path / "a.png")
    rows = ["image,seed,faces,preset,name", "a.png,4,2000,slab,x", "a.png,-1,,,", "a.png,,,tree,", "a.png,5,,,x"]
    (tmp_path / "pairs.csv").write_text("\n".join(rows))
    (tmp_path / "more.csv").write_text("image,sed\na.png,1\n")
    plan = make_plan(options(tmp_path, settings={"seed": "9", "quality": "fast"}))
    request = request_of(plan[0], options(tmp_path))
    assert (request.seed, request.face_budget, request.draft.preset, request.quality, request.names) == (4, 2000, "slab", "fast", ("x",))
    assert [item.error and item.error.code for item in plan] == [None, "E_OPTION", "E_OPTION", None]
    assert names(plan)[0] == "x" and names(plan)[3] == "x-2" and len({item.identity for item in plan}) == 4
    (item,) = make_plan(options(tmp_path / "more.csv"))
    assert item.error is not None and "Did you mean seed" in item.error.hint


def test_auto_masks_only_where_there_is_none(tmp_path):
    sprite(tmp_path / "bare.png", alpha=False)
    sprite(tmp_path / "own.png")
    sprite(tmp_path / "pair.png", alpha=False)
    mask(tmp_path / "pair_mask.png")
    sprite(tmp_path / "two.png", alpha=False)
    mask(tmp_path / "two_mask.png"), mask(tmp_path / "two-mask.png")
    rules = {i.name: i.error.code if i.error else i.pair.rule for i in make_plan(options(tmp_path, masks=MaskOptions(auto="border")))}
    assert rules == {"bare": "auto", "own": "alpha", "pair": "suffix", "two": "E_PAIRING"}
    forced = make_plan(options(tmp_path, pair="auto", masks=MaskOptions(auto="border")))
    assert {i.pair.rule for i in forced} == {"auto"}
    assert (request_of(forced[1], options(tmp_path, masks=MaskOptions(auto="border"))).alpha) is None  # own.png: found, not its alpha


def test_a_stamp_tells_what_matters(tmp_path):
    sprite(tmp_path / "a.png", alpha=False)
    mask(tmp_path / "a_mask.png")
    chosen = options(tmp_path)
    first = stamp_of(make_plan(chosen)[0], chosen)
    assert stamp_of(make_plan(chosen)[0], chosen) == first
    seeded = options(tmp_path, settings={"seed": "1"})
    assert stamp_of(make_plan(seeded)[0], seeded).params_hash != first.params_hash
    turned = options(tmp_path, masks=MaskOptions(invert=True))
    assert stamp_of(make_plan(turned)[0], turned).params_hash != first.params_hash
    mask(tmp_path / "a_mask.png", where=(slice(3, 9), slice(3, 9)))
    changed = stamp_of(make_plan(chosen)[0], chosen)
    assert changed.mask_sha != first.mask_sha and changed.image_sha == first.image_sha


def test_the_output_is_no_input(tmp_path):
    sprite(tmp_path / "a.png")
    sprite(tmp_path / "out" / "a" / "preview.png")
    assert names(make_plan(options(tmp_path, recursive=True))) == ["a"]
    with pytest.raises(PairingError):
        make_plan(options(tmp_path / "gone"))


@pytest.mark.parametrize(("name", "held"), [("ENOLCK", False), ("ENOTSUP", False), ("EWOULDBLOCK", True)])
def test_a_file_system_without_locks_locks_nobody_out(tmp_path, monkeypatch, name, held):
    def take(_file: object) -> None:
        raise OSError(getattr(errno, name), "no")

    monkeypatch.setattr(ledger, "_take", take)
    if held:
        with pytest.raises(OutputError, match="Another batch"), FolderLock(tmp_path):
            pass
    else:
        with FolderLock(tmp_path):
            pass
