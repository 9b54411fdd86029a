"""What steers an installation: the options of install.py and the SAM3D_* variables, in one place. An option wins over its variable.

SAM3D_PROFILE                cpu, cu121, cu128; else chosen by the GPU that is seen
SAM3D_ENV_DIR                where _env lies; the pack's own _env becomes a link to it
SAM3D_CACHE_DIR              uv's cache and conda's packages, each in a folder of its own below it
SAM3D_OFFLINE                1: nothing is fetched, the caches must hold everything
SAM3D_MICROMAMBA             a micromamba (or mamba 2) to use
SAM3D_MICROMAMBA_URL         where to fetch it instead; its sha256 in SAM3D_MICROMAMBA_SHA256, or at the same address with .sha256 appended
SAM3D_CONDA_CHANNEL_ALIAS    a mirror of the conda channels: ALIAS/conda-forge, ALIAS/pytorch, ...
SAM3D_PYPI_INDEX             the package registry's mirror; the same as PIP_INDEX_URL, which it wins over
SAM3D_TORCH_INDEX            a mirror of the index that has the profile's build of torch
SAM3D_WHEEL_INDEX            a mirror of the indexes that have gsplat, pytorch3d, nvdiffrast as wheels
SAM3D_UV                     the uv to use
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple


class Settings(NamedTuple):
    profile: str = ""  # "": not said
    engine: str = ""
    layers: tuple[str, ...] = ()  # on top of what is there, and of what the profile brings
    extras: tuple[str, ...] = ()  # --with
    without: tuple[str, ...] = ()
    rebuild: bool = False
    offline: bool = False
    wait: bool = True
    keep_failed: bool = False
    gpu_check: bool = True
    launcher: bool = False  # asked by sam3d.py: whatever environment is there will do, and a new one is built by uv alone
    env_dir: str = ""
    cache_dir: str = ""
    channels: str = ""
    torch_index: str = ""
    wheel_index: str = ""
    micromamba: str = ""
    micromamba_url: str = ""
    micromamba_sha256: str = ""


def from_environment(**options: Any) -> Settings:
    """The settings of this process's environment, and on top of them the options that were given (those that are None or empty weren't)."""
    get = os.environ.get
    read = Settings(
        profile=get("SAM3D_PROFILE", "").strip(),
        offline=get("SAM3D_OFFLINE", "").strip().lower() in ("1", "true", "yes", "on"),
        env_dir=get("SAM3D_ENV_DIR", "").strip(),
        cache_dir=get("SAM3D_CACHE_DIR", "").strip(),
        channels=get("SAM3D_CONDA_CHANNEL_ALIAS", "").strip().rstrip("/"),
        torch_index=get("SAM3D_TORCH_INDEX", "").strip().rstrip("/"),
        wheel_index=get("SAM3D_WHEEL_INDEX", "").strip().rstrip("/"),
        micromamba=get("SAM3D_MICROMAMBA", "").strip(),
        micromamba_url=get("SAM3D_MICROMAMBA_URL", "").strip(),
        micromamba_sha256=get("SAM3D_MICROMAMBA_SHA256", "").strip().lower(),
    )
    return read._replace(**{name: value for name, value in options.items() if value is not None and value != "" and value != ()})
