"""What makes the environment's Python, and the conda packages where a profile has some: four engines behind one interface.

    micromamba   one executable: found, or fetched (micromamba.py); the promised one
    conda        an existing conda 23.10 or later (conda.py)
    rattler      py-rattler from the package registry: a real conda solver where no executable may be fetched (rattler.py)
    uv           no conda at all: a Python that is there, for profiles whose conda packages are Python alone (uv_venv.py)

Each goes the same way: find (is it here?) -> prepare (get it) -> solve (can it be done? nothing is changed) -> create (make the prefix).
"""

from __future__ import annotations

import os
from typing import NamedTuple

from .. import download
from ..errors import InstallError
from ..host import Host
from ..process import Say, run
from ..profiles import Profile
from ..settings import Settings

NAMES = ("micromamba", "conda", "rattler", "uv")


class Job(NamedTuple):
    """What an engine is to make, and with what."""

    root: str  # of the pack
    env: str  # the prefix; it isn't there before `create`
    profile: Profile
    host: Host
    settings: Settings
    log: str
    say: Say
    lock: int | None = None

    @property
    def channels(self) -> list[str]:
        return self.profile.channel_urls(self.settings.channels)

    @property
    def cache(self) -> str:
        """Where conda's packages are kept: beside the environment's tools, so that an uninstall takes them along."""
        return os.path.join(self.settings.cache_dir or os.path.join(self.root, "_tools"), "mamba")

    @property
    def variables(self) -> dict[str, str]:
        """A solve for a CUDA profile must not depend on the machine: an image is built where no GPU is."""
        cuda = os.environ.get("CONDA_OVERRIDE_CUDA") or self.profile.cuda
        return {"CONDA_OVERRIDE_CUDA": cuda} if cuda else {}


class Engine:
    """One way to make the prefix. `argv` is what `plan` shows and what `create` runs."""

    name = ""

    def __init__(self, job: Job) -> None:
        self.job = job

    def find(self) -> str | None:
        """Where the tool is on this machine; None where it would have to be fetched, or can't be had."""
        raise NotImplementedError

    def prepare(self) -> str:
        """Get the tool ready; its version and where it came from, for people. Raises InstallError."""
        raise NotImplementedError

    def argv(self, *, dry_run: bool = False) -> list[str]:
        """The command line that creates the prefix, or with dry_run only finds out whether it could."""
        raise NotImplementedError

    def solve(self) -> None:
        """Raises InstallError where the packages can't be had together. The environment that is there isn't touched yet."""
        self._run(self.argv(dry_run=True))

    def create(self) -> None:
        """Make the prefix. Raises InstallError; what is there then is the caller's to remove."""
        self._run(self.argv())
        if not python_of(self.job.env, self.job.host.system):
            raise InstallError("E_CONDA", f"{self.name} ended without an error, but there is no Python in {self.job.env}.")

    def downloads(self) -> list[dict[str, str]]:
        """What `prepare` would fetch, for the plan."""
        return []

    def bring(self, spec: str, folder: str) -> None:
        """One program from conda-forge, into a folder of its own beside the environment."""
        profile = self.job.profile._replace(channels=("conda-forge",), specs=(spec,))
        other = type(self)(self.job._replace(env=folder, profile=profile))
        other.prepare()
        other._run(other.argv())

    def _run(self, argv: list[str], text: str = "") -> str:
        from ..errors import explain

        code, said = run(argv, log=self.job.log, say=self.job.say, tells=TELLS, lock=self.job.lock, variables=self.job.variables, text=text)
        if code:
            raise explain(self.name, said, code, self.job.log)
        return said


TELLS = ("Transaction finished", "Solving", "solved ", "linked ", "warning", "critical", "error")


def python_of(env: str, system: str) -> str:
    """The interpreter of an environment in conda's or a virtual environment's layout; "" where there is none."""
    places = ("Scripts/python.exe", "python.exe") if system.startswith("win") else ("bin/python",)
    return next((path for path in (os.path.join(env, *place.split("/")) for place in places) if os.path.exists(path)), "")


def make(name: str, job: Job) -> Engine:
    """The engine of that name."""
    from .conda import Conda
    from .micromamba import Micromamba
    from .rattler import Rattler
    from .uv_venv import UvVenv

    kinds: dict[str, type[Engine]] = {"micromamba": Micromamba, "conda": Conda, "rattler": Rattler, "uv": UvVenv}
    return kinds[name](job)


def candidates(job: Job, named: str) -> list[Engine]:
    """The engines to try, in this order. named: "" or "auto" for our choice, else that one alone. Raises E_ENGINE for one that the profile can't have.

    What is found on the machine comes before what would have to be fetched. Nothing but uv is of use where no channel can be reached.
    """
    if named in ("", "auto"):
        engines = [make(name, job) for name in NAMES if name in job.profile.engines]
        found = {engine.name: engine.find() for engine in engines}
        return sorted(engines, key=lambda engine: (engine.name == "uv", engine.name == "rattler", not found[engine.name]))
    if named not in NAMES:
        raise InstallError("E_USAGE", f"There is no engine {named!r}.", f"Choose one of {', '.join(NAMES)}, or auto.")
    if named not in job.profile.engines:
        text = f"Profile {job.profile.name} has packages that only conda has; the engine {named} can't put them in."
        raise InstallError("E_ENGINE", text, f"Choose one of {', '.join(job.profile.engines)}, or the profile cu128.")
    return [make(named, job)]


def prepare(job: Job, named: str) -> tuple[Engine, str]:
    """(the first engine that can be got ready, what it says of itself). Raises the last engine's InstallError where none can."""
    engines = candidates(job, named)
    conda = [engine for engine in engines if engine.name != "uv"]
    if conda and len(engines) > len(conda) and not job.settings.offline and not download.reachable(job.channels[0]):
        job.say(f"      no conda channel answers ({job.channels[0]}): Python comes from this machine, everything else by uv as ever")
        engines = [engine for engine in engines if engine.name == "uv"]
    problem: InstallError | None = None
    for engine in engines:
        try:
            return engine, engine.prepare()
        except InstallError as error:
            job.say(f"      not {engine.name}: {error.message.splitlines()[0]}")
            problem = error
    assert problem is not None
    raise problem
