"""The sam3d engine interrupted: cancelled in every stage, out of memory in every stage. What comes after is whole, equal to the last bit, and nothing of the
interrupted work stays in memory."""

from __future__ import annotations

import functools
import gc
import importlib
import shutil
import traceback
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the layer `model` isn't installed: python sam3d.py test adds it")

from comfyui_sam3d.contract import Scene  # noqa: E402
from comfyui_sam3d.contract.errors import JobCancelled, OutOfMemoryError  # noqa: E402
from comfyui_sam3d.worker.engines.sam3d import mesh as mesh_module  # noqa: E402
from comfyui_sam3d.worker.engines.sam3d.engine import Engine  # noqa: E402
from comfyui_sam3d.worker.geometry.cleanup.clean import CleanOptions  # noqa: E402
from comfyui_sam3d.worker.weights.store import Store  # noqa: E402

from sam3d_bench import EVERYTHING, Recorder, a_picture, a_request, an_engine, content, run, tiny_store  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
refine_module = importlib.import_module("comfyui_sam3d.worker.geometry.layout.refine")
GEOMETRY = ("clean-up", "texture", "layout")
STAGES = (*sorted(EVERYTHING), "layout")


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return tiny_store(tmp_path_factory.mktemp("weights"))


@pytest.fixture(autouse=True, scope="module")
def _quick() -> Iterator[None]:
    """The two slowest stages at this size, from fewer sides and of fewer pixels."""
    quick = functools.partial(refine_module.refine, options=refine_module.RefineOptions(size=32, faces=200))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mesh_module, "CleanOptions", functools.partial(CleanOptions, views=8, view_size=64, samples=0))
        patch.setattr(refine_module, "refine", quick)
        yield


def wanted(stage: str = "", **own):
    """A request that runs `stage`: with the geometry's stages, which are slow, or without them."""
    own = {"layout": True, **own} if stage in GEOMETRY else {"mesh": "raw", "texture": "colors", **own}
    return a_request(outputs=("glb", "ply"), own=own)


@pytest.fixture(scope="module")
def sampled(store, tmp_path_factory) -> Path:
    """A cache in which everything up to the latents is."""
    folder = tmp_path_factory.mktemp("sampled")
    run(an_engine(store, folder), wanted())
    return folder


@pytest.fixture(scope="module")
def usual(store, tmp_path_factory, sampled, _quick):
    """The scene of `wanted(stage)` when nothing happens."""
    made: dict[bool, Scene] = {}

    def scene(stage: str = "") -> Scene:
        key = stage in GEOMETRY
        if key not in made:
            made[key] = run(engine_for(stage, store, tmp_path_factory.mktemp("usual"), sampled), wanted(stage))[0]
        return made[key]

    return scene


def engine_for(stage: str, store: Store, folder: Path, sampled: Path) -> Engine:
    """With an empty cache, or for a stage of the geometry with what comes before it."""
    if stage in GEOMETRY:
        for path in sampled.glob("*.stage"):
            shutil.copy(path, folder)
    return an_engine(store, folder, memory=10**8)


# -- cancelled


def cancel_in(stage: str, at: int = 0) -> Recorder:
    """A job that is cancelled when `stage` reports step `at`, or a later one."""

    def before(now: str, step: int, total: int) -> None:
        if now == stage and step >= at:
            raise JobCancelled("The job was cancelled.")

    return Recorder(before)


def nothing_is_left(engine: Engine, problem: BaseException) -> None:
    """Neither networks, nor tensors in the frames that the exception came through."""
    assert engine.networks._kept == {} and engine.pipeline._decoded is None
    for frame, _ in traceback.walk_tb(problem.__traceback__):
        if "worker" in frame.f_code.co_filename and frame.f_code.co_name not in ("__call__", "prepare", "_at_work"):
            assert not any(isinstance(value, torch.Tensor) for value in frame.f_locals.values()), frame


@pytest.mark.parametrize("stage", STAGES)
def test_a_cancel_is_heard_in_every_stage_and_the_next_run_is_whole(store, tmp_path, sampled, usual, stage):
    engine = engine_for(stage, store, tmp_path, sampled)
    job = cancel_in(stage)
    with pytest.raises(JobCancelled) as caught:
        engine(wanted(stage), job)
    assert job.steps[-1][0] == stage and job.steps.count(job.steps[-1]) == 1, "nothing is reported after it was cancelled"
    nothing_is_left(engine, caught.value)
    scene, after = run(engine, wanted(stage))
    assert content(scene) == content(usual(stage))
    done = {"texture": "clean-up", "clean-up": "latents", "decode": "latents", "latents": "structure", "structure": "point map"}.get(stage)
    assert done not in after.stages, "what was complete before is kept"


@pytest.mark.parametrize("stage", ["point map", "picture"])
@pytest.mark.parametrize("at", [0, 1])
def test_a_preparation_is_cancelled_as_any_job(store, tmp_path, usual, stage, at):
    engine = an_engine(store, tmp_path)
    job = cancel_in(stage, at)
    with pytest.raises(JobCancelled) as caught:
        engine.prepare(a_picture(), job)
    assert job.steps[-1] == (stage, at, 2 if stage == "picture" else 1)
    nothing_is_left(engine, caught.value)
    engine.prepare(a_picture(), Recorder())
    scene, after = run(engine, wanted())
    assert content(scene) == content(usual()) and not after.stages & {"point map", "picture"}


def test_a_sampler_is_cancelled_within_one_step(store, tmp_path):
    for stage, option in (("structure", "steps"), ("latents", "latent_steps")):
        job = cancel_in(stage, 3)
        with pytest.raises(JobCancelled):
            an_engine(store, tmp_path)(wanted(**{option: 50}), job)
        assert job.steps[-1] == (stage, 3, 50)


def test_a_job_that_is_over_is_not_held(store, tmp_path):
    """A picture may have hundreds of megabytes."""
    engine = an_engine(store, tmp_path)
    engine.prepare(a_picture(), first := Recorder())
    engine(wanted(), second := Recorder())
    jobs = [weakref.ref(first), weakref.ref(second)]
    del first, second
    gc.collect()
    assert [job() for job in jobs] == [None, None]


# -- out of memory

NETWORKS = {
    "moge": "point map", "structure_embedder": "structure", "structure_flow": "structure", "structure_decoder": "structure",
    "latent_embedder": "latents", "latent_flow": "latents", "splats": "splats", "mesh": "mesh",
}  # fmt: skip


class Exhausted:
    """Runs out of memory `times` times, holding a tensor that must be gone when the work is done again."""

    def __init__(self, times: int = 1) -> None:
        self.left, self.held = times, []

    def strike(self) -> None:
        assert all(held() is None for held in self.held), "memory of the attempt before is still held"
        if self.left:
            self.left -= 1
            large = torch.zeros(1000)
            self.held.append(weakref.ref(large))
            raise torch.cuda.OutOfMemoryError("CUDA out of memory (not really).")

    def of_network(self, engine: Engine, name: str, *, late: bool = False) -> None:
        """Inside the block that uses the network `name`: when it begins, or late, when it ends."""
        networks, real = engine.networks, engine.networks.use

        @contextmanager
        def use(wanted: str):
            with real(wanted) as network:
                if wanted == name and not late:
                    self.strike()
                yield network
                if wanted == name and late:
                    self.strike()

        networks.use = use  # type: ignore[method-assign]

    def of_function(self, real):
        def function(*args, **named):
            self.strike()
            return real(*args, **named)

        return function


@pytest.mark.parametrize("network", NETWORKS)
def test_out_of_memory_in_a_network_is_answered_and_changes_nothing(store, tmp_path, usual, network):
    engine, exhausted = an_engine(store, tmp_path), Exhausted()
    exhausted.of_network(engine, network)
    scene, _ = run(engine, wanted())
    assert exhausted.left == 0
    (note,) = set(scene.warnings) - set(usual().warnings)
    assert note == f"Not enough memory in {NETWORKS[network]}; done again with the plan `swapped`."
    assert scene.parameters["in_effect"]["memory"] == "swapped"
    assert content(scene.replace(warnings=usual().warnings)) == content(usual())


@pytest.mark.parametrize("stage", ["clean-up", "texture", "layout"])
def test_out_of_memory_in_geometry_is_answered_and_changes_nothing(store, tmp_path, sampled, usual, monkeypatch, stage):
    module, name = {"clean-up": (mesh_module, "clean"), "texture": (mesh_module, "bake"), "layout": (refine_module, "refine")}[stage]
    exhausted = Exhausted()
    monkeypatch.setattr(module, name, exhausted.of_function(getattr(module, name)))
    scene, _ = run(engine_for(stage, store, tmp_path, sampled), wanted(stage))
    assert exhausted.left == 0
    (note,) = set(scene.warnings) - set(usual(stage).warnings)
    assert note == f"Not enough memory in {stage}; done again with the plan `swapped`."
    assert content(scene.replace(warnings=usual(stage).warnings)) == content(usual(stage))


def test_out_of_memory_in_a_preparation(store, tmp_path, usual):
    for name, stage in (("moge", "point map"), ("structure_embedder", "picture"), ("latent_embedder", "picture")):
        engine, exhausted = an_engine(store, tmp_path / name), Exhausted()
        exhausted.of_network(engine, name)
        job = Recorder()
        engine.prepare(a_picture(), job)
        assert job.notes == [f"not enough memory in {stage}; done again with the plan `swapped`"]
        again = Recorder()
        engine.prepare(a_picture(), again)
        assert again.steps == []


def test_noise_of_the_original_is_the_same_after_running_out_of_memory(store, tmp_path):
    """There, stage 2 goes on with the numbers where stage 1 stopped: a second attempt must not go on further."""
    calm = run(an_engine(store, tmp_path / "calm"), wanted(noise="original"))[0]
    engine, exhausted = an_engine(store, tmp_path / "exhausted"), Exhausted()
    exhausted.of_network(engine, "latent_flow", late=True)
    scene, _ = run(engine, wanted(noise="original"))
    assert scene.parameters["in_effect"]["memory"] == "swapped"
    assert content(scene.replace(warnings=calm.warnings)) == content(calm)


def test_several_objects_are_done_one_by_one_before_the_plan_changes(store, tmp_path):
    engine, exhausted = an_engine(store, tmp_path), Exhausted()
    exhausted.of_network(engine, "latent_flow")
    scene, _ = run(engine, a_request(2, own={"mesh": "raw", "texture": "colors"}))
    assert any("2 objects at once in latents; done again, 1 at a time" in text for text in scene.warnings)
    assert scene.parameters["in_effect"]["memory"] == "resident" and len(scene.objects) == 2


def test_where_no_plan_is_small_enough_the_error_says_so_and_nothing_is_left(store, tmp_path, usual):
    engine, exhausted = an_engine(store, tmp_path), Exhausted(3)
    exhausted.of_network(engine, "latent_flow")
    with pytest.raises(OutOfMemoryError, match="one network at a time") as caught:
        engine(wanted(), Recorder())
    nothing_is_left(engine, caught.value)
    assert all(held() is None for held in exhausted.held)
    assert content(run(engine, wanted())[0]) == content(usual())  # the next job begins with the plan that fits


# -- on a GPU


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("stage", STAGES)
def test_an_interrupted_run_leaves_no_memory_on_the_device(store, tmp_path, stage):
    before = torch.cuda.memory_allocated()  # other tests' workspaces
    engine = an_engine(store, tmp_path / "first", device="cuda")
    whole, job = run(engine, wanted(stage))
    assert stage in job.stages, whole.warnings
    held = []
    for name in ("second", "third", "fourth"):  # the first time the libraries still make workspaces of their own
        engine.cache.folder = tmp_path / name
        with pytest.raises(JobCancelled):
            engine(wanted(stage), cancel_in(stage))
        held.append(torch.cuda.memory_allocated() - before)
    assert held[2] <= held[0] < 200e6, held
    again = run(engine, wanted(stage))[0]
    assert stage in GEOMETRY or content(again) == content(whole)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_prepared_picture_gives_the_same_on_a_gpu(store, tmp_path):
    prepared = an_engine(store, tmp_path / "a", device="cuda")
    prepared.prepare(a_picture(), Recorder())
    request = a_request(2, own={"mesh": "raw", "texture": "colors"}, outputs=("glb", "ply"))
    scene, _ = run(prepared, request)
    assert content(scene) == content(run(an_engine(store, tmp_path / "b", device="cuda"), request)[0])
    alone, _ = run(an_engine(store, tmp_path / "c", device="cuda"), request.replace(masks=request.masks[:1], names=request.names[:1]))
    assert content(alone) == content(scene.replace(objects=scene.objects[:1])), "in a batch as alone"


def test_networks_are_the_ones_that_are_listed(store):
    """A new network must be tried without memory too."""
    assert set(NETWORKS) == {"moge", *store.architecture.parts()} - {"splats_4"}
