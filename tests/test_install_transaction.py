"""_env/ is whole or not there: failed, killed and simultaneous installs, and what the journal and the audit tell of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from comfyui_sam3d.environment import audit, checks, errors, journal, settings, transaction

from .scratch_pack import FakeUv, ScratchPack, pairs, posix, user_python, wait_for


@posix
def test_a_failed_rebuild_gives_the_old_environment_back(pack: ScratchPack, fake: FakeUv) -> None:
    assert pack.run("install.py", **fake.variables()).returncode == 0
    before = pack.journal()
    with (pack.root / "environment" / "base.txt").open("a") as file:
        file.write("# changed\n")
    assert journal.state(str(pack.root), ["base"]) == ("stale", "what goes into it has changed")

    done = pack.run("install.py", **fake.variables(FAKE_UV_FAIL=json.dumps({"pip": "error: No space left on device (os error 28)"})))
    assert done.returncode == 3
    assert "The disk is full." in done.stderr and "SAM3D_CACHE_DIR" in done.stderr and "Traceback" not in done.stderr
    assert pack.journal() == before

    assert pack.run("install.py", **fake.variables()).returncode == 0
    assert pack.journal()["inputs_sha256"] != before["inputs_sha256"]
    assert sorted(path.name for path in pack.root.glob("_env*")) == ["_env"]


@posix
@pytest.mark.parametrize("moment", ["set aside", "half built", "being removed"])
def test_what_a_killed_rebuild_left_is_put_right(pack: ScratchPack, fake: FakeUv, moment: str) -> None:
    assert pack.run("install.py", **fake.variables()).returncode == 0
    before = pack.journal()
    if moment == "being removed":
        (pack.root / "_env.trash" / "bin").mkdir(parents=True)
    else:
        pack.env.rename(pack.root / "_env.prev")
    if moment == "half built":
        pack.env.mkdir()
        (pack.env / ".sam3d_building.json.tmp").write_text("{")
    done = pack.run("install.py", "--layers", "dev", **fake.variables())
    assert done.returncode == 0, done.stderr
    assert len(fake.installs()) == 2 and pack.journal()["layers"] == ["base", "dev"]
    assert before["layers"] == ["base"]
    assert sorted(path.name for path in pack.root.glob("_env*")) == ["_env"]


@posix
def test_layers_are_added_in_place(pack: ScratchPack, fake: FakeUv) -> None:
    assert pack.run("install.py", **fake.variables()).returncode == 0
    base = pack.journal()
    failed = pack.run("install.py", "--layers", "dev", **fake.variables(FAKE_UV_FAIL=json.dumps({"pip": "error: 403 Forbidden"})))
    assert failed.returncode == 3 and "refused the login" in failed.stderr
    assert pack.journal() == base  # nothing was touched, so what was ready is ready
    assert pack.run("install.py", "--layers", "dev", **fake.variables()).returncode == 0
    assert pack.journal()["layers"] == ["base", "dev"]
    assert len([call for call in fake.calls() if call["argv"][0] == "venv"]) == 1
    assert [Path(name).name for name in pairs(fake.installs()[-1], "--requirements")] == ["base.txt", "dev.txt"]
    assert pack.run("install.py", "--rebuild", **fake.variables()).returncode == 0
    assert pack.journal()["layers"] == ["base", "dev"]  # a rebuild keeps what was there


@posix
def test_a_broken_package_after_a_failed_addition_is_not_called_ready(pack: ScratchPack, fake: FakeUv, tmp_path: Path) -> None:
    assert pack.run("install.py", **fake.variables()).returncode == 0
    hanging = tmp_path / "hanging"
    (pack.env / "lib/python3.11/site-packages/thing.py").unlink()
    process = pack.start("install.py", "--layers", "dev", **fake.variables(FAKE_UV_HANG=str(hanging)))
    wait_for(hanging.exists)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and "interrupted" in err
    assert not pack.ready.exists()


@posix
@pytest.mark.parametrize("arguments", [["--rebuild"], ["--layers", "video"]])
def test_never_ready_with_a_file_missing(pack: ScratchPack, fake: FakeUv, arguments: list[str]) -> None:
    """A uv that ends well and has left a hole, as it does after it was killed once: in a first build, anew, in place."""
    first = pack.run("install.py", **fake.variables(FAKE_UV_HOLE="1"))
    assert first.returncode == 3 and "[E_ENV_BROKEN]" in first.stderr and "thing.py" in first.stderr and not pack.env.exists()
    assert pack.run("install.py", **fake.variables()).returncode == 0
    thing = pack.env / "lib/python3.11/site-packages/thing.py"
    if arguments != ["--rebuild"]:
        thing.write_text("cut short")
    done = pack.run("install.py", *arguments, **fake.variables(FAKE_UV_HOLE="1"))
    assert done.returncode == 3 and "[E_ENV_BROKEN]" in done.stderr
    assert pack.ready.exists() == (audit.audit(str(pack.env)).broken == [])
    assert pack.run("install.py", **fake.variables()).returncode == 0 and audit.audit(str(pack.env)).broken == []


@posix
def test_a_package_that_is_gone_with_its_list_is_missed(pack: ScratchPack, fake: FakeUv) -> None:
    """Nothing in the folder tells of it any more: the journal does."""
    assert pack.run("install.py", **fake.variables()).returncode == 0
    shutil.rmtree(pack.env / "lib/python3.11/site-packages")
    (pack.env / "lib/python3.11/site-packages").mkdir()
    assert audit.audit(str(pack.env)) == (0, [])
    assert pack.run("install.py", "doctor", **fake.variables()).returncode == 2
    done = pack.run("install.py", **fake.variables())
    assert done.returncode == 0 and "files are missing" in done.stdout and len(fake.installs()) == 2
    site = pack.env / "lib/python3.11/site-packages"
    (site / "thing-1.0.dist-info").rename(site / "thing-1.1.dist-info")  # another version, by the user's hand, is no hole
    (site / "thing-1.1.dist-info" / "RECORD").write_text("thing.py,,1\n")
    assert pack.run("install.py", **fake.variables()).returncode == 0 and len(fake.installs()) == 2


@posix
def test_an_addition_that_was_killed_costs_nothing(pack: ScratchPack, fake: FakeUv, tmp_path: Path) -> None:
    """What was there is whole: it is ready again, also where nothing can be fetched any more."""
    assert pack.run("install.py", **fake.variables()).returncode == 0
    hanging = tmp_path / "hanging"
    process = pack.start("install.py", "--layers", "dev", **fake.variables(FAKE_UV_HANG=str(hanging)))
    wait_for(hanging.exists)
    process.kill()
    os.kill(int(hanging.read_text()), signal.SIGKILL)
    process.communicate()
    assert not pack.ready.exists()
    done = pack.run("install.py", **fake.variables(FAKE_UV_FAIL=json.dumps({"pip": "error: dns error", "venv": "error: dns error"})))
    assert done.returncode == 0 and "is whole" in done.stdout, done.stdout + done.stderr
    assert pack.journal()["layers"] == ["base"]


@posix
def test_only_what_matters_makes_it_stale(pack: ScratchPack) -> None:
    pack.pretend_ready()
    state = lambda: journal.state(str(pack.root), ["base"])[0]  # noqa: E731
    project = (pack.root / "pyproject.toml").read_text()
    assert state() == "ready"
    pack.write("pyproject.toml", project.replace("line-length = 140", "line-length = 99"))
    assert state() == "ready"
    pack.write("environment/dev.txt", "another\n")
    assert state() == "ready"
    pack.write("environment/environment.yml", "of another profile\n")
    assert state() == "ready"
    for name in ("environment.cpu.yml", "constraints.cpu.txt", "requirements_env.txt", "base.txt"):
        text = (pack.root / "environment" / name).read_text()
        pack.write(f"environment/{name}", text + "# another\n")
        assert state() == "stale", name
        pack.write(f"environment/{name}", text)
    pack.write("pyproject.toml", re.sub(r'\nversion = "[^"]+"', '\nversion = "9.9.9"', project))
    assert state() == "stale"
    pack.write("pyproject.toml", project)
    assert state() == "ready"
    assert journal.state(str(pack.root), ["base", "dev"]) == ("lacks", "it lacks dev")
    moved = pack.root.with_name("moved")
    pack.root.rename(moved)
    assert journal.state(str(moved), ["base"]) == ("stale", "the folder was moved")
    for garbage in ("", "{", "[]", '{"schema": 99}'):
        (moved / "_env" / journal.READY).write_text(garbage)
        assert journal.state(str(moved), ["base"])[0] == "missing"


@posix
def test_two_at_once_build_once(pack: ScratchPack, fake: FakeUv) -> None:
    variables = fake.variables(FAKE_UV_SECONDS="1")
    both = [pack.start("install.py", **variables), pack.start("sam3d.py", "version", **variables)]
    said = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert len(fake.installs()) == 1
    assert sum("waiting for it" in out + err for out, err in said) == 1


@posix
def test_the_uv_of_a_killed_install_is_waited_for(pack: ScratchPack, fake: FakeUv, tmp_path: Path) -> None:
    hanging = tmp_path / "hanging"
    first = pack.start("install.py", **fake.variables(FAKE_UV_HANG=str(hanging)))
    wait_for(hanging.exists)
    first.kill()
    first.wait()
    second = pack.start("install.py", **fake.variables())
    assert second.stdout is not None and "waiting for it" in second.stdout.readline()
    assert second.poll() is None
    os.kill(int(hanging.read_text()), signal.SIGKILL)
    out, _ = second.communicate(timeout=60)
    first.communicate()
    assert second.returncode == 0 and "interrupted" in out and pack.ready.exists()


@posix
def test_a_folder_that_is_not_ours_is_left_alone(pack: ScratchPack, fake: FakeUv) -> None:
    pack.write("_env/precious.txt", "mine")
    done = pack.run("install.py", **fake.variables())
    assert done.returncode == 3 and "was not made by install.py" in done.stderr and "SAM3D_WORKER_PYTHON" in done.stderr
    assert (pack.env / "precious.txt").read_text() == "mine" and fake.calls() == []


@posix
def test_a_link_to_another_disk(pack: ScratchPack, fake: FakeUv, tmp_path: Path) -> None:
    pack.env.symlink_to(tmp_path / "big disk" / "_env")
    for arguments in ([], ["--rebuild"]):
        assert pack.run("install.py", *arguments, **fake.variables()).returncode == 0
    assert pack.env.is_symlink() and (tmp_path / "big disk" / "_env" / journal.READY).exists()


@posix
def test_a_folder_that_cannot_be_written(pack: ScratchPack, fake: FakeUv) -> None:
    pack.root.chmod(0o555)
    limited = [sys.executable, "-c", DROP_RIGHTS, user_python(), str(pack.root / "install.py")]
    try:
        done = subprocess.run(
            limited, capture_output=True, text=True, env={**os.environ, **{k: v for k, v in fake.variables().items() if v}}
        )
    finally:
        pack.root.chmod(0o755)
    if done.returncode == 77:
        pytest.skip("root can't give up its right to write everywhere here")
    assert done.returncode == 3
    assert "No permission to write" in done.stderr and "Traceback" not in done.stderr


DROP_RIGHTS = """
import ctypes, os, sys
if os.geteuid() == 0:  # root writes everywhere by a capability: give it up for what is started next
    libc = ctypes.CDLL(None)
    if any(libc.prctl(24, capability, 0, 0, 0) for capability in (1, 2)):
        sys.exit(77)
os.execv(sys.argv[1], sys.argv[1:])
"""


@posix
def test_a_full_disk_is_told_before_anything_is_done(pack: ScratchPack, fake: FakeUv, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAM3D_UV", str(fake.path))
    monkeypatch.setenv("FAKE_UV_LOG", str(fake.log))
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 10 * 2**20))  # type: ignore[attr-defined]
    with pytest.raises(errors.InstallError, match="The disk is full: about 650 MB") as caught:
        transaction.ensure(str(pack.root), settings.Settings(launcher=True), lambda line: None)
    assert caught.value.code == "E_DISK"
    assert fake.calls() == [] and not pack.env.exists()


def test_the_audit_sees_what_is_missing_or_cut_short(tmp_path: Path) -> None:
    site = tmp_path / ("Lib/site-packages" if os.name == "nt" else "lib/python3.11/site-packages")
    info = site / "thing-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "thing.py").write_text("abc")
    (info / "RECORD").write_text('thing.py,sha256=x,3\n"with, comma.py",,\nthing-1.0.dist-info/RECORD,,\n')
    assert audit.audit(str(tmp_path)) == (3, [str(site / "with, comma.py")])
    (site / "with, comma.py").touch()
    assert audit.audit(str(tmp_path)) == (3, [])
    (site / "thing.py").write_text("ab")
    assert audit.audit(str(tmp_path)) == (3, [str(site / "thing.py")])
    (info / "RECORD").unlink()
    assert audit.audit(str(tmp_path)) == (0, [str(info / "RECORD")])
