"""Where the engine's networks are between their uses: a plan by the memory there is.

resident    on the device, from their first use on
swapped     in main memory, moved to the device for a use
staged      in their files, mapped into memory, read for a use
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...contract.errors import OutOfMemoryError
from ..ops.streams import settle
from .dino import Dino
from .flow import SparseStructureFlow
from .latent_flow import LatentFlow
from .latent_flow_cached import CachedLatentFlow
from .structure import StructureSampler

Plan = Literal["resident", "swapped", "staged"]
PLANS: tuple[Plan, ...] = ("resident", "swapped", "staged")  # each needs less of the device than the one before
Load = Callable[[str, torch.device], nn.Module]

WEIGHTS = 6.6e9  # bytes of all networks in float16, with MoGe's
# Bytes that must be free on the device: all weights and one object's sampling (1.5e9) and decoding (3e9); one network at a time.
RESIDENT, SWAPPED = 11.0e9, 6.5e9
SPARE = 4e9  # of free memory that the allocator may keep between jobs: one object's


def choose_plan(device: torch.device) -> Plan:
    """By what can be had of the device now: what is free, and what this process holds of it. Main memory serves a CPU run, which has nothing to move."""
    if device.type != "cuda":
        return "resident"
    # Without the second, networks that stay there from job to job would drive themselves out.
    free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    return "resident" if free >= RESIDENT else "swapped" if free >= SWAPPED else "staged"


class Networks:
    """The networks by name, loaded when they are first used. One job at a time."""

    def __init__(self, load: Load, device: torch.device, plan: Plan) -> None:
        """load(name, device) -> the network with its weights there, in the precision that it runs in."""
        self._load, self.device, self.plan = load, device, plan
        self._kept: dict[str, Any] = {}  # resident: what `use` yields; swapped: the modules, in main memory

    @contextmanager
    def use(self, name: str) -> Iterator[Any]:
        """The network, on the device, for as long as the block lasts: the module itself, or for a flow network what samples with it (StructureSampler,
        CachedLatentFlow)."""
        if self.plan == "resident":
            if name not in self._kept:
                module = self._load(name, self.device)
                for part in module.modules():
                    if isinstance(part, Dino):
                        part.stays()
                self._kept[name] = _wrapped(module)
                settle(self.device)  # the next to use it may do so on another stream
            yield self._kept[name]
        elif self.plan == "swapped":
            if name not in self._kept:
                self._kept[name] = _pinned(self._load(name, torch.device("cpu")), self.device)
            with _moved(self._kept[name], self.device) as module:
                yield _wrapped(module)
            self.give_back()
        else:
            yield _wrapped(self._load(name, self.device))
            self.give_back()

    def set_plan(self, plan: Plan) -> None:
        if plan != self.plan:
            self.release()
            self.plan = plan

    def shrink(self) -> Plan:
        """Out of memory: free everything, and go on with the next smaller plan. Raises OutOfMemoryError where there is none."""
        smaller = PLANS[PLANS.index(self.plan) + 1 :]
        self.release()
        if not smaller:
            raise OutOfMemoryError(f"The job doesn't fit into the memory of {self.device}, one network at a time.")
        self.plan = smaller[0]
        return self.plan

    def release(self) -> None:
        """Forget every network."""
        self._kept.clear()
        self.give_back()

    def tidy(self) -> None:
        """Between jobs: more than SPARE of what the allocator keeps goes back. Others use the card, too: ComfyUI's own models."""
        if self.device.type == "cuda" and torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device) > SPARE:
            self.give_back()

    def give_back(self) -> None:
        """What the allocator keeps for later goes back to the device. Never while a graph is being captured."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def _wrapped(module: nn.Module) -> Any:
    """The flow networks with what is computed once for them."""
    if isinstance(module, SparseStructureFlow):
        return StructureSampler(module)
    return CachedLatentFlow(module) if isinstance(module, LatentFlow) else module


def _pinned(module: nn.Module, device: torch.device) -> nn.Module:
    """In memory that the device reads directly, twice as fast."""
    if device.type == "cuda":
        for tensor in itertools.chain(module.parameters(), module.buffers()):
            tensor.data = tensor.data.pin_memory()
    return module


@contextmanager
def _moved(module: nn.Module, device: torch.device) -> Iterator[nn.Module]:
    """The module on `device` inside the block; afterwards its tensors are the old ones again, nothing is copied back."""
    tensors: list[Tensor] = list(itertools.chain(module.parameters(), module.buffers()))
    home = [tensor.data for tensor in tensors]
    try:
        for tensor in tensors:
            tensor.data = tensor.data.to(device, non_blocking=True)
        yield module
    finally:
        for tensor, data in zip(tensors, home):
            tensor.data = data
