"""Stage 1 as it runs: the cached, batched way against its plain twins, seeds, the few-step mode, cancelling; tiny, on the CPU and, where there is one, a GPU."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="the layer `model` isn't installed: python sam3d.py test adds it")

from comfyui_sam3d.contract.errors import EngineError, JobCancelled, OptionError  # noqa: E402
from comfyui_sam3d.worker.sam3d import occupancy, preprocess, structure  # noqa: E402
from comfyui_sam3d.worker.sam3d.dino import Dino  # noqa: E402
from comfyui_sam3d.worker.sam3d.flow import LATENTS, SparseStructureFlow  # noqa: E402
from comfyui_sam3d.worker.sam3d.flow_cached import CachedFlow  # noqa: E402
from comfyui_sam3d.worker.sam3d.fuser import IMAGE_INPUTS, MASK_INPUTS, POINT_INPUTS, EmbedderFuser  # noqa: E402
from comfyui_sam3d.worker.sam3d.point_patch import AT_ONCE, PointPatchEmbed  # noqa: E402
from comfyui_sam3d.worker.sam3d.sampler import Noise, SamplerOptions, draw, sample  # noqa: E402
from torch.overrides import TorchFunctionMode  # noqa: E402

from golden.replay import near  # noqa: E402

SIDE = 3  # of the latent cube


pytestmark = pytest.mark.usefixtures("one_thread")


def randomised(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Weights of a trained network's size: attention that is sharp enough to matter, norms around 1."""
    source = torch.Generator().manual_seed(seed)
    for name, value in module.named_parameters():
        wide = value.ndim > 1 and "emb" not in name and "gamma" not in name
        value.data = torch.randn(value.shape, generator=source) * (1.0 / value[0].numel() ** 0.5 if wide else 0.1)
        if (".norm" in f".{name}" and "normalized" not in name.split(".norm")[0] and name.endswith("weight")) or name.endswith("gamma"):
            value.data += 1
    return module.requires_grad_(False).eval()


@pytest.fixture(scope="module")
def flow() -> SparseStructureFlow:
    return randomised(SparseStructureFlow(width=48, context=40, blocks=2, heads=3, resolution=SIDE))


def context(objects: int, seed: int = 5) -> torch.Tensor:
    return torch.randn(objects, 19, 40, generator=torch.Generator().manual_seed(seed))


def plain(model: SparseStructureFlow, tokens: torch.Tensor):
    def velocity(latents, t, d, conditional):
        return model(latents, torch.tensor([t]).float(), torch.tensor([d]).float(), tokens if conditional else 0 * tokens)

    return velocity


@pytest.mark.parametrize("objects", [1, 3])
@pytest.mark.parametrize("guided", [False, True])
def test_cached_velocity_equals_the_plain_network(flow, objects: int, guided: bool) -> None:
    options, tokens = SamplerOptions(steps=5), context(objects)
    latents = structure.noise_for(Noise(1), objects, SIDE)
    cached = CachedFlow(flow)
    got, free = cached.velocity(latents, cached.modulation(options)[2], cached.prepare(tokens), guided=guided)
    t = 1000.0 * float(options.times()[2])
    wanted, wanted_free = (plain(flow, tokens)(latents, t, 0.0, conditional) for conditional in (True, False))
    for name in LATENTS:
        near(got[name], wanted[name], atol=2e-5, rtol=1e-4)
        if guided:
            near(free[name], wanted_free[name], atol=2e-5, rtol=1e-4)
    assert (free is not None) == guided


@pytest.mark.parametrize("options", [SamplerOptions(steps=6), SamplerOptions(steps=4, shortcut=True), SamplerOptions(steps=3, guidance=0)])
def test_sampling_equals_the_twin(flow, options: SamplerOptions) -> None:
    tokens, noise = context(2), structure.noise_for(Noise(2), 2, SIDE)
    got = structure.StructureSampler(flow).sample(tokens, noise, options)
    wanted = sample(plain(flow, tokens), noise, options)
    for name in LATENTS:
        near(got[name], wanted[name], atol=5e-4, rtol=1e-3)


def test_objects_as_one_batch_equal_one_by_one(flow) -> None:
    tokens, noise, options = context(4), structure.noise_for(Noise(3), 4, SIDE), SamplerOptions(steps=5)
    sampler = structure.StructureSampler(flow)
    together = sampler.sample(tokens, noise, options)
    for index in range(4):
        alone = sampler.sample(tokens[index : index + 1], {k: v[index : index + 1] for k, v in noise.items()}, options)
        for name in LATENTS:
            near(together[name][index : index + 1], alone[name], atol=1e-3, rtol=1e-3)


def test_same_seed_same_numbers_also_after_a_cancel(flow) -> None:
    sampler, tokens, options = structure.StructureSampler(flow), context(1), SamplerOptions(steps=5)

    def run(on_step=None):
        return sampler.sample(tokens, structure.noise_for(Noise(11), 1, SIDE), options, on_step)

    def stop(done: int, steps: int) -> None:
        if done == 3:
            raise JobCancelled("enough")

    first = run()
    with pytest.raises(JobCancelled):
        run(stop)
    seen = []
    second = run(lambda done, steps: seen.append((done, steps)))
    assert seen == [(i, 5) for i in range(1, 6)]
    assert all(torch.equal(first[name], second[name]) for name in LATENTS)


def test_a_picture_after_another_and_after_a_release(flow) -> None:
    """Buffers are kept from picture to picture; nothing of the one before may stay in them."""
    options, sampler = SamplerOptions(steps=3), structure.StructureSampler(flow)

    def run(seed: int, objects: int = 1, guidance: float = 7.0):
        one = SamplerOptions(steps=3, guidance=guidance)
        return sampler.sample(context(objects, seed), structure.noise_for(Noise(seed), objects, SIDE), one)

    mine, others = context(1, 1), structure.noise_for(Noise(1), 1, SIDE)
    first = sampler.sample(mine, others, options)
    assert not torch.equal(run(2)["shape"], first["shape"])
    assert not torch.equal(run(1, guidance=3.0)["shape"], first["shape"])
    run(3, objects=2)
    again = run(1)
    sampler.release()
    anew = run(1)
    fresh = structure.StructureSampler(flow).sample(context(1, 1), structure.noise_for(Noise(1), 1, SIDE), options)
    for other in (again, anew, fresh):
        assert all(torch.equal(first[name], other[name]) for name in LATENTS)
    assert torch.equal(mine, context(1, 1)) and torch.equal(
        others["shape"], structure.noise_for(Noise(1), 1, SIDE)["shape"]
    )  # ours stayed ours


def test_noise_has_a_generator_for_each_stage_and_object() -> None:
    three, one = structure.noise_for(Noise(5), 3, SIDE), structure.noise_for(Noise(5), 1, SIDE)
    assert all(torch.equal(three[name][:1], one[name]) for name in LATENTS)
    assert not torch.equal(three["shape"][0], three["shape"][1])
    # 2^32 apart: PyTorch's CPU generator alone would give these the same numbers
    seeds = (0, 1, 2**32, 2**32 + 1, 2**63, 2**64 - 1)
    sources = [Noise(seed).source(stage, index) for seed in seeds for stage in ("structure", "latent") for index in (0, 1)]
    assert len({torch.rand(1, generator=source).item() for source in sources}) == len(sources)


def test_stage_2_noise_depends_on_nothing_that_stage_1_drew() -> None:
    untouched, after = Noise(9), Noise(9)
    structure.noise_for(after, 3, SIDE)
    a, b = (torch.randn(4, generator=noise.source("latent", 1)) for noise in (untouched, after))
    assert torch.equal(a, b)


@pytest.mark.parametrize("seed", [42, 2**63 + 5, 2**64 - 1])
def test_compatible_noise_is_the_originals(seed: int) -> None:
    """Each object is seeded anew, its latents drawn in alphabetical order; its stage 2 goes on with the same generator."""
    source, shapes = torch.Generator().manual_seed(seed), structure.latent_shapes(SIDE)
    wanted = {name: torch.randn(shapes[name], generator=source) for name in sorted(shapes)}
    following = torch.randn(5, 8, generator=source)
    noise = Noise(seed, compatible=True)
    got = structure.noise_for(noise, 2, SIDE)
    for index in (1, 0):
        assert all(torch.equal(got[name][index : index + 1], wanted[name]) for name in wanted)
        assert torch.equal(torch.randn(5, 8, generator=noise.source("latent", index)), following)
    again = structure.noise_for(noise, 1, SIDE)
    assert all(torch.equal(again[name], wanted[name]) for name in wanted)


def test_latents_are_drawn_in_alphabetical_order() -> None:
    shapes = {"shape": (2, 3), "6d": (4,), "scale": (5,)}
    got = draw(shapes, torch.Generator().manual_seed(1))
    source = torch.Generator().manual_seed(1)
    assert all(torch.equal(got[name], torch.randn(shapes[name], generator=source)) for name in ("6d", "scale", "shape"))


def test_few_steps_tell_the_network_their_size_on_the_originals_grid() -> None:
    few = SamplerOptions(steps=4, shortcut=True)
    assert few.step_size == 250 and [round(float(t), 6) for t in few.times()] == [0, 0.1, 0.25, 0.5, 1]
    assert not few.guided(0.0)
    uniform = SamplerOptions(steps=4, shortcut=True, grid="uniform")
    assert uniform.times().tolist() == [0, 0.25, 0.5, 0.75, 1]
    with pytest.raises(OptionError):
        SamplerOptions(steps=0)
    normal = SamplerOptions()
    assert normal.step_size == 0 and sum(1 + normal.guided(1000 * float(t)) for t in normal.times()[:-1]) == 44


def test_a_point_patch_sees_only_what_reaches_its_token() -> None:
    model = randomised(PointPatchEmbed(size=32, patch=8, width=32))
    points = torch.randn(AT_ONCE + 1, 3, 40, 48)
    points[:, :, :9, :7] = torch.nan
    points[0, 1, 20:23, 30] = torch.inf
    near(model(points), model.plain(points), atol=2e-5, rtol=1e-4)


def test_what_belongs_to_the_picture_is_embedded_once() -> None:
    vit = {"patch": 14, "width": 32, "depth": 1, "heads": 2}
    fuser = randomised(
        EmbedderFuser([(Dino(56, **vit), IMAGE_INPUTS), (Dino(56, **vit), MASK_INPUTS), (PointPatchEmbed(32, 8, 32), POINT_INPUTS)])
    )
    image = torch.randint(0, 255, (60, 80, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    masks = torch.zeros(2, 60, 80, dtype=torch.bool)
    for mask, left in zip(masks, (5, 30)):
        mask[10:40, left : left + 35] = True
    pointmap = torch.randn(3, 60, 80, generator=torch.Generator().manual_seed(1))
    conditions = preprocess.preprocess_objects(image, masks, pointmap, size=56)
    assert conditions[0].rgb_image is conditions[1].rgb_image
    for mask, one in zip(masks, conditions):
        alone = preprocess.preprocess(preprocess.with_alpha(image, mask), pointmap, size=56)
        assert all(torch.equal(value, one.inputs()[name]) for name, value in alone.inputs().items())
        assert torch.equal(alone.scale, one.scale) and torch.equal(alone.shift, one.shift)
    pictures, projected = [], []
    fuser.module_list[0].register_forward_hook(lambda module, args, out: pictures.append(len(args[0])))
    fuser.projection_nets[0].register_forward_hook(lambda module, args, out: projected.append(len(args[0])))
    together = structure.embed(fuser, conditions)
    assert pictures == projected == [1, 1, 1]  # the whole picture, two crops: each by itself, so that their number changes no bit
    for index, one in enumerate(conditions):
        near(together[index : index + 1], fuser(one.inputs()), atol=2e-5, rtol=1e-4)
        alone = structure.embed(fuser, [one], structure.embed_picture(fuser, preprocess.whole_picture(image, 56)))
        assert torch.equal(together[index : index + 1], alone)  # also where the picture was embedded before


def test_decode_gives_voxels_and_pose_for_each_object(flow) -> None:
    decoder = randomised(occupancy.OccupancyDecoder(channels=(8, 8, 8)), 3)
    latents = structure.noise_for(Noise(4), 2, SIDE)
    decoder.out_layer[2].bias.data -= decoder(occupancy.as_cube(latents["shape"])).median()  # half of the grid is occupied
    one = preprocess.Conditions(*[torch.zeros(1)] * 4, scale=torch.full((1, 3), 0.5), shift=torch.tensor([[0.1, 0.2, 2.0]]))
    other = preprocess.Conditions(*[torch.zeros(1)] * 4, scale=torch.full((1, 3), 2.0), shift=torch.zeros(1, 3))
    structures = structure.decode(latents, decoder, [one, other])
    [second] = structure.decode({name: value[1:] for name, value in latents.items()}, decoder, [other])
    assert torch.equal(structures[1].original, second.original) and torch.equal(structures[1].pose.rotation, second.pose.rotation)
    assert torch.equal(structures[1].pose.translation, latents["translation"][1] * 2) and not torch.equal(
        structures[0].original, second.original
    )
    for item in structures:
        assert item.coords.dtype == torch.int32 and 0 < len(item.coords) <= len(item.original)
        assert item.pose.rotation.norm() == pytest.approx(1, abs=1e-5) and item.downsample == 1
    halved = structure.decode(latents, decoder, [one, one], limit=10)[0]
    assert halved.downsample == 2 and torch.allclose(halved.pose.scale, 2 * structures[0].pose.scale)
    decoder.out_layer[2].bias.data -= 1e6
    with pytest.raises(EngineError, match="no occupied voxel for object 1 of 2"):
        structure.decode(latents, decoder, [one, one])


class NoFloat64(TorchFunctionMode):
    """Apple's devices have no float64; the few numbers of a time grid may have it, on the CPU."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(value, torch.Tensor) and value.dtype == torch.float64:
                assert value.numel() <= 5, func
        return out


def test_the_whole_path_makes_no_float64(flow) -> None:
    vit = {"patch": 14, "width": 40, "depth": 1, "heads": 2}
    fuser = randomised(
        EmbedderFuser([(Dino(28, **vit), IMAGE_INPUTS), (Dino(28, **vit), MASK_INPUTS), (PointPatchEmbed(16, 8, 32), POINT_INPUTS)])
    )
    decoder = randomised(occupancy.OccupancyDecoder(channels=(8, 8, 8)), 3)
    decoder.out_layer[2].bias.data += 2
    image, alpha = torch.full((30, 40, 3), 90, dtype=torch.uint8), torch.full((1, 30, 40), 255, dtype=torch.uint8)
    with NoFloat64():
        conditions = preprocess.preprocess_objects(
            image, alpha, preprocess.opencv_to_pytorch3d(torch.rand(30, 40, 3)).movedim(-1, 0), size=28
        )
        tokens = structure.embed(fuser, conditions)
        latents = structure.StructureSampler(flow).sample(tokens, structure.noise_for(Noise(1), 1, SIDE), SamplerOptions(steps=4))
        [made] = structure.decode(latents, decoder, conditions, limit=50)
    assert made.downsample == 2 and made.pose.rotation.shape == (1, 4)


def test_a_half_precision_decoder_keeps_its_first_level_in_float32() -> None:
    decoder = randomised(occupancy.OccupancyDecoder(channels=(8, 8, 8)), 3)
    cube = torch.randn(1, 8, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    wanted, kinds = decoder(cube), []
    for layer in (decoder.middle_block[0], decoder.blocks[0], decoder.blocks[2], decoder.blocks[3]):
        layer.register_forward_hook(lambda module, args, out: kinds.append(out.dtype))
    got = decoder.half()(cube)
    assert kinds == [torch.float32, torch.float32, torch.float16, torch.float16]
    assert float((got - wanted).norm() / wanted.norm()) < 5e-3


def test_half_precision_stays_near_the_float32_twin(flow) -> None:
    tokens, noise, options = context(2), structure.noise_for(Noise(2), 2, SIDE), SamplerOptions(steps=4)
    half = randomised(SparseStructureFlow(width=48, context=40, blocks=2, heads=3, resolution=SIDE)).half()
    got = structure.StructureSampler(half).sample(tokens, noise, options)
    wanted = sample(plain(flow, tokens), noise, options)
    for name in LATENTS:
        assert got[name].dtype == torch.float32
        assert float((got[name] - wanted[name]).norm() / wanted[name].norm()) < 2e-2, name


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("dtype, limit", [(torch.float32, 1e-3), (torch.float16, 2e-2)])
def test_sampling_on_a_gpu_equals_the_twin(dtype: torch.dtype, limit: float, graphs: bool) -> None:
    """Triton's kernels, the side stream and graphs; heads of 64 take the kernel for Hopper where it runs."""
    model = randomised(SparseStructureFlow(width=192, context=40, blocks=2, heads=3, resolution=SIDE))
    tokens, noise, options = context(3), structure.noise_for(Noise(2), 3, SIDE), SamplerOptions(steps=4)
    wanted = sample(plain(model, tokens), noise, options)
    sampler = structure.StructureSampler(model.to("cuda", dtype), graphs=graphs)
    together, again = (sampler.sample(tokens, noise, options) for _ in range(2))
    for name in LATENTS:
        assert torch.equal(together[name], again[name])
        assert float((together[name].cpu() - wanted[name]).norm() / wanted[name].norm()) < limit, name
    for index in range(3):
        alone = sampler.sample(tokens[index : index + 1], {k: v[index : index + 1] for k, v in noise.items()}, options)
        for name in LATENTS:
            near(alone[name].cpu(), together[name][index : index + 1].cpu(), atol=1e-3, rtol=1e-3)
