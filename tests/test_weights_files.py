"""Weights on the disk: random ones in the official layout, loaded strictly, converted, verified, damaged in many ways; settings that are refused; where is looked.

A little over 500 lines: all of it damages the same folder of random weights, which is made once.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the layer `model` isn't installed: python sam3d.py test adds it")
yaml = pytest.importorskip("yaml", reason="the layer `model` isn't installed: python sam3d.py test adds it")

from comfyui_sam3d.contract.errors import OutputError, SetupError  # noqa: E402
from comfyui_sam3d.worker.pointmap import from_picture  # noqa: E402
from comfyui_sam3d.worker.sam3d.architecture import TINY, Architecture  # noqa: E402
from comfyui_sam3d.worker.sam3d.checkpoint import Weights  # noqa: E402
from comfyui_sam3d.worker.weights import config, convert, fake, files, layout, locate, status, store, tensors, verify  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine's own weights and caches stay out."""
    for name in ("SAM3D_WEIGHTS", "SAM3D_MODELS", "SAM3D_MOGE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "no cache"))
    monkeypatch.setattr(locate, "PACK", tmp_path / "no pack")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny model as official files, and the same one converted."""
    base = tmp_path_factory.mktemp("weights")
    fake.write(base / "official", tiny=True, seed=3)
    shutil.copytree(base / "official", base / "converted")
    convert.convert(base / "converted", quiet)
    assert verify.verify(base / "converted", quiet)  # which records what the files hash to
    return base / "official", base / "converted"


@pytest.fixture
def official(made: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(made[0], tmp_path / "weights"))


@pytest.fixture
def converted(made: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(made[1], tmp_path / "converted"))


def quiet(kind: str, /, **fields: object) -> None:
    pass


class Events(list):
    def __call__(self, kind: str, /, **fields: object) -> None:
        self.append({"event": kind, **fields})

    def states(self) -> dict[str, str]:
        return {e["name"]: e["state"] for e in self if e["event"] == "file"}


def names(architecture: Architecture = TINY) -> list[str]:
    return [*architecture.parts(), "moge"]


# -- random weights, and loading them


def test_the_official_layout_is_written_and_loads_strictly(official):
    opened = store.open_store(official)
    assert (
        opened.architecture == TINY
        and opened.fake
        and opened.warnings == (fake.WARNING,)
        and opened.origin == "random weights, tiny, seed 3"
    )
    for name in names():
        module = opened.load(name, CPU)
        assert not module.training and all(not p.requires_grad for p in module.parameters())
        assert {v.dtype for v in module.state_dict().values()} == {torch.float32}
    assert "state_dict" in torch.load(official / "ss_generator.ckpt", weights_only=True, mmap=True)
    assert "state_dict" not in torch.load(official / "ss_decoder.ckpt", weights_only=True, mmap=True)
    stored = {stem: {str(v.dtype) for v in Weights(official / f"{stem}.ckpt").values()} for stem in layout.STEMS}
    assert stored["ss_decoder"] == {"torch.float16"} and stored["slat_decoder_mesh"] == stored["ss_generator"] == {"torch.float32"}
    assert stored["slat_decoder_gs"] == stored["slat_decoder_gs_4"] == {"torch.float16", "torch.float32"}
    assert sum(name.startswith(convert.DUPLICATE) for name in Weights(official / "ss_generator.ckpt")) == len(
        Weights(official / "ss_decoder.ckpt")
    )


def test_the_official_files_have_the_published_numbers_of_tensors():
    """stage1.md 8.1, stage2.md 12, moge.md 5: counted on the meta device, and the plan of every converted file."""
    counts = {stem: len(convert.plan_of(Architecture(), stem)) for stem in layout.STEMS}
    assert counts == {
        "ss_generator": 1667,  # 1741 less the duplicate's 74
        "ss_decoder": 74,
        "slat_generator": 1225,
        "slat_decoder_gs": 101,
        "slat_decoder_gs_4": 101,
        "slat_decoder_mesh": 120,
    }


def test_equal_seeds_equal_weights(official, tmp_path):
    for seed, same in ((3, True), (4, False)):
        fake.write(tmp_path / str(seed), tiny=True, seed=seed)
        other, mine = Weights(tmp_path / str(seed) / "slat_generator.ckpt"), Weights(official / "slat_generator.ckpt")
        assert all(torch.equal(other[name], mine[name]) for name in mine) is same


def test_random_weights_never_replace_others(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "ss_generator.ckpt").write_bytes(b"precious")
    for folder in (tmp_path / "mine", tmp_path / "mine" / "ss_generator.ckpt"):
        with pytest.raises(OutputError, match="isn't an empty folder"):
            fake.write(folder, tiny=True)
    assert (tmp_path / "mine" / "ss_generator.ckpt").read_bytes() == b"precious"


def test_random_moge_makes_a_plausible_point_map(official):
    image = np.random.default_rng(0).integers(0, 255, (36, 52, 3), np.uint8)
    found = from_picture(store.open_store(official).load("moge", CPU), image)
    assert (
        found.points.shape == (36, 52, 3)
        and np.isfinite(found.points).all()
        and 1 < found.points[..., 2].min() < found.points[..., 2].max() < 3
    )
    assert found.intrinsics is not None and 0.3 < found.intrinsics[1, 1] < 4


def test_precision_is_the_working_one_wherever_a_network_is_kept(official, converted):
    for folder in (official, converted):
        opened = store.open_store(folder, torch.float16)
        kinds = {name: {v.dtype for v in opened.load(name, CPU).state_dict().values()} for name in names()}
        assert kinds["structure_flow"] == kinds["structure_embedder"] == kinds["structure_decoder"] == {torch.float16}
        assert kinds["latent_flow"] == kinds["splats"] == kinds["mesh"] == {torch.float16, torch.float32}
        flow = opened.load("latent_flow", CPU)
        assert flow.input_layer.weight.dtype == torch.float32 and flow.blocks[0].mlp.mlp[0].weight.dtype == torch.float16


def test_converted_half_precision_stays_mapped(converted):
    """No copy on a CPU: the tensors lie in the file's pages."""
    module = store.open_store(converted, torch.float16).load("structure_flow", CPU)
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("looks at /proc")
    ranges = [line.split()[0].split("-") for line in maps.read_text().splitlines() if line.endswith("ss_generator.safetensors")]
    spans = [(int(low, 16), int(high, 16)) for low, high in ranges]
    assert spans and all(any(low <= p.data_ptr() < high for low, high in spans) for p in module.parameters())


# -- settings


def test_the_released_settings_are_the_released_architecture(tmp_path):
    for name, tree in config.documents(Architecture()).items():
        (tmp_path / name).write_text(yaml.safe_dump(tree))
    assert config.architecture_of(tmp_path) == Architecture()


def test_what_only_training_reads_and_other_nesting_are_no_reason_to_refuse(official):
    path = official / "ss_generator.yaml"
    tree = yaml.safe_load(path.read_text())
    flow = tree["module"]["generator"]["backbone"]
    flow.update(loss_weights={"shape": 0}, self_consistency_prob=0.25)
    tree = {"trainer": {"devices": 8}, "network": {"a": [tree["module"]["condition_embedder"]["backbone"], {"b": flow}]}}
    path.write_text(yaml.safe_dump(tree))
    assert config.architecture_of(official) == TINY


REFUSED = [
    ("pipeline.yaml", "slat_cfg_strength", 2, "`slat_cfg_strength` is 2; this version implements 1"),
    ("pipeline.yaml", "slat_mean", [0.0] * 8, r"`slat_mean\[0\]` is 0.0; this version implements 0.12211431"),
    ("pipeline.yaml", "slat_std", [1.0] * 7, r"`slat_std` is \[1.0"),
    ("pipeline.yaml", "downsample_ss_dist", True, "`downsample_ss_dist` is True; this version implements 1"),
    ("pipeline.yaml", "pose_decoder_name", "Other", "`pose_decoder_name` is 'Other'"),
    ("pipeline.yaml", "ss_inference_steps", 50, "`ss_inference_steps` is 50; this version implements 25"),
    ("pipeline.yaml", "ss_preprocessor.pointmap_normalizer.use_scene_scale", False, "use_scene_scale` is False"),
    ("pipeline.yaml", "ss_preprocessor.img_transform.transforms.1.size", 770, r"transforms\[1\].size` is 770; this version implements 28"),
    (
        "pipeline.yaml",
        "ss_preprocessor.pointmap_normalizer._target_",
        "a.b.Other",
        "implements the class ObjectCentricSSI; the file has none",
    ),
    ("ss_generator.yaml", "module.generator.backbone.reverse_fn.backbone.num_heads", 12, "num_heads` is 12; this version implements 3"),
    (
        "ss_generator.yaml",
        "module.generator.backbone.reverse_fn.backbone.share_mod",
        True,
        "share_mod` is True; this version implements False",
    ),
    ("ss_generator.yaml", "module.condition_embedder.backbone.embedder_list.0.0.prenorm_features", True, "prenorm_features` is True"),
    ("slat_generator.yaml", "module.generator.backbone.reverse_fn.backbone.pe_mode", "rope", "pe_mode` is 'rope'"),
    ("slat_decoder_gs.yaml", "representation_config.num_gaussians", 8, "num_gaussians` is 8; this version implements 32"),
    ("slat_decoder_mesh.yaml", "_target_", "os.system", "implements the class SLatMeshDecoderTdfyWrapper; the file has none, only system"),
    ("ss_decoder.yaml", "channels", None, "`channels` is None"),
]


@pytest.mark.parametrize(("name", "key", "value", "said"), REFUSED)
def test_settings_that_arent_implemented_are_named(official, name, key, value, said):
    path = official / name
    tree = yaml.safe_load(path.read_text())
    *parents, last = [int(part) if part.isdigit() else part for part in key.split(".")]
    place = tree
    for part in parents:
        place = place[part]
    place[last] = value
    path.write_text(yaml.safe_dump(tree))
    with pytest.raises(SetupError, match=said) as caught:
        store.open_store(official)
    assert str(path) in caught.value.message and caught.value.hint


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "isn't the YAML"),
        ("- 1", "holds no settings"),
        ("", "holds no settings"),
        ("a: !!python/object/apply:os.getcwd []", "isn't the YAML"),
        ("\x00", "isn't the YAML"),
        ("dtype: float16", "implements the class SparseStructureDecoderTdfyWrapper; the file has none"),
    ],
)
def test_settings_that_are_none(official, text, said):
    (official / "ss_decoder.yaml").write_text(text)
    with pytest.raises(SetupError, match=said):
        store.open_store(official)


def test_a_setting_that_lacks(official):
    path = official / "pipeline.yaml"
    path.write_text(path.read_text().replace("slat_rescale_t: 1\n", ""))
    with pytest.raises(SetupError, match="lacks `slat_rescale_t`; this version implements 1"):
        store.open_store(official)


# -- converting


def test_converted_files_hold_what_networks_read_and_nothing_else(official, converted):
    for stem in layout.STEMS:
        mine, theirs = Weights(converted / f"{stem}.safetensors"), Weights(official / f"{stem}.ckpt")
        assert set(mine) == {name for name in theirs if not name.startswith(convert.DUPLICATE)}
        for name in mine:
            assert torch.equal(mine[name], theirs[name].to(mine[name].dtype)), name
        told = files.metadata(converted / f"{stem}.safetensors")
        assert told["source"] == f"{stem}.ckpt" and told["source_sha256"] == files.hash_file(official / f"{stem}.ckpt")
    a, b = store.open_store(official), store.open_store(converted)
    assert a.digest == b.digest and b.moge == converted / "moge" / "model.safetensors" and b.warnings == a.warnings
    for name in names():
        left, right = a.load(name, CPU).state_dict(), b.load(name, CPU).state_dict()
        assert all(torch.allclose(left[key], right[key], atol=1e-3, rtol=1e-3) for key in left)


def test_converting_again_does_nothing_until_a_source_changes(converted):
    assert convert.convert(converted, quiet) == [] and convert.convert(converted, quiet, again=True) != []
    fake.write(converted.parent / "other", tiny=True, seed=9)
    shutil.copy(converted.parent / "other" / "ss_decoder.ckpt", converted)
    assert any("ss_decoder.safetensors was made of another" in text for text in store.open_store(converted).warnings)
    events = Events()
    status.status(converted, events)
    assert events.states()["ss_decoder.ckpt"] == "stale"
    assert convert.convert(converted, quiet) == ["ss_decoder.safetensors"]
    assert store.open_store(converted).warnings == (fake.WARNING,)


def test_an_interrupted_conversion_leaves_nothing_and_goes_on(official, monkeypatch):
    def stop(kind: str, /, **fields: object) -> None:
        if kind == "bytes" and (fields["what"], fields["name"]) == ("writing", "slat_generator.safetensors"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert.convert(official, stop)
    there = sorted(path.name for path in official.glob("*.safetensors"))
    assert there == ["ss_decoder.safetensors", "ss_generator.safetensors"] and not list(official.glob(".*part"))
    assert "ss_generator.safetensors" not in convert.convert(official, quiet)
    (official / "ss_decoder.safetensors").write_bytes((official / "ss_decoder.safetensors").read_bytes()[:-1])
    assert convert.convert(official, quiet) == ["ss_decoder.safetensors"]


def test_a_conversion_that_went_wrong_is_noticed(official, monkeypatch):
    monkeypatch.setattr(tensors, "_raw", lambda value: np.zeros(value.numel() * value.element_size(), np.uint8))
    with pytest.raises(SetupError, match="isn't what was written"):
        convert.convert(official, quiet)
    assert not list(official.glob("*.safetensors")) and not list(official.glob(".*part"))


def test_conversion_refuses_other_models_and_full_disks(official, monkeypatch):
    state = torch.load(official / "ss_decoder.ckpt", weights_only=True)
    torch.save({**state, "extra.weight": torch.zeros(2)}, official / "ss_decoder.ckpt")
    with pytest.raises(SetupError, match=r"ss_decoder.ckpt has unknown keys: extra.weight"):
        convert.convert(official, quiet)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1 << 20})())
    with pytest.raises(OutputError, match="are needed in"):
        convert.convert(official, quiet, again=True)


# -- verifying, and loading what is damaged


def test_everything_is_checked_and_recorded(converted):
    first, second = Events(), Events()
    assert verify.verify(converted, first) and verify.verify(converted, second)
    states = first.states()
    assert {states[f"{stem}.safetensors"] for stem in layout.STEMS} == {"verified"}
    assert {states[f"{stem}.ckpt"] for stem in layout.STEMS} == {"not verified"} and states["moge/model.pt"] == "not verified"
    assert "unchanged" in next(e["text"] for e in second if e.get("name") == "pipeline.yaml" and e["event"] == "file")
    last = [e for e in first if e["event"] == "bytes"][-1]
    assert last["done"] == last["total"] and json.loads((converted / layout.RECORD_FILE).read_text())["pipeline.yaml"]["source"] == "first"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "a bit": (lambda folder: flip(folder / "ss_generator.ckpt"), "ss_generator.ckpt"),
    "a bit of a converted file": (lambda folder: flip(folder / "ss_generator.safetensors"), "ss_generator.safetensors"),
    "a bit of MoGe": (lambda folder: flip(folder / "moge/model.safetensors"), "moge/model.safetensors"),
    "cut short": (lambda folder: os.truncate(folder / "slat_decoder_mesh.safetensors", 5000), "slat_decoder_mesh.safetensors"),
    "empty": (lambda folder: os.truncate(folder / "slat_decoder_gs.safetensors", 0), "slat_decoder_gs.safetensors"),
    "other settings": (lambda folder: (folder / "ss_decoder.yaml").write_text("a: 1"), "ss_decoder.yaml"),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_damage_is_found(converted, what):
    damage, name = DAMAGES[what]
    damage(converted)
    events = Events()
    assert not verify.verify(converted, events) and events.states()[name] == "damaged"


def test_published_sizes_and_digests_are_held_against_real_weights(converted):
    """Without the marks of random weights the files count as the official ones, and aren't."""
    (converted / layout.FAKE_FILE).unlink()
    events = Events()
    assert not verify.verify(converted, events)
    said = {e["name"]: e["text"] for e in events if e["event"] == "file"}
    assert "instead of 4906537684" in said["slat_generator.ckpt"] and events.states()["ss_generator.ckpt"] == "not verified"


def test_loading_names_file_and_keys(official):
    state = torch.load(official / "slat_decoder_gs.ckpt", weights_only=True)
    state["out_layer.weight"] = state["out_layer.weight"][:5].clone()
    del state["input_layer.bias"]
    torch.save({**state, "more": torch.zeros(1)}, official / "slat_decoder_gs.ckpt")
    with pytest.raises(SetupError, match=r"slat_decoder_gs\.ckpt.*input_layer\.bias.*more.*out_layer\.weight \(5, 48\)"):
        store.open_store(official).load("splats", CPU)
    events = Events()
    assert not verify.verify(official, events) and events.states()["slat_decoder_gs.ckpt (splats)"] == "damaged"


def test_code_in_a_checkpoint_never_runs(official, tmp_path):
    import pickle

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    (official / "ss_decoder.ckpt").write_bytes(pickle.dumps({"state_dict": Evil()}))
    with pytest.raises(SetupError, match="can't be read as weights"):
        store.open_store(official).load("structure_decoder", CPU)
    assert not (tmp_path / "owned").exists()


def test_what_is_optional_lacks_only_when_it_is_asked_for(official):
    for name in ("slat_decoder_gs_4.ckpt", "slat_decoder_gs_4.yaml", layout.MOGE_FILE):
        (official / name).unlink()
    opened = store.open_store(official)
    with pytest.raises(SetupError, match=r"lacks slat_decoder_gs_4\.ckpt"):
        opened.load("splats_4", CPU)
    with pytest.raises(SetupError, match="MoGe, which makes the point map") as caught:
        opened.load("moge", CPU)
    assert "pointmaps.md" in caught.value.hint


def test_the_digest_is_the_same_after_a_restart_and_another_for_other_files(official, tmp_path):
    first = store.open_store(official).digest
    copy = shutil.copytree(official, tmp_path / "copy", copy_function=shutil.copyfile)  # other times
    assert store.open_store(copy).digest == first == store.open_store(official).digest
    for name in ("ss_generator.ckpt", "moge/model.pt", "pipeline.yaml"):
        other = shutil.copytree(official, tmp_path / name.replace("/", "_"))
        state = (other / name).read_bytes()
        (other / name).write_bytes(state + b"\n" if name.endswith("yaml") else state[:-30] + bytes([state[-30] ^ 1]) + state[-29:])
        assert store.open_store(other).digest != first


# -- where is looked


def test_the_order_of_places(official, tmp_path, monkeypatch):
    copies = {name: shutil.copytree(official, tmp_path / name) for name in ("named", "variable", "listed", "pack/models/sam3d")}
    comfy = tmp_path / "ComfyUI"
    copies["near"] = shutil.copytree(official, comfy / "models" / "sam3d")
    (comfy / "custom_nodes" / "sam3d").mkdir(parents=True)
    hub = tmp_path / "hub" / "models--facebook--sam-3d-objects" / "snapshots"
    shutil.copytree(official, hub / "newer" / "checkpoints")
    copies["hub"] = shutil.copytree(official, hub / layout.REVISION / "checkpoints")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert locate.find() == copies["hub"]
    monkeypatch.setattr(locate, "PACK", tmp_path / "pack")
    assert locate.find() == copies["pack/models/sam3d"]
    monkeypatch.setattr(locate, "PACK", comfy / "custom_nodes" / "sam3d")
    assert locate.find() == copies["near"]
    monkeypatch.setenv("SAM3D_MODELS", os.pathsep.join([str(tmp_path / "none"), str(copies["listed"])]))
    assert locate.find() == copies["listed"]
    monkeypatch.setenv("SAM3D_WEIGHTS", str(copies["variable"]))
    assert locate.find() == copies["variable"] and locate.find(copies["named"]) == copies["named"]
    monkeypatch.setenv("SAM3D_WEIGHTS", str(tmp_path / "none"))
    with pytest.raises(SetupError, match="aren't there") as caught:  # a place that was named is the only one
        locate.find()
    assert str(tmp_path / "none") in caught.value.message and len(caught.value.hint.splitlines()) == 3


def test_a_folder_that_isnt_whole_says_what_lacks(official, tmp_path, monkeypatch):
    (official / "ss_decoder.ckpt").unlink()
    (official / "slat_generator.yaml").unlink()
    monkeypatch.setenv("SAM3D_MODELS", str(official))
    with pytest.raises(SetupError, match=r"aren't whole: ss_decoder\.ckpt, slat_generator\.yaml are missing\.") as caught:
        locate.find()
    assert "sam3d.py weights fetch" in caught.value.hint and locate.nearest() == official and not locate.ready()


def test_ready_is_cheap_and_true(official, monkeypatch):
    assert not locate.ready()
    monkeypatch.setenv("SAM3D_WEIGHTS", str(official))
    assert locate.ready()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not locate.ready()


def test_where_moge_is_looked_for(official, tmp_path, monkeypatch):
    moge = official / layout.MOGE_FILE
    data = moge.read_bytes()
    moge.unlink()
    (official / "moge").rmdir()
    assert locate.find_moge(official) is None
    snapshot = tmp_path / "hub" / "models--Ruicheng--moge-vitl" / "snapshots" / "abc" / "model.pt"
    host = tmp_path / "geometry_estimation"
    places = [
        snapshot,
        host / "moge-2-vitl.safetensors",
        host / "deep" / "MoGe_vitl.pt",
        official.parent / "moge-vitl" / "model.pt",
        official / "moge" / "model.pt",
    ]
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("SAM3D_MOGE", str(host))
    for place in places:  # each goes before those that are already there
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        assert locate.find_moge(official) == place


def test_a_moge_2_without_its_configuration_is_none(official, tmp_path, monkeypatch):
    """As core's own files may be: `auto` must not choose an engine that then can't read its point maps."""
    from safetensors.torch import save_file

    shutil.rmtree(official / "moge")
    host = tmp_path / "geometry_estimation"
    host.mkdir()
    monkeypatch.setenv("SAM3D_MOGE", str(host))
    second = host / "moge_2_vitl_normal_fp16.safetensors"
    save_file({"encoder.x": torch.zeros(1)}, second)
    assert locate.find_moge(official) is None
    save_file({"encoder.x": torch.zeros(1)}, second, {"model_config": "{}"})
    assert locate.find_moge(official) == second
    first = host / "moge_1_vitl_fp16.safetensors"
    save_file({"backbone.x": torch.zeros(1)}, first)
    assert locate.find_moge(official) == first


def test_fetch_goes_where_it_will_be_found(tmp_path, monkeypatch):
    assert locate.target() == tmp_path / "no pack" / "models" / "sam3d" and locate.target("x") == Path("x").absolute()
    (tmp_path / "models").mkdir()
    monkeypatch.setenv("SAM3D_MODELS", str(tmp_path / "models" / "sam3d"))
    assert locate.target() == tmp_path / "models" / "sam3d"


def test_what_the_hubs_cache_has_is_not_fetched_again(official, tmp_path, monkeypatch):
    from comfyui_sam3d.worker.weights.__main__ import _elsewhere

    assert _elsewhere(None) is None
    snapshot = shutil.copytree(official, tmp_path / "hub" / "models--facebook--sam-3d-objects" / "snapshots" / "x")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert _elsewhere(None) == snapshot and _elsewhere(str(tmp_path / "here")) is None
    (snapshot / "slat_decoder_gs_4.ckpt").unlink()
    assert locate.find() == snapshot and _elsewhere(None) is None
    monkeypatch.setenv("SAM3D_WEIGHTS", str(official))
    assert _elsewhere(None) is None  # the folder that fetch checks and completes
