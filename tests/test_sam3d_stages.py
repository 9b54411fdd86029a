"""What the sam3d engine runs and what it takes from its cache: a picture prepared for its masks, and each parameter's reach down the stages. Equal means every bit."""

from __future__ import annotations

import dataclasses
import functools
import importlib
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the layer `model` isn't installed: python sam3d.py test adds it")

from comfyui_sam3d.contract.record import content_key  # noqa: E402
from comfyui_sam3d.contract.request import ExportOptions  # noqa: E402
from comfyui_sam3d.worker.engines.sam3d import engine as engine_module  # noqa: E402
from comfyui_sam3d.worker.engines.sam3d import mesh as mesh_module  # noqa: E402
from comfyui_sam3d.worker.geometry.cleanup.clean import CleanOptions  # noqa: E402
from comfyui_sam3d.worker.history import History  # noqa: E402
from comfyui_sam3d.worker.loop import ENCODE  # noqa: E402
from comfyui_sam3d.worker.progress import Course  # noqa: E402
from comfyui_sam3d.worker.weights.store import Store  # noqa: E402

from sam3d_bench import EVERYTHING, IMAGE, Recorder, a_picture, a_request, an_engine, content, run, tiny_store  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
PICTURE = {"point map", "picture"}
BARE = {"mesh": "raw", "texture": "colors"}  # without the stages that take longer than all networks of this size


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return tiny_store(tmp_path_factory.mktemp("weights"))


@pytest.fixture(autouse=True)
def _quick_clean_up(monkeypatch) -> None:
    """Seen from fewer sides, and not measured: it is the slowest stage at this size."""
    monkeypatch.setattr(mesh_module, "CleanOptions", functools.partial(CleanOptions, views=8, view_size=64, samples=0))


# -- two phases


def test_a_prepared_picture_gives_the_same_as_one_that_was_not(store, tmp_path):
    prepared, other = an_engine(store, tmp_path / "a"), an_engine(store, tmp_path / "b")
    before = Recorder()
    prepared.prepare(a_picture(), before)
    assert before.stages == PICTURE and before.steps[-1] == ("picture", 2, 2)
    scene, job = run(prepared, a_request())
    assert job.stages == EVERYTHING - PICTURE
    unprepared, whole = run(other, a_request())
    assert whole.stages == EVERYTHING
    assert content(scene) == content(unprepared)
    again = Recorder()
    other.prepare(a_picture(), again)  # the reconstruction has left it
    assert again.steps == []


def test_each_further_mask_of_a_picture_is_cheap(store, tmp_path):
    engine = an_engine(store, tmp_path)
    first, _ = run(engine, a_request(1, own=BARE))
    both, job = run(engine, a_request(2, own=BARE))
    assert not job.stages & PICTURE and job.steps.count(("structure", 2, 2)) == 1  # the new object's two steps
    assert content(first.replace(objects=both.objects[:1])) == content(first.replace(objects=(first.objects[0].replace(name="object_1"),)))
    _, job = run(engine, a_request(1, image=255 - IMAGE, own=BARE))
    assert job.stages >= PICTURE


def test_another_second_mask_or_the_masks_the_other_way_round_are_other_objects(store, tmp_path):
    """An object's own mask counts, and its number, which decides its noise; another object's doesn't."""
    engine = an_engine(store, tmp_path)
    both = a_request(2, own=BARE)
    first, _ = run(engine, both)
    changed = both.replace(masks=np.stack([both.masks[0], a_request(3).masks[2]]))
    other, job = run(engine, changed)
    assert job.steps.count(("structure", 2, 2)) == 1, "the second object alone"
    assert content_key(other.objects[0]) == content_key(first.objects[0]) and content_key(other.objects[1]) != content_key(first.objects[1])
    turned, job = run(engine, both.replace(masks=both.masks[::-1].copy()))
    assert ("structure", 4, 4) in job.steps
    assert turned.objects[0].pose != first.objects[1].pose


def test_the_last_pictures_are_kept_in_memory_too(store, tmp_path):
    engine = an_engine(store, tmp_path / "none", limit=0, memory=10**8)
    engine.prepare(a_picture(), Recorder())
    _, job = run(engine, a_request(own=BARE))
    assert not job.stages & PICTURE and not list(tmp_path.rglob("*.stage"))
    small = an_engine(store, tmp_path / "none", limit=0, memory=1000)
    small.prepare(a_picture(), Recorder())
    assert run(small, a_request(own=BARE))[1].stages >= PICTURE


def test_a_point_map_of_ones_own_leaves_nothing_to_prepare_of_it(store, tmp_path):
    engine = an_engine(store, tmp_path)
    y, x = np.mgrid[:48, :64] / 64
    own = {"pointmap": np.stack([x - 0.5, y - 0.4, np.full_like(x, 2)], axis=-1).astype(np.float32), "pointmap_frame": "opencv"}
    picture = a_picture()
    job = Recorder()
    engine.prepare(dataclasses.replace(picture, sam3d=dataclasses.replace(picture.sam3d, **own)), job)
    assert job.stages == {"picture"}
    _, job = run(engine, a_request(own={**own, **BARE}))
    assert not job.stages & PICTURE
    _, job = run(engine, a_request(own={**own, **BARE}, image=255 - IMAGE))
    assert job.stages >= {"picture", "structure", "latents"}, "the same points, but of another picture"


# -- what each parameter reaches

_Y, _X = np.mgrid[:48, :64] / 64
POINTS = np.stack([_X - 0.5, _Y - 0.4, np.full_like(_X, 3)], axis=-1).astype(np.float32)
BAKED = {"decode", "texture"}  # the splats are decoded for it
CLEANED = BAKED | {"clean-up"}
SAMPLED = CLEANED | {"latents"}
ALL_BUT_PICTURE = SAMPLED | {"structure"}
LATENTS = {"latents", "decode"}  # of a raw mesh: nothing is cleaned or baked
STRUCTURE = LATENTS | {"structure"}
CHANGES = {
    "nothing": (set(), {}),
    "formats": (set(), {"outputs": ("obj", "stl", "mesh_ply")}),
    "levels of detail": (set(), {"export": ExportOptions(lods=2, target="blender")}),
    "splats too": ({"decode"}, {"outputs": ("glb", "ply")}),
    "no texture": (set(), {"own": {"texture": "colors"}}),
    "frame": (set(), {"own": {"frame": "object"}, "size": 2.0}),
    "texture size": (BAKED, {"texture_size": 300}),
    "splats of a voxel": (BAKED, {"own": {"splats_per_voxel": 4}}),
    "face budget": (CLEANED, {"face_budget": 500}),
    "smoothing": (CLEANED, {"own": {"smooth": 1}}),
    "raw mesh": ({"decode"}, {"own": {"mesh": "raw"}}),
    "seed of stage 2": (SAMPLED, {"own": {"latent_seed": 5}}),
    "steps of stage 2": (LATENTS, {"own": {"latent_steps": 3, **BARE}}),
    "guidance of stage 2": (LATENTS, {"own": {"latent_guidance": 2.0, **BARE}}),
    "seed": (ALL_BUT_PICTURE, {"seed": 3}),
    "steps": (STRUCTURE, {"own": {"steps": 3, **BARE}}),
    "guidance": (STRUCTURE, {"own": {"guidance": 3.0, **BARE}}),
    "few steps": (STRUCTURE, {"own": {"few_step": True, **BARE}}),
    "noise": (STRUCTURE, {"own": {"noise": "original", **BARE}}),
    "grid of few steps": (STRUCTURE, {"own": {"few_step": True, "few_step_grid": "uniform", **BARE}}),
    "point map": (STRUCTURE, {"own": {"pointmap": POINTS, **BARE}}),
    "soft edges": (STRUCTURE, {"alpha": 200 * a_request().masks.astype(np.uint8), "own": BARE}),
    "memory plan": (set(), {"own": {"memory": "staged"}}),
    "picture": (STRUCTURE | PICTURE, {"image": IMAGE[::-1].copy(), "own": BARE}),
}


@pytest.fixture(scope="module")
def kept(store, tmp_path_factory):
    """An engine in whose cache the usual request's stages are; a test that changes the entries must take its own."""
    engine = an_engine(store, tmp_path_factory.mktemp("kept"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mesh_module, "CleanOptions", functools.partial(CleanOptions, views=8, view_size=64, samples=0))
        scene, job = run(engine, a_request())
    assert job.stages == EVERYTHING
    return engine, scene


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_runs_what_it_reaches_and_nothing_else(kept, what):
    engine, usual = kept
    stages, fields = CHANGES[what]
    request = a_request(**fields)
    scene, job = run(engine, request)
    assert job.stages == stages
    planned = {item.stage for item in job.plans[0]}
    assert planned == stages, "what will run is known before it does"
    if what in ("nothing", "formats", "levels of detail"):
        assert content(scene) == content(usual)
    assert run(engine, request)[1].stages <= {"decode"}  # raw meshes and splats aren't kept


@pytest.mark.parametrize("own", [{}, BARE], ids=["textured", "bare"])
def test_the_bar_moves_through_the_objects_one_after_the_other(store, tmp_path, own):
    """Every stage that was planned is come to, none is passed over while it is still to come, and of each it is learned how long it takes."""
    history = History(tmp_path)
    course, begun = Course(lambda: history), []

    def before(stage: str, step: int, total: int) -> None:
        begun.append((stage, course.step(stage, step, total).fraction, course._at))

    job = Recorder(before)
    job.plan = course.plan  # type: ignore[method-assign]
    an_engine(store, tmp_path)(a_request(2, own=own, outputs=("glb", "ply")), job)
    visited = {at for _, _, at in begun[[stage for stage, _, _ in begun].index("latents") :]}
    order = [at for stage, _, at in begun if stage in ("decode", "clean-up", "texture")]
    assert visited == set(range(len(course._row))) and order == sorted(order), [place.stage for place in course._row]
    assert begun[-1][1] == pytest.approx(1.0) and all(place.done == 1 for place in course._row)
    course.finish()
    assert all(history.rate(place.key) for place in course._row)


def test_a_layout_is_kept_and_does_not_depend_on_the_texture(kept, monkeypatch):
    refine = importlib.import_module("comfyui_sam3d.worker.geometry.layout.refine")
    quick = functools.partial(refine.refine, options=refine.RefineOptions(size=32, faces=200))
    monkeypatch.setattr(refine, "refine", quick)
    engine, _ = kept
    first, job = run(engine, a_request(own={"layout": True}))
    assert job.stages == {"layout"}
    other, job = run(engine, a_request(own={"layout": True}, texture_size=310))
    assert job.stages == BAKED
    assert (other.objects[0].pose, other.objects[0].score) == (first.objects[0].pose, first.objects[0].score)
    assert other.objects[0].info["layout"] == first.objects[0].info["layout"]
    own = {"layout": True, "pointmap": POINTS, **BARE}
    run(engine, a_request(own=own))
    _, job = run(engine, a_request(own={**own, "intrinsics": np.array([[2, 0, 0.5], [0, 2.7, 0.5], [0, 0, 1]], np.float32)}))
    assert job.stages == {"decode", "layout"}, "the same points, seen by another camera"
    assert run(engine, a_request(own=own))[1].stages == {"decode"}


def test_noise_of_the_original_goes_on_where_a_kept_stage_1_stopped(store, tmp_path):
    """There, stage 2 draws on from stage 1's generator: also where stage 1 wasn't run."""
    own = {"noise": "original", **BARE}
    engine = an_engine(store, tmp_path / "a")
    run(engine, a_request(own=own))
    again, job = run(engine, a_request(own={**own, "latent_steps": 3}, outputs=("ply",)))
    assert job.stages == {"latents", "decode"}
    fresh, _ = run(an_engine(store, tmp_path / "b"), a_request(own={**own, "latent_steps": 3}, outputs=("ply",)))
    assert content(again) == content(fresh)


@pytest.mark.parametrize("language", ["en", "ja"])
def test_the_page_has_words_for_every_stage(language):
    words = (Path(__file__).parent.parent / "factory/web/src/text" / f"{language}.ts").read_text("utf-8")
    stages = {*PICTURE, *engine_module.SHARES, ENCODE}
    assert [stage for stage in sorted(stages) if f'"stage.{stage}":' not in words] == []


def test_other_weights_other_code_other_backends_share_nothing(kept, store, monkeypatch):
    engine, _ = kept
    cache = engine.cache
    half = engine_module.Engine(dataclasses.replace(store, dtype=torch.float16), cache, engine.device)
    elsewhere = engine_module.Engine(store, cache, torch.device("meta"))
    assert len({one.key("structure") for one in (engine, half, elsewhere)}) == 3
    changed = engine_module.Engine(dataclasses.replace(store, digest="other"), cache, engine.device)
    assert run(changed, a_request())[1].stages == EVERYTHING
    for name, value in (("CODE", 99), ("VERSION", "9.9")):
        with monkeypatch.context() as patch:
            patch.setattr(engine_module, name, value)
            assert run(engine, a_request(outputs=("stl",), own={"mesh": "raw"}))[1].stages >= PICTURE, name
    monkeypatch.setenv("SAM3D_OPS", "torch")
    assert run(engine, a_request(outputs=("stl",), own={"mesh": "raw"}))[1].stages >= PICTURE


def test_warnings_come_with_what_is_kept(store, tmp_path, monkeypatch):
    real = mesh_module.clean

    def noting(*args):
        made = real(*args)
        return dataclasses.replace(made, report={**made.report, "notes": ["the budget was not reached"]})

    monkeypatch.setattr(mesh_module, "clean", noting)
    engine = an_engine(store, tmp_path)
    first, _ = run(engine, a_request())
    again, job = run(engine, a_request())
    assert job.stages == set() and any("budget was not reached" in text for text in first.warnings) and again.warnings == first.warnings
    assert content(first) == content(again)


def test_what_fell_short_is_not_kept(store, tmp_path, monkeypatch):
    from comfyui_sam3d.contract.errors import OutputError

    def failing(*args):
        raise OutputError("no room for the charts.")

    engine = an_engine(store, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(mesh_module, "bake", failing)
        scene, _ = run(engine, a_request())
        assert any("texture could not be made" in text for text in scene.warnings) and scene.objects[0].mesh.texture is None
    scene, job = run(engine, a_request())
    assert job.stages == BAKED and scene.objects[0].mesh.texture is not None


def test_a_damaged_entry_is_made_again(store, tmp_path):
    engine = an_engine(store, tmp_path)
    first, _ = run(engine, a_request())
    for path in tmp_path.glob("*.stage"):
        path.write_bytes(path.read_bytes()[:-1])
    again, job = run(engine, a_request())
    assert job.stages == EVERYTHING and content(first) == content(again)
