"""Shared by all tests: the `--full` switch; by those of the installer: the scratch pack; by those of the networks: `one_thread`. Other fixtures live beside the tests that use them."""

from __future__ import annotations

import importlib.util
import runpy
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from .scratch_pack import FakeUv, ScratchPack

# On a machine with a GPU and no `_env` (python3 -m pytest tests/test_ops_render.py): the checkout itself becomes the package.
if importlib.util.find_spec("comfyui_sam3d") is None:
    runpy.run_path(str(Path(__file__).resolve().parent.parent / "benchmarks" / "_pack.py"))["mount"]()

# A script's background jobs (nohup, some CI runners) start with SIGINT ignored, and so would every process that a test starts and interrupts:
# it would wait in vain, or prove nothing.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="also run the long counts: soaks, kill matrices, browsers")


def pytest_configure(config: pytest.Config) -> None:
    """Property tests draw the same examples in every run, so that a red suite is about the change at hand; `--full` draws new ones."""
    if importlib.util.find_spec("hypothesis") is None:  # a machine with a GPU and few packages
        return
    import hypothesis

    hypothesis.settings.register_profile("same", derandomize=True)
    if not config.getoption("--full"):
        hypothesis.settings.load_profile("same")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--full"):
        return
    for item in items:
        if "full" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="a long count: run `python sam3d.py test --full`"))


@pytest.fixture
def pack(tmp_path: Path) -> ScratchPack:
    return ScratchPack(tmp_path / "a pack")  # with a space in its path, as on many a user's disk


@pytest.fixture
def fake(tmp_path: Path) -> FakeUv:
    return FakeUv(tmp_path)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For tests of tiny networks, which spend more time on handing work to threads than on work."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
