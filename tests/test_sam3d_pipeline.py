"""The assembled model at a tiny size: from picture, masks and point map to splats and surfaces, under every memory plan, in batches, out of memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

torch = pytest.importorskip("torch", reason="the layer `model` isn't installed: python sam3d.py test adds it")

import trimesh  # noqa: E402
from comfyui_sam3d.contract.errors import EngineError, JobCancelled, OutOfMemoryError  # noqa: E402
from comfyui_sam3d.worker.sam3d import networks as networks_module  # noqa: E402
from comfyui_sam3d.worker.sam3d.architecture import TINY, Architecture  # noqa: E402
from comfyui_sam3d.worker.sam3d.networks import PLANS, Networks, choose_plan  # noqa: E402
from comfyui_sam3d.worker.sam3d.pipeline import BESIDE, Pipeline, StructuredLatent, packed  # noqa: E402
from comfyui_sam3d.worker.sam3d.sampler import Noise, SamplerOptions  # noqa: E402
from comfyui_sam3d.worker.sam3d.turns import Turns  # noqa: E402
from comfyui_sam3d.worker.weights.fake import fill  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
FIRST, SECOND = SamplerOptions(steps=3), SamplerOptions(steps=3, rescale=1.0, guidance=1.0)


@pytest.fixture(scope="module")
def modules() -> dict[str, torch.nn.Module]:
    return {name: fill(part.build(), 1) for name, part in TINY.parts().items()}


@pytest.fixture
def pipeline(modules) -> Pipeline:
    return Pipeline(Networks(lambda name, device: modules[name], CPU, "resident"), TINY.size, note=lambda text: None)


def picture(objects: int = 2):
    source = torch.Generator().manual_seed(3)
    image = torch.randint(0, 255, (40, 50, 3), generator=source, dtype=torch.uint8)
    masks = torch.zeros(objects, 40, 50, dtype=torch.bool)
    for i in range(objects):
        masks[i, 4 + 5 * i : 20 + 5 * i, 6 * i : 14 + 6 * i] = True
    y, x = torch.meshgrid(torch.linspace(0.4, -0.4, 40), torch.linspace(0.5, -0.5, 50), indexing="ij")
    return image, masks, torch.stack([x, y, torch.full_like(x, 2.0)])


def whole(pipeline: Pipeline, objects: int = 2, seed: int = 0):
    image, masks, points = picture(objects)
    made = pipeline.structures(image, masks, points, FIRST, Noise(seed))
    return made, pipeline.latents(image, masks, [item.coords for item in made], SECOND, Noise(seed))


def test_from_a_picture_to_a_closed_surface_and_splats(pipeline):
    structures, latents = whole(pipeline)
    for structure, latent in zip(structures, latents):
        assert len(structure.coords) > 100 and structure.coords[:, 1:].max() < TINY.grid and structure.pose.scale.shape == (1, 3)
        assert latent.features.shape == (len(structure.coords), 8) and torch.isfinite(latent.features).all()
        splats = pipeline.splats(latent)
        assert len(splats) == 32 * len(structure.coords) and len(pipeline.splats(latent, 4)) == 4 * len(structure.coords)
        assert splats.positions().abs().max() < 0.6
        surface = pipeline.surface(latent)
        mesh = trimesh.Trimesh(surface.vertices.numpy(), surface.faces.numpy(), process=False)
        assert mesh.is_watertight and mesh.volume > 0.05  # random weights make a ball (worker/weights/fake.py)


def test_objects_of_as_many_voxels_are_not_taken_for_one_another(pipeline):
    """The decoders of an object share its voxels, and no other's."""
    one = whole(pipeline)[1][0]
    coords = one.coords.clone()
    coords[:, 1:] = coords[:, 1:].flip(1)  # as many, in other places
    turned = StructuredLatent(coords, one.features)
    pipeline.splats(one, 4)
    made = pipeline.splats(turned, 4).positions()
    assert torch.equal(made, Pipeline(pipeline.networks, TINY.size).splats(turned, 4).positions())
    assert not torch.equal(made, pipeline.splats(one, 4).positions())


@pytest.mark.parametrize("plan", PLANS)
def test_every_plan_gives_the_same_and_keeps_what_it_says(modules, plan):
    loaded: list[str] = []

    def load(name, device):
        loaded.append(name)
        return modules[name]

    networks = Networks(load, CPU, plan)
    pipeline = Pipeline(networks, TINY.size)
    reference = whole(Pipeline(Networks(lambda name, device: modules[name], CPU, "resident"), TINY.size))
    for _ in range(2):
        structures, latents = whole(pipeline)
        assert all(torch.equal(a.coords, b.coords) for a, b in zip(structures, reference[0]))
        assert all(torch.equal(a.features, b.features) for a, b in zip(latents, reference[1]))
    once = ["structure_embedder", "structure_flow", "structure_decoder", "latent_embedder", "latent_flow"]
    assert loaded == (once * 2 if plan == "staged" else once)


def test_objects_alone_and_together_and_by_number(pipeline):
    image, masks, points = picture(3)
    together = pipeline.structures(image, masks, points, FIRST, Noise(5))
    alone = [pipeline.structures(image, masks[i : i + 1], points, FIRST, Noise(5), numbers=[i])[0] for i in range(3)]
    other = pipeline.structures(image, masks[:1], points, FIRST, Noise(5), numbers=[2])[0]
    for a, b in zip(together, alone):
        assert torch.equal(a.coords, b.coords) and torch.allclose(a.pose.translation, b.pose.translation, atol=1e-4)
    assert not torch.equal(other.pose.translation, alone[0].pose.translation)
    coords = [item.coords for item in together]
    packed_up = pipeline.latents(image, masks, coords, SECOND, Noise(5))
    one = pipeline.latents(image, masks[1:2], coords[1:2], SECOND, Noise(5), numbers=[1])[0]
    assert torch.allclose(packed_up[1].features, one.features, atol=1e-3)


def test_out_of_memory_is_answered_by_smaller_batches_then_by_a_smaller_plan(modules):
    said: list[str] = []
    networks = Networks(lambda name, device: modules[name], CPU, "resident")
    pipeline = Pipeline(networks, TINY.size, note=said.append)
    sampler = networks
    real, failures = sampler.use, {"left": 2}

    def failing(name):
        if name == "structure_flow" and failures["left"]:
            failures["left"] -= 1
            raise torch.cuda.OutOfMemoryError("no memory")
        return real(name)

    networks.use = failing  # type: ignore[method-assign]
    structures, _ = whole(pipeline, objects=2)
    assert len(structures) == 2 and networks.plan == "swapped"
    assert [text.split(";")[0] for text in said] == [
        "not enough memory for 2 objects at once in structure",
        "not enough memory in structure",
    ]
    failures["left"] = 99
    with pytest.raises(OutOfMemoryError, match="one network at a time"):
        whole(pipeline)


def test_threads_that_run_out_of_memory_together_make_room_once():
    """Each of them fits alone: no plan is taken away, and from then on one works at a time."""
    said: list[str] = []
    networks = Networks(lambda name, device: torch.nn.Identity(), CPU, "resident")
    pipeline = Pipeline(networks, TINY.size, note=said.append, turns=Turns(alone=False))
    together, tried, inside = threading.Barrier(4, timeout=20), [0] * 4, []

    def work(index: int) -> int:
        tried[index] += 1
        if tried[index] == 1:
            together.wait()
            raise torch.cuda.OutOfMemoryError("no memory")
        inside.append(index)
        time.sleep(0.02)
        assert inside == [index], "two at once"
        return inside.pop()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda index: pipeline.insisting("texture", lambda: work(index)), range(4))) == [0, 1, 2, 3]
    assert networks.plan == "resident" and said == ["not enough memory in texture beside other objects; done again, one at a time"]
    assert tried == [2] * 4 and pipeline.most == {BESIDE: 1}


def test_what_runs_out_of_memory_is_done_again_when_the_others_steps_have_ended(monkeypatch):
    """Else their memory would be in its way, and what is freed might be in use; if it doesn't fit alone either, the plan changes."""
    networks = Networks(lambda name, device: torch.nn.Identity(), CPU, "resident")
    pipeline = Pipeline(networks, TINY.size, note=lambda text: None, turns=Turns(alone=False))
    begun, order = threading.Event(), []
    monkeypatch.setattr(networks, "give_back", lambda: order.append("freed"))
    monkeypatch.setattr("gc.collect", lambda: 0)  # it takes as long as the slow one

    def slow() -> None:
        order.append("slow begins")
        begun.set()
        time.sleep(0.1)
        order.append("slow ends")

    def tight() -> None:
        order.append("tight")
        if order.count("tight") < 3:
            raise torch.cuda.OutOfMemoryError("no memory")

    with ThreadPoolExecutor(2) as pool:
        other = pool.submit(pipeline.insisting, "clean-up", slow)
        assert begun.wait(20)
        pool.submit(pipeline.insisting, "texture", tight).result()
        other.result()
    assert order == ["slow begins", "tight", "slow ends", "freed", "tight", "freed", "tight"] and networks.plan == "swapped"


def test_a_network_is_there_for_every_stream_when_it_is_loaded(monkeypatch):
    order: list[str] = []
    monkeypatch.setattr(networks_module, "settle", lambda device: order.append("settled"))
    networks = Networks(lambda name, device: order.append("loaded") or torch.nn.Identity(), CPU, "resident")
    for _ in range(2):
        with networks.use("mesh"):
            order.append("used")
    assert order == ["loaded", "settled", "used", "used"]


def test_objects_are_told_of_group_after_group(pipeline):
    """And they are the same as sampled one by one, with the picture's tokens asked for once."""
    image, masks, points = picture(3)
    coords = [item.coords for item in pipeline.structures(image, masks, points, FIRST, Noise(5))]
    told: list[object] = []
    asked: list[str] = []

    def keep(name, make):
        asked.append(name)
        return make()

    def ready(index: int, item: StructuredLatent) -> None:
        told.append((index, item))

    made = pipeline.latents(
        image, masks, coords, SECOND, Noise(5), keep=keep, together=2, ready=ready, on_step=lambda done, total: told.append(done)
    )
    assert [item if isinstance(item, int) else item[0] for item in told] == [0, 2, 4, 6, 0, 1, 7, 8, 9, 2]
    assert asked == ["latent_embedder"]
    assert all(one[1] is made[one[0]] for one in told if not isinstance(one, int))
    pipeline.most["latents"] = 2
    again = pipeline.latents(image, masks, coords, SECOND, Noise(5))
    assert all(torch.equal(a.features, b.features) for a, b in zip(made, again))


def test_one_object_is_decoded_at_a_time(modules):
    """From several threads: under `swapped` a network's tensors are exchanged for a use, and its voxels are shared by its decoders alone."""
    inside: list[str] = []

    class Counting(Networks):
        @contextmanager
        def use(self, name: str) -> Iterator[torch.nn.Module]:
            inside.append(name)
            time.sleep(0.02)
            assert len(inside) == 1, "two decoders at once"
            with super().use(name) as network:
                yield network
            inside.clear()

    pipeline = Pipeline(Counting(lambda name, device: modules[name], CPU, "swapped"), TINY.size)
    coords = torch.tensor([[0, x, y, 5] for x in range(4, 8) for y in range(4, 8)], dtype=torch.int32)
    latents = [StructuredLatent(coords.clone(), torch.zeros(len(coords), 8)) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        splats, surfaces = (pool.map(decode, latents) for decode in (lambda one: pipeline.splats(one, 4), pipeline.surface))
        assert len({len(item) for item in splats}) == 1 and len(list(surfaces)) == 4


def test_a_plan_counts_what_the_process_holds_itself(monkeypatch):
    """Networks that stay on the device must not make the next job think that there is no room for them."""
    gpu = torch.device("cuda")
    for free, own, plan in (
        (15e9, 0, "resident"), (5e9, 10e9, "resident"), (5e9, 0, "staged"), (5e9, 2e9, "swapped"), (7e9, 0, "swapped"), (1e9, 10e9, "resident"),
    ):  # fmt: skip
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (int(free), int(16e9)))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device, own=own: int(own))
        assert choose_plan(gpu) == plan, (free, own)


@pytest.mark.parametrize(("plan", "used", "objects"), [("resident", 0, 2), ("resident", 7e9, 2), ("swapped", 0, 6), ("swapped", 4e9, 4)])
def test_a_batch_leaves_room_for_networks_that_stay(monkeypatch, plan, used, objects):
    """A card of 12 GB: in the first job nothing is loaded yet."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(11.5e9 - used), int(12e9)))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: int(used))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: int(used))
    assert Pipeline(Networks(lambda name, device: torch.nn.Identity(), torch.device("cuda"), plan))._room("structure", 1.5e9) == objects


def test_steps_are_reported_over_all_objects_and_a_cancel_ends_at_once(pipeline):
    image, masks, points = picture(3)
    pipeline.most["structure"] = 2
    seen: list[tuple[int, int]] = []
    pipeline.structures(image, masks, points, FIRST, Noise(0), on_step=lambda done, total: seen.append((done, total)))
    assert seen == [(0, 9), (2, 9), (4, 9), (6, 9), (7, 9), (8, 9), (9, 9)]

    def cancel(done, total):
        if done == 4:
            raise JobCancelled("The job was cancelled.")

    with pytest.raises(JobCancelled):
        pipeline.structures(image, masks, points, FIRST, Noise(0), on_step=cancel)
    again = pipeline.structures(image, masks, points, FIRST, Noise(0))
    fresh = pipeline.structures(image, masks, points, FIRST, Noise(0))
    assert all(torch.equal(a.coords, b.coords) and torch.equal(a.pose.translation, b.pose.translation) for a, b in zip(again, fresh))


def test_an_object_without_voxels_is_an_error():
    with pytest.raises(EngineError, match="no occupied voxel"):
        packed([torch.zeros(0, 4, dtype=torch.int32)], CPU)


def test_the_architecture_names_the_official_parts():
    """Keys and shapes are compared with the official ones in test_sam3d_checkpoint.py and test_sam3d_stage2.py, on the same classes."""
    assert {(name, part.stem) for name, part in Architecture().parts().items()} == {
        ("structure_embedder", "ss_generator"), ("structure_flow", "ss_generator"), ("structure_decoder", "ss_decoder"),
        ("latent_embedder", "slat_generator"), ("latent_flow", "slat_generator"), ("splats", "slat_decoder_gs"),
        ("splats_4", "slat_decoder_gs_4"), ("mesh", "slat_decoder_mesh"),
    }  # fmt: skip
    assert choose_plan(CPU) == "resident"
