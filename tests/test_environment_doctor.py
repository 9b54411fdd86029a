"""What is said of an environment: by the audit of every file, by the doctor, by status; what uninstall takes away; who may change it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from comfyui_sam3d.environment import audit, doctor, journal, lock, probes, process, uninstall
from comfyui_sam3d.environment.errors import InstallError
from comfyui_sam3d.environment.settings import Settings
from comfyui_sam3d.worker import in_use

from .scratch_pack import FakeUv, ScratchPack, posix, user_python, wait_for

SITE = "Lib/site-packages" if os.name == "nt" else "lib/python3.12/site-packages"


def test_a_silent_tool_is_not_mistaken_for_a_dead_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "HEARTBEAT", 0.1)
    said: list[str] = []
    code = "import time; print('Downloading torch (846.8MiB)', flush=True); time.sleep(0.6)"
    assert process.run([sys.executable, "-c", code], log=str(tmp_path / "log"), say=said.append)[0] == 0
    assert said and all("s Downloading torch (846.8MiB)" in line for line in said[1:])
    before = len(said)
    time.sleep(0.3)
    assert len(said) == before  # it ends with the tool


# ------------------------------------------------------------------------------------------------------------------------------- every file


def conda_package(env: Path, name: str, files: dict[str, str], **special: dict[str, Any]) -> None:
    """A package as conda leaves it: the files, and its list of them."""
    entries = []
    for path, text in files.items():
        (env / path).parent.mkdir(parents=True, exist_ok=True)
        (env / path).write_text(text)
        entries.append({"_path": path, "path_type": "hardlink", "size_in_bytes": len(text), **special.get(path.replace("/", "_"), {})})
    (env / "conda-meta").mkdir(exist_ok=True)
    (env / "conda-meta" / f"{name}-1.0-0.json").write_text(
        json.dumps({"name": name, "files": list(files), "paths_data": {"paths": entries}})
    )


def test_condas_files_are_looked_for_too(tmp_path: Path) -> None:
    files = {
        f"{SITE}/a.py": "abc",
        f"{SITE}/a.pyc": "x",
        "bin/a": "#!PREFIX",
        f"{SITE}/a-1.0.dist-info/METADATA": "M",
        f"{SITE}/a-1.0.dist-info/RECORD": "gone.py,,\n",
    }
    conda_package(tmp_path, "a", files, bin_a={"prefix_placeholder": "/old"})
    assert audit.audit(str(tmp_path)) == (4, [])  # conda's own list counts, not the RECORD that the wheel had
    (tmp_path / f"{SITE}/a.pyc").unlink()
    (tmp_path / "bin/a").write_text("#!/a longer prefix")
    assert audit.audit(str(tmp_path)).broken == []
    (tmp_path / f"{SITE}/a.py").write_text("ab")
    assert audit.audit(str(tmp_path)).broken == [str(tmp_path / f"{SITE}/a.py")]
    (tmp_path / "conda-meta/b-1.0-0.json").write_text("{")
    assert len(audit.audit(str(tmp_path)).broken) == 2


def test_a_package_that_uv_put_in_the_place_of_condas(tmp_path: Path) -> None:
    conda_package(tmp_path, "a", {f"{SITE}/a.py": "abc", f"{SITE}/A-1.0.dist-info/METADATA": "M"})
    (tmp_path / f"{SITE}/A-1.0.dist-info/METADATA").unlink()
    (tmp_path / f"{SITE}/A-1.0.dist-info").rmdir()
    assert len(audit.audit(str(tmp_path)).broken) == 1
    new = tmp_path / f"{SITE}/a-2.0.dist-info"
    new.mkdir()
    (new / "RECORD").write_text("a.py,,3\n")
    assert audit.audit(str(tmp_path)) == (1, [])


def test_torch_put_in_anew_is_seen(tmp_path: Path) -> None:
    info = tmp_path / SITE / "torch-2.8.0.dist-info"
    info.mkdir(parents=True)
    before = audit.torch_builds(str(tmp_path))
    (info / "METADATA").write_text("x")
    assert len(before) == 1 and audit.torch_builds(str(tmp_path)) != before


# ---------------------------------------------------------------------------------------------------------------------------- every package


@pytest.fixture
def broken(tmp_path: Path) -> str:
    """A Python of its own whose packages misbehave, each in its own way."""
    subprocess.run([user_python(), "-m", "venv", "--without-pip", str(tmp_path / "env")], check=True)
    python = journal.env_python(str(tmp_path / "env"))
    site = Path(
        subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True, text=True
        ).stdout.strip()
    )
    for name, text in {
        "numpy": "print('{\"noise\": 1}')\n__version__ = '9'\n",
        "scipy": "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n" if os.name != "nt" else "import os\nos._exit(9)\n",
        "click": "raise ImportError('DLL load failed while importing core_cc: The specified module could not be found.')\n",
        "rich": "import os\nos._exit(7)\n",
        "torchvision": "raise RuntimeError('operator torchvision::nms does not exist')\n",
        "gsplat": "",
        "xatlas": "import time\ntime.sleep(60)\n",
    }.items():
        (site / name).mkdir()
        (site / name / "__init__.py").write_text(text)
    return python


@posix
def test_one_crash_hides_no_other(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {
        name: doctor.probe(broken, name, needed=True, deep=name == "gsplat")
        for name in ("numpy", "scipy", "click", "rich", "torchvision", "gsplat", "pillow")
    }
    assert {name: check.state for name, check in found.items()} == {
        "numpy": "ok", "scipy": "broken", "click": "broken", "rich": "broken", "torchvision": "broken", "gsplat": "note", "pillow": "absent",
    }  # fmt: skip
    assert found["numpy"].version == "9" and "SIGSEGV" in found["scipy"].text and "code 7" in found["rich"].text
    assert "Visual C++" in found["click"].hint and "repair" in found["torchvision"].hint
    assert "nvcc" in found["gsplat"].text and "C compiler" in found["gsplat"].hint
    monkeypatch.setattr(doctor, "TIMEOUT", 0.5)
    assert "doesn't answer within" in doctor.probe(broken, "xatlas", needed=False, deep=False).text
    assert "can't be run" in doctor.probe("/no/such/python", "numpy", needed=True, deep=False).text


def test_what_works_here() -> None:
    """The tiny pieces of work, in the Python that runs these tests."""
    names = ["numpy", "scipy", "pillow", "click", "rich", "pack"]
    assert {name: probes.probe(name, deep=True)["state"] for name in names} == dict.fromkeys(names, "ok")
    assert [name for layer in doctor.NEEDED for name in doctor.NEEDED[layer] if name not in probes.PACKAGES] == []
    assert set(doctor.NEEDED) == set(journal.LAYERS) and set(probes.DEEP) <= set(probes.PACKAGES)


@pytest.mark.parametrize(
    ("arch", "capability", "runs"),
    [
        ("sm_80", (8, 9), True), ("sm_86", (8, 0), False), ("sm_90", (9, 0), True), ("sm_90a", (9, 0), True), ("sm_90", (10, 0), False),
        ("sm_120", (12, 0), True), ("compute_90", (12, 0), True), ("compute_120", (9, 0), False), ("sm_90a", (9, 1), False),
    ],
)  # fmt: skip
def test_which_kernels_a_gpu_runs(arch: str, capability: tuple[int, int], runs: bool) -> None:
    assert probes._covers(arch, *capability) is runs


@posix
def test_the_doctor_of_an_environment(pack: ScratchPack, fake: FakeUv) -> None:
    nothing = pack.run("install.py", "doctor", **fake.variables())
    assert nothing.returncode == 2 and "it is not there" in nothing.stdout
    assert pack.run("install.py", "status", **fake.variables()).returncode == 1
    assert pack.run("install.py", **fake.variables()).returncode == 0
    fine = pack.run("install.py", "doctor", "--json", **fake.variables())
    assert fine.returncode == 0 and json.loads(fine.stdout)["exit"] == 0
    wrong = pack.run(
        "install.py", "doctor", **fake.variables(FAKE_PROBE='{"state": "broken", "version": "1", "text": "no kernel image is available"}')
    )
    assert wrong.returncode == 2 and "--profile cu128" in wrong.stdout
    pack.write("environment/base.txt", "another\n")
    stale = pack.run("install.py", "doctor", **fake.variables())
    assert stale.returncode == 0 and "what goes into it has changed" in stale.stdout
    status = pack.run("install.py", "status", **fake.variables())
    assert status.returncode == 1 and "stale" in status.stdout and status.stdout.rstrip().endswith(", ready")


@posix
def test_repair(pack: ScratchPack, fake: FakeUv) -> None:
    assert pack.run("install.py", "repair", **fake.variables()).returncode == 0
    assert len(fake.installs()) == 1
    assert "_env is ready\n" in pack.run("install.py", "repair", **fake.variables()).stdout and len(fake.installs()) == 1
    (pack.env / "lib/python3.11/site-packages/thing.py").unlink()
    done = pack.run("install.py", "repair", **fake.variables())
    assert done.returncode == 0 and "1 files are missing: building again" in done.stdout and len(fake.installs()) == 2
    (pack.env / "lib/python3.11/site-packages/thing.py").unlink()  # `install` looks at the files as well
    done = pack.run("install.py", **fake.variables())
    assert done.returncode == 0 and "files are missing" in done.stdout and len(fake.installs()) == 3


# --------------------------------------------------------------------------------------------------------------------------------- removal


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if "__pycache__" not in path.parts}


@posix
def test_uninstall_removes_what_was_made_and_nothing_else(tmp_path: Path, fake: FakeUv) -> None:
    pack = ScratchPack(tmp_path / "ein Päck mit Leerzeichen")
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("mine")
    before = tree(tmp_path)
    for _ in range(2):
        assert pack.run("install.py", "--rebuild", **fake.variables()).returncode == 0
    (pack.env / "link").symlink_to(precious)
    (pack.env / "read only").mkdir()
    (pack.env / "read only" / "file").write_text("x" * 1000)
    (pack.env / "read only" / "file").chmod(0o400)
    (pack.env / "read only").chmod(0o500)
    (pack.root / "_env.failed-20260101-000000").mkdir()
    (pack.root / "_tools" / "mamba" / "pkgs").mkdir(parents=True)
    (pack.root / "_tools" / "away").symlink_to(precious)
    done = pack.run("install.py", "uninstall", "--keep-cache", **fake.variables())
    assert done.returncode == 0 and "MB are free again" in done.stdout, done.stderr
    assert (pack.root / "_tools" / "mamba" / "pkgs").is_dir()
    (pack.root / "_tools" / "away").unlink()
    assert pack.run("install.py", "uninstall", **fake.variables()).returncode == 0
    assert tree(tmp_path) - {"uv.log"} == before and (precious / "thesis.txt").read_text() == "mine"
    assert pack.run("install.py", "status", **fake.variables()).returncode == 1


@posix
def test_a_cache_that_the_user_named_stays(pack: ScratchPack, fake: FakeUv, tmp_path: Path) -> None:
    """SAM3D_CACHE_DIR may be ~/.cache, whose uv/ is everybody's."""
    (tmp_path / "cache" / "uv").mkdir(parents=True)
    assert pack.run("install.py", **fake.variables(SAM3D_CACHE_DIR=str(tmp_path / "cache"))).returncode == 0
    done = pack.run("install.py", "uninstall", **fake.variables(SAM3D_CACHE_DIR=str(tmp_path / "cache")))
    assert done.returncode == 0 and "is left as it is" in done.stdout and (tmp_path / "cache" / "uv").is_dir()


@posix
def test_a_place_that_is_not_ours_gets_no_link(pack: ScratchPack, fake: FakeUv, tmp_path: Path) -> None:
    """A link to it would stay, and `uninstall` would ask for the folder's removal."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("mine")
    done = pack.run("install.py", "--env-dir", str(tmp_path / "home"), **fake.variables())
    assert done.returncode == 3 and "[E_FOREIGN]" in done.stderr and not pack.env.is_symlink()
    assert pack.run("install.py", **fake.variables()).returncode == 0


@posix
def test_errors_of_the_system_are_no_tracebacks(pack: ScratchPack, fake: FakeUv) -> None:
    pack.write(".sam3d_install", "a file where a folder should be")
    done = pack.run("install.py", "uninstall", **fake.variables())
    assert done.returncode == 3 and "[E_PERM]" in done.stderr and "Traceback" not in done.stderr


@posix
def test_who_waited_for_an_uninstall_holds_a_lock_that_counts(tmp_path: Path) -> None:
    taken, go_on = threading.Event(), threading.Event()

    def second() -> None:
        with lock.installer(str(tmp_path), lambda line: None):
            taken.set()
            go_on.wait(10)

    with lock.installer(str(tmp_path), lambda line: None):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.1)
        shutil.rmtree(tmp_path / ".sam3d_install")
    assert taken.wait(10)
    try:
        with pytest.raises(InstallError, match="running"), lock.installer(str(tmp_path), lambda line: None, wait=False):
            pass
    finally:
        go_on.set()
        thread.join()


@posix
def test_a_reader_that_goes_away_is_no_error(pack: ScratchPack) -> None:
    with pack.start("install.py", "plan", "--json") as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert (process.stderr.read(), process.wait(60)) == ("", 0)


@posix
def test_uninstall_leaves_what_is_not_ours(pack: ScratchPack, fake: FakeUv) -> None:
    pack.write("_env/precious.txt", "mine")
    done = pack.run("install.py", "uninstall", **fake.variables())
    assert done.returncode == 3 and "[E_FOREIGN]" in done.stderr and (pack.env / "precious.txt").exists()


@posix
def test_an_environment_elsewhere(pack: ScratchPack, fake: FakeUv, tmp_path: Path) -> None:
    """SAM3D_ENV_DIR: everybody else finds it at `_env`, and it goes away from there."""
    place = tmp_path / "short"
    assert pack.run("install.py", **fake.variables(SAM3D_ENV_DIR=str(place))).returncode == 0
    assert pack.env.is_symlink() and (place / journal.READY).exists() and pack.journal()["layers"] == ["base"]
    assert pack.run("install.py", **fake.variables()).stdout == "install: _env is ready\n"
    other = pack.run("install.py", "--env-dir", str(tmp_path / "third"), **fake.variables())
    assert other.returncode == 3 and "is there already" in other.stderr
    assert pack.run("install.py", "uninstall", **fake.variables()).returncode == 0
    assert not place.exists() and not pack.env.is_symlink()


def test_bytes_are_counted_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(1000))
    if os.name != "nt":
        os.link(tmp_path / "a", tmp_path / "b")
    assert uninstall._size(str(tmp_path)) == 1000


# ---------------------------------------------------------------------------------------------------------------------------- a worker runs


HOLD = "import sys; sys.prefix = sys.argv[1]; from comfyui_sam3d.worker.in_use import hold; hold(); print('held', flush=True); sys.stdin.readline()"


@posix
def test_nothing_is_changed_under_a_worker(pack: ScratchPack, fake: FakeUv) -> None:
    assert pack.run("install.py", **fake.variables()).returncode == 0
    before = pack.journal()
    workers = [
        subprocess.Popen([sys.executable, "-c", HOLD, str(pack.env)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for worker in workers:
        assert worker.stdout is not None and worker.stdout.readline() == "held\n"  # several at once
    for arguments in (["--rebuild"], ["--layers", "dev"], ["uninstall"]):
        done = pack.run("install.py", *arguments, **fake.variables())
        assert done.returncode == 75 and "[E_IN_USE]" in done.stderr and "ComfyUI" in done.stderr
    assert pack.run("install.py", **fake.variables()).returncode == 0 and pack.journal() == before  # nothing to do: nobody is disturbed
    workers[0].communicate("\n")
    assert pack.run("install.py", "--rebuild", **fake.variables()).returncode == 75
    workers[1].send_signal(signal.SIGKILL)
    workers[1].communicate()
    wait_for(lambda: pack.run("install.py", "--rebuild", **fake.variables()).returncode == 0)


def test_an_interpreter_that_is_not_ours_is_not_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert in_use.IN_USE == lock.IN_USE and in_use.READY == journal.READY
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    in_use.hold()
    assert list(tmp_path.iterdir()) == []
    with lock.unused(str(tmp_path / "nothing")):
        pass
    with (
        lock.installer(str(tmp_path), lambda line: None),
        pytest.raises(InstallError, match="process"),
        lock.installer(str(tmp_path), lambda line: None, wait=False),
    ):
        pass
    assert Settings().wait
