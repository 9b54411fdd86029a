"""The profiles (profiles.json) and what belongs to each: its conda packages (environment*.yml), its constraints, its optional packages
(requirements_env.txt), and which one a machine gets.

    cpu     no GPU
    cu128   torch 2.8, CUDA 12.8: NVIDIA sm_75 to sm_120, Linux and Windows
    cu121   torch 2.4.1, CUDA 12.1, pytorch3d from conda: Linux, only when it is asked for
"""

from __future__ import annotations

import json
import os
import re
from typing import Any, NamedTuple

from .errors import InstallError
from .host import Gpu, Host
from .settings import Settings

NAMES = ("cpu", "cu121", "cu128")


class Profile(NamedTuple):
    name: str
    data: dict[str, Any]  # its entry in profiles.json
    channels: tuple[str, ...]  # names, the first counts most
    specs: tuple[str, ...]  # what is asked of conda
    base_url: str  # of the channels, without a mirror

    @property
    def cuda(self) -> str:
        """The CUDA version of its torch, "" for none."""
        return str(self.data.get("cuda", ""))

    @property
    def engines(self) -> tuple[str, ...]:
        return tuple(self.data["engines"])

    def channel_urls(self, mirror: str = "") -> list[str]:
        return [f"{mirror or self.base_url}/{channel}" for channel in self.channels]


def load(root: str, name: str) -> Profile:
    everything = _read(root)
    data = everything["profiles"][name]
    with open(os.path.join(root, "environment", data["environment"]), encoding="utf-8") as file:
        channels, specs = parse_environment(file.read())
    return Profile(name, data, channels, specs, everything["conda_channels"])


def _read(root: str) -> dict[str, Any]:
    with open(os.path.join(root, "environment", "profiles.json"), encoding="utf-8") as file:
        read: dict[str, Any] = json.load(file)
    return read


def parse_environment(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(channels, dependencies) of an environment.yml: a name and two plain lists, no more. `nodefaults` is understood: only the listed channels count."""
    found: dict[str, list[str]] = {"channels": [], "dependencies": []}
    key = ""
    for number, raw in enumerate(text.splitlines(), 1):
        line = re.sub(r"(^|\s)#.*", "", raw).rstrip()
        if not line:
            continue
        head, item = re.match(r"(\w+):\s*(\S*)$", line), re.match(r"\s+-\s+(\S+)$", line)
        if head and head[1] in (*found, "name"):
            key = head[1]
        elif item and key in found:
            found[key].append(item[1])
        else:
            raise InstallError(
                "E_USAGE", f"environment.yml, line {number}: {raw.strip()!r} is no line of a plain list.", "Write one package a line."
            )
    return tuple(name for name in found["channels"] if name != "nodefaults"), tuple(found["dependencies"])


def extras(root: str, profile: str, system: str) -> dict[str, list[str]]:
    """Each optional package's name and what uv is asked for where this profile gets it; an empty list where there is nothing for the profile or platform."""
    found: dict[str, list[str]] = {}
    with open(os.path.join(root, "environment", "requirements_env.txt"), encoding="utf-8") as file:
        for line in file:
            requirement, _, markers = line.partition("#")[0].partition(";")
            names = re.findall(r'extra == "([\w-]+)"', markers)
            if not names:
                continue
            wanted = found.setdefault(names[0], [])
            windows_only = "win32" in markers
            if names[1:] in ([], [profile]) and (not windows_only or system.startswith("win")):
                wanted.append(requirement.strip())
    return found


def choose(root: str, settings: Settings, host: Host, had: dict[str, Any] | None) -> tuple[Profile, str]:
    """(profile, why). had: the journal of the environment that is there.

    A profile that is named is taken. Otherwise one that was named before stays, the launcher keeps whatever is there, and so does everybody where no GPU
    is seen; else the GPU decides.
    Raises InstallError for a name that isn't one.
    """
    named = settings.profile
    if named and named != "auto":
        if named not in NAMES:
            raise InstallError("E_USAGE", f"There is no profile {named!r}.", f"Choose one of {', '.join(NAMES)}, or auto.")
        return load(root, named), "it was asked for"
    before = (had or {}).get("profile")
    if before in NAMES and (settings.launcher or (named != "auto" and (had or {}).get("asked") == before)):
        return load(root, before), "the environment has it"
    if (
        before in NAMES and named != "auto" and not host.gpus
    ):  # a driver that is being renewed, a slow nvidia-smi: no reason to throw 9 GB away
        return load(root, before), "the environment has it, and no GPU is seen that asks for another"
    if settings.launcher:
        return load(root, "cpu"), "it needs nothing but a package registry; `python install.py` chooses by the GPU"
    name, why = suggest(root, host)
    return load(root, name), why


def suggest(root: str, host: Host) -> tuple[str, str]:
    """The profile for this machine when nothing is said, and why."""
    if not host.gpus:
        return "cpu", "no NVIDIA GPU is seen"
    profile = load(root, "cu128")
    problems = misfits(profile, host)
    if not problems:
        return "cu128", f"{host.gpus[0].name}, driver {'.'.join(map(str, host.gpus[0].driver))}"
    return "cpu", f"a GPU is seen ({host.gpus[0].name}), but not for cu128: {problems[0][1]}"


def misfits(profile: Profile, host: Host) -> list[tuple[str, str]]:
    """(error code, sentence) for each reason why this machine can't carry a profile."""
    found = []
    data = profile.data
    if host.system not in data["systems"]:
        found.append(("E_PLATFORM", f"Profile {profile.name} is for {', '.join(data['systems'])}, this is {host.system}."))
    need = tuple(data.get("glibc", ()))
    if need and host.system.startswith("linux") and host.glibc < need:
        has = "glibc " + ".".join(map(str, host.glibc)) if host.glibc else "a libc of another kind"
        found.append(("E_PLATFORM", f"Profile {profile.name} needs glibc {'.'.join(map(str, need))}, this system has {has}."))
    if profile.cuda and host.gpus:
        found += [problem for problem in (_driver(profile, host), _capability(profile, host.gpus)) if problem]
    return found


def _driver(profile: Profile, host: Host) -> tuple[str, str] | None:
    gpu = host.gpus[0]
    need = tuple(profile.data["driver"].get(host.system, ()))
    for capability, driver in profile.data.get("driver_from", ()):
        if gpu.capability >= tuple(capability):
            need = max(need, tuple(driver))
    if gpu.driver >= need:
        return None
    has = ".".join(map(str, gpu.driver))
    return (
        "E_DRIVER_OLD",
        f"Profile {profile.name} needs NVIDIA's driver {'.'.join(map(str, need))} or later for the {gpu.name}, this is {has}.",
    )


def _capability(profile: Profile, gpus: tuple[Gpu, ...]) -> tuple[str, str] | None:
    low, high = (tuple(bound) for bound in profile.data["capability"])
    for gpu in gpus:
        if gpu.capability != (0, 0) and not low <= gpu.capability <= high:
            range_ = f"{low[0]}.{low[1]} to {high[0]}.{high[1]}"
            return (
                "E_NO_KERNEL_IMAGE",
                f"Profile {profile.name} has code for compute capability {range_}; the {gpu.name} has {gpu.capability[0]}.{gpu.capability[1]}.",
            )
    return None
