"""The transaction that ends with a ready `_env/`, or leaves the one that was there.

    lock -> (recover from a killed run) -> is it ready? -> set the old one aside -> venv -> packages -> audit -> journal -> old one away

* The journal is written last. An environment without it is wiped and built again, never continued: uv takes half-installed packages for
  installed ones. From a warm package cache that costs seconds.
* Adding a layer to a ready environment is done in place, with its journal out of the way meanwhile.
* The lock is the operating system's and ends with its process; uv holds it too (uv.run), so a killed launcher's uv isn't overtaken.
* Only folders that this module made are ever deleted.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from . import journal, torch_build, uv
from .uv import InstallError, Say

PYTHONS = ((3, 10), (3, 13))
_MEGABYTES = {"base": 400, "model": 1500, "video": 250, "server": 300, "dev": 700}  # needed on the disk, unpacked
_CUDA_MEGABYTES = 12000  # of the registry's torch for Linux: 6 GB in the environment, as much in a cache that can't share its files


def ensure(root: str, layers: tuple[str, ...], say: Say, *, rebuild: bool = False) -> None:
    """Make `_env/` of the pack at `root` ready with at least `layers`; does nothing, quickly, when it is.

    say: takes one line of progress. Raises InstallError for everything that can be expected to go wrong.
    """
    env = journal.env_dir(root)
    if not rebuild and journal.state(root, layers)[0] == "ready" and not os.path.isdir(env + ".prev"):
        say("_env is ready")
        return
    try:
        with _lock(root, say) as lock:
            _Build(root, say, lock).run(layers, rebuild)
    except PermissionError as error:
        raise InstallError(f"No permission to write {error.filename or root}.", "Check who owns the pack's folder.") from None
    except OSError as error:
        raise InstallError(
            f"{error.strerror or error}: {error.filename or root}.", "Check the disk and the rights of the pack's folder."
        ) from None


class _Build:
    def __init__(self, root: str, say: Say, lock: int) -> None:
        self.root, self.say, self.lock = root, say, lock
        self.env = journal.env_dir(root)
        self.previous = self.env + ".prev"
        self.log = os.path.join(root, "install.log")

    def run(self, layers: tuple[str, ...], rebuild: bool) -> None:
        self._recover()
        state, why = journal.state(self.root, layers)
        if state == "ready" and not rebuild:
            self.say("_env is ready")
            return
        began = time.perf_counter()
        wanted = set(layers) | set(self._layers())
        wanted_in_order = [layer for layer in journal.LAYERS if layer in wanted]
        extend = state == "lacks" and not rebuild
        self.say(f"{'completing' if extend else 'building'} _env: {'as asked' if rebuild else why}")
        self.say(f"   layers {', '.join(wanted_in_order)}; profile {journal.PROFILE}")
        if shutil.which("nvidia-smi"):
            self.say("   an NVIDIA GPU is seen, but the profiles for GPUs are not built yet: this environment computes on the CPU")
        with open(self.log, "w", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {platform.platform()} Python {platform.python_version()} {why}\n")
        with self._phase("uv"):
            tool = uv.find(self.root, self.say)
            self.say(f"      {tool.version}, from {tool.source}")
        if extend:
            self._extend(tool, wanted_in_order)
        else:
            self._replace(tool, wanted_in_order)
        self.say(f"_env is ready ({time.perf_counter() - began:.1f} s)")

    def _layers(self) -> list[str]:
        return [layer for layer in (journal.read(self.env) or {}).get("layers", []) if layer in journal.LAYERS]

    def _recover(self) -> None:
        """After a killed run: the half-built environment goes, a finished one that was set aside comes back."""
        if journal.read(self.env) is None:
            if os.path.isdir(self.env) and os.listdir(self.env):
                ours = any(name.startswith(".sam3d_") for name in os.listdir(self.env))
                if not ours:
                    raise InstallError(
                        f"{self.env} is there, but was not made by install.py.", "Move it away, or set SAM3D_WORKER_PYTHON to its Python."
                    )
                self.say("   the last build was interrupted: its remains are removed")
            if journal.read(self.previous) is not None:
                self._remove(self.env)
                os.rename(self.previous, self.env)
        self._remove(self.previous)
        self._remove(self.env + ".trash")

    def _replace(self, tool: uv.Uv, layers: list[str]) -> None:
        """Build from nothing in `_env/`; the old environment is set aside, and comes back if that fails."""
        self._check_space(layers)
        if journal.read(self.env) is not None:
            os.rename(self.env, self.previous)
        else:
            self._remove(self.env)
        try:
            os.makedirs(self.env)
            self._write({"layers": []}, journal.BUILDING)
            with self._phase("Python"):
                self._venv(tool)
            self._install(tool, layers, torch_from="")
        except BaseException:
            self._remove(self.env)
            if os.path.isdir(self.previous):
                os.rename(self.previous, self.env)
                self.say("   the environment that was there before is back")
            raise
        self._remove(self.previous)

    def _venv(self, tool: uv.Uv) -> None:
        python = base_python()
        self.say(f"      {python}")
        try:
            uv.run(
                tool, ["venv", "--allow-existing", "--no-project", "--python", python, self.env], log=self.log, say=_silent, lock=self.lock
            )
        except InstallError as error:
            if os.path.isabs(python):
                raise
            raise InstallError(
                f"The Python that runs this ({platform.python_version()}, {sys.executable}) can't carry the environment, and uv got no other:\n{error.message}",
                "Run install.py with a full Python 3.10 to 3.13, for example: python3.12 install.py",
            ) from None

    def _extend(self, tool: uv.Uv, layers: list[str]) -> None:
        """Add layers in place. If that fails and what was there is whole, the environment is as ready as before."""
        record = journal.read(self.env) or {}
        self._check_space([layer for layer in layers if layer not in record.get("layers", [])])
        had = journal.packages(self.env)
        ready, building = (os.path.join(self.env, name) for name in (journal.READY, journal.BUILDING))
        os.replace(ready, building)
        try:
            self._install(tool, layers, torch_from=record.get("torch", ""))
        except BaseException:
            if had <= journal.packages(self.env) and not journal.audit(self.env)[1]:
                os.replace(building, ready)
            raise

    def _install(self, tool: uv.Uv, layers: list[str], torch_from: str) -> None:
        python = journal.env_python(self.env)
        version = self._ask(python, "import sys; print(*sys.version_info[:3], sep='.')")
        if "model" in layers and not torch_from:
            with self._phase("torch"):
                torch_from = self._install_torch(tool, python, version)
                self.say(f"      the build of torch comes from {torch_from}")
        with self._phase("packages"):
            args = ["pip", "install", "--python", python, "--only-binary", ":all:"]
            for layer in layers:
                args += ["--requirements", os.path.join(self.root, "environment", layer + ".txt")]
            self._uv(tool, [*args, *uv.index_flags(dict(os.environ)), "--editable", self.root])
        with self._phase("check"):
            count, broken = journal.audit(self.env)
            if broken:
                raise InstallError(
                    f"{len(broken)} of {count} installed files are missing or cut short, the first: {broken[0]}",
                    "Run the same command again.",
                )
            self._ask(python, "import comfyui_sam3d, numpy, scipy, PIL")
            self.say(f"      {count} files in place")
        self._write(
            {
                "layers": layers,
                "profile": journal.PROFILE,
                "python": version,
                "torch": torch_from,
                "uv": tool.version,
                "pack": self._pack_version(),
                "root": self.root,
                "inputs_sha256": journal.inputs_sha256(self.root, layers),
            },
            journal.READY,
        )
        with contextlib.suppress(OSError):
            os.remove(os.path.join(self.env, journal.BUILDING))

    def _install_torch(self, tool: uv.Uv, python: str, version: str) -> str:
        major, minor = (int(part) for part in version.split(".")[:2])
        for where, args in torch_build.sources(self.root, (major, minor), self.say):
            try:
                uv.run(
                    tool,
                    ["pip", "install", "--python", python, "--no-deps", "--only-binary", ":all:", *args],
                    log=self.log,
                    say=self.say,
                    lock=self.lock,
                )
                return where
            except InstallError as error:
                self.say(f"      not from {where}: {error.message.splitlines()[0]}")
        if sys.platform == "linux":
            self._check_space(["torch with CUDA"], _CUDA_MEGABYTES)
            self.say("      no CPU build to be had: the registry's build brings the CUDA libraries along (about 5 GB)")
        return "the package registry"

    def _uv(self, tool: uv.Uv, args: list[str]) -> None:
        """uv, and once more from its cache alone where the registry can't be reached."""
        try:
            uv.run(tool, args, log=self.log, say=self.say, lock=self.lock)
        except InstallError as error:
            if not error.network:
                raise
            self.say("      the package registry can't be reached: trying with what the package cache holds")
            try:
                uv.run(tool, [*args, "--offline"], log=self.log, say=self.say, lock=self.lock)
            except InstallError:
                raise error from None

    def _ask(self, python: str, code: str) -> str:
        """What `python -c code` prints; a fault of the new environment is ours to report."""
        done = subprocess.run(
            [python, "-I", "-c", code],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env=uv.child_environment(dict(os.environ)),
        )
        if done.returncode:
            raise InstallError(
                "The new environment doesn't work:\n      " + (done.stderr.strip().splitlines() or ["?"])[-1],
                f"The whole output: {self.log}",
            )
        return done.stdout.strip()

    def _pack_version(self) -> str:
        with open(os.path.join(self.root, "contract", "version.py"), encoding="utf-8") as file:
            found = re.search(r'VERSION = "([^"]+)"', file.read())
        return found[1] if found else ""

    def _write(self, record: dict[str, Any], name: str) -> None:
        journal.write(self.env, {"schema": journal.SCHEMA, "pid": os.getpid(), "at": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **record}, name)

    def _check_space(self, what: list[str], megabytes: int = 0) -> None:
        os.makedirs(os.path.dirname(self.env), exist_ok=True)  # where a link named _env may lead
        need = megabytes or sum(_MEGABYTES[layer] for layer in what)
        free = shutil.disk_usage(os.path.dirname(self.env)).free // 2**20
        if free < need:
            raise InstallError(
                f"The disk is full: about {need} MB are needed for {', '.join(what)}, {free} MB are free.", "Free some space."
            )

    def _remove(self, folder: str) -> None:
        """Out of the way in one step, then deleted: what is half deleted never looks like an environment."""
        if not os.path.isdir(folder):
            return
        trash = self.env + ".trash"
        if folder != trash:
            shutil.rmtree(trash, ignore_errors=True)
            os.rename(folder, trash)
        shutil.rmtree(trash, onerror=_writable_and_again)

    @contextlib.contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        self.say(f"   {name}")
        began = time.perf_counter()
        yield
        self.say(f"      {time.perf_counter() - began:.1f} s")


def base_python() -> str:
    """The Python that the environment is made from: the running one (of a venv, the one below), or a version that uv shall find.

    The embeddable Python of Windows packages (it has a `._pth` file) can't carry environments, and a host may run a Python that is too old
    or too new for our packages.
    """
    executable = getattr(sys, "_base_executable", None) or sys.executable
    embedded = any(name.endswith("._pth") for name in os.listdir(os.path.dirname(executable)))
    if PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1] and not embedded:
        return executable
    return f"{PYTHONS[0][0]}.{PYTHONS[0][1] + 2}"


def _silent(line: str) -> None:
    pass


def _writable_and_again(function: Callable[[str], object], path: str, _: object) -> None:
    """Read-only files stop rmtree on Windows."""
    os.chmod(path, 0o700)
    function(path)


@contextlib.contextmanager
def _lock(root: str, say: Say) -> Iterator[int]:
    """An exclusive lock on this pack's environment; waits for another holder, and says so."""
    folder = os.path.join(root, ".sam3d_install")
    os.makedirs(folder, exist_ok=True)
    handle = os.open(os.path.join(folder, "lock"), os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if not _try_lock(handle):
            say("another install of this pack is running: waiting for it")
            while not _try_lock(handle):
                time.sleep(0.2)
        yield handle
    finally:
        os.close(handle)  # which also lets go of the lock


def _try_lock(handle: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True
