"""Which GPUs a worker started here would see, by the names that CUDA_VISIBLE_DEVICES takes. No torch: the skins have none."""

from __future__ import annotations

import os
import subprocess

from ..contract.errors import SetupError

VISIBLE = "CUDA_VISIBLE_DEVICES"


def visible_gpus() -> list[str]:
    """The names of the GPUs that a process started here would see: those of CUDA_VISIBLE_DEVICES, or all that nvidia-smi lists. Never empty.

    Raises SetupError.
    """
    hint = "Look what `nvidia-smi` says, or name the GPUs: --gpus 0,1."
    if (set_by_user := os.environ.get(VISIBLE)) is not None:
        names = [name.strip() for name in set_by_user.split(",") if name.strip()]
        if not names or names[0] == "-1":
            raise SetupError(f"{VISIBLE} hides every GPU from this process.", "Unset the variable, or leave --gpus out.")
        return names
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.SubprocessError) as problem:
        raise SetupError(f"The GPUs can't be counted: nvidia-smi can't be run ({problem}).", hint) from None
    names = done.stdout.split()
    if done.returncode or not names or not all(name.isdigit() for name in names):
        raise SetupError("The GPUs can't be counted: nvidia-smi lists none.", hint, detail=done.stdout + done.stderr)
    return names
