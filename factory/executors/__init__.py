"""Where a batch's attempts are made: on this machine, on a Ray cluster, on Modal (docs/scale.md).

local    one worker process for each slot, on this machine; with --gpus one for each GPU
ray      one Ray actor for each slot, of one GPU each where the cluster has any
modal    the containers of a deployed app (deploy/sam3d_modal_app.py)
relay    what ray and modal share: a request as one frame of docs/protocol.md, its events as frames back

What is the same everywhere stays in the batch, and there alone: which items there are, their attempts, the files, the manifest.

lease    the batch gives an item to a slot: one thread of its own for each slot, so an item has one holder. A lease can't outlive the batch, whose
         lock on the folder goes with its process, so none has to expire.
run      the slot's `reconstruct`. It is never repeated by an executor: a worker, actor or container that dies is a WorkerCrashed of this attempt, and the
         next attempt starts a fresh one.
report   the events of the job; the last carries the scene with its files. The batch writes them under the request's content key, then the manifest's line.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Protocol

from ...contract.backend import Reconstruction
from ...contract.errors import OptionError, SetupError
from ...contract.request import ReconstructRequest

EXECUTORS = ("local", "ray", "modal")


class Slot(Protocol):
    """What one lease runs on; used by one thread. Every Backend is one."""

    def reconstruct(self, request: ReconstructRequest) -> Reconstruction:
        """Start the attempt, and whatever it needs; returns at once. Raises a Sam3dError where nothing could be started."""
        ...

    def close(self) -> None:
        """Stop what was started for this slot; a job under way ends as cancelled. A later call starts it anew."""
        ...


class Executor(Protocol):
    """Slots for a batch. Nothing is started before it is needed."""

    @property
    def slots(self) -> int:
        """How many attempts can be under way at once, at least 1. Raises a Sam3dError where that can't be found out."""
        ...

    def lease(self, number: int) -> Slot:
        """The slot of this number, 0 <= number < slots, for the calling thread alone until it closes it."""
        ...

    def close(self) -> None:
        """Stop everything that was started. After the slots were closed."""
        ...


def check_executor(name: str, *, workers: int | None, gpus: str | None) -> None:
    """Raises OptionError or SetupError for what `open_executor` can't open, without starting anything."""
    if name not in EXECUTORS:
        raise OptionError(f"There is no executor {name!r}.", f"Choose among: {', '.join(EXECUTORS)}.")
    if name == "local":
        from .local import environments

        environments(workers, gpus)
        return
    if gpus is not None:
        who = "Ray hands out its cluster's GPUs itself" if name == "ray" else "the deployed app says which GPU its containers have"
        raise OptionError(f"--gpus can't be used with --executor {name}: {who}.", "Leave it out; --workers says how many work at once.")
    if find_spec(name) is None:
        raise SetupError(
            f"--executor {name} needs the package {name}, which isn't installed here.", f"Run: python install.py --layers base,{name}"
        )


def open_executor(name: str, *, workers: int | None = None, gpus: str | None = None, on_cpu: bool = False) -> Executor:
    """workers: how many slots; None: as many as fit. gpus: see `local.environments`. on_cpu: the engine needs no GPU (the draft).

    Raises OptionError or SetupError.
    """
    check_executor(name, workers=workers, gpus=gpus)
    if name == "ray":
        from .ray import RayExecutor

        return RayExecutor(workers, on_cpu=on_cpu)
    if name == "modal":
        from .modal import ModalExecutor

        return ModalExecutor(workers)
    from .local import LocalExecutor

    return LocalExecutor(workers, gpus)
