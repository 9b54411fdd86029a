"""What uv is asked to put in: torch, the layers, the optional packages. Argument lists only; nothing runs here.

On Linux the registry's torch is a CUDA build of 5 GB. So the profile's own build is looked for first and installed alone (`--no-deps`); the
layers then find torch in place and add only what it needs. Where conda brought torch, the profile's constraints keep it.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator

from . import download, uv
from .errors import InstallError
from .process import Say
from .profiles import Profile, extras
from .settings import Settings


def layers_args(root: str, profile: Profile, python: str, layers: list[str]) -> list[str]:
    """`uv pip install` of the layers and of the pack itself."""
    args = _install(python, root, profile)
    for layer in layers:
        args += ["--requirements", os.path.join(root, "environment", layer + ".txt")]
    if "model" in layers:
        args += profile.data.get("requires", [])
    return [*args, *uv.index_flags(dict(os.environ)), "--editable", root]


def extras_args(root: str, profile: Profile, python: str, names: list[str], system: str, settings: Settings) -> list[str]:
    """`uv pip install` of optional packages. Raises E_USAGE for a name that isn't one, E_NO_WHEEL for one that this profile or platform lacks."""
    known = extras(root, profile.name, system)
    wanted = []
    for name in names:
        if name not in known:
            raise InstallError("E_USAGE", f"There is no optional package {name!r}.", f"Choose out of {', '.join(sorted(known))}.")
        if not known[name]:
            hint = "Leave it out, or choose another profile: environment/README.md says which has it."
            raise InstallError("E_NO_WHEEL", f"{name} isn't to be had for profile {profile.name} on {system}.", hint)
        wanted += known[name]
    if not wanted:
        return []
    indexes = [settings.wheel_index] if settings.wheel_index else profile.data.get("wheels", [])
    special = any("+" in requirement for requirement in wanted)  # a local version: a wheel that the registry doesn't have
    args = [*_install(python, root, profile), *uv.index_flags(dict(os.environ))]
    for index in indexes if special else ():
        args += ["--index", index]
    if special and "--index-strategy" not in args:
        args += ["--index-strategy", "unsafe-best-match"]  # safe here: what these indexes are for is pinned by its local version
    return [*args, *wanted]


def _install(python: str, root: str, profile: Profile) -> list[str]:
    constraints = os.path.join(root, "environment", f"constraints.{profile.name}.txt")
    return ["pip", "install", "--python", python, "--only-binary", ":all:", "--constraints", constraints]


def torch_requirement(root: str, profile: Profile) -> str:
    """torch's line of model.txt, or the profile's exact version."""
    if profile.data.get("torch"):
        return f"torch=={profile.data['torch']}"
    with open(os.path.join(root, "environment", "model.txt"), encoding="utf-8") as file:
        return next(line.split("#")[0].strip() for line in file if re.match(r"torch\b", line))


def torch_sources(
    root: str, profile: Profile, python: str, version: tuple[int, int], system: str, settings: Settings, say: Say
) -> Iterator[tuple[str, list[str]]]:
    """(where, arguments for uv) of each place that may have the profile's build of torch, best first. When all fail: registry_torch().

    version: of the Python that the environment has.
    """
    args = ["pip", "install", "--python", python, "--no-deps", "--only-binary", ":all:"]
    tag = str(profile.data.get("torch_tag", ""))
    for folder, spec in _wheels(version, tag, str(profile.data.get("torch", ""))):
        yield "a wheel in PIP_FIND_LINKS", [*args, "--no-index", "--find-links", folder, spec]
    url = settings.torch_index or str(profile.data.get("torch_index", ""))
    if not url or not (profile.cuda or system.startswith("linux")):
        return  # on Windows and macOS the registry's build is the CPU build
    name = f"PyTorch's {'CPU' if tag == 'cpu' else tag} index"
    if settings.offline or download.answers(url + "/torch/"):
        yield name, [*args, "--default-index", url, torch_requirement(root, profile)]
    else:
        say(f"      {name} doesn't answer")


def registry_torch(profile: Profile, system: str) -> None:
    """Raises E_CPU_TORCH where the registry's torch isn't the profile's: a CUDA profile off Linux."""
    if profile.cuda and system not in profile.data.get("torch_registry", ()):
        raise InstallError(
            "E_CPU_TORCH", f"torch {profile.data['torch']} with CUDA {profile.cuda} isn't to be had: the registry's is the CPU build."
        )


def _wheels(python: tuple[int, int], tag: str, version: str) -> list[tuple[str, str]]:
    """(folder, exact requirement) of each torch wheel with this local version for this Python, newest first. uv judges the platform."""
    found = []
    for folder in os.environ.get("PIP_FIND_LINKS", "").split():
        folder = folder[7:] if folder.startswith("file://") else folder
        for path in glob.glob(os.path.join(glob.escape(folder), "torch-*.whl")):
            match = re.match(rf"torch-(\d[\d.]*)(?:\+|%2B)({tag}[\w.]*)-cp{python[0]}{python[1]}-", os.path.basename(path))
            if match and version in ("", match[1]):
                found.append((tuple(int(part) for part in match[1].split(".")), folder, f"torch=={match[1]}+{match[2]}"))
    return [(folder, spec) for _, folder, spec in sorted(found, reverse=True)]
