"""Jobs over a real worker process: what goes in comes out, in order, whatever an engine says or raises."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
from comfyui_sam3d.client import LocalBackend, State
from comfyui_sam3d.contract import Done, Failed, Log, PrepareRequest, Preview, Progress, ReconstructRequest, Scene
from comfyui_sam3d.contract.errors import (
    EngineError,
    ImageError,
    OptionError,
    OutOfMemoryError,
    SetupError,
    WorkerStateError,
)
from comfyui_sam3d.tests.zoo.keeper import ask, backend, error_of, first, last
from comfyui_sam3d.tests.zoo.worker import odd


@pytest.fixture(scope="module")
def zoo() -> Iterator[LocalBackend]:
    with backend() as shared:
        yield shared


@pytest.fixture(autouse=True)
def _same_worker(zoo: LocalBackend) -> Iterator[None]:
    """Nothing in this file costs the worker its life."""
    before = zoo.start().pid
    yield
    assert zoo.start().pid == before == zoo.worker_pid
    assert zoo.state is State.READY


def test_arrays_arrive_intact(zoo: LocalBackend) -> None:
    base = np.random.default_rng(1).integers(0, 255, (40, 60, 3), np.uint8)
    masks = np.random.default_rng(2).random((3, 40, 60)) > 0.5
    alpha = (masks * 200).astype(np.uint8)
    request = ReconstructRequest(
        image=np.asfortranarray(base)[::-1], masks=masks[:, :, ::-1], alpha=alpha[::-1], names=("echo", "b", "c"), engine="draft"
    )
    got = zoo.reconstruct(request).result().parameters
    np.testing.assert_array_equal(got["image"], base[::-1])
    np.testing.assert_array_equal(got["masks"], masks[:, :, ::-1])
    np.testing.assert_array_equal(got["alpha"], alpha[::-1])
    assert got["masks"].dtype == bool


def test_odd_arrays_arrive_intact_from_the_worker(zoo: LocalBackend) -> None:
    got = zoo.reconstruct(ask("odd_arrays")).result().parameters
    for name, item in odd().items():
        assert got[name].dtype == item.dtype, name
        assert got[name].shape == item.shape, name
        np.testing.assert_array_equal(got[name], np.asarray(item), err_msg=name)


def test_events_are_in_order(zoo: LocalBackend) -> None:
    job = zoo.reconstruct(ask("steps", 20))
    events = list(job)
    assert job.finished
    assert [type(e) for e in events].count(Done) == 1 and isinstance(events[-1], Done)
    progress = [e for e in events if isinstance(e, Progress)]
    assert [p.fraction for p in progress] == sorted(p.fraction for p in progress)
    assert 0 <= progress[0].fraction <= 0.01 and 0.9 < progress[-1].fraction <= 1
    assert all(0 <= p.step <= p.total for p in progress)
    stages = list(dict.fromkeys(p.stage for p in progress))
    assert stages == ["first", "surprise", "second", "encode"]
    assert all(p.eta is None or p.eta >= 0 for p in progress)
    assert [(e.text, e.level) for e in events if isinstance(e, Log)] == [("a line", "info"), ("a warning", "warning")]
    (preview,) = (e for e in events if isinstance(e, Preview))
    np.testing.assert_array_equal(preview.image, ask("steps").image[::-1])
    # after the end: nothing more to iterate, the last event for whoever polls, the result again and again
    assert list(job) == []
    assert job.poll(0) is events[-1]
    assert job.result() is job.result()
    assert job.result().timings["thinking"] == 1.5 and "encode" in job.result().timings


def test_poll_waits_no_longer_than_it_may(zoo: LocalBackend) -> None:
    job = zoo.reconstruct(ask("sleeps", 1))
    first(job, Progress)
    assert job.poll(0.01) is None and job.poll(0) is None
    assert not job.finished
    assert isinstance(last(job), Done)


def test_a_job_that_nobody_watches_ends(zoo: LocalBackend) -> None:
    job = zoo.reconstruct(ask("steps", 5))
    while not job.finished:
        threading.Event().wait(0.01)
    assert zoo.reconstruct(ask("tame", 7)).result().seed == 7
    assert isinstance(last(job), Done)


def test_two_watchers_both_see_the_end(zoo: LocalBackend) -> None:
    job = zoo.reconstruct(ask("steps", 5))
    seen: list[object] = []
    other = threading.Thread(target=lambda: seen.append(last(job)))
    other.start()
    seen.append(last(job))
    other.join()
    assert seen[0] is seen[1]


def test_what_is_printed_harms_nothing(zoo: LocalBackend) -> None:
    parameters = zoo.reconstruct(ask("prints")).result().parameters
    assert parameters["stdin"] == 0 and parameters["line"] == ""  # nobody can read the stream either
    assert zoo.reconstruct(ask("tame")).result().engine == "draft"


def test_names_of_any_alphabet(zoo: LocalBackend) -> None:
    request = ReconstructRequest(
        image=np.zeros((4, 4, 3), np.uint8), masks=np.ones((2, 4, 4), bool), names=("tame", "焼き鳥 🍢 \ud800"), engine="draft"
    )
    assert zoo.reconstruct(request).result().objects[1].name == "焼き鳥 🍢 \ud800"


def test_files_are_encoded_and_exported_again(zoo: LocalBackend) -> None:
    scene = zoo.reconstruct(ask("tame", outputs=("glb", "stl"))).result()
    assert {name: data.tobytes() for name, data in scene.files.items()} == {"glb": b"glbglbglb", "stl": b"stlstlstl"}
    assert zoo.export(scene, ["obj", "ply"]) == {"obj": b"objobjobj", "ply": b"plyplyply"}
    assert zoo.export(scene, "obj") == {"obj": b"objobjobj"}
    assert zoo.export(scene, []) == {}
    with pytest.raises(OptionError, match="no output format"):
        zoo.export(scene, ["exe"])
    with pytest.raises(OptionError, match="takes a Scene"):
        zoo.export(None, ["glb"])  # type: ignore[arg-type]
    with pytest.raises(EngineError, match="the encoder's own"):
        zoo.export(Scene(objects=(), engine="raise"), ["glb"])


@pytest.mark.parametrize(
    ("seed", "kind", "words"),
    [
        (0, EngineError, "ValueError: a number"),
        (1, OptionError, "Ours"),
        (2, OutOfMemoryError, "out of memory"),
        (3, EngineError, "KeyboardInterrupt"),
        (4, EngineError, "GeneratorExit"),
        (5, EngineError, "Unspeakable: no message"),
        (6, EngineError, "lone"),
        (7, OutOfMemoryError, "out of memory"),
        (8, EngineError, "RecursionError"),
    ],
)
def test_what_an_engine_raises(zoo: LocalBackend, seed: int, kind: type, words: str) -> None:
    job = zoo.reconstruct(ask("raises", seed))
    events = list(job)  # never raises
    assert isinstance(events[-1], Failed)
    with pytest.raises(kind, match=words) as caught:
        job.result()
    assert type(caught.value) is kind
    assert "in raises" in caught.value.detail, "the worker's traceback"


def test_an_engine_that_exits_fails_its_job(zoo: LocalBackend) -> None:
    assert "SystemExit: 3" in error_of(zoo.reconstruct(ask("exits", 3))).message


def test_an_engine_that_wants_too_much_memory(zoo: LocalBackend) -> None:
    error = error_of(zoo.reconstruct(ask("wants_memory")))
    assert type(error) is OutOfMemoryError and "lower quality" in error.hint


@pytest.mark.parametrize(
    ("seed", "words"),
    [
        (0, "dtype object"),
        (1, "object can't be sent"),
        (2, "nested"),
        (3, "nested"),
        (4, "dict, not a Scene"),
        (5, "NoneType, not a Scene"),
    ],
)
def test_what_can_not_be_sent(zoo: LocalBackend, seed: int, words: str) -> None:
    error = error_of(zoo.reconstruct(ask("unsendable", seed)))
    assert type(error) is EngineError and words in error.message


def test_numpy_scalars_are_numbers(zoo: LocalBackend) -> None:
    got = zoo.reconstruct(ask("numpy_scalars")).result().parameters
    assert (got["score"], got["count"], got["flag"]) == (0.5, 3, True) and np.isnan(got["nan"])


def test_engines_that_are_not_there(zoo: LocalBackend) -> None:
    assert zoo.start().engines == ("sam3d", "draft")
    error = error_of(zoo.reconstruct(ask("tame", engine="sam3d")))
    assert type(error) is SetupError and "nonsense_that_nobody_has" in error.message
    assert zoo.reconstruct(ask("tame", engine="auto")).result().engine == "draft"  # the last one listed


def test_bad_calls_are_refused_at_once(zoo: LocalBackend) -> None:
    with pytest.raises(OptionError, match="takes a ReconstructRequest"):
        zoo.reconstruct({"image": 1})  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="can't be sent"):
        zoo.export(Scene(objects=(), engine="x", parameters={"a": object()}), ["glb"])


def test_one_job_at_a_time(zoo: LocalBackend) -> None:
    barrier, jobs, refused = threading.Barrier(4), [], []

    def submit() -> None:
        barrier.wait()
        try:
            jobs.append(zoo.reconstruct(ask("sleeps", 1)))
        except WorkerStateError as error:
            refused.append(error)

    threads = [threading.Thread(target=submit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(jobs) == 1 and len(refused) == 3
    assert zoo.state is State.BUSY
    with pytest.raises(WorkerStateError, match="busy"):
        zoo.export(Scene(objects=(), engine="x"), ["glb"])
    assert isinstance(last(jobs[0]), Done)


def test_a_child_that_keeps_our_streams_is_no_trouble(zoo: LocalBackend) -> None:
    job = zoo.reconstruct(ask("leaves_a_child", 0))
    assert isinstance(last(job), Done)
    assert zoo.reconstruct(ask("tame")).result().seed == 0


def test_a_picture_without_masks_is_prepared(zoo: LocalBackend) -> None:
    image = np.random.default_rng(3).integers(0, 255, (8, 9, 3), np.uint8)
    job = zoo.prepare(PrepareRequest(image, engine="auto"))  # an engine that has nothing to prepare
    events = list(job)
    assert [type(event) for event in events] == [Done] and job.result().engine == "draft" and job.result().objects == ()
    assert type(error_of(zoo.prepare(PrepareRequest(image, engine="sam3d")))) is SetupError
    with pytest.raises(OptionError, match="takes a PrepareRequest"):
        zoo.prepare(ask("tame"))  # type: ignore[arg-type]
    with pytest.raises(ImageError, match="uint8 array"):
        PrepareRequest(image[..., 0])
