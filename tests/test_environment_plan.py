"""Which profile a machine gets and what would be run there: a table of machines that we don't have, and the data that it rests on."""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path
from typing import Any

import pytest
from comfyui_sam3d.environment import checks, engines, errors, host, journal, plan, process, profiles, settings
from comfyui_sam3d.environment.host import Gpu, Host
from comfyui_sam3d.environment.settings import Settings

from .scratch_pack import PACK, ScratchPack, posix, real_uv

ROOT = str(PACK)
RTX4090 = Gpu("NVIDIA GeForce RTX 4090", (535, 129, 3), (8, 9), 24564)
RTX5090 = Gpu("NVIDIA GeForce RTX 5090", (570, 86, 10), (12, 0), 32607)
H100 = Gpu("NVIDIA H100 PCIe", (525, 60, 13), (9, 0), 81559)
T4 = Gpu("Tesla T4", (470, 82, 1), (7, 5), 15360)
P100 = Gpu("Tesla P100-PCIE-16GB", (535, 104, 5), (6, 0), 16384)
B200_OLD = RTX5090._replace(driver=(560, 35, 3))
NEW = (2, 35)

# machine -> profile when nothing is said, a word of why
MACHINES = {
    "no gpu": (Host("linux-64", (), NEW), "cpu", "no NVIDIA GPU"),
    "4090": (Host("linux-64", (RTX4090,), NEW), "cu128", "RTX 4090, driver 535.129.3"),
    "5090": (Host("linux-64", (RTX5090,), NEW), "cu128", "RTX 5090"),
    "5090, old driver": (Host("linux-64", (B200_OLD,), NEW), "cpu", "driver 570 or later"),
    "H100, driver 525": (Host("linux-64", (H100,), NEW), "cu128", "H100"),
    "T4, driver 470": (Host("linux-64", (T4,), NEW), "cpu", "driver 525 or later"),
    "P100": (Host("linux-64", (P100,), NEW), "cpu", "compute capability 7.5 to 12.0"),
    "old glibc": (Host("linux-64", (RTX4090,), (2, 17)), "cpu", "needs glibc 2.28, this system has glibc 2.17"),
    "musl": (Host("linux-64", (RTX4090,), ()), "cpu", "a libc of another kind"),
    "Windows, 4090": (Host("win-64", (RTX4090,)), "cu128", "RTX 4090"),
    "Windows, no gpu": (Host("win-64"), "cpu", "no NVIDIA GPU"),
    "arm server": (Host("linux-aarch64", (H100,), NEW), "cpu", "is for linux-64, win-64, this is linux-aarch64"),
    "mac": (Host("osx-arm64"), "cpu", "no NVIDIA GPU"),
}


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("SAM3D_", "PIP_", "CONDA_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SAM3D_UV", str(real_uv()))


def made(pack: ScratchPack, machine: Host, **options: Any) -> dict[str, Any]:
    return plan.make(str(pack.root), Settings(**options), machine)


@pytest.mark.parametrize("name", MACHINES)
def test_the_profile_of_a_machine(pack: ScratchPack, name: str) -> None:
    machine, profile, why = MACHINES[name]
    planned = made(pack, machine)
    assert planned["profile"] == profile and why in planned["why"]
    assert planned["layers"] == (["base"] if profile == "cpu" else ["base", "model"])
    assert planned["action"] == "build" and planned["engine"] == "micromamba" and planned["error"] is None
    assert [finding for finding in planned["checks"] if finding["severity"] == "error" and finding["code"] != "E_DISK"] == []
    json.dumps(planned)
    assert list(pack.root.glob("_*")) == [pack.root / "__init__.py"] and not (pack.root / ".sam3d_install").exists()  # nothing was touched


def test_what_is_there_needs_little(pack: ScratchPack) -> None:
    pack.pretend_ready()
    machine = MACHINES["no gpu"][0]
    nothing = made(pack, machine)
    assert (nothing["action"], nothing["commands"], nothing["downloads"]) == ("nothing", [], [])
    more = made(pack, machine, layers=("video",))
    assert more["action"] == "extend" and len(more["commands"]) == 1 and more["downloads"] == []
    assert str(pack.root / "environment/video.txt") in more["commands"][0] and "would run" in plan.text(more)
    pack.write("environment/base.txt", "another\n")
    assert made(pack, machine)["action"] == "rebuild" and made(pack, machine, rebuild=True)["downloads"]


def test_a_gpu_that_is_not_seen_for_once_costs_no_environment(pack: ScratchPack) -> None:
    """The driver is being renewed, nvidia-smi is slow: what was built for the GPU stays, unless `auto` is asked for."""
    pack.pretend_ready(("base", "model"))
    path = pack.env / ".sam3d_ready.json"
    now = {"profile": "cu128", "inputs_sha256": journal.inputs_sha256(str(pack.root), ["base", "model"], "cu128")}
    path.write_text(json.dumps({**json.loads(path.read_text()), **now}))
    machine = MACHINES["no gpu"][0]
    assert (made(pack, machine)["action"], made(pack, machine)["profile"]) == ("nothing", "cu128")
    assert made(pack, machine, profile="auto")["profile"] == "cpu"
    assert made(pack, MACHINES["T4, driver 470"][0])["profile"] == "cpu", "one that is seen decides"


def test_what_is_there_stays_in_the_plan(pack: ScratchPack) -> None:
    """As the transaction keeps it."""
    pack.pretend_ready()
    path = pack.env / ".sam3d_ready.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "with": ["matplotlib"]}))
    assert made(pack, MACHINES["no gpu"][0], rebuild=True)["with"] == ["matplotlib"]


# what a plan runs, with the paths cut: the golden of each way
COMMANDS = {
    ("no gpu", ""): [
        "MM create --yes --prefix ENV --root-prefix ROOT/_tools/mamba --no-rc --no-env --override-channels --channel CONDA/conda-forge "
        "--channel-priority flexible --repodata-ttl 3600 --retry-clean-cache --dry-run python=3.12",
        "MM create --yes --prefix ENV --root-prefix ROOT/_tools/mamba --no-rc --no-env --override-channels --channel CONDA/conda-forge "
        "--channel-priority flexible --repodata-ttl 3600 --retry-clean-cache python=3.12",
        "UV pip install --python ENV/bin/python --only-binary :all: --constraints ROOT/environment/constraints.cpu.txt "
        "--requirements ROOT/environment/base.txt --editable ROOT TAIL",
    ],
    ("no gpu", "uv"): [
        "UV venv --no-project --python PYTHON ENV",
        "UV pip install --python ENV/bin/python --only-binary :all: --constraints ROOT/environment/constraints.cpu.txt "
        "--requirements ROOT/environment/base.txt --editable ROOT TAIL",
    ],
    ("4090", "uv"): [
        "UV venv --no-project --python 3.12 ENV",
        "UV pip install --python ENV/bin/python --no-deps --only-binary :all: --default-index TORCH/cu128 torch==2.8.0 TAIL",
        "UV pip install --python ENV/bin/python --only-binary :all: --constraints ROOT/environment/constraints.cu128.txt "
        "--requirements ROOT/environment/base.txt --requirements ROOT/environment/model.txt --editable ROOT TAIL",
    ],
    ("Windows, 4090", "uv"): [
        "UV venv --no-project --python 3.12 ENV",
        "UV pip install --python ENV/Scripts/python.exe --no-deps --only-binary :all: --default-index TORCH/cu128 torch==2.8.0 TAIL",
        "UV pip install --python ENV/Scripts/python.exe --only-binary :all: --constraints ROOT/environment/constraints.cu128.txt "
        "--requirements ROOT/environment/base.txt --requirements ROOT/environment/model.txt --editable ROOT TAIL",
        "UV pip install --python ENV/Scripts/python.exe --only-binary :all: --constraints ROOT/environment/constraints.cu128.txt triton-windows>=3.4,<3.5 TAIL",
    ],
}


@posix
@pytest.mark.parametrize(("name", "engine"), COMMANDS)
def test_the_commands_of_a_plan(pack: ScratchPack, name: str, engine: str) -> None:
    machine = MACHINES[name][0]._replace(python=(3, 11))
    planned = made(pack, machine, engine=engine)
    base = profiles.load(ROOT, "cpu").base_url
    torch = str(profiles.load(ROOT, "cu128").data["torch_index"]).rpartition("/")[0]
    short = []
    for command in planned["commands"]:
        line = " ".join(command).replace(str(pack.env), "ENV").replace(str(real_uv()), "UV").replace(base, "CONDA").replace(torch, "TORCH")
        line = (
            line.replace(str(pack.root / "_tools/micromamba/micromamba"), "MM")
            .replace(host._executable(), "PYTHON")
            .replace(str(pack.root), "ROOT")
        )
        short.append(line.replace("--no-config --no-progress --color never", "TAIL"))
    assert short == COMMANDS[name, engine]


def test_the_classic_set_when_it_is_asked_for(pack: ScratchPack) -> None:
    planned = made(pack, MACHINES["4090"][0], profile="cu121", extras=("gsplat", "spconv"), wheel_index="https://me:secret@wheels.example")
    assert planned["profile"] == "cu121" and planned["engines"] == ["micromamba", "conda", "rattler"] and len(planned["specs"]) == 7
    last = planned["commands"][-1]
    assert {"spconv-cu121==2.3.8", "gsplat==1.5.3+pt24cu121", "--index", "unsafe-best-match", "https://***@wheels.example"} <= set(last)
    assert not any("--default-index" in command for command in planned["commands"])  # torch is conda's
    for machine, code in (("5090", "E_NO_KERNEL_IMAGE"), ("Windows, 4090", "E_PLATFORM"), ("T4, driver 470", "E_DRIVER_OLD")):
        errors_of = [
            finding["code"] for finding in made(pack, MACHINES[machine][0], profile="cu121")["checks"] if finding["severity"] == "error"
        ]
        assert code in errors_of
    image = made(pack, MACHINES["no gpu"][0], profile="cu121", gpu_check=False)
    assert not [finding for finding in image["checks"] if finding["code"] in ("W_NO_GPU", "E_DRIVER_OLD")]


def test_which_engine_is_tried_first(pack: ScratchPack, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is on the machine before what would have to be fetched; no conda at all last."""
    from comfyui_sam3d.environment.engines.conda import Conda
    from comfyui_sam3d.environment.engines.micromamba import Micromamba

    here = MACHINES["no gpu"][0]
    monkeypatch.setattr(Micromamba, "find", lambda self: None)
    monkeypatch.setattr(Conda, "find", lambda self: None)
    assert made(pack, here)["engines"] == ["micromamba", "conda", "rattler", "uv"] and made(pack, here)["downloads"]
    monkeypatch.setattr(Conda, "find", lambda self: "/opt/conda/bin/conda")
    assert made(pack, here)["engines"] == ["conda", "micromamba", "rattler", "uv"] and made(pack, here)["downloads"] == []
    assert made(pack, here)["commands"][0][0] == "/opt/conda/bin/conda"
    monkeypatch.setattr(Micromamba, "find", lambda self: "/usr/bin/micromamba")
    assert made(pack, here)["engine"] == "micromamba"
    assert made(pack, here, engine="rattler")["engines"] == ["rattler"]


def test_what_is_refused_at_once(pack: ScratchPack) -> None:
    here = MACHINES["4090"][0]
    for options, word in (
        ({"profile": "cu999"}, "no profile 'cu999'"),
        ({"engine": "pip"}, "no engine 'pip'"),
        ({"layers": ("all",)}, "no layer 'all'"),
        ({"profile": "cu121", "engine": "uv"}, "only conda has"),
    ):
        with pytest.raises(errors.InstallError, match=word):
            made(pack, here, **options)
    assert made(pack, here, extras=("flash",))["error"]["code"] == "E_USAGE"
    assert made(pack, MACHINES["no gpu"][0], extras=("spconv",))["error"]["code"] == "E_NO_WHEEL"
    assert made(pack, here, extras=("triton",))["error"]["code"] == "E_NO_WHEEL"  # on Linux it comes with torch


def test_a_profile_that_was_asked_for_stays(pack: ScratchPack) -> None:
    had = {"profile": "cu121", "asked": "cu121"}
    machine = MACHINES["4090"][0]
    choose = lambda asked, had, **options: profiles.choose(ROOT, Settings(profile=asked, **options), machine, had)[0].name  # noqa: E731
    assert choose("", had) == "cu121" and choose("auto", had) == "cu128" and choose("cpu", had) == "cpu"
    assert choose("", {"profile": "cpu", "asked": "auto"}) == "cu128"  # what the launcher had made gives way to what the GPU is good for
    assert choose("auto", had, launcher=True) == "cu121"  # the launcher takes what is there
    assert choose("", {"profile": "cpu", "asked": "auto"}, launcher=True) == "cpu" and choose("", None, launcher=True) == "cpu"


def test_the_path_and_the_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cpu = profiles.load(ROOT, "cpu")
    found = lambda system, env: {(f.severity, f.code) for f in checks.look(Host(system), cpu, env, 1, Settings())}  # noqa: E731
    base = str(tmp_path)
    assert ("warning", "E_PATH_TOO_LONG") in found("win-64", base + "/" + "x" * (100 - len(base)))
    assert ("error", "E_PATH_TOO_LONG") in found("win-64", base + "/" + "x" * 150)
    assert not found("linux-64", base + "/" + "x" * 150)
    assert ("warning", "W_SYNCED") in found("win-64", base + "/OneDrive/_env")
    memory = lambda *gpus: [f.code for f in checks.look(Host("linux-64", gpus, NEW), profiles.load(ROOT, "cu128"), base, 1, Settings())]  # noqa: E731
    assert memory(T4._replace(driver=(550,))) == ["W_MEMORY"] and memory(RTX4090) == ["I_MEMORY"] and memory(H100) == []


# ------------------------------------------------------------------------------------------------------------------------- the machine itself


@posix
@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["NVIDIA GeForce RTX 4090, 535.129.03, 24564, 8.9"], (RTX4090._replace(driver=(535, 129, 3)),)),
        (["NVIDIA H100 PCIe, 525.60.13, 81559, 9.0", "Tesla T4, 525.60.13, 15360, 7.5"], (H100, T4._replace(driver=(525, 60, 13)))),
        (["Tesla T4, 470.82.01, 15360"], (T4._replace(capability=(0, 0)),)),
        (["NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."], ()),
        ([""], ()),
    ],
)
def test_what_nvidia_smi_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str], expected: tuple[Gpu, ...]) -> None:
    """A program of that name, as drivers of several ages answer: those before 470 refuse the column compute_cap."""
    program = tmp_path / "nvidia-smi"
    old = len(lines[0].split(",")) == 3
    refusal = 'case "$*" in *compute_cap*) echo "Field compute_cap is not a valid field"; exit 2;; esac\n' if old else ""
    program.write_text("#!/bin/sh\n" + refusal + "".join(f"echo '{line}'\n" for line in lines))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert host.look().gpus == expected


def test_this_machine() -> None:
    here = host.look()
    assert re.fullmatch(r"(linux|win|osx)-(64|aarch64|arm64|\w+)", here.system)
    assert host._numbers("glibc 2.36") == (2, 36)


# ------------------------------------------------------------------------------------------------------------------------------------ the data


def test_the_profiles_hold_together() -> None:
    """At most seven conda packages; torch the same everywhere; every address of the installer is in this folder's data, and no registry among them."""
    read = json.loads((PACK / "environment/profiles.json").read_text())
    assert tuple(read["profiles"]) == profiles.NAMES or set(read["profiles"]) == set(profiles.NAMES)
    for name in profiles.NAMES:
        profile = profiles.load(ROOT, name)
        assert 1 <= len(profile.specs) <= 7 and any(spec.startswith("python=3.1") for spec in profile.specs)
        assert set(profile.engines) <= set(engines.NAMES) and ("uv" in profile.engines) == (len(profile.specs) == 1)
        constraints = (PACK / f"environment/constraints.{name}.txt").read_text()
        if profile.data.get("torch"):
            assert f"\ntorch=={profile.data['torch']}\n" in constraints
        if profile.data.get("torch_by") == "conda":
            assert f"pytorch={profile.data['torch']}=" in " ".join(profile.specs)
        for known in profiles.extras(ROOT, name, "linux-64"):
            assert known
    assert {"python", "pytorch", "torchvision", "pytorch-cuda", "pytorch3d"} <= {
        spec.split("=")[0] for spec in profiles.load(ROOT, "cu121").specs
    }
    pins = json.loads((PACK / "environment/micromamba.json").read_text())
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in pins["sha256"].values())
    assert {"linux-64", "linux-aarch64", "osx-64", "osx-arm64", "win-64"} <= set(pins["sha256"])


ASKED = [
    "numpy",
    "scipy",
    "opencv",
    "matplotlib",
    "transformers",
    "diffusers",
    "timm",
    "open3d",
    "trimesh",
    "pyvista",
    "xformers",
    "gsplat",
    "spconv",
    "nvdiffrast",
    "moge",
    "pytorch3d",
    "torchvision",
]


@pytest.mark.parametrize("name", ASKED)
def test_every_package_is_accounted_for(name: str) -> None:
    """The README's table has a row for it, and what it calls optional can be asked for."""
    rows = re.findall(
        r"^\| `([\w-]+)` \| (needed|accelerator|optional|not installed)", (PACK / "environment/README.md").read_text(encoding="utf-8"), re.M
    )
    roles = dict(rows)
    assert name in roles, f"{name} isn't in environment/README.md"
    known = profiles.extras(ROOT, "cu128", "linux-64") | profiles.extras(ROOT, "cu121", "linux-64")
    if roles[name] in ("accelerator", "optional"):
        assert name in known or name in ("torchvision", "triton")


def test_an_environment_file_that_is_more_than_lists() -> None:
    with pytest.raises(errors.InstallError, match="line 3"):
        profiles.parse_environment("name: x\ndependencies:\n  - pip: [a]\n")
    assert profiles.parse_environment("# c\nname: x\nchannels:\n  - a  # b\n  - nodefaults\ndependencies:\n  - python=3.12\n") == (
        ("a",),
        ("python=3.12",),
    )


def test_what_people_are_told_about_errors() -> None:
    """docs/install.md lists exactly the codes that the installer can print."""
    source = "".join(path.read_text(encoding="utf-8") for path in (PACK / "environment").rglob("*.py"))
    used = set(re.findall(r'"(E_[A-Z_]+)"', source))
    told = set(re.findall(r"^\| `(E_[A-Z_]+)` \|", (PACK / "docs/install.md").read_text(encoding="utf-8"), re.M))
    assert used == set(errors.HINTS) and told == used


def test_what_people_are_told_about_variables() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in (PACK / "environment").rglob("*.py"))
    docs = (PACK / "docs/install.md").read_text(encoding="utf-8")
    used = set(re.findall(r'(?:get\(|environ\[)"(SAM3D_[A-Z0-9_]+)"', source))
    assert used <= set(re.findall(r"^\| `(SAM3D_[A-Z0-9_]+)`", docs, re.M))
    assert set(re.findall(r"^    (SAM3D_[A-Z0-9_]+)  ", settings.__doc__ or "", re.M)) <= used | {"SAM3D_UV"}


def test_secrets_are_masked() -> None:
    assert process.mask("https://me:pass@h.example/simple x ftp://u@h/") == "https://***@h.example/simple x ftp://***@h/"
    assert process.mask("https://h.example/t/tk-123/conda-forge") == "https://h.example/t/***/conda-forge"
