"""Replayed graphs: the numbers of the function itself, a tensor of the caller's own every time, and no graph where there can't be one."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch", reason="the layer `model` isn't installed: python sam3d.py test adds it")

from comfyui_sam3d.worker.ops import graphs  # noqa: E402
from comfyui_sam3d.worker.sam3d.dino import Dino  # noqa: E402
from comfyui_sam3d.worker.sam3d.networks import Networks  # noqa: E402

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class Graph:
    """What a graph does, without a device: runs again what was captured."""

    def __init__(self, run: Callable[[], object], pool: tuple[object, ...]) -> None:
        self.run, self.given_pool, self.replays = run, pool, 0

    def pool(self) -> object:
        return self.given_pool or id(self)

    def replay(self) -> None:
        self.replays += 1
        self.run()


@pytest.fixture
def made(monkeypatch) -> list[Graph]:
    """The graphs that are captured."""
    captured: list[Graph] = []

    def capture(run: Callable[[], object], aside: object, *pool: object) -> Graph:
        run()
        captured.append(Graph(run, pool))
        return captured[-1]

    monkeypatch.setattr(graphs, "capture", capture)
    monkeypatch.setattr(graphs, "stream", lambda device, use: None)
    return captured


def test_a_size_is_captured_at_its_third_call_and_a_few_sizes_are_kept(made):
    calls = []

    def double(x: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        return x.mul_(2)  # into the same memory every time, as a graph's kernels do

    replay = graphs.Replay()
    for n in range(1, 7):
        for turn in range(4):
            assert torch.equal(replay(double, torch.full((n,), float(turn))), torch.full((n,), 2.0 * turn))
        assert len(made) == min(n, 4)
    assert [graph.replays for graph in made] == [2, 2, 2, 2]
    assert made[0].given_pool == () and all(graph.given_pool == (made[0].pool(),) for graph in made[1:]), "their memory is shared"
    assert calls.count(6) == 4, "the others run as they are"


def test_without_memory_for_a_graph_the_function_runs_as_it_is(monkeypatch, made):
    def refused(*_: object) -> Graph:
        raise torch.OutOfMemoryError("no memory for a graph")

    monkeypatch.setattr(graphs, "capture", refused)
    replay = graphs.Replay()
    assert [float(replay(lambda x: x + 1, torch.tensor([float(i)]))) for i in range(5)] == [1, 2, 3, 4, 5]


def test_a_network_that_is_let_go_is_gone_at_once(made):
    """Its graphs' memory too: a reference from the replay back to it would wait for the collector."""
    dino = Dino(28, width=32, depth=1, heads=2)
    dino._replay = graphs.Replay()
    for _ in range(4):
        dino(torch.rand(1, 3, 28, 28))
    assert len(made) == 1
    gone = weakref.ref(dino)
    made.pop().run = lambda: None  # a real graph knows nothing of what it was captured from
    gc.disable()
    try:
        del dino
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("plan", ["resident", "swapped", "staged"])
def test_only_networks_that_stay_on_a_gpu_are_captured(plan):
    dino = Dino(28, width=32, depth=1, heads=2)
    with Networks(lambda name, device: dino, torch.device("cpu"), plan).use("embedder") as network:
        assert network._replay is None, "on a CPU never"


@needs_gpu
@pytest.mark.parametrize("prenorm", [False, True])
def test_dino_replayed_gives_the_same_bits_on_a_gpu(prenorm):
    torch.manual_seed(1)
    plain = Dino(56, prenorm=prenorm, width=64, depth=3, heads=4).half().eval().requires_grad_(False)
    for parameter in plain.parameters():
        parameter.data.normal_(0, 0.1)

    def load(name: str, device: torch.device) -> Dino:
        return copy.deepcopy(plain).to(device)

    for plan in ("swapped", "staged", "resident"):
        with Networks(load, torch.device("cuda"), plan).use("embedder") as replayed:
            assert (replayed._replay is not None) == (plan == "resident")
    plain = plain.cuda()
    pictures = [torch.rand(n, 3, 56, 56, device="cuda") for n in (1, 2, 1, 2, 1, 2, 1, 1, 2)]
    with torch.inference_mode():
        got = [replayed(picture) for picture in pictures]
        assert len(replayed._replay._kept) == 2
        assert all(torch.equal(mine, plain(picture)) for mine, picture in zip(got, pictures)), "none was overwritten by a later one"


@needs_gpu
def test_out_of_memory_while_capturing_leaves_a_device_that_works():
    def hungry(x: torch.Tensor) -> torch.Tensor:
        result = x @ x
        if torch.cuda.is_current_stream_capturing():
            raise torch.OutOfMemoryError("no memory for a graph")
        return result

    replay, x = graphs.Replay(), torch.rand(64, 64, device="cuda")
    assert all(torch.equal(replay(hungry, x), x @ x) for _ in range(5))
    again = graphs.Replay()
    assert all(torch.equal(again(lambda y: y @ y, x), x @ x) for _ in range(5)) and len(again._kept) == 1


@needs_gpu
def test_a_capture_that_is_invalidated_leaves_a_device_that_works():
    """By a wait for the whole device, as a library's first call may do."""

    def waits(x: torch.Tensor) -> torch.Tensor:
        torch.cuda.synchronize()
        return x @ x

    replay, x = graphs.Replay(), torch.rand(64, 64, device="cuda")
    assert all(torch.equal(replay(waits, x), x @ x) for _ in range(5)) and replay._kept == {}
    again = graphs.Replay()
    assert all(torch.equal(again(lambda y: y @ y, x), x @ x) for _ in range(5)) and len(again._kept) == 1
    large = torch.rand(1 << 22, device="cuda")
    assert float((large - large).abs().max()) == 0.0
