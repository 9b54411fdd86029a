"""In a real ComfyUI. Skipped unless COMFYUI_PATH names its source tree; docs/comfyui.md tells how to get one on a CPU.

COMFYUI_PATH     the source tree            COMFYUI_PYTHON   its interpreter (default: this one)
COMFY_CLI        comfy-cli's command        CHROMIUM         a browser; NODE_PATH must hold playwright-core
SAM3D_SHOTS      a folder that the canvas test's screenshots are left in, to be looked at

One file, over 500 lines: all of it shares a host that takes half a minute to start.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from comfyui_sam3d.nodes import NODE_CLASS_MAPPINGS
from PIL import Image

from comfy_host import STUB, Host, comfyui
from factory_cli import cli

PACK = Path(__file__).resolve().parent.parent
GRAPHS = PACK / "example_workflows"
NAMES = sorted(p.stem for p in (GRAPHS / "api").glob("*.json"))

pytestmark = pytest.mark.skipif("COMFYUI_PATH" not in os.environ, reason="COMFYUI_PATH names no ComfyUI")

MOGE = "moge_2_vitl_normal_fp16.safetensors"
BOX = (10, 20, 30, 40)  # top, left, bottom, right


def graph(name: str) -> dict[str, Any]:
    return dict(json.loads((GRAPHS / "api" / f"{name}.json").read_text(encoding="utf-8")))


def fill(host: Host) -> None:
    shutil.copytree(PACK / "examples", host.base / "input" / "sam3d", ignore=shutil.ignore_patterns("*.py", "__pycache__"))


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """ComfyUI with the stub worker: quick, and it misbehaves on demand (tests/stub_worker.py)."""
    with comfyui(tmp_path_factory.mktemp("stub") / "base", STUB) as found:
        top, left, bottom, right = BOX
        pixels = np.full((40, 60, 4), 255, np.uint8)
        pixels[..., 0] = np.arange(60) * 4
        Image.fromarray(pixels[..., :3]).save(found.base / "input" / "plain.png")
        pixels[..., 3] = 0
        pixels[top:bottom, left:right, 3] = 255
        Image.fromarray(pixels).save(found.base / "input" / "cut out 肉.png")
        yield found


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """ComfyUI with the pack's own worker, the example pictures, a tiny MoGe for core's node, and no weights for the sam3d engine."""
    base = tmp_path_factory.mktemp("real") / "base"
    core_moge(base)
    nowhere = {"SAM3D_WEIGHTS": str(base / "none")}
    with comfyui(base, variables=nowhere) as found:
        fill(found)
        yield found


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """ComfyUI with tiny random weights for the sam3d engine where extra_model_paths.yaml says, and a MoGe for core's node."""
    home = tmp_path_factory.mktemp("learned")
    base, shared = home / "base", home / "shared models"
    ran = cli("weights", "fake", shared / "sam3d", "--tiny", stub=False)
    assert ran.code == 0, ran.err
    core_moge(base)
    paths = home / "extra_model_paths.yaml"
    paths.write_text(json.dumps({"shared": {"base_path": str(shared), "sam3d": "sam3d"}}))  # JSON is YAML
    variables = {"SAM3D_CACHE": str(home / "cache"), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with comfyui(base, None, "--extra-model-paths-config", str(paths), variables=variables) as found:
        fill(found)
        yield found


def core_moge(base: Path) -> None:
    """A tiny MoGe that core's Load MoGe Model reads, under the name of core's own templates: it sees a shallow bowl before the camera."""
    from comfyui_sam3d.vendor.moge import checkpoint
    from comfyui_sam3d.vendor.moge.config import ViTSize
    from comfyui_sam3d.worker.weights import fake
    from safetensors.torch import save_file

    # What core takes for granted: a head for each 64 channels, four layers, the published sizes of the head.
    settings = {**fake.TINY_MOGE, "encoder": "core", "intermediate_layers": 4, "dim_proj": 512, "last_conv_channels": 32}
    model = fake.fill(checkpoint.build(settings, ViTSize(width=64, depth=4, heads=1, native=518)), 0)
    folder = base / "models" / "geometry_estimation"
    folder.mkdir(parents=True)
    save_file(model.state_dict(), folder / MOGE)


def simple(seed: int = 0, image: str = "cut out 肉.png", **more: Any) -> dict[str, Any]:
    """Load, reconstruct, export; further nodes by keyword, numbered from 4 on as n4, n5, ..."""
    loader = {"image": image, "masks": "", "polarity": "white is the object"}
    settings = {"polarity": "white is the object", "engine": "draft", "preset": "auto", "quality": "fast", "seed": seed, "names": "thing"}
    return {
        "1": {"class_type": "SAM3DLoadImageMasks", "inputs": loader},
        "2": {"class_type": "SAM3DReconstruct", "inputs": {"image": ["1", 0], "masks": ["1", 1], **settings}},
        "3": {"class_type": "SAM3DExport", "inputs": {"scene": ["2", 0], "filename_prefix": f"t/{seed}", "glb": True, "ply": True}},
        **{key[1:]: {"class_type": kind, "inputs": inputs} for key, (kind, inputs) in more.items()},
    }


def files(host: Host, entries: list[dict[str, str]]) -> list[bytes]:
    """The files that an output lists, as the browser would fetch them."""
    found = []
    for entry in entries:
        query = "&".join(f"{key}={quote(entry[key])}" for key in ("filename", "subfolder", "type"))
        found.append(host.raw(f"/view?{query}"))
    return found


def error_of(run: Any) -> str:
    (problem,) = run.of("execution_error")
    return str(problem["exception_message"]).strip()


# -- what the host knows of us


def test_object_info(host: Host) -> None:
    for node, kind in NODE_CLASS_MAPPINGS.items():
        info = host.get(f"/object_info/{node}")[node]
        assert info["category"] == "SAM 3D" and info["python_module"] == "custom_nodes.comfyui-sam3d"
        assert info["output"] == list(kind.RETURN_TYPES) and info["output_node"] == getattr(kind, "OUTPUT_NODE", False)
        assert info["search_aliases"] and info["description"]
    listed = host.get("/object_info/SAM3DLoadImageMasks")["SAM3DLoadImageMasks"]["input"]["required"]["image"][0]
    assert listed == ["cut out 肉.png", "plain.png"]


def test_help_translations_and_templates(host: Host) -> None:
    for node in NODE_CLASS_MAPPINGS:
        assert host.raw(f"/extensions/comfyui-sam3d/docs/{node}.md").startswith(b"# SAM3D")
        assert "SAM3D" in host.raw(f"/extensions/comfyui-sam3d/docs/{node}/ja.md").decode()
    words = host.get("/i18n")
    assert words["ja"]["nodeDefs"]["SAM3DReconstruct"]["display_name"] == "SAM3D 再構成"
    assert set(words["en"]["nodeDefs"]) >= set(NODE_CLASS_MAPPINGS)
    assert host.get("/workflow_templates")["comfyui-sam3d"] == NAMES or set(host.get("/workflow_templates")["comfyui-sam3d"]) == set(NAMES)


def test_nothing_is_printed_or_failed_at_start(host: Host) -> None:
    log = host.log.read_text(encoding="utf-8", errors="replace")
    assert "IMPORT FAILED" not in log and "Cannot import" not in log
    assert "Unable to parse pyproject.toml" not in log


# -- running


def test_progress_files_and_metadata(host: Host) -> None:
    run = host.run(simple(1001))  # works for a second
    assert run.messages[-1][1] == "execution_success"
    values = [v["value"] / v["max"] for v in run.of("progress")]
    assert len(values) >= 5 and values == sorted(values) and values[-1] == 1
    assert {v["node"] for v in run.of("progress")} == {"2"}
    assert run.of("picture"), "the engine's preview reached the browser"
    assert "draft: 1 object\nThis is a stub." in run.of("text")
    assert set(run.outputs) == {"3"} and set(run.outputs["3"]) == {"3d"}
    glb, ply = files(host, run.outputs["3"]["3d"])
    assert ply.startswith(b"ply")
    (length,) = struct.unpack_from("<I", glb, 12)
    extras = json.loads(glb[20 : 20 + length])["asset"]["extras"]
    assert json.loads(extras["prompt"])["2"]["class_type"] == "SAM3DReconstruct" and json.loads(extras["workflow"]) == {"id": "x"}
    job = host.get(f"/api/jobs/{run.id}")
    assert job["status"] == "completed" and job["outputs_count"] == 2


def test_second_run_is_cached(host: Host) -> None:
    first = host.run(simple(7))
    second = host.run(simple(7))
    assert set(second.of("execution_cached")[0]["nodes"]) == {"1", "2", "3"}
    assert second.outputs == first.outputs
    other = simple(7)
    other["3"]["inputs"]["filename_prefix"] = "t/other"
    third = host.run(other)
    assert set(third.of("execution_cached")[0]["nodes"]) == {"1", "2"}, "another file name doesn't reconstruct again"


def test_core_load_image_is_the_other_way_round(host: Host) -> None:
    """Load Image + `black is the object` gives what our loader gives."""
    ours = host.run(simple(8))
    core = simple(8)
    core["1"] = {"class_type": "LoadImage", "inputs": {"image": "cut out 肉.png"}}
    core["2"]["inputs"]["polarity"] = "black is the object"
    core["3"]["inputs"]["filename_prefix"] = "t/core"
    theirs = host.run(core)
    assert files(host, ours.outputs["3"]["3d"])[1] == files(host, theirs.outputs["3"]["3d"])[1]


def test_interrupt(host: Host) -> None:
    host.run(simple(9))
    with host.listening() as run:
        run.post(simple(1030))
        while run.next()[0] != "progress":
            pass
        time.sleep(0.5)
        start = time.monotonic()
        assert host.post("/interrupt", {"prompt_id": run.id})[0] == 200
        assert run.wait() == "execution_interrupted" and time.monotonic() - start < 2
    start = time.monotonic()
    assert host.run(simple(10)).messages[-1][1] == "execution_success"
    assert time.monotonic() - start < 5, "the worker is usable again"
    assert host.get(f"/api/jobs/{run.id}")["status"] == "cancelled"


def test_errors_are_one_readable_paragraph(host: Host) -> None:
    assert (
        error_of(host.run(simple(667))) == "The stub has no memory left. Choose a lower quality, fewer masks at once or a smaller picture."
    )
    crash = error_of(host.run(simple(666)))
    assert "killed by SIGKILL" in crash and crash.endswith("The next call starts a fresh worker.")
    assert host.run(simple(668)).messages[-1][1] == "execution_success"


def test_wrong_inputs(host: Host) -> None:
    for image, words in (("none.png", "There is no file"), ("../../../etc/passwd", "leads out"), ("/etc/passwd", "leads out")):
        status, answer = host.post("/prompt", {"prompt": simple(11, image=image)})
        assert status == 400 and words in json.dumps(answer["node_errors"]["1"]), answer
    odd = simple(11)
    odd["2"]["inputs"]["engine"] = "python -c evil"
    assert host.post("/prompt", {"prompt": odd})[0] == 400
    assert "has no transparency" in error_of(host.run(simple(11, image="plain.png")))
    blank = simple(11)
    blank["1"] = {"class_type": "LoadImage", "inputs": {"image": "plain.png"}}
    for polarity in ("white is the object", "black is the object"):
        blank["2"]["inputs"]["polarity"] = polarity
        assert "Load Image gives for a picture without an alpha channel" in error_of(host.run(blank))
    away = simple(11)
    away["3"]["inputs"]["filename_prefix"] = "../../away"
    assert "leads out of the folder 'output'" in error_of(host.run(away))


def test_a_linked_text_names_the_masks(host: Host) -> None:
    linked = simple(16, n4=("PrimitiveStringMultiline", {"value": "cut out 肉.png"}))
    linked["1"]["inputs"] |= {"image": "plain.png", "masks": ["4", 0]}
    assert host.run(linked).messages[-1][1] == "execution_success"
    linked["4"]["inputs"]["value"] = "../../x.png"
    assert "leads out" in error_of(host.run(linked))


def test_outputs_that_are_switched_off_block_with_a_message(host: Host) -> None:
    off = simple(12, n4=("PreviewGaussianSplat", {"model_3d": ["3", 1], "viewport_state": {}, "width": 64, "height": 64}))
    off["3"]["inputs"]["ply"] = False
    assert "switch ply on" in json.dumps(host.run(off).of("execution_error"))


# -- links into core


def test_core_nodes_take_what_we_give(host: Host) -> None:
    import trimesh

    links = simple(
        13,
        n4=("Preview3D", {"model_file": ["3", 2]}),
        n5=("Preview3D", {"model_file": ["3", 3]}),
        n6=("Preview3D", {"model_file": ["3", 0]}),
        n7=("SaveGLB", {"mesh": ["2", 1], "filename_prefix": "t/mesh"}),
        n8=("SaveGLB", {"mesh": ["3", 0], "filename_prefix": "t/glb"}),
        n9=("SaveGLB", {"mesh": ["3", 1], "filename_prefix": "t/ply"}),
        n10=("SplatToFile3D", {"splat": ["2", 2], "format": "ply"}),
        n11=("SaveGLB", {"mesh": ["10", 0], "filename_prefix": "t/splat"}),
        n12=("PreviewGaussianSplat", {"model_3d": ["3", 1], "viewport_state": {}, "width": 64, "height": 64}),
        n13=("GetMeshInfo", {"mesh": ["2", 1]}),
        n14=("PreviewAny", {"source": ["13", 1]}),
    )
    run = host.run(links)
    assert run.messages[-1][1] == "execution_success", run.of("execution_error")
    out = run.outputs
    assert out["4"]["result"][0] == out["3"]["3d"][0]["subfolder"] + "/" + out["3"]["3d"][0]["filename"]
    (ours, our_ply), (mesh,), (glb,), (ply,), (splat,) = (files(host, out[n]["3d"]) for n in ("3", "7", "8", "9", "11"))
    assert glb == ours and ply == our_ply

    def loaded(data: bytes) -> Any:
        return trimesh.load(io.BytesIO(data), file_type="glb").to_mesh()

    mine, core = loaded(ours), loaded(mesh)
    assert np.allclose(mine.bounds, core.bounds, atol=1e-6) and len(mine.faces) == len(core.faces)
    assert np.allclose(mine.area, core.area, rtol=1e-5)
    texture = [np.asarray(m.visual.material.baseColorTexture.convert("RGB")) for m in (mine, core)]
    assert (texture[0] == texture[1]).all()
    assert np.allclose(np.sort(mine.visual.uv, axis=0), np.sort(core.visual.uv, axis=0), atol=1e-6)

    from plyfile import PlyData

    a, b = (PlyData.read(io.BytesIO(data))["vertex"] for data in (our_ply, splat))
    for name in ("x", "y", "z", "opacity", "scale_0", "f_dc_0", "f_dc_1", "f_dc_2"):
        assert np.allclose(a[name], b[name], atol=1e-4), name
    turns = [np.stack([v[f"rot_{i}"] for i in range(4)], 1) for v in (a, b)]
    assert np.allclose(np.abs((turns[0] * turns[1]).sum(1)), 1, atol=1e-4)


def test_several_objects_in_core(host: Host) -> None:
    """A ragged batch: core's SaveGLB writes one file for each object, at its place."""
    import trimesh

    for index, (left, size) in enumerate([(2, 10), (30, 20)]):
        pixels = np.zeros((40, 60), np.uint8)
        pixels[5 : 5 + size, left : left + size] = 255
        Image.fromarray(pixels).save(host.base / "input" / f"m{index}.png")
    both = simple(14, image="plain.png", n4=("SaveGLB", {"mesh": ["2", 1], "filename_prefix": "t/each"}))
    both["1"]["inputs"]["masks"] = "m[0-9].png"
    both["3"]["inputs"]["each_object"] = True
    run = host.run(both)
    assert run.messages[-1][1] == "execution_success", run.of("execution_error")
    whole, *_ = files(host, run.outputs["3"]["3d"])
    scene = trimesh.load(io.BytesIO(whole), file_type="glb")
    each = [trimesh.load(io.BytesIO(data), file_type="glb").to_mesh() for data in files(host, run.outputs["4"]["3d"])]
    assert len(each) == 2 and len(scene.geometry) == 2
    assert np.allclose(scene.bounds, [np.min([m.bounds[0] for m in each], 0), np.max([m.bounds[1] for m in each], 0)], atol=1e-5)


# -- the examples, with the pack's own worker


@pytest.mark.parametrize("name", NAMES)
def test_example_graphs(real: Host, name: str) -> None:
    import trimesh

    run = real.run(graph(name))
    assert run.messages[-1][1] == "execution_success", run.of("execution_error")
    assert len(run.of("progress")) >= 2
    entries = run.outputs["3"]["3d"]
    made = dict(zip((e["filename"] for e in entries), files(real, entries)))
    for file, data in made.items():
        if file.endswith(".glb"):
            scene = trimesh.load(io.BytesIO(data), file_type="glb")
            for shape in scene.geometry.values():
                shape.merge_vertices(merge_tex=True, merge_norm=True)
                assert shape.is_watertight and shape.is_winding_consistent, file
    (picture, *_) = files(real, run.outputs["4"]["images"])
    with Image.open(io.BytesIO(picture)) as shown:
        assert len(shown.convert("RGB").resize((32, 32)).getcolors(1024) or ()) > 20, "the preview shows something"


def test_interrupt_of_the_real_worker(real: Host) -> None:
    long = graph("sam3d_several_masks")
    long["2"]["inputs"] |= {"quality": "best", "seed": 5}
    with real.listening() as run:
        run.post(long)
        while run.next()[0] != "progress":
            pass
        start = time.monotonic()
        real.post("/interrupt", {})
        assert run.wait() == "execution_interrupted" and time.monotonic() - start < 2
    again = graph("sam3d_one_object")
    again["2"]["inputs"]["seed"] = 6
    assert real.run(again).messages[-1][1] == "execution_success"


# -- the learned engine, from tiny random weights


def two_objects(*, options: dict[str, Any], seed: int = 0, prefix: str = "t/learned") -> dict[str, Any]:
    """Two masks of the campsite through the sam3d engine; node 4 is SAM3D Options."""
    made = graph("sam3d_several_masks")
    del made["4"], made["5"]
    made["1"]["inputs"]["masks"] = "sam3d/campsite/0.png\nsam3d/campsite/1.png"
    made["2"]["inputs"] |= {"engine": "sam3d", "seed": seed, "names": "mug, burger", "options": ["4", 0]}
    made["3"]["inputs"] |= {"filename_prefix": prefix, "each_object": False}
    made["4"] = {"class_type": "SAM3DOptions", "inputs": options}
    return made


QUICK = {"steps": 3, "latent_steps": 2, "face_budget": 600, "texture_size": "512"}


def test_the_learned_engine(learned: Host) -> None:
    """A picture and two masks -> one scene: GLB with two nodes, one splat PLY; each step is seen at the websocket; random weights are said."""
    import trimesh
    from plyfile import PlyData

    made = two_objects(options=QUICK)
    made["5"] = {"class_type": "SAM3DPreview", "inputs": {"scene": ["2", 0], "view": "still", "size": 128, "frames": 4}}
    run = learned.run(made)
    assert run.messages[-1][1] == "execution_success", run.of("execution_error")
    values = [v["value"] / v["max"] for v in run.of("progress") if v["node"] == "2"]
    assert len(values) >= 8 and values == sorted(values) and values[-1] == 1
    assert run.of("picture"), "the voxels as a picture"
    texts = "\n".join(run.of("text"))
    assert "structure 0/6" in texts and "latents 0/4" in texts, texts  # three steps of two objects, two steps of two
    assert "sam3d: 2 objects" in texts and "random weights" in texts
    glb, ply = files(learned, run.outputs["3"]["3d"])
    scene = trimesh.load(io.BytesIO(glb), file_type="glb")
    assert set(scene.geometry) == {"mug", "burger"} and all(len(mesh.faces) <= 600 for mesh in scene.geometry.values())
    assert all(mesh.visual.material.baseColorTexture.size == (512, 512) for mesh in scene.geometry.values())
    assert PlyData.read(io.BytesIO(ply))["vertex"].count > 1000
    (picture,) = files(learned, run.outputs["5"]["images"])
    with Image.open(io.BytesIO(picture)) as shown:
        assert len(shown.convert("RGB").resize((32, 32)).getcolors(1024) or ()) > 20

    again = learned.run(two_objects(options={**QUICK, "mesh": "raw", "texture": "colors"}, prefix="t/raw"))
    assert again.messages[-1][1] == "execution_success", again.of("execution_error")
    assert "structure" not in "".join(again.of("text")), "what was sampled isn't sampled again"


def test_interrupt_within_a_step_of_the_learned_engine(learned: Host) -> None:
    with learned.listening() as run:
        run.post(two_objects(options={**QUICK, "steps": 200, "latent_steps": 200}, seed=7))
        while len(run.of("progress")) < 4:  # the host tells at most ten a second
            assert not run.next()[0].startswith("execution_e"), error_of(run)
            assert run.messages[-1][1] != "execution_success", run.of("text")
        values = [v["value"] for v in run.of("progress")]
        assert values == sorted(values) and re.search(r"(structure|latents) \d+/400", "".join(run.of("text")))
        start = time.monotonic()
        assert learned.post("/interrupt", {})[0] == 200
        assert run.wait() == "execution_interrupted" and time.monotonic() - start < 2
    assert "decode" not in "".join(run.of("text"))
    start = time.monotonic()
    assert learned.run(two_objects(options=QUICK, seed=8)).messages[-1][1] == "execution_success"
    assert time.monotonic() - start < 40, "the same worker goes on"


def test_cores_moge_makes_the_point_map(learned: Host) -> None:
    made = two_objects(options=QUICK, seed=9)
    made["5"] = {"class_type": "LoadMoGeModel", "inputs": {"model_name": MOGE}}
    settings = {"resolution_level": 0, "fov_x_degrees": 0.0, "batch_size": 4, "force_projection": True, "apply_mask": True}
    made["6"] = {"class_type": "MoGeInference", "inputs": {"moge_model": ["5", 0], "image": ["1", 0], **settings}}
    made["2"]["inputs"]["moge_geometry"] = ["6", 0]
    run = learned.run(made)
    assert run.messages[-1][1] == "execution_success", error_of(run)
    assert "structure" in "".join(run.of("text")) and "point map" not in "".join(run.of("text")), "the worker's own MoGe isn't asked"
    made["1"]["inputs"] |= {"image": "sam3d/steak.png", "masks": ""}
    made["2"]["inputs"]["names"] = "steak"
    made["6"]["inputs"]["image"] = ["7", 0]
    made["7"] = {"class_type": "LoadImage", "inputs": {"image": "sam3d/campsite/image.png"}}
    assert "not the same view" in error_of(learned.run(made))


@pytest.mark.skipif("COMFY_CLI" not in os.environ, reason="COMFY_CLI names no comfy-cli")
def test_comfy_run_with_the_learned_engine(learned: Host, tmp_path: Path) -> None:
    (tmp_path / "graph.json").write_text(json.dumps(two_objects(options=QUICK, seed=10, prefix="t/cli")))
    answer = comfy_run(learned, tmp_path / "graph.json", tmp_path)
    assert "cli_00001_.glb" in json.dumps(answer["data"]) and "cli_00001_.ply" in json.dumps(answer["data"])


def comfy_run(host: Host, path: Path, home: Path) -> Any:
    """`comfy run --wait` of a graph: its answer."""
    port = host.url.rsplit(":", 1)[1]
    command = [os.environ["COMFY_CLI"], "--skip-prompt", "--workspace", os.environ["COMFYUI_PATH"], "run", "--workflow", str(path)]
    command += ["--host", "127.0.0.1", "--port", port, "--wait", "--timeout", "100"]
    variables = {**os.environ, "HOME": str(home), "DO_NOT_TRACK": "1"}  # it keeps its state there
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=variables)
    assert done.returncode == 0, done.stdout + done.stderr
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    assert answer["ok"] is True
    return answer


@pytest.mark.skipif("COMFY_CLI" not in os.environ, reason="COMFY_CLI names no comfy-cli")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", ["api", "canvas"])
def test_comfy_run(real: Host, tmp_path: Path, name: str, form: str) -> None:
    path = GRAPHS / "api" / f"{name}.json" if form == "api" else GRAPHS / f"{name}.json"
    answer = comfy_run(real, path, tmp_path)
    assert ".glb" in json.dumps(answer["data"])


@pytest.mark.skipif("CHROMIUM" not in os.environ, reason="CHROMIUM names no browser")
@pytest.mark.parametrize("name", NAMES)
def test_canvas(real: Host, tmp_path: Path, name: str) -> None:
    shots = Path(os.environ.get("SAM3D_SHOTS") or tmp_path)
    ui = json.loads((GRAPHS / f"{name}.json").read_text(encoding="utf-8"))
    steps: list[dict[str, Any]] = [
        {"do": "load", "graph": ui},
        {"do": "fit"},
        {"do": "queue", "seconds": 90},
        {"do": "settle", "seconds": 40},
        {"do": "look"},
        {"do": "fit"},
        {"do": "screenshot", "path": str(shots / f"{name}.png")},
    ]
    job = {"url": real.url, "chromium": os.environ["CHROMIUM"], "steps": steps}
    done = subprocess.run(
        ["node", str(Path(__file__).with_name("canvas.cjs")), json.dumps(job)], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["errors"] == []
    loaded, _, queued, viewers, seen, _, _ = found["steps"]
    assert {n["type"] for n in loaded} >= {"SAM3DReconstruct", "SAM3DExport", "MarkdownNote"} and not any(n["error"] for n in loaded)
    assert queued["end"] == "execution_success", queued
    assert queued["progress"] >= 1 or not queued["executed"], "progress was shown, unless all came from the cache"
    nodes = {n["id"]: n for n in seen}
    assert nodes["4"]["images"] and all(min(size) >= 64 for size in nodes["4"]["images"]), "the preview is on its node"
    previews = [n for n in seen if n["type"] == "Preview3D"]
    assert len(viewers) == len(previews)
    assert all(view["colors"] > 200 for view in viewers), "the viewers show something"


@pytest.mark.skipif("CHROMIUM" not in os.environ, reason="CHROMIUM names no browser")
def test_canvas_in_japanese(host: Host, tmp_path: Path) -> None:
    shots = Path(os.environ.get("SAM3D_SHOTS") or tmp_path)
    shown = simple(15, n4=("SAM3DOptions", {}))
    shown["2"]["inputs"]["options"] = ["4", 0]
    code = "window.app.graph._nodes.map((n) => [n.title, (n.widgets || []).map((w) => w.label || w.name), n.inputs.map((i) => i.label || i.localized_name)])"
    steps = [
        {"do": "setting", "name": "Comfy.Locale", "value": "ja"},
        {"do": "reload"},
        {"do": "load", "graph": shown, "api": True, "name": "ja"},
        {"do": "fit"},
        {"do": "evaluate", "code": code},
        {"do": "screenshot", "path": str(shots / "japanese.png")},
        {"do": "setting", "name": "Comfy.Locale", "value": "en"},
    ]
    job = {"url": host.url, "chromium": os.environ["CHROMIUM"], "steps": steps}
    done = subprocess.run(
        ["node", str(Path(__file__).with_name("canvas.cjs")), json.dumps(job)], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    words = json.dumps(json.loads(done.stdout.splitlines()[-1])["steps"][4], ensure_ascii=False)
    assert "SAM3D 再構成" in words and "マスクの極性" in words and "ファイル名の先頭" in words, words
    assert "SAM3D オプション" in words and "第2段階のガイダンス" in words and "MoGe ジオメトリ" in words, words
