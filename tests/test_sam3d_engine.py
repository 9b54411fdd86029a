"""The sam3d engine from a folder of random weights in the official layout, in a real worker: scene and files, what is kept between runs, cancel."""

from __future__ import annotations

import dataclasses
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the layer `model` isn't installed: python sam3d.py test adds it")

import trimesh  # noqa: E402
from comfyui_sam3d.client import LocalBackend  # noqa: E402
from comfyui_sam3d.contract import Cancelled, Done, PrepareRequest, Preview, Progress, ReconstructRequest, Sam3dOptions  # noqa: E402
from comfyui_sam3d.contract.errors import SetupError  # noqa: E402
from plyfile import PlyData  # noqa: E402

from factory_cli import cli, is_complete, mask, sprite  # noqa: E402

FULL = Sam3dOptions(steps=2, latent_steps=2)
FAST = dataclasses.replace(FULL, mesh="raw", texture="colors")  # without the clean-up, which takes longer than all networks of this size


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with tiny weights, made by the command line."""
    folder = tmp_path_factory.mktemp("home")
    ran = cli("weights", "fake", folder / "weights", "--tiny", stub=False)
    assert ran.code == 0, ran.err
    return folder


@pytest.fixture(scope="module")
def variables(home) -> dict[str, str]:
    return {
        "SAM3D_WORKER_PYTHON": sys.executable, "SAM3D_WEIGHTS": str(home / "weights"), "SAM3D_CACHE": str(home / "cache"),
        "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
    }  # fmt: skip


@pytest.fixture(scope="module")
def backend(variables) -> Iterator[LocalBackend]:
    with LocalBackend(environment=variables) as opened:
        yield opened


def request(**fields: object) -> ReconstructRequest:
    image = np.random.default_rng(7).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    masks = np.zeros((2, 48, 64), bool)
    masks[0, 6:30, 4:28] = masks[1, 14:40, 34:60] = True
    fields = {"sam3d": FAST, "texture_size": 256, "face_budget": 600, "outputs": ("glb", "ply"), "names": ("left", "right"), **fields}
    return ReconstructRequest(image=image, masks=masks, engine="sam3d", **fields)  # type: ignore[arg-type]


def run(backend: LocalBackend, wanted: ReconstructRequest):
    """The scene, the stages that reported steps, and the previews."""
    stages: dict[str, int] = {}
    previews = []
    for event in backend.reconstruct(wanted):
        if isinstance(event, Progress):
            stages[event.stage] = max(stages.get(event.stage, 0), event.step)
        elif isinstance(event, Preview):
            previews.append(event.image)
        elif not isinstance(event, Done):
            assert not hasattr(event, "error"), event.error
    assert isinstance(event, Done)
    return event.scene, stages, previews


def test_a_picture_and_two_masks_become_a_scene(backend):
    scene, stages, previews = run(backend, request(sam3d=FULL))
    assert scene.engine == "sam3d" and [item.name for item in scene.objects] == ["left", "right"]
    assert any("random weights" in text for text in scene.warnings)
    assert stages["structure"] == 4 and stages["latents"] == 4  # two steps of two objects
    assert previews and previews[0].shape == (256, 512, 3)
    assert scene.camera.kind == "perspective" and (scene.camera.width, scene.camera.height) == (64, 48)
    assert {"point map", "structure", "latents", "decode", "clean-up", "texture"} <= set(scene.timings)
    in_effect = scene.parameters["in_effect"]
    assert (in_effect["steps"], in_effect["guidance"], in_effect["splats_per_voxel"], in_effect["memory"]) == (2, 7.0, 32, "resident")
    for item in scene.objects:
        assert item.info["clean"]["closed"] and len(item.mesh.faces) <= 600 and item.mesh.texture.shape == (256, 256, 3)
        assert len(item.splats.positions) == 32 * item.info["voxels"]
        assert item.pose.translation[2] < 0  # before the camera
    whole = trimesh.load(io.BytesIO(scene.files["model.glb"].tobytes()), file_type="glb")
    assert set(whole.geometry) == {"left", "right"}
    ply = PlyData.read(io.BytesIO(scene.files["splat.ply"].tobytes()))
    assert ply["vertex"].count == sum(len(item.splats.positions) for item in scene.objects)


def test_what_was_sampled_is_not_sampled_again(backend):
    first, _, _ = run(backend, request())
    again, stages, _ = run(backend, request(outputs=("glb",)))
    assert "structure" not in stages and "latents" not in stages and "point map" not in stages
    for a, b in zip(first.objects, again.objects):
        assert a.pose == b.pose and b.splats is None
    other, stages, _ = run(backend, request(sam3d=dataclasses.replace(FAST, latent_seed=5)))
    assert "structure" not in stages and stages["latents"] == 4
    assert other.objects[0].pose == first.objects[0].pose
    assert not np.array_equal(other.objects[0].splats.sh, first.objects[0].splats.sh)
    _, stages, _ = run(backend, request(seed=3))
    assert stages["structure"] == 4 and "point map" not in stages


def test_one_object_more_samples_only_that_one(backend):
    first, _, _ = run(backend, request())
    more = request()
    masks = np.concatenate([more.masks, np.roll(more.masks[:1], 20, axis=2)])
    scene, stages, _ = run(backend, more.replace(masks=masks, names=("left", "right", "third")))
    assert stages["structure"] == 2 and stages["latents"] == 2
    assert scene.objects[0].pose == first.objects[0].pose


def test_the_same_request_gives_the_same_bytes_in_another_worker(backend, variables, tmp_path):
    first, _, _ = run(backend, request())
    with LocalBackend(environment={**variables, "SAM3D_CACHE": str(tmp_path)}) as fresh:
        second, stages, _ = run(fresh, request())
    assert stages["structure"] == 4
    assert all(np.array_equal(first.files[name], second.files[name]) for name in first.files)


def test_each_object_for_itself_raw_and_in_colours(backend):
    own = dataclasses.replace(FULL, frame="object", texture="colors", splats_per_voxel=4)
    scene, _, _ = run(backend, request(sam3d=own, size=2.0, outputs=("glb", "ply")))
    for item in scene.objects:
        extent = np.ptp(item.mesh.vertices, axis=0)
        assert item.pose.scale == 1 and abs(extent.max() - 2) < 1e-4 and abs(item.mesh.vertices[:, 1].min()) < 1e-4
        assert item.mesh.texture is None and item.mesh.vertex_colors is not None
        assert len(item.splats.positions) == 4 * item.info["voxels"]
    raw, _, _ = run(backend, request())
    assert len(raw.objects[0].mesh.faces) > 600 and "clean" not in raw.objects[0].info


def test_a_layout_is_refined_where_it_is_asked_for(backend):
    first, _, _ = run(backend, request())
    assert all(item.score is None and "layout" not in item.info for item in first.objects)
    scene, stages, _ = run(backend, request(sam3d=dataclasses.replace(FAST, layout=True)))
    assert "layout" in stages and "structure" not in stages
    for old, new in zip(first.objects, scene.objects):
        report = new.info["layout"]
        assert report["accepted"] == (new.pose != old.pose) and bool(report["reason"]) != report["accepted"]


def test_what_is_not_wanted_is_not_made(backend):
    scene, stages, _ = run(backend, request(outputs=("ply",)))
    assert all(item.mesh is None and item.splats is not None for item in scene.objects) and "clean-up" not in stages


def test_a_cancel_is_heard_within_a_step_and_the_next_job_is_whole(backend):
    slow = request(seed=11, sam3d=dataclasses.replace(FAST, steps=100))
    job = backend.reconstruct(slow)
    after: list[int] = []
    for event in job:
        if isinstance(event, Progress) and event.stage == "structure" and event.step:
            after.append(event.step)
            job.cancel()
    assert isinstance(event, Cancelled) and max(after) < 60
    scene, _, _ = run(backend, request())
    assert len(scene.objects) == 2


def test_a_picture_is_prepared_and_its_masks_are_cheap(backend, variables, tmp_path):
    """Through the protocol; the pictures of one worker serve the next."""
    image = np.random.default_rng(8).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    wanted = request().replace(image=image)
    events = list(backend.prepare(PrepareRequest(image, "sam3d")))
    assert {event.stage for event in events[:-1]} == {"point map", "picture"}
    assert events[-1].scene.engine == "sam3d" and events[-1].scene.objects == () and "point map" in events[-1].scene.timings
    prepared, stages, _ = run(backend, wanted)
    assert "structure" in stages and not {"point map", "picture"} & set(stages)
    with LocalBackend(environment={**variables, "SAM3D_CACHE": str(tmp_path)}) as fresh:
        other, stages, _ = run(fresh, wanted)
        assert {"point map", "picture"} <= set(stages)
        assert [type(event) for event in fresh.prepare(PrepareRequest(image))] == [Done]  # `auto` is sam3d; nothing is left to do
    assert all(np.array_equal(prepared.files[name], other.files[name]) for name in prepared.files)


def test_a_preparation_is_cancelled(variables, tmp_path):
    with LocalBackend(environment={**variables, "SAM3D_CACHE": str(tmp_path)}) as fresh:
        job = fresh.prepare(PrepareRequest(request().image, "sam3d"))
        for event in job:
            if isinstance(event, Progress):
                job.cancel()
        assert isinstance(event, Cancelled)
        assert isinstance(list(fresh.prepare(PrepareRequest(request().image, "sam3d")))[-1], Done)


def test_the_second_job_knows_how_long_it_will_take(variables, tmp_path):
    def estimates(seed: int) -> dict[str, float | None]:
        """At the beginning of each stage."""
        found: dict[str, float | None] = {}
        with LocalBackend(environment={**variables, "SAM3D_CACHE": str(tmp_path)}) as fresh:
            for event in fresh.reconstruct(request(seed=seed)):
                if isinstance(event, Progress):
                    found.setdefault(event.stage, event.eta)
        return found

    assert estimates(1)["structure"] is None and (tmp_path / "times.json").is_file()
    seen = estimates(2)
    assert seen["structure"] is not None and seen["structure"] > 0  # of an object with as many voxels as usual
    assert 0.01 < seen["latents"] < 30  # now their number is known
    assert 0 <= seen["encode"] < seen["latents"]


@pytest.mark.parametrize(("name", "words"), [("nonsense", "no backend 'nonsense'"), ("gsplat", "can't run on cpu")])
@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine on which a backend can't run")
def test_a_wrong_SAM3D_OPS_is_refused_before_any_work(variables, tmp_path, name, words):
    with LocalBackend(environment={**variables, "SAM3D_CACHE": str(tmp_path), "SAM3D_OPS": name}) as wrong:
        events = list(wrong.reconstruct(request()))
    (failed,) = events  # no step before it
    assert isinstance(failed.error, SetupError) and words in failed.error.message and failed.error.hint
    ran = cli("doctor", "--json", "--out", tmp_path, stub=False, variables={**variables, "SAM3D_OPS": name})
    (check,) = [check for check in json.loads(ran.out.splitlines()[-1])["checks"] if check["name"] == "sam3d operations"]
    assert check["state"] == "wrong" and words in check["text"]


def test_without_weights_auto_is_the_draft_and_sam3d_says_what_to_do(variables, tmp_path):
    nowhere = {**variables, "SAM3D_WEIGHTS": str(tmp_path / "none"), "HF_HOME": str(tmp_path / "hub")}
    with LocalBackend(environment=nowhere) as poor:
        assert poor.start().engines[-1] == "draft" and poor.start().weights == ""
        assert poor.reconstruct(request().replace(engine="auto")).result().engine == "draft"
        with pytest.raises(SetupError, match="weights") as caught:
            poor.reconstruct(request()).result()
    assert "sam3d.py weights fetch" in str(caught.value.hint)
    with LocalBackend(environment=variables) as rich:
        assert rich.start().engines[-1] == "sam3d" and len(rich.start().weights) == 64


def test_from_the_command_line(variables, tmp_path):
    sprite(tmp_path / "a.png", alpha=False, size=48)
    mask(tmp_path / "m0.png", size=48, where=(slice(6, 24), slice(6, 24)))
    mask(tmp_path / "m1.png", size=48, where=(slice(20, 42), slice(22, 44)))
    small = [part for text in ("steps=2", "latent_steps=2", "mesh=raw") for part in ("--set", text)] + ["-f", "glb,ply"]
    masks = ("-m", tmp_path / "m0.png", "-m", tmp_path / "m1.png")
    ran = cli("reconstruct", tmp_path / "a.png", *masks, "--out", tmp_path / "o", *small, stub=False, variables=variables)
    assert ran.code == 0, ran.err
    meta = is_complete(tmp_path / "o" / "a")
    assert meta["engine"] == "sam3d" and meta["in_effect"]["steps"] == 2 and len(meta["objects"]) == 2
    assert any("random weights" in text for text in meta["warnings"])
