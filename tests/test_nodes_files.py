"""Names from widgets stay in the host's folders; results are numbered, whole, and never overwrite anything."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from comfyui_sam3d.contract.errors import OptionError, OutputError, PairingError
from comfyui_sam3d.nodes import _files


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAM3D_NODES_DIR", str(tmp_path / "host"))
    for kind in ("input", "output", "temp"):
        (tmp_path / "host" / kind).mkdir(parents=True)
    (tmp_path / "secret.png").write_bytes(b"secret")
    return tmp_path / "host"


OUTSIDE = ["../../secret.png", "/etc/passwd", "a/../../../secret.png", "..", "link/secret.png", "leak.png", "nul\0byte.png"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_nothing_outside_is_picked(folders: Path, name: str) -> None:
    (folders / "input" / "link").symlink_to(folders.parent, target_is_directory=True)
    (folders / "input" / "leak.png").symlink_to(folders.parent / "secret.png")
    for widget in (_files.picked, _files.picked_many):
        with pytest.raises(OptionError):
            widget(name)
    with pytest.raises((OptionError, PairingError)):
        _files.picked_many(f"{name.rpartition('/')[0] or '..'}/*.png")


def test_a_link_inside_the_folder_is_fine(folders: Path) -> None:
    (folders / "input" / "real.png").write_bytes(b"x")
    (folders / "input" / "alias.png").symlink_to("real.png")
    assert _files.picked("alias.png").name == "real.png"


def test_a_folder_that_is_itself_a_link_is_fine(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folders / "input" / "a.png").write_bytes(b"x")
    (tmp_path / "through").symlink_to(folders, target_is_directory=True)
    monkeypatch.setenv("SAM3D_NODES_DIR", str(tmp_path / "through"))
    assert _files.picked("a.png").read_bytes() == b"x"
    (path,) = _files.save("3d/a", tmp_path / "through" / "output", {".glb": b"1"})
    assert _files.relative(path, tmp_path / "through" / "output") == "3d/a_00001_.glb"


def test_annotated_names(folders: Path) -> None:
    (folders / "output" / "made.png").write_bytes(b"o")
    (folders / "input" / "odd [name].png").write_bytes(b"i")
    assert _files.picked("made.png [output]").read_bytes() == b"o"
    assert _files.picked("odd [name].png [input]").read_bytes() == b"i"
    assert [p.name for p in _files.picked_many("odd [name].png")] == ["odd [name].png"]
    with pytest.raises(OptionError, match="no file"):
        _files.picked("made.png")
    with pytest.raises(OptionError, match="leads out"):
        _files.picked("../input/made.png [output]")


def test_patterns_are_sorted_as_people_count(folders: Path) -> None:
    (folders / "input" / "set").mkdir()
    for name in ("10.png", "2.png", "1.png", "image.png", "3.txt"):
        (folders / "input" / "set" / name).write_bytes(b"x")
    assert [p.name for p in _files.picked_many("set/[0-9]*.png\n\nset/image.png\n")] == ["1.png", "2.png", "10.png", "image.png"]
    with pytest.raises(PairingError, match="matches"):
        _files.picked_many("set/none*.png")


def test_lists_for_widgets(folders: Path) -> None:
    for name in ("b.png", "a/x.JPG", "a/b/deep.png", "a/b/c/deeper.png", ".hidden/h.png", "notes.txt"):
        path = folders / "input" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    assert _files.pictures() == ["a/b/deep.png", "a/x.JPG", "b.png"]
    assert _files.folders() == ["a", "a/b", "a/b/c"]


def test_numbers_go_on_where_core_left_off(folders: Path) -> None:
    out = folders / "output"
    (out / "3d").mkdir()
    (out / "3d" / "SAM_00041_.glb").write_bytes(b"core's")
    (out / "3d" / "sam_x_00077_.glb").write_bytes(b"another prefix")
    first = _files.save("3d/sam", out, {".glb": b"1", ".ply": b"2"})
    second = _files.save("3d/sam", out, {".glb": b"3"}, {"objects/a.glb": b"4", "model.obj": b"5"})
    assert [p.name for p in first] == ["sam_00042_.glb", "sam_00042_.ply"]
    assert [str(p.relative_to(out)) for p in second] == ["3d/sam_00043_.glb", "3d/sam_00043_/objects/a.glb", "3d/sam_00043_/model.obj"]
    assert [p.read_bytes() for p in (*first, *second)] == [b"1", b"2", b"3", b"4", b"5"]
    assert _files.ui_entry(second[1], out, "output") == {"filename": "a.glb", "subfolder": "3d/sam_00043_/objects", "type": "output"}
    (top,) = _files.save("sam", out, {".glb": b""})
    assert _files.ui_entry(top, out, "output") == {"filename": "sam_00001_.glb", "subfolder": "", "type": "output"}


@pytest.mark.parametrize("prefix", ["../up", "3d/../../up", "/elsewhere/up", "a/../..", "nul\0"])
def test_prefixes_that_lead_out_are_refused(folders: Path, prefix: str) -> None:
    with pytest.raises(OptionError):
        _files.save(prefix, folders / "output", {".glb": b"x"})
    assert list((folders / "output").iterdir()) == []


@pytest.mark.parametrize(
    ("prefix", "made"),
    [
        ("", "sam3d_00001_.glb"),
        ("3d\\windows", "3d/windows_00001_.glb"),
        ('a:b*/c?"<x>', "a_b_/c___x__00001_.glb"),
        ("肉/ステーキ", "肉/ステーキ_00001_.glb"),
        ("con/aux", "_con/_aux_00001_.glb"),
        ("./a//b", "a/b_00001_.glb"),
    ],
)
def test_prefixes_become_names_of_every_system(folders: Path, prefix: str, made: str) -> None:
    (path,) = _files.save(prefix, folders / "output", {".glb": b"x"})
    assert path.relative_to(folders / "output").as_posix() == made


def test_dates_are_filled_in(folders: Path) -> None:
    (path,) = _files.save("%year%-%month%/x", folders / "output", {".glb": b"x"})
    assert path.parent.name[:2] == "20" and len(path.parent.name) == 7


def test_a_taken_number_is_left_to_whoever_has_it(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = folders / "output"
    (out / "x_00001_.ply").write_bytes(b"theirs")
    monkeypatch.setattr(_files, "_first_free", lambda target, name: 1)  # as if it had come after our look
    made = _files.save("x", out, {".glb": b"1", ".ply": b"2"})
    assert [p.name for p in made] == ["x_00002_.glb", "x_00002_.ply"]
    assert (out / "x_00001_.ply").read_bytes() == b"theirs"
    assert sorted(p.name for p in out.iterdir()) == ["x_00001_.ply", "x_00002_.glb", "x_00002_.ply"]


def test_file_systems_without_hard_links(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    (folders / "output" / "x_00001_.glb").write_bytes(b"theirs")
    monkeypatch.setattr(_files, "_first_free", lambda target, name: 1)
    (path,) = _files.save("x", folders / "output", {".glb": b"ours"})
    assert (path.name, path.read_bytes()) == ("x_00002_.glb", b"ours")


WRITER = """
import os, sys
from pathlib import Path
from comfyui_sam3d.nodes import _files
print("ready", flush=True)
sys.stdin.readline()
for _ in range(15):
    _files.save("race", Path(sys.argv[1]), {".glb": os.urandom(2000), ".ply": b"p"})
"""


def test_processes_never_overwrite_each_other(folders: Path) -> None:
    start = [sys.executable, "-c", WRITER, str(folders / "output")]
    writers = [subprocess.Popen(start, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    for writer in writers:
        assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    names = sorted(p.name for p in (folders / "output").iterdir())
    assert len(names) == 90 and len({n for n in names if n.endswith(".glb")}) == 45
    assert {n[:-4] for n in names if n.endswith(".ply")} == {n[:-4] for n in names if n.endswith(".glb")}


def test_a_full_or_forbidden_disk_is_one_clear_error(folders: Path) -> None:
    (folders / "output" / "3d").write_bytes(b"a file where the folder should be")
    with pytest.raises(OutputError, match="can't be written"):
        _files.save("3d/x", folders / "output", {".glb": b"x"})


def test_a_disk_that_fills_up_leaves_nothing(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, written = _files._create, []

    def create(path: Path, data: bytes) -> None:
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        written.append(path)
        real(path, data)

    monkeypatch.setattr(_files, "_create", create)
    with pytest.raises(OutputError, match="No space left"):
        _files.save("x", folders / "output", {".glb": b"1"}, {"model.obj": b"2", "model.mtl": b"3"})
    assert len(written) == 2 and list((folders / "output").iterdir()) == []
