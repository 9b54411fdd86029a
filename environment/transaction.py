"""The transaction that ends with a ready `_env/`, or leaves the one that was there.

    lock -> (recover from a killed run) -> is it ready? -> checks -> tools -> solve -> set the old one aside -> Python -> packages -> audit -> doctor
         -> journal -> old one away

* The journal is written last. An environment without it is wiped and built again, never continued: uv takes half-installed packages for
  installed ones. From warm caches that costs seconds.
* It is built where it will stay: conda writes its place into its files. The old one waits beside it under another name, whole.
* Adding a layer or an optional package to a ready environment is done in place, with its journal out of the way meanwhile.
* Only folders that this module made are ever deleted.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import subprocess
import time
from typing import Any

from . import audit, checks, doctor, engines, journal, packages, profiles, uv
from .errors import InstallError
from .folders import is_ours, place, remove, rename
from .host import Host, look
from .lock import installer, unused
from .process import Say, child_environment, mask
from .settings import Settings
from .steps import Steps

_CUDA_MEGABYTES = 12000  # of the registry's torch for Linux: 6 GB in the environment, as much in a cache that can't share its files


def ensure(root: str, settings: Settings, say: Say, host: Host | None = None) -> None:
    """Make `_env/` of the pack at `root` ready as `settings` asks; does nothing, quickly, when it is.

    say: takes one line of progress. host: another machine than this one, for tests. Raises InstallError for everything that can be expected to go wrong.
    """
    try:
        place(root, settings)
        host = host or look()
        if not settings.rebuild and not os.path.isdir(journal.env_dir(root) + ".prev") and is_ready(root, settings, host):
            say("_env is ready")
            return
        with installer(root, say, wait=settings.wait) as lock:
            Build(root, settings, host, say, lock).run()
    except PermissionError as error:
        raise InstallError("E_PERM", f"No permission to write {error.filename or root}.") from None
    except OSError as error:
        raise InstallError(
            "E_PERM", f"{error.strerror or error}: {error.filename or root}.", "Check the disk and the rights of the pack's folder."
        ) from None


def is_ready(root: str, settings: Settings, host: Host) -> bool:
    """Whether what is there is what is asked for, with every file in place (the launcher, which runs at every start, trusts the journal)."""
    had = journal.read(journal.env_dir(root))
    profile, _ = profiles.choose(root, settings, host, had)
    if journal.state(root, wanted_layers(profile, settings), profile.name, wanted_extras(profile, settings, host))[0] != "ready":
        return False
    env = journal.env_dir(root)
    return settings.launcher or not (audit.gone(env, had or {}) or audit.audit(env).broken)


def wanted_layers(profile: profiles.Profile, settings: Settings) -> list[str]:
    """The layers of the profile (of the launcher: base alone) and those that were asked for, in order."""
    unknown = [layer for layer in settings.layers if layer not in journal.LAYERS]
    if unknown:
        raise InstallError("E_USAGE", f"There is no layer {unknown[0]!r}.", f"--layers: choose out of {', '.join(journal.LAYERS)}.")
    brought = ["base"] if settings.launcher else profile.data["layers"]
    return [layer for layer in journal.LAYERS if layer in (*brought, *settings.layers)]


def wanted_extras(profile: profiles.Profile, settings: Settings, host: Host) -> list[str]:
    """The optional packages that the profile brings on this system and those that were asked for."""
    brought = [] if settings.launcher else profile.data.get("with", {}).get(host.system, [])
    return [name for name in dict.fromkeys((*brought, *settings.extras)) if name not in settings.without]


def wanted(root: str, profile: profiles.Profile, settings: Settings, host: Host, had: dict[str, Any]) -> tuple[list[str], list[str]]:
    """(layers, optional packages): what was asked for, and what is there already (`had`, its journal) as far as the profile has it."""
    kept = [layer for layer in had.get("layers", []) if layer in journal.LAYERS]
    known = profiles.extras(root, profile.name, host.system)
    also = [name for name in had.get("with", []) if known.get(name)]
    return (
        wanted_layers(profile, settings._replace(layers=(*settings.layers, *kept))),
        wanted_extras(profile, settings._replace(extras=(*settings.extras, *also)), host),
    )


class Build:
    def __init__(self, root: str, settings: Settings, host: Host, say: Say, lock: int) -> None:
        self.root, self.settings, self.host, self.say, self.lock = root, settings, host, say, lock
        self.env = journal.env_dir(root)
        self.previous = self.env + ".prev"
        self.log = os.path.join(root, "install.log")
        self.steps = Steps(root, say)
        self.profile = profiles.load(root, "cpu")
        self.interrupted: dict[str, Any] = {}  # what an environment was, whose completion was killed
        self.asked = "auto"  # the profile, where it was named: a later run without a name keeps it
        self.layers: list[str] = []
        self.extras: list[str] = []

    def run(self) -> None:
        self._recover()
        if not self.settings.rebuild and is_ready(self.root, self.settings, self.host):
            self.say("_env is ready")
            return
        began = time.perf_counter()
        try:
            self._work()
        except InstallError as error:
            self.steps.failed(error)
            raise
        except BaseException:
            self.steps.failed(None)
            raise
        self.say(f"_env is ready ({time.perf_counter() - began:.1f} s)")

    def _work(self) -> None:
        there = journal.read(self.env) or {}
        had = there or self.interrupted
        self.profile, why = profiles.choose(self.root, self.settings, self.host, had)
        if self.settings.profile in ("", "auto"):
            self.asked = had.get("asked", "auto") if not self.settings.profile and had.get("profile") == self.profile.name else "auto"
        else:
            self.asked = self.profile.name
        self.layers, self.extras = wanted(self.root, self.profile, self.settings, self.host, had)
        state, reason = journal.state(self.root, self.layers, self.profile.name, self.extras)
        extend = state == "lacks" and not self.settings.rebuild
        if state == "ready":
            reason = "as asked" if self.settings.rebuild else "files are missing"
        self._begin(reason)
        self.say(f"{'completing' if extend else 'building'} _env: {reason}")
        self.say(f"   profile {self.profile.name}: {why}")
        self.say(f"   layers {', '.join(self.layers)}" + (f"; with {', '.join(self.extras)}" if self.extras else ""))
        self.steps.done("planned", profile=self.profile.name, layers=self.layers, extras=self.extras)
        new = [layer for layer in self.layers if not extend or layer not in had.get("layers", [])]
        self._check(new, extend)
        with unused(self.env):
            if extend:
                self._extend(there)
            else:
                self._replace(there)

    def _begin(self, reason: str) -> None:
        """A new log; the last three are kept."""
        for number in (2, 1):
            with contextlib.suppress(OSError):
                os.replace(f"{self.log}.{number}", f"{self.log}.{number + 1}")
        with contextlib.suppress(OSError):
            os.replace(self.log, f"{self.log}.1")
        with open(self.log, "w", encoding="utf-8") as file:
            file.write(
                f"{time.strftime('%Y-%m-%d %H:%M:%S')} {platform.platform()} Python {platform.python_version()}: {reason}\n{self.host}\n"
            )

    def _check(self, new: list[str], extend: bool) -> None:
        need = checks.megabytes(self.profile, new)
        need -= self.profile.data["disk_mb"]["python"] if extend else 0
        findings = checks.look(self.host, self.profile, self.env, need, self.settings)
        for finding in findings:
            if finding.severity != "error":
                self.say(f"   {finding.severity}: {finding.text} {finding.hint}".rstrip())
        checks.refuse(findings)
        packages.extras_args(self.root, self.profile, "", self.extras, self.host.system, self.settings)  # a name that isn't one is told now
        self.steps.done("prechecked")

    # ------------------------------------------------------------------------------------------------------------------- from nothing

    def _replace(self, had: dict[str, Any]) -> None:
        """Build from nothing in `_env/`; the old environment is set aside, and comes back if that fails."""
        with self.steps.phase("tools"):
            engine, said = self._engine(had)
            if engine.name != "uv":
                self.say(f"      {said}")
            tool = self._tool(engine)
            self.say(f"      uv {tool.version}, from {tool.source}")
        self.steps.done("tool_ready", engine=engine.name, tool=mask(said))
        if engine.name != "uv":
            with self.steps.phase("solve"):
                engine.solve()
        self.steps.done("solved")
        if had:
            rename(self.env, self.previous)
        else:
            self._remove(self.env)
        self.steps.building(self.env)
        try:
            with self.steps.phase("Python"):
                engine.create()
                self._write({"layers": []}, journal.BUILDING)
            self.steps.done("python_done")
            self._install(tool, {"engine": engine.name, "tool": mask(said)})
        except BaseException:
            self._give_back()
            raise
        self._remove(self.previous)

    def _engine(self, had: dict[str, Any]) -> tuple[engines.Engine, str]:
        job = engines.Job(self.root, self.env, self.profile, self.host, self.settings, self.log, self.say, self.lock)
        named = self.settings.engine
        if not named and self.settings.launcher:
            named = had.get("engine", "") if had.get("profile") == self.profile.name else ""
            named = named or ("uv" if "uv" in self.profile.engines else "auto")
        return engines.prepare(job, named)

    def _tool(self, engine: engines.Engine) -> uv.Uv:
        """uv; where there is none and no pip to fetch it (a bare container), the conda engine brings it."""
        try:
            return uv.find(self.root, self.say, offline=self.settings.offline)
        except InstallError as error:
            if error.code != "E_UV_NOT_FOUND" or engine.name in ("uv", "rattler") or os.environ.get("SAM3D_UV"):
                raise
            self.say("      no pip here either: taking uv from conda-forge")
            remove(uv.conda_target(self.root), uv.conda_target(self.root) + ".trash")
            engine.bring("uv", uv.conda_target(self.root))
            found = uv.locate(self.root)
            if not found:
                raise
            return found

    def _give_back(self) -> None:
        if self.settings.keep_failed and os.path.isdir(self.env):
            kept = f"{self.env}.failed-{time.strftime('%Y%m%d-%H%M%S')}"
            rename(self.env, kept)
            self.say(f"   what was built is kept in {kept}")
        self._remove(self.env)
        if os.path.isdir(self.previous):
            rename(self.previous, self.env)
            self.say("   the environment that was there before is back")
        self.steps.building("")

    # ----------------------------------------------------------------------------------------------------------------------- in place

    def _extend(self, record: dict[str, Any]) -> None:
        """Add layers or optional packages in place. If that fails and what was there is whole, the environment is as ready as before."""
        with self.steps.phase("tools"):
            tool = uv.find(self.root, self.say, offline=self.settings.offline)
            self.say(f"      uv {tool.version}, from {tool.source}")
        self.steps.done("tool_ready")
        had = audit.packages(self.env)
        ready, building = (os.path.join(self.env, name) for name in (journal.READY, journal.BUILDING))
        os.replace(ready, building)
        try:
            self._install(tool, {key: record.get(key, "") for key in ("engine", "tool", "torch")})
        except BaseException:
            if os.path.exists(building) and had <= audit.packages(self.env) and not audit.audit(self.env).broken:
                os.replace(building, ready)
            raise

    # ----------------------------------------------------------------------------------------------------------------------- packages

    def _install(self, tool: uv.Uv, facts: dict[str, Any]) -> None:
        """What uv brings, then whether all of it is there and works, then the journal."""
        python = journal.env_python(self.env)
        version = self._ask(python, "import sys; print(*sys.version_info[:3], sep='.')")
        if "model" in self.layers and not facts.get("torch"):
            if self.profile.data.get("torch_by") == "conda":
                facts["torch"] = "conda"
            else:
                with self.steps.phase("torch"):
                    facts["torch"] = self._install_torch(tool, python, version)
                    self.say(f"      the build of torch comes from {facts['torch']}")
        builds = audit.torch_builds(self.env)
        with self.steps.phase("packages"):
            self._uv(tool, packages.layers_args(self.root, self.profile, python, self.layers))
        self.steps.done("packages_done")
        args = packages.extras_args(self.root, self.profile, python, self.extras, self.host.system, self.settings)
        if args:
            with self.steps.phase(f"optional: {', '.join(self.extras)}"):
                self._uv(tool, args)
        self.steps.done("extras_done")
        if builds and audit.torch_builds(self.env) != builds:
            raise InstallError("E_TORCH_REPLACED", f"A package has put another torch in the place of the one from {facts['torch']}.")
        with self.steps.phase("check"):
            self._audit()
            doctor.check_new(self.env, self.layers, self.extras, self.profile.cuda)
        self.steps.done("doctored")
        self._write(
            {
                "layers": self.layers,
                "profile": self.profile.name,
                "asked": self.asked,
                "with": self.extras,
                **facts,
                "python": version,
                "uv": tool.version,
                "pack": self._pack_version(),
                "packages": sorted(audit.lists(self.env)),
                "root": self.root,
                "inputs_sha256": journal.inputs_sha256(self.root, self.layers, self.profile.name),
            },
            journal.READY,
        )
        with contextlib.suppress(OSError):
            os.remove(os.path.join(self.env, journal.BUILDING))
        self.steps.done("ready")

    def _audit(self) -> None:
        count, broken = audit.audit(self.env)
        if broken:
            text = f"{len(broken)} of {count} installed files are missing or cut short, the first: {broken[0]}"
            raise InstallError("E_ENV_BROKEN", text, "Run the same command again.")
        self.say(f"      {count} files in place")
        self.steps.done("audited", files=count)

    def _install_torch(self, tool: uv.Uv, python: str, version: str) -> str:
        major, minor = (int(part) for part in version.split(".")[:2])
        for where, args in packages.torch_sources(
            self.root, self.profile, python, (major, minor), self.host.system, self.settings, self.say
        ):
            try:
                uv.run(tool, args, log=self.log, say=self.say, lock=self.lock, offline=self.settings.offline)
                return where
            except InstallError as error:
                self.say(f"      not from {where}: {error.message.splitlines()[0]}")
        packages.registry_torch(self.profile, self.host.system)
        if self.host.system.startswith("linux") and not self.profile.cuda:
            free = shutil.disk_usage(checks.existing(self.env)).free // 2**20
            if free < _CUDA_MEGABYTES:
                raise InstallError(
                    "E_DISK", f"The disk is full: about {_CUDA_MEGABYTES} MB are needed for torch with CUDA, {free} MB are free."
                )
            self.say("      no CPU build to be had: the registry's build brings the CUDA libraries along (about 5 GB)")
        return "the package registry"

    def _uv(self, tool: uv.Uv, args: list[str]) -> None:
        """uv, and once more from its cache alone where the registry can't be reached."""
        offline = self.settings.offline
        try:
            uv.run(tool, args, log=self.log, say=self.say, lock=self.lock, offline=offline)
        except InstallError as error:
            if not error.network or offline:
                raise
            self.say("      the package registry can't be reached: trying with what the package cache holds")
            try:
                uv.run(tool, args, log=self.log, say=self.say, lock=self.lock, offline=True)
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
            env=child_environment(dict(os.environ)),
        )
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["?"])[-1]
            raise InstallError("E_ENV_BROKEN", f"The new environment's Python doesn't work:\n      {said}", f"The whole output: {self.log}")
        return done.stdout.strip()

    def _pack_version(self) -> str:
        with open(os.path.join(self.root, "contract", "version.py"), encoding="utf-8") as file:
            found = re.search(r'VERSION = "([^"]+)"', file.read())
        return found[1] if found else ""

    def _write(self, record: dict[str, Any], name: str) -> None:
        journal.write(self.env, {"schema": journal.SCHEMA, "pid": os.getpid(), "at": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **record}, name)

    # ------------------------------------------------------------------------------------------------------------------------ folders

    def _recover(self) -> None:
        """After a killed run: the half-built environment goes, a finished one that was set aside comes back. One that was being added to stays
        where nothing of it is missing or of another version; what was to be added is asked of uv again."""
        if journal.read(self.env) is None:
            if os.path.isdir(self.env) and os.listdir(self.env):
                if not is_ours(self.root, self.env):
                    raise InstallError("E_FOREIGN", f"{self.env} is there, but was not made by install.py.")
                self.interrupted = journal.read(self.env, journal.BUILDING) or {}
                had = set(self.interrupted.get("packages", ()))
                if had and had <= audit.lists(self.env) and not audit.audit(self.env).broken:
                    self.say("   the last run was interrupted while it added something: what was there before is whole")
                    os.replace(os.path.join(self.env, journal.BUILDING), os.path.join(self.env, journal.READY))
                else:
                    self.say("   the last build was interrupted: its remains are removed")
                    self._remove(self.env)
            if journal.read(self.env) is None and journal.read(self.previous) is not None:
                self._remove(self.env)
                rename(self.previous, self.env)
        self._remove(self.previous)
        self._remove(self.env + ".trash")

    def _remove(self, folder: str) -> None:
        """Out of the way in one step, then deleted: what is half deleted never looks like an environment."""
        remove(folder, self.env + ".trash")
