"""CUDA graphs: what was launched once, kernel by kernel, is launched again as a whole.

The host needs 10 to 60 us for each kernel, a graph's kernels none: a network of several hundred small ones waits for the host without it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from .streams import stream

_FIRST = 2  # calls of a size before one is captured: kernels compile in them, and what is done once gains nothing
_SIZES = 4  # that are kept


def capture(run: Callable[[], object], aside: torch.cuda.Stream, *pool: tuple[int, int]) -> torch.cuda.CUDAGraph:
    """A graph of what `run` launches, recorded on `aside` and not run. pool: of other graphs that never run at the same time, to share their memory.

    Raises RuntimeError where there is no memory for it. (Not by `torch.cuda.graph`, which waits for the GPU and gives its free memory back first.
    `thread_local`: other threads allocate and copy meanwhile.)
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(aside):
        graph.capture_begin(*pool, capture_error_mode="thread_local")
        try:
            run()
        except BaseException:
            with suppress(RuntimeError):  # what went wrong matters, not that there is no graph
                graph.capture_end()
            raise
        graph.capture_end()
    return graph


@dataclass(frozen=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    given: Tensor
    made: Tensor


class Replay:
    """A function of one tensor on a CUDA device as graphs: one for each size, from that size's third call on.

    What it reads besides (weights) has to stay where it is. From one thread. Where a graph can't be had, the function itself goes on.
    """

    def __init__(self) -> None:
        self._seen: Counter[torch.Size] = Counter()
        self._kept: dict[torch.Size, _Captured] = {}
        self._able = True

    @torch.inference_mode()
    def __call__(self, call: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """call(x), a tensor that later calls leave alone. call: the same one every time. (Not kept: it may be a method of what keeps this.)"""
        self._seen[x.shape] += 1
        if x.shape not in self._kept:
            if not self._able or self._seen[x.shape] <= _FIRST or len(self._kept) == _SIZES:
                return call(x)
            try:
                self._kept[x.shape] = _captured(call, x, [kept.graph.pool() for kept in self._kept.values()])
            except RuntimeError:
                self._able = False
                return call(x)
        kept = self._kept[x.shape]
        kept.given.copy_(x)
        kept.graph.replay()
        return kept.made.clone()


def _captured(call: Callable[[Tensor], Tensor], x: Tensor, pools: list[tuple[int, int]]) -> _Captured:
    given, made = x.clone(), []
    graph = capture(lambda: made.append(call(given)), stream(x.device, "capture"), *pools[:1])
    return _Captured(graph, given, made[0])
