"""reconstruct, doctor, version: what a user types, what is on disk and on the streams afterwards, and the exit code."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from comfyui_sam3d.contract import VERSION
from comfyui_sam3d.contract.request import ENGINES, FORMATS, PLY_FRAMES, PRESETS, QUALITIES
from comfyui_sam3d.contract.targets import TARGETS
from PIL import Image

from factory_cli import STUB, check_events, cli, command, environment, here, hidden, is_complete, mask, sprite, start


@pytest.fixture
def run(monkeypatch, capsys):
    """The command in this process, over the stub's worker process."""
    monkeypatch.setenv("SAM3D_WORKER_COMMAND", STUB)
    return lambda *arguments: here(*arguments, capsys=capsys)


def test_the_main_job_with_the_real_engine(tmp_path):
    sprite(tmp_path / "ステーキ.png", size=48)
    ran = cli("reconstruct", "ステーキ.png", "--out", "o", "--quality", "fast", cwd=tmp_path, stub=False)
    assert ran.code == 0, ran.err
    meta = is_complete(tmp_path / "o" / "ステーキ")
    assert list(meta["files"]) == ["model.glb", "splat.ply", "preview.png"]
    assert (meta["engine"], meta["seed"], meta["version"], meta["name"]) == ("draft", 0, VERSION, "ステーキ")
    assert meta["parameters"]["quality"] == "fast" and meta["camera"]["kind"] == "orthographic"
    assert [o["name"] for o in meta["objects"]] == ["ステーキ"] and meta["objects"][0]["faces"] > 0 and meta["objects"][0]["splats"] > 0
    assert meta["source"]["image"] == "ステーキ.png" and str(tmp_path) not in json.dumps(meta)
    assert "engine draft" in ran.out and "draft" in ran.err  # honest on both streams: the result's line, and the engine's own warning
    assert (tmp_path / "o" / "ステーキ" / "model.glb").read_bytes()[:4] == b"glTF"
    assert hidden(tmp_path / "o") == []


def test_json_events(tmp_path):
    sprite(tmp_path / "a.png")
    ran = cli("reconstruct", tmp_path / "a.png", "--out", tmp_path / "o", "--json", "-f", "glb")
    kinds = [e["event"] for e in ran.events]
    assert kinds[0] == "start" and kinds[-1] == "done" and set(kinds[1:-1]) <= {"progress", "log"} and "progress" in kinds
    fractions = [e["fraction"] for e in ran.only("progress")]
    assert fractions == sorted(fractions)
    (done,) = ran.only("done")
    assert done["state"] == "made" and done["files"] == ["model.glb", "meta.json"] and done["engine"] == "draft"
    assert ran.err == "" and ran.code == 0


def test_it_is_made_once(tmp_path, run):
    image, out = sprite(tmp_path / "a.png"), tmp_path / "o"
    arguments = ("reconstruct", image, "--out", out, "-f", "glb", "--json")
    assert run(*arguments).only("done")[0]["state"] == "made"
    first = (out / "a" / "model.glb").stat().st_mtime_ns
    assert run(*arguments).only("done")[0]["state"] == "there"
    assert (out / "a" / "model.glb").stat().st_mtime_ns == first
    assert run(*arguments, "--force").only("done")[0]["state"] == "replaced"
    assert (out / "a" / "model.glb").stat().st_mtime_ns != first
    (out / "a" / "model.glb").write_bytes(b"cut off")  # damaged: it counts no more
    assert run(*arguments).only("done")[0]["state"] == "replaced"
    is_complete(out / "a")


def test_another_result_is_replaced_and_foreign_files_stay(tmp_path, run):
    image, out = sprite(tmp_path / "a.png"), tmp_path / "o"
    assert run("reconstruct", image, "--out", out, "-f", "glb,ply").code == 0
    (out / "a" / "notes.txt").write_text("mine")
    ran = run("reconstruct", image, "--out", out, "-f", "glb", "--seed", 5, "--json")
    assert ran.only("done")[0]["state"] == "replaced"
    assert is_complete(out / "a")["seed"] == 5
    assert sorted(p.name for p in (out / "a").iterdir()) == ["meta.json", "model.glb", "notes.txt"]


def test_a_foreign_file_is_never_overwritten(tmp_path, run):
    image, out = sprite(tmp_path / "a.png"), tmp_path / "o"
    (out / "a").mkdir(parents=True)
    (out / "a" / "model.glb").write_bytes(b"a year of work")
    ran = run("reconstruct", image, "--out", out, "-f", "glb", "--json")
    assert ran.code == 1 and "not made by this program" in ran.only("failed")[0]["error"]["message"]
    assert ran.only("progress") == [], "it is refused before the work"
    assert (out / "a" / "model.glb").read_bytes() == b"a year of work" and hidden(out) == []


def test_several_masks(tmp_path, run):
    image = sprite(tmp_path / "bbq.png", alpha=False)
    plate = mask(tmp_path / "bbq_plate.png", where=(slice(2, 10), slice(2, 20)))
    mask(tmp_path / "m" / "10.png", where=(slice(2, 10), slice(2, 20)))
    mask(tmp_path / "m" / "9.png", where=(slice(12, 20), slice(2, 20)))
    ran = run("reconstruct", image, "-m", plate, "-m", mask(tmp_path / "fork.png"), "--out", tmp_path / "o", "-f", "glb", "--json")
    assert ran.only("done")[0]["files"] == ["model.glb", "objects/plate.glb", "objects/fork.glb", "meta.json"]
    is_complete(tmp_path / "o" / "bbq")
    ran = run("reconstruct", image, "--masks", tmp_path / "m", "--out", tmp_path / "p", "-f", "glb")
    assert [o["name"] for o in is_complete(tmp_path / "p" / "bbq")["objects"]] == ["object_9", "object_10"]
    beside = sprite(tmp_path / "m" / "image.png", alpha=False)  # the picture in the folder of its masks is none of them
    ran = run("reconstruct", beside, "--masks", tmp_path / "m", "--out", tmp_path / "q", "-f", "glb")
    assert [o["name"] for o in is_complete(tmp_path / "q" / "image")["objects"]] == ["object_9", "object_10"]


@pytest.mark.parametrize(("kind", "objects"), [("polygons", 2), ("annotation", 1)])
def test_a_json_mask_that_could_be_two_things(tmp_path, kind, objects, run):
    image = sprite(tmp_path / "a.png", alpha=False)
    (tmp_path / "m.json").write_text("[[1, 1, 9, 1, 9, 9], [12, 12, 20, 12, 20, 20]]")
    ran = run("reconstruct", image, "--masks", tmp_path / "m.json", "--mask-kind", kind, "--out", tmp_path / "o", "-f", "glb")
    assert ran.code == 0, ran.err
    assert len(is_complete(tmp_path / "o" / "a")["objects"]) == objects


@pytest.mark.parametrize("form", ["coco", "labelme", "polygons"])
def test_masks_as_json(tmp_path, form, run):
    image = sprite(tmp_path / "a.png", alpha=False)
    ring = [4.0, 4.0, 20.0, 4.0, 20.0, 20.0, 4.0, 20.0]
    coco = {
        "images": [{"id": 7, "file_name": "x/a.png", "width": 24, "height": 24}, {"id": 8, "file_name": "b.png", "width": 9, "height": 9}],
        "annotations": [{"id": 1, "image_id": 7, "segmentation": [ring]}],
    }
    labelme = {
        "imageWidth": 24,
        "imageHeight": 24,
        "shapes": [{"label": "x", "points": [[4, 4], [20, 4], [20, 20]], "shape_type": "polygon"}],
    }
    (tmp_path / "m.json").write_text(json.dumps({"coco": coco, "labelme": labelme, "polygons": ring}[form]))
    ran = run("reconstruct", image, "--masks", tmp_path / "m.json", "--out", tmp_path / "o", "-f", "glb")
    assert ran.code == 0, ran.err
    assert len(is_complete(tmp_path / "o" / "a")["objects"]) == 1


def test_auto_masks(tmp_path, run):
    image = sprite(tmp_path / "a.png", alpha=False, size=64)
    keys = set()
    for method in ("border", "grabcut", "grabcut"):
        ran = run("reconstruct", image, "--auto-mask", method, "--out", tmp_path / method, "-f", "glb", "--json", "--force")
        assert ran.code == 0, ran.out + ran.err
        keys.add(ran.only("done")[0]["key"])
    assert len(keys) <= 2  # GrabCut twice is the same mask twice


def test_grabcut_says_what_adds_opencv(tmp_path):
    (tmp_path / "no").mkdir()
    (tmp_path / "no" / "cv2.py").write_text("raise ImportError('not here')")
    image = sprite(tmp_path / "a.png", alpha=False)
    ran = cli("reconstruct", image, "--auto-mask", "grabcut", "--out", tmp_path / "o", variables={"PYTHONPATH": str(tmp_path / "no")})
    assert ran.code == 3 and "install.py --layers server" in ran.err


def test_grabcut_finds_the_object():
    from comfyui_sam3d.factory.automask import find

    random = np.random.default_rng(0)
    image = random.integers(90, 120, (120, 160, 3)).astype(np.uint8)
    truth = np.zeros((120, 160), bool)
    truth[35:90, 50:115] = True
    image[truth] = random.integers(20, 60, (truth.sum(), 3)) + np.array([150, 20, 0])
    found = find(image, "grabcut")
    assert (found & truth).sum() / (found | truth).sum() > 0.95
    assert (find(image, "grabcut") == found).all()


def test_invert_resize_and_full(tmp_path, run):
    image = sprite(tmp_path / "a.png", alpha=False)
    background = tmp_path / "background.png"
    Image.fromarray(255 - np.asarray(Image.open(mask(tmp_path / "m.png")))).save(background)
    keys = []
    for options in (("-m", tmp_path / "m.png"), ("-m", background, "--invert-mask")):
        ran = run("reconstruct", image, *options, "--out", tmp_path / "o", "-f", "glb", "--json", "--force")
        keys.append(ran.only("done")[0]["key"])
    assert keys[0] == keys[1]
    small = mask(tmp_path / "small.png", size=12, where=(slice(3, 9), slice(3, 9)))
    assert run("reconstruct", image, "-m", small, "--out", tmp_path / "o", "-f", "glb").code == 2
    assert run("reconstruct", image, "-m", small, "--out", tmp_path / "o", "-f", "glb", "--resize-mask").code == 0
    full = mask(tmp_path / "full.png", where=(slice(None), slice(None)))
    assert run("reconstruct", image, "-m", full, "--out", tmp_path / "o", "-f", "glb", "--allow-full-mask").code == 0


def test_soft_edges_of_a_mask_file_count(tmp_path):
    from comfyui_sam3d.factory.inputs import MaskOptions, make_request

    image = sprite(tmp_path / "a.png", alpha=False)
    grey = np.asarray(Image.open(mask(tmp_path / "m.png"))).copy()
    grey[6] = 90
    Image.fromarray(grey).save(tmp_path / "soft.png")
    request = make_request(image, [tmp_path / "soft.png"], name="a", settings={})
    assert request.alpha is not None and (request.alpha[0] == grey).all() and (request.masks[0] == (grey >= 128)).all()
    assert make_request(image, [tmp_path / "soft.png"], name="a", settings={}, options=MaskOptions(invert=True)).alpha is None
    assert make_request(image, [tmp_path / "m.png"], name="a", settings={}).alpha is None


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["nowhere.png"], "E_IMAGE", "nowhere.png"),
        (["empty"], "E_IMAGE", "sam3d.py batch"),
        (["https://example.org/a.png"], "E_IMAGE", "https://example.org/a.png is an address"),
        (["notes.txt"], "E_IMAGE", "no picture of a known format"),
        (["opaque.png"], "E_MASK", "--auto-mask border"),
        (["opaque.png", "-m", "gone.png"], "E_MASK", "gone.png: It can't be read"),
        (["opaque.png", "-m", "notes.txt"], "E_MASK", "notes.txt: "),
        (["opaque.png", "-m", "tall.png"], "E_MASK_SIZE", "tall.png: "),
        (["opaque.png", "-m", "black.png"], "E_MASK_EMPTY", "black.png: "),
        (["opaque.png", "-m", "white.png"], "E_MASK_FULL", "white.png: "),
        (["opaque.png", "-m", "white.png", "--invert-mask"], "E_MASK_EMPTY", "selects nothing"),
        (["opaque.png", "-m", "tall.png"], "E_MASK_SIZE", "--resize-mask"),
        (["opaque.png", "-m", "white.png"], "E_MASK_FULL", "--allow-full-mask"),
        (["opaque.png", "-m", "empty"], "E_MASK", "--masks"),
        (["opaque.png", "-m", "."], "E_MASK", ".: It is a folder"),
        (["opaque.png", "--masks", "empty"], "E_MASK", "holds no masks"),
        (["opaque.png", "--masks", "two.json"], "E_MASK_KIND", "--mask-kind annotation"),
        (["opaque.png", "--masks", "two.json", "--mask-kind", "magic"], "E_OPTION", "no kind of mask"),
        (["opaque.png", "--masks", "coco.json"], "E_MASK", "2 pictures, none of them called opaque.png"),
        (["opaque.png", "--masks", "gone"], "E_MASK", "There is no gone"),
        (["opaque.png", "--masks", "broken.json"], "E_MASK", "no JSON"),
        (["opaque.png", "--masks", "broken.json", "-m", "m.png"], "E_MASK", "both given"),
        (["opaque.png", "-m", "m.png", "--auto-mask", "border"], "E_MASK", "together with a mask"),
        (["opaque.png", "--auto-mask", "magic"], "E_OPTION", "border, grabcut"),
        (["a.png", "--seed", "-1"], "E_OPTION", "seed is -1"),
        (["a.png", "--seed", str(2**64)], "E_OPTION", "seed is 18446744073709551616, outside 0 to 18446744073709551615"),
        (["a.png", "--seed", "x"], "E_OPTION", "seed"),
        (["a.png", "--quality", "perfect"], "E_OPTION", "quality"),
        (["a.png", "--preset", "tree"], "E_OPTION", "preset"),
        (["a.png", "--engine", "magic"], "E_OPTION", "engine"),
        (["a.png", "--format", "fbx"], "E_OPTION", "fbx"),
        (["a.png", "--format", ""], "E_OPTION", "list of formats is empty"),
        (["a.png", "--quality", ""], "E_OPTION", "quality"),
        (["a.png", "--name", ""], "E_OPTION", "can't be the name of a folder"),
        (["a.png", "--faces", "3"], "E_OPTION", "face_budget"),
        (["a.png", "--texture-size", "64"], "E_OPTION", "texture_size"),
        (["a.png", "--set", "thicknes=1"], "E_OPTION", "Did you mean thickness?"),
        (["a.png", "--set", "thickness=9"], "E_OPTION", "thickness is 9"),
        (["a.png", "--set", "thickness"], "E_OPTION", "name=value"),
        (["a.png", "--set", "seed=1", "--seed", "2"], "E_OPTION", "given twice"),
        (["a.png", "--set", "back_image=gone.png", "--set", "back=image"], "E_IMAGE", "gone.png"),
        (["a.png", "--name", "a/b"], "E_OPTION", "can't be the name of a folder"),
    ],
)
def test_bad_input_is_refused_before_a_worker_starts(bad, arguments, code, text, monkeypatch, capsys):
    monkeypatch.chdir(bad)
    monkeypatch.setenv("SAM3D_WORKER_COMMAND", "no-such-worker")
    ran = here("reconstruct", *arguments, "--out", "o", "--json", capsys=capsys)
    (failed,) = ran.only("failed")
    assert ran.code == 2 and failed["error"]["code"] == code, ran.out
    assert text in failed["error"]["message"] + failed["error"]["hint"]
    assert failed["error"]["hint"], "every error says what to do"
    assert not (bad / "o").exists()


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    sprite(folder / "a.png")
    sprite(folder / "opaque.png", alpha=False)
    mask(folder / "m.png")
    mask(folder / "tall.png", height=30)
    mask(folder / "black.png", where=(slice(0), slice(0)))
    mask(folder / "white.png", where=(slice(None), slice(None)))
    (folder / "notes.txt").write_text("no picture")
    (folder / "broken.json").write_text("{")
    (folder / "two.json").write_text("[[1, 1, 9, 1, 9, 9], [12, 12, 20, 12, 20, 20]]")
    (folder / "coco.json").write_text('{"images": [{"id": 1, "file_name": "x.png"}, {"id": 2, "file_name": "y.png"}], "annotations": []}')
    (folder / "empty").mkdir()
    return folder


@pytest.mark.parametrize("arguments", [["reconstruct"], ["reconstruct", "a", "--nope"], ["dance"], [], ["batch", "a", "--limit", "0"]])
def test_wrong_usage(arguments, capsys):
    ran = here(*arguments, capsys=capsys)
    assert ran.code == 2 and ran.err and not ran.out


@pytest.mark.parametrize(
    ("arguments", "variables", "code", "text"),
    [
        (["--engine", "sam3d"], {}, 3, "E_SETUP"),
        ([], {"SAM3D_WORKER_COMMAND": "no-such-worker"}, 3, "E_WORKER_START"),
        ([], {"SAM3D_WORKER_COMMAND": f"{sys.executable} -c 0"}, 3, "E_WORKER_START"),
        (["--seed", "666"], {}, 1, "E_WORKER_CRASH"),
        (["--seed", "667"], {}, 1, "E_MEMORY"),
    ],
)
def test_failures_after_the_input_was_good(tmp_path, arguments, variables, code, text):
    ran = cli("reconstruct", sprite(tmp_path / "a.png"), "--out", tmp_path / "o", *arguments, variables=variables)
    assert (ran.code, text in ran.err) == (code, True), ran.err
    assert list((tmp_path / "o").iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c(tmp_path, number):
    process = start("reconstruct", sprite(tmp_path / "a.png"), "--out", tmp_path / "o", "--seed", 1060, "--json")
    lines = []
    while not lines or '"progress"' not in lines[-1]:
        lines.append(process.stdout.readline())
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130, err
    assert [e["event"] for e in check_events(out)][-1] == "cancelled"
    assert list((tmp_path / "o").iterdir()) == []


def test_killed_while_it_works_leaves_nothing_visible(tmp_path):
    image, out = sprite(tmp_path / "a.png"), tmp_path / "o"
    process = start("reconstruct", image, "--out", out, "--seed", 1060, "--json")
    while '"progress"' not in process.stdout.readline():
        pass
    process.kill()
    process.communicate(timeout=20)
    assert [p for p in out.iterdir() if not p.name.startswith(".")] == []


def test_a_folder_that_cannot_be_written(tmp_path, run):
    (tmp_path / "o").write_text("a file stands where the folder should be")
    ran = run("reconstruct", sprite(tmp_path / "a.png"), "--out", tmp_path / "o")
    assert ran.code == 1 and "E_OUTPUT" in ran.err and "a file is in its place" in ran.err


def test_quiet_and_plain(tmp_path, run):
    image = sprite(tmp_path / "a.png")
    ran = run("reconstruct", image, "--out", tmp_path / "o", "-q", "-f", "glb")
    assert (ran.code, ran.out, ran.err) == (0, "", "")
    assert "error E_OPTION" in run("reconstruct", image, "--out", tmp_path / "o", "-q", "--seed", "x").err
    ran = run("reconstruct", image, "--out", tmp_path / "p", "-f", "glb")
    assert "model.glb" in ran.out and "\x1b" not in ran.out and "warning: This is a stub." in ran.err


def test_bars_on_a_terminal(tmp_path):
    pty = pytest.importorskip("pty")
    import os

    ours, theirs = pty.openpty()
    image = sprite(tmp_path / "[bold]x.png")
    process = subprocess.Popen(
        command("reconstruct", image, "--out", tmp_path / "o", "-f", "glb", "--seed", 1001),
        env={**environment(), "TERM": "xterm", "COLUMNS": "150"},
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    seen = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        seen += piece
    os.close(ours)
    assert process.wait(20) == 0
    text = seen.decode()
    assert "sampling" in text and "━" in text and "[bold]x: " in text and "model.glb" in text


def test_a_closed_pipe_is_no_traceback(tmp_path):
    process = start("reconstruct", sprite(tmp_path / "a.png"), "--out", tmp_path / "o", "--seed", 1001, "--json")
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()
    process.wait(20)


def test_the_same_bytes_for_the_same_seed(tmp_path):
    image = sprite(tmp_path / "a.png", size=40)
    options = ("--quality", "fast", "--set", "splat_target=2000", "--set", "grid=32")
    hashes = []
    for out in ("o", "p"):
        assert cli("reconstruct", image, "--out", tmp_path / out, *options, stub=False).code == 0
        hashes.append({name: record["sha256"] for name, record in is_complete(tmp_path / out / "a")["files"].items()})
    assert hashes[0] == hashes[1]


def test_settings_reach_the_engine(tmp_path, run):
    back = sprite(tmp_path / "back.png")
    options = ["--preset", "slab", "--ply-frame", "z_up", "--texture-size", 512, "--faces", 1000, "--format", "glb,ply", "-f", "stl"]
    more = ["thickness=0.5", "smooth_outline=true", "grid=none", "turntable_frames=8", f"back_image={back}", "back=image", "size=2"]
    ran = run(
        "reconstruct",
        sprite(tmp_path / "a.png"),
        "--out",
        tmp_path / "o",
        *options,
        *[x for m in more for x in ("--set", m)],
        "--seed",
        2**64 - 1,
    )
    assert ran.code == 0, ran.err
    found = is_complete(tmp_path / "o" / "a")["parameters"]
    assert (found["texture_size"], found["face_budget"], found["outputs"], found["size"]) == (512, 1000, ["glb", "ply", "stl"], 2.0)
    assert found["seed"] == 2**64 - 1
    assert (found["draft"]["preset"], found["draft"]["thickness"], found["draft"]["smooth_outline"]) == ("slab", 0.5, True)
    assert (found["draft"]["grid"], found["draft"]["back"]) == (None, "image")
    assert (found["export"]["ply_frame"], found["export"]["turntable_frames"]) == ("z_up", 8)


def test_every_parameter_has_a_setting():
    import dataclasses

    from comfyui_sam3d.contract.request import DraftOptions, ExportOptions, ReconstructRequest, Sam3dOptions
    from comfyui_sam3d.factory.settings import known

    request = {f.name for f in dataclasses.fields(ReconstructRequest)} - {"image", "masks", "alpha", "names", "draft", "sam3d", "export"}
    others = [{f.name for f in dataclasses.fields(kind)} for kind in (DraftOptions, Sam3dOptions, ExportOptions)]
    of_maps = {"fov_x", "depth_scale"}  # how a point map's file is read
    assert set(known()) == request.union(*others, of_maps)
    assert sum(map(len, (request, *others, of_maps))) == len(known()), "two parts of a request share a name"


def test_every_option_of_batch_reaches_it():
    import dataclasses

    from comfyui_sam3d.factory.batch import BatchOptions
    from comfyui_sam3d.factory.cli.app import app

    one, many = ({p.name for p in app.commands[name].params} for name in ("reconstruct", "batch"))
    elsewhere = {"dry_run", "server"}  # what is done with the plan; a variable of this process
    assert many - one - elsewhere <= {f.name for f in dataclasses.fields(BatchOptions)}


def test_help_names_what_the_contract_allows():
    text = " ".join(cli("reconstruct", "--help").out.split())
    for words in (ENGINES, QUALITIES, PRESETS, PLY_FRAMES, tuple(TARGETS)):
        assert f"{', '.join(words[:-1])} or {words[-1]}." in text
    assert ", ".join(FORMATS) in text
    docs = (Path(__file__).parent.parent / "docs" / "cli.md").read_text(encoding="utf-8")
    from comfyui_sam3d.factory.settings import known

    assert [name for name in known() if name not in docs] == []


def test_version_and_start_up():
    assert cli("version").out.startswith(f"comfyui-sam3d {VERSION} (protocol ")
    assert json.loads(cli("version", "--json").out)["version"] == VERSION
    for arguments in (["version"], ["--help"], ["batch", "--help"], ["reconstruct", "--help"]):
        ran = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "comfyui_sam3d.factory.cli", *arguments], capture_output=True, text=True, timeout=60
        )
        loaded = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in ran.stderr.splitlines() if line.startswith("import time:")}
        assert "click" in loaded and not loaded & {"numpy", "PIL", "rich", "scipy", "torch", "cv2"}


def test_a_hint_of_several_lines_stays_together(tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch", reason="without it the engine lacks something else, said in one line")
    monkeypatch.setenv("SAM3D_WORKER_PYTHON", sys.executable)
    monkeypatch.setenv("SAM3D_WEIGHTS", str(tmp_path / "none"))
    ran = here("reconstruct", sprite(tmp_path / "a.png"), "--engine", "sam3d", "--out", tmp_path / "o", capsys=capsys)
    lines = ran.err.splitlines()
    assert ran.code == 3 and len(lines) > 2 and all(line.startswith("  ") for line in lines[1:]), ran.err


def test_doctor(tmp_path):
    ran = cli("doctor", "--out", tmp_path / "new", stub=False, variables={"SAM3D_WEIGHTS": str(tmp_path / "none")})
    assert ran.code == 0, ran.out
    for word in ("python", "environment", "worker", "reconstruction", "output", "gpu", "the engine draft works; for the engine sam3d see"):
        assert word in ran.out
    assert not (tmp_path / "new").exists() and list(tmp_path.iterdir()) == []


def test_doctor_finds_what_is_wrong(tmp_path):
    (tmp_path / "file").write_text("")
    ran = cli("doctor", "--json", "--out", tmp_path / "file")
    checks = {c["name"]: c for c in json.loads(ran.out)["checks"]}
    assert ran.code == 1 and checks["output"]["state"] == "wrong" and checks["output"]["hint"]
    ran = cli("doctor", "--json", "--out", tmp_path, variables={"SAM3D_WORKER_COMMAND": f"{sys.executable} -c 0"})
    found = json.loads(ran.out)
    assert ran.code == found["exit"] == 3 and {c["name"]: c["state"] for c in found["checks"]}["worker"] == "wrong"
    ran = cli("doctor", "--out", tmp_path, variables={"SAM3D_WORKER_COMMAND": "", "SAM3D_WORKER_PYTHON": "no-such-python"})
    assert ran.code == 3 and "wrong  environment" in ran.out


def test_old_leftovers_of_a_killed_run_are_cleared_away(tmp_path, run):
    import os

    out = tmp_path / "o"
    for name, age in ((".sam3d-one-old", 7200), (".sam3d-one-new", 0), (".sam3d-batch-old", 7200)):
        (out / name).mkdir(parents=True)
        os.utime(out / name, (time.time() - age,) * 2)
    assert run("reconstruct", sprite(tmp_path / "a.png"), "--out", out, "-f", "glb").code == 0
    assert sorted(hidden(out)) == [".sam3d-batch-old", ".sam3d-one-new"]
