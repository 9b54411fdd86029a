"""Objects finished while others are sampled: the same bits as one after another, whatever is slow, is cancelled, fails or has no memory. On the CPU, where only a
test asks for it, with real threads and tiny weights."""

from __future__ import annotations

import dataclasses
import functools
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the layer `model` isn't installed: python sam3d.py test adds it")

from comfyui_sam3d.contract import ReconstructRequest, Scene  # noqa: E402
from comfyui_sam3d.contract.errors import EngineError, JobCancelled  # noqa: E402
from comfyui_sam3d.worker.engines.sam3d import hands  # noqa: E402
from comfyui_sam3d.worker.engines.sam3d import mesh as mesh_module  # noqa: E402
from comfyui_sam3d.worker.engines.sam3d.engine import Engine  # noqa: E402
from comfyui_sam3d.worker.geometry.cleanup.clean import CleanOptions  # noqa: E402
from comfyui_sam3d.worker.ops import attention  # noqa: E402
from comfyui_sam3d.worker.ops.streams import aside  # noqa: E402
from comfyui_sam3d.worker.sam3d import pipeline  # noqa: E402
from comfyui_sam3d.worker.sam3d.networks import Networks  # noqa: E402
from comfyui_sam3d.worker.sam3d.structure import Structure  # noqa: E402
from comfyui_sam3d.worker.weights.store import Store  # noqa: E402
from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402

from sam3d_bench import Recorder, a_request, an_engine, content, run, tiny_store  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
OBJECTS = 3


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return tiny_store(tmp_path_factory.mktemp("weights"))


@pytest.fixture(autouse=True, scope="module")
def _quick() -> Iterator[None]:
    """The clean-up sees from fewer sides, and objects are a quarter of the ball that stage 1 finds in its grid of 16^3."""
    real = pipeline.structure.decode

    def decode(*args: object) -> list[Structure]:
        return [dataclasses.replace(item, coords=item.coords[(item.coords[:, 1:3] < 8).all(1)]) for item in real(*args)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mesh_module, "CleanOptions", functools.partial(CleanOptions, views=8, view_size=64, samples=0))
        patch.setattr(pipeline.structure, "decode", decode)
        yield


def wanted(*, clean: bool = False, **own: object) -> ReconstructRequest:
    """Three objects; cleaned, which is slow, or as they are. Their structures are in the cache that engines of these tests begin with, no latents."""
    own = {"mesh": "clean" if clean else "raw", "texture": "colors", "latent_seed": 3, **own}
    return a_request(OBJECTS, outputs=("glb", "ply"), own=own)


@pytest.fixture(scope="module")
def sampled(store, tmp_path_factory, _quick) -> Path:
    """A cache with the structures of three objects."""
    folder = tmp_path_factory.mktemp("sampled")
    run(an_engine(store, folder), a_request(OBJECTS, outputs=("ply",)))
    return folder


@pytest.fixture(scope="module")
def one_by_one(store, tmp_path_factory, sampled) -> Engine:
    engine = an_engine(store, shutil.copytree(sampled, tmp_path_factory.mktemp("usual") / "cache"))
    engine.pipeline.most["latents"] = 1  # a CPU's products may round otherwise in a batch
    return engine


@pytest.fixture(scope="module")
def usual(one_by_one, _quick) -> Scene:
    """What `wanted()` gives one after another."""
    scene = run(one_by_one, wanted())[0]
    assert all(len(item.mesh.faces) > 100 and len(item.splats.positions) > 1000 for item in scene.objects)
    return scene


@pytest.fixture
def overlapping(store, tmp_path, sampled) -> Engine:
    """Samples one object after another, and finishes meanwhile."""
    engine = an_engine(store, shutil.copytree(sampled, tmp_path / "cache"))
    engine.hands, engine.group = 2, 1
    return engine


def until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not happened() and time.monotonic() < deadline:
        time.sleep(0.005)


def watched(monkeypatch, log: list[str], *, slow: int | None = None, fails: int | None = None) -> None:
    """Write down when each object is finished, and by whom. slow: an object that takes longer than all others. fails: one that can't be done."""
    real, numbers, lock = mesh_module.Finisher.finish, {}, threading.Lock()

    def finish(self, latent, job):
        with lock:
            number = numbers.setdefault(id(self), len(numbers))  # in their order: they begin in it
            log.append(f"begins {number}")
        if number == slow:
            until(lambda: sum(item.startswith("ends") for item in log) == OBJECTS - 1)
        if number == fails:
            log.append(f"fails {number}")
            raise EngineError("this one fails")
        assert threading.current_thread().name.startswith("object")
        made = real(self, latent, job)
        with lock:
            log.append(f"ends {number}")
        return made

    monkeypatch.setattr(mesh_module.Finisher, "finish", finish)


def runs_out(engine, name: str, times: int) -> None:
    """The network `name` finds no memory, `times` times; then it does."""
    real, left = engine.networks.use, [1] * times

    def use(wanted: str):
        if wanted == name and left:
            left.pop()
            raise torch.cuda.OutOfMemoryError("no memory")
        return real(wanted)

    engine.networks.use = use  # type: ignore[method-assign]


def test_the_same_bits_while_others_are_sampled(overlapping, one_by_one):
    request = wanted(clean=True)
    alone, _ = run(one_by_one, request)
    made, job = run(overlapping, request)
    assert content(made) == content(alone)
    assert set(made.timings) == set(alone.timings) >= {"latents", "decode", "clean-up"}
    assert made.timings["clean-up"] > 0.3 * alone.timings["clean-up"]
    stages = [stage for stage, _, _ in job.steps]
    order = [stage for i, stage in enumerate(stages) if i == 0 or stages[i - 1] != stage]
    assert order == ["latents", "objects"]
    assert [(step, total) for stage, step, total in job.steps if stage == "latents"] == [(i, 2 * OBJECTS) for i in range(2 * OBJECTS + 1)]
    shown = [(step, total) for stage, step, total in job.steps if stage == "objects"]
    assert shown[0][0] == 0 and shown[-1][0] == shown[-1][1] and shown == sorted(shown)
    assert [item.stage for item in job.plans[-1]] == ["latents", "objects"]


@pytest.mark.parametrize("slow", [0, 1, None])
def test_objects_begin_as_soon_as_they_are_sampled_and_none_is_lost(overlapping, monkeypatch, usual, slow):
    log: list[str] = []
    watched(monkeypatch, log, slow=slow)
    engine = overlapping

    def before(stage: str, step: int, total: int) -> None:
        if stage == "latents" and step == 4:  # two are sampled: the first has certainly begun when the third is
            until(lambda: "begins 0" in log)
            log.append("third")

    job = Recorder(before)
    assert content(engine(wanted(), job)) == content(usual)
    assert log.index("begins 0") < log.index("third") and {f"ends {i}" for i in range(OBJECTS)} <= set(log)
    if slow == 0:
        assert log[-1] == "ends 0", "the others don't wait for it"


def test_notes_stand_in_one_order_whoever_was_first(overlapping, monkeypatch):
    real, begun, noted = mesh_module.Finisher.finish, [], []

    def finish(self, latent, job):
        number = len(begun)
        begun.append(number)
        made = real(self, latent, job)
        until(lambda: number > 0 or len(noted) == OBJECTS - 1)
        noted.append(number)
        overlapping.pipeline.note(f"of object {number}")
        return made

    monkeypatch.setattr(mesh_module.Finisher, "finish", finish)
    scene, _ = run(overlapping, wanted())
    assert noted[-1] == 0 and [text for text in scene.warnings if text.startswith("Of")] == [f"Of object {i}." for i in range(OBJECTS)]


@pytest.mark.parametrize(("stage", "at"), [("latents", 3), ("latents", 6), ("objects", 0), ("objects", 5)])
def test_a_cancel_ends_all_of_it_within_a_step(overlapping, usual, stage, at):
    engine = overlapping

    def before(now: str, step: int, total: int) -> None:
        if now == stage and step >= at:
            raise JobCancelled("The job was cancelled.")

    job = Recorder(before)
    with pytest.raises(JobCancelled, match="The job was cancelled"):
        engine(wanted(), job)
    steps = len(job.steps)
    assert job.steps[-1][0] == stage and [one for one in job.steps if one[0] == stage and one[1] >= at] == job.steps[-1:]
    assert engine.networks._kept == {} and engine.pipeline._decoded is None
    assert content(run(engine, wanted())[0]) == content(usual)
    assert len(job.steps) == steps, "nobody speaks for a job that is over"


def test_after_a_cancel_nobody_speaks_even_before_the_thread_that_heard_it_has_stopped_the_others():
    def before(stage: str, step: int, total: int) -> None:
        raise JobCancelled("The job was cancelled.")

    job = Recorder(before)
    shared = hands.Shared(job, 2)
    for _ in range(2):
        with pytest.raises(JobCancelled):
            shared.step("latents", 1, 2)
    assert len(job.steps) == 1 and str(shared.problem) == "The job was cancelled."


@pytest.mark.parametrize("index", [0, 2])
def test_an_object_that_fails_ends_the_sampling_of_the_others(overlapping, monkeypatch, usual, index):
    engine, log = overlapping, []

    def before(stage: str, step: int, total: int) -> None:
        if stage == "latents" and step == 5 and index == 0:  # the second of three is being sampled
            until(lambda: "fails 0" in log)
            time.sleep(0.2)

    job = Recorder(before)
    with monkeypatch.context() as patch:
        watched(patch, log, fails=index)
        with pytest.raises(EngineError, match="this one fails"):
            engine(wanted(latent_steps=4), job)
    furthest = max(step for stage, step, _ in job.steps if stage == "latents")
    assert furthest <= 5 if index == 0 else furthest == 12
    assert engine.networks._kept == {}
    assert content(run(engine, wanted())[0]) == content(usual)


@pytest.mark.parametrize("network", ["mesh", "splats", "latent_flow"])
def test_out_of_memory_beside_others_is_done_again_alone(overlapping, usual, network):
    """In a finishing thread and in the sampler; the plan stays, and the next job works on one object at a time."""
    engine = overlapping
    networks, real, left = engine.networks, engine.networks.use, [1]

    def use(name: str):
        if name == network and left and (network != "latent_flow" or len(uses) == 1):
            left.pop()
            raise torch.cuda.OutOfMemoryError("no memory")
        if name == "latent_flow":
            uses.append(name)
        return real(name)

    uses: list[str] = []
    networks.use = use  # type: ignore[method-assign]
    scene, _ = run(engine, wanted())
    assert not left
    (note,) = set(scene.warnings) - set(usual.warnings)
    stage = {"latent_flow": "latents"}.get(network, network)
    assert note == f"Not enough memory in {stage} beside other objects; done again, one at a time."
    assert scene.parameters["in_effect"]["memory"] == "resident"
    assert content(scene.replace(warnings=usual.warnings)) == content(usual)
    assert engine.pipeline.most["beside"] == 1
    if network == "mesh":
        assert "objects" not in run(engine, wanted(latent_seed=4))[1].stages


def test_what_does_not_fit_alone_either_changes_the_plan(overlapping, usual):
    engine = overlapping
    runs_out(engine, "mesh", 2)
    scene, _ = run(engine, wanted())
    assert scene.parameters["in_effect"]["memory"] == "swapped"
    assert content(scene.replace(warnings=usual.warnings)) == content(usual)


def test_with_everything_sampled_already_there_is_nothing_to_overlap(overlapping, usual):
    engine = overlapping
    run(engine, wanted())
    scene, job = run(engine, wanted())
    assert content(scene) == content(usual) and "latents" not in job.stages and job.stages == {"objects"}
    assert not job.plans[-1][-1].key.endswith(f"after sampling {OBJECTS}")


@pytest.mark.parametrize("why", ["switched off", "no room", "one group"])
def test_all_are_sampled_first_where_it_is_switched_off_or_can_not_be(overlapping, monkeypatch, usual, why):
    log: list[str] = []
    watched(monkeypatch, log)
    engine = overlapping
    engine.pipeline.most["latents"] = 1
    if why == "switched off":
        engine.overlap = False
    elif why == "no room":
        monkeypatch.setattr(hands, "fits_beside", lambda *asked: asked != (engine.networks, OBJECTS, 2))
    else:
        engine.group = OBJECTS
    monkeypatch.setattr(hands, "make_free", lambda *asked: log.append("freed"))
    job = Recorder(lambda stage, step, total: log.append(stage))
    assert content(engine(wanted(), job)) == content(usual)
    assert max(i for i, item in enumerate(log) if item == "latents") < log.index("begins 0") and "freed" not in log


def test_memory_is_made_free_for_the_threads_before_the_first_step(overlapping, monkeypatch):
    log: list[object] = []
    monkeypatch.setattr(hands, "make_free", lambda *asked: log.append(asked))
    overlapping(wanted(), Recorder(lambda stage, step, total: log.append(stage)))
    assert log.index((overlapping.networks, 2)) < log.index("latents") and log.count((overlapping.networks, 2)) == 1


@pytest.mark.parametrize(("free", "fits"), [(140e9, True), (40e9, True), (34e9, True), (33e9, False)])
def test_only_where_the_device_has_room_for_both(monkeypatch, free, fits):
    """Eight objects, four finished at a time: 6.6 GB of networks, 12 of stage 1, 12.4 to finish, 2.4 to sample."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free), int(144e9)))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 0)
    assert hands.fits_beside(Networks(lambda name, device: None, torch.device("cuda"), "resident"), 8, 4) == fits


@pytest.mark.parametrize(("free", "times"), [(15e9, 0), (14.5e9, 1)])
def test_the_cache_of_the_allocator_is_given_back_where_free_memory_is_short(monkeypatch, free, times):
    """Four finished at a time: 12.4 GB, and 2.4 to sample."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free), int(144e9)))
    networks, given = Networks(lambda name, device: None, torch.device("cuda"), "resident"), []
    monkeypatch.setattr(networks, "give_back", lambda: given.append(1))
    hands.make_free(networks, 4)
    assert len(given) == times


@pytest.mark.parametrize(("reserved", "times"), [(12e9, 0), (14e9, 1)])
def test_between_jobs_most_of_what_the_allocator_keeps_is_given_back(store, tmp_path, monkeypatch, reserved, times):
    """9 GB are in use. (After a job that failed all of it is.)"""
    engine, given = an_engine(store, tmp_path), []
    monkeypatch.setattr(engine.networks, "device", torch.device("cuda"))
    monkeypatch.setattr(engine.networks, "set_plan", lambda plan: None)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: int(reserved))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: int(9e9))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: given.append(1))
    with engine._at_work("resident", Recorder()):
        assert given == []
    assert len(given) == times


def test_each_thread_works_on_a_stream_of_its_own_and_settles_it(overlapping, monkeypatch):
    """What a GPU would need: the main thread on none, each finishing thread on its own, and no step ends before its work is done."""
    using, settled = {}, []

    @contextmanager
    def aside(device: torch.device, use: str) -> Iterator[None]:
        using[threading.get_ident()] = use
        yield

    monkeypatch.setattr(hands, "aside", aside)
    monkeypatch.setattr(pipeline, "settle", lambda device: settled.append(threading.get_ident()))
    run(overlapping, wanted())
    assert len(set(using.values())) == len(using) == 2 and threading.get_ident() not in using
    assert settled.count(threading.get_ident()) == OBJECTS  # sampled one by one
    assert len(settled) == 5 * OBJECTS and set(settled) <= {*using, threading.get_ident()}  # splats and surface of each, decoded and copied


@pytest.mark.parametrize("problem", [torch.cuda.OutOfMemoryError("no memory"), JobCancelled("cancelled")])
def test_a_step_that_fails_is_settled_too_before_anything_is_freed(monkeypatch, problem):
    """What it has launched reads the networks, and they may be another stream's memory."""
    log: list[str] = []
    networks = Networks(lambda name, device: None, torch.device("cpu"), "resident")
    monkeypatch.setattr(networks, "give_back", lambda: log.append("freed"))
    monkeypatch.setattr(pipeline, "settle", lambda device: log.append("settled"))

    def launch() -> None:
        log.append("launched")
        if log.count("launched") == 1:
            raise problem

    made = pipeline.Pipeline(networks, note=lambda text: None)
    if isinstance(problem, JobCancelled):
        with pytest.raises(JobCancelled):
            made.insisting("mesh", launch)
        assert log == ["launched", "settled"]
    else:
        made.insisting("mesh", launch)
        assert log == ["launched", "settled", "freed", "launched", "settled"]


@pytest.mark.parametrize("copied", ["splats_of", "mesh_of"])
def test_out_of_memory_on_the_way_out_of_a_decoder_is_done_again(overlapping, monkeypatch, usual, copied):
    real, left = getattr(mesh_module, copied), [1]

    def tight(made: object) -> object:
        if left:
            left.pop()
            raise torch.cuda.OutOfMemoryError("no memory")
        return real(made)

    monkeypatch.setattr(mesh_module, copied, tight)
    scene, _ = run(overlapping, wanted())
    assert set(scene.warnings) - set(usual.warnings) == {"Not enough memory in decode beside other objects; done again, one at a time."}
    assert content(scene.replace(warnings=usual.warnings)) == content(usual)


def test_the_order_of_attention_kernels_lasts_until_the_last_thread_is_out():
    """PyTorch keeps it for the process: who comes first and leaves first must not change what the other one runs."""

    def flags() -> tuple[bool, bool]:
        return torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled()

    order, before = attention._Order(), flags()
    with sdpa_kernel([SDPBackend.MATH]):
        outside = flags()
        order.__enter__()
        inside = flags()
        order.__enter__()
        order.__exit__(None, None, None)
        assert flags() == inside != outside
        order.__exit__(None, None, None)
        assert flags() == outside
    assert flags() == before


# -- on a GPU


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("workers", [2, 3])
def test_the_same_bits_on_a_gpu_where_threads_have_streams_of_their_own(store, tmp_path, workers):
    """Graphs are captured while other threads copy and allocate: more steps than two of each kind. Raw meshes: the clean-up there may differ in the last bits."""
    request = wanted(latent_steps=8)
    alone = an_engine(store, tmp_path / "alone", device="cuda")
    alone.hands = 1
    usual = content(run(alone, request)[0])
    engine = an_engine(store, tmp_path / "none", limit=0, device="cuda")  # nothing is kept: every run does all of it
    engine.hands, engine.group = workers, 1
    every_thread_has_its_workspace()
    held = []
    for _ in range(4):
        assert content(run(engine, request)[0]) == usual
        held.append(torch.cuda.memory_allocated())
    assert held[-1] <= held[0] + 1e6, "a run leaves no memory behind"
    engine.overlap = False
    assert content(run(engine, request)[0]) == usual


def every_thread_has_its_workspace() -> None:
    """33 MB for each pair of a thread and its stream, kept by cuBLAS: otherwise it would come in whichever run a thread is first used in."""
    device, together = torch.device("cuda"), threading.Barrier(hands.MOST)

    def multiply() -> None:
        together.wait(20)
        with aside(device, threading.current_thread().name):
            for dtype in (torch.float16, torch.float32):
                one = torch.ones(64, 64, dtype=dtype, device=device)
                torch.addmm(one[0], one, one)

    for job in [hands._threads().submit(multiply) for _ in range(hands.MOST)]:
        job.result(60)
    torch.cuda.synchronize()


# -- `auto` remembers


def test_auto_does_not_choose_a_plan_again_that_ran_out(overlapping):
    engine = overlapping
    engine.hands = 1
    runs_out(engine, "latent_flow", 1)

    def small(objects: int, seed: int, size: int = 512, **own: object) -> tuple[Scene, Recorder]:
        return run(engine, a_request(objects, own={"mesh": "raw", "texture": "colors", "latent_seed": seed, **own}, texture_size=size))

    first, _ = small(1, 1)
    assert first.parameters["in_effect"]["memory"] == "swapped" and any("latents; done again" in text for text in first.warnings)
    second, job = small(1, 2)
    assert second.parameters["in_effect"]["memory"] == "swapped"
    assert [text for text in second.warnings if "ran out" in text] == [
        "The plan `resident` ran out of memory before with as much to do or less; it is `swapped` from now on."
    ]
    assert job.notes == [text for text in second.warnings if "ran out" in text]
    third, job = small(2, 3)
    assert third.parameters["in_effect"]["memory"] == "swapped" and job.notes == []
    smaller, _ = small(1, 4, size=256)
    assert smaller.parameters["in_effect"]["memory"] == "resident"
    told, _ = small(1, 5, memory="resident")
    assert told.parameters["in_effect"]["memory"] == "resident", "who names a plan gets it"
