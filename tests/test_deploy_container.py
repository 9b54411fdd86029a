"""The container's recipe without a container engine: parsed, linted, held against the package; and with --full carried out in a folder of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from comfyui_sam3d.factory.cli.app import app

from tracked import ROOT, tracked

yaml = pytest.importorskip("yaml", reason="layer `model`")
DOCKERFILE, COMPOSE, IGNORE = ROOT / "deploy" / "Dockerfile", ROOT / "deploy" / "compose.yml", ROOT / ".dockerignore"
PORT = "9001"


@pytest.fixture(scope="module")
def steps() -> list[tuple[str, str]]:
    """(instruction, value) of the image itself in order, as an independent parser reads them; and the arguments before its FROM."""
    everything = all_steps()
    (last,) = [i for i, step in enumerate(everything) if step == ("FROM", "${BASE}")]
    assert [name for name, _ in everything[:last]] == ["ARG", "FROM", "WORKDIR", "COPY", "COPY", "RUN"], "before it, the page's stage"
    return [everything[0], *everything[last:]]


def all_steps() -> list[tuple[str, str]]:
    parse = pytest.importorskip("dockerfile_parse", reason="layer `dev`")
    parser = parse.DockerfileParser(path=str(DOCKERFILE))
    return [(step["instruction"], step["value"]) for step in parser.structure if step["instruction"] != "COMMENT"]


def copies(steps: list[tuple[str, str]]) -> list[list[str]]:
    """The words of each COPY from the context."""
    return [value.split() for name, value in steps if name == "COPY" and not value.startswith("--from")]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
    return found


def only(steps: list[tuple[str, str]], instruction: str) -> str:
    (value,) = [value for name, value in steps if name == instruction]
    return value


def arguments(steps: list[tuple[str, str]]) -> dict[str, str]:
    """The build's arguments and their defaults."""
    return dict(value.split("=", 1) for name, value in steps if name == "ARG")


def accepts(*words: str) -> click.Context:
    """These words as our command line reads them. Raises click's own error for what it doesn't know."""
    command = app.commands[words[0]]
    rest = list(words[1:])
    if isinstance(command, click.Group):
        command, rest = command.commands[rest[0]], rest[1:]
    return command.make_context(words[0], rest)


def test_the_base_is_pinned_and_what_runs_is_not_root(steps):
    base = arguments(steps)["BASE"]
    name, _, tag = base.partition(":")
    assert name == "nvidia/cuda" and "runtime" in tag and tag[0].isdigit() and only(steps, "FROM") == "${BASE}"
    order = [name for name, _ in steps]
    user = only(steps, "USER")
    assert user.split(":")[0].isdigit() and int(user.split(":")[0]) > 0
    assert order.index("USER") > max(i for i, name in enumerate(order) if name in ("RUN", "COPY")), "nothing is built as the user"


def test_the_build_is_our_installer_with_values_that_it_knows(steps):
    from environment import journal, profiles  # as install.py does

    given = arguments(steps)
    assert given["PROFILE"] in profiles.NAMES and "cpu" in profiles.NAMES
    assert set(given["LAYERS"].split(",")) == {"model", "server"} <= set(journal.LAYERS)
    (build,) = [value for name, value in steps if name == "RUN" and "install.py" in value]
    assert "install.py install --profile" in build and "--no-gpu-check" in build and "rm -rf /var/cache/sam3d" in build
    for secret in ("HF_TOKEN", "SAM3D_TOKEN"):
        assert all(secret not in value for name, value in steps if name in ("ARG", "ENV", "RUN")), "a secret in a layer stays in it"


def test_what_it_runs_is_what_there_is(steps):
    entry, command = json.loads(only(steps, "ENTRYPOINT")), json.loads(only(steps, "CMD"))
    workdir = only(steps, "WORKDIR")
    assert entry == ["python3", f"{workdir}/sam3d.py"] and copies(steps)[-1] == [".", "."] and Path(workdir).name == "comfyui_sam3d"
    context = accepts(*command)
    assert (context.params["host"], str(context.params["port"])) == ("0.0.0.0", PORT) and only(steps, "EXPOSE") == PORT
    folders = json.loads(only(steps, "VOLUME"))
    assert any(str(context.params["data"]).startswith(f"{folder}/") for folder in folders) and "/weights" in folders
    health = only(steps, "HEALTHCHECK")
    assert f"127.0.0.1:{PORT}/healthz" in health
    variables = " ".join(value for name, value in steps if name == "ENV")
    assert "SAM3D_WEIGHTS=/weights" in variables and "SAM3D_CACHE=/data" in variables and "TRITON_CACHE_DIR=/data" in variables


def test_a_change_of_the_program_keeps_the_environments_layer(steps):
    """Before the installer's step comes only what its journal hashes and its probes import."""
    order = [(name, value) for name, value in steps if name in ("COPY", "RUN")]
    (build,) = [i for i, (name, value) in enumerate(order) if name == "RUN" and "install.py" in value]
    before = {word.split("/")[0] for words in copies(order[:build]) for word in words[:-1]}
    assert before == {"LICENSE", "README.md", "__init__.py", "install.py", "pyproject.toml", "contract", "environment", "vendor"}
    assert all((ROOT / word).exists() for words in copies(order[:build]) for word in words[:-1])
    assert ("COPY", ". .") in order[build:]


def test_the_page_is_built_in_the_image(steps):
    from comfyui_sam3d.factory import page_build

    stage = all_steps()
    assert ("COPY", "factory/web .") in stage and any(
        name == "RUN" and "npm ci" in value and "npm run build" in value for name, value in stage
    )
    (place,) = [value for name, value in stage[: stage.index(("FROM", "${BASE}"))] if name == "WORKDIR"]
    root = place[: -len("/factory/web")]
    into = dict(copies(stage[: stage.index(("FROM", "${BASE}"))]))
    for source in (ROOT / "factory" / "web" / "src").rglob("*.ts*"):  # what it takes from outside its folder
        for path in re.findall(r'from "((?:\.\./)+[^"]+)"', source.read_text(encoding="utf-8")):
            named = Path(os.path.normpath(source.parent / path)).relative_to(ROOT).parts[0]
            assert named == "factory" or into.get(named) == f"{root}/{named}", path
            assert named in {name.split("/")[0] for name in kept()}
    dist = page_build.BUILT.relative_to(ROOT).as_posix()
    assert ("COPY", f"--from=page {place}/dist {dist}") in steps
    (stamp,) = [value for name, value in steps if name == "RUN" and "page_build" in value]
    assert all(hasattr(page_build, name) and name in stamp for name in ("BUILT", "STAMP", "digest"))
    modal = pytest.importorskip("modal", reason="layer `modal`: its reader of .dockerignore")
    ignored = modal.FilePatternMatcher(*IGNORE.read_text(encoding="utf-8").splitlines())
    assert not ignored(Path("factory/web/src/api.ts")) and ignored(Path("factory/web/dist/index.html"))
    assert ignored(Path("factory/web/node_modules/vite/package.json")), "what a build on the host left stays there"


def test_the_healthcheck_takes_no_proxy(steps):
    """Docker hands a host's proxies to every container, and a proxy knows no 127.0.0.1 of ours."""
    import http.server
    import threading

    with http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as server:
        server.RequestHandlerClass.do_GET = lambda self: (self.send_response(204), self.end_headers())  # type: ignore[attr-defined]
        server.RequestHandlerClass.log_message = lambda *args: None  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        health = json.loads(only(steps, "HEALTHCHECK").partition("CMD")[2])
        health = [word.replace(f":{PORT}/", f":{server.server_port}/") for word in health]
        proxied = {**os.environ, "http_proxy": "http://127.0.0.1:9", "no_proxy": ""}
        assert subprocess.run(health, env=proxied, timeout=20).returncode == 0
        server.shutdown()
    assert subprocess.run(health, capture_output=True, timeout=20).returncode != 0


def test_the_linter_has_nothing_to_say():
    linter = shutil.which("hadolint", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if linter is None:
        pytest.skip("hadolint isn't there: layer `dev` has it, but not on Windows")
    done = subprocess.run(
        [linter, "--no-color", "--failure-threshold", "info", str(DOCKERFILE)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def kept() -> set[str]:
    """The tracked files that get into the image, by an independent reader of .dockerignore."""
    modal = pytest.importorskip("modal", reason="layer `modal`: its reader of .dockerignore")
    ignored = modal.FilePatternMatcher(*IGNORE.read_text(encoding="utf-8").splitlines())
    return {name for name in tracked() if not ignored(Path(name))}


def test_only_the_package_goes_into_the_image():
    modal = pytest.importorskip("modal", reason="layer `modal`: its reader of .dockerignore")
    ignored = modal.FilePatternMatcher(*IGNORE.read_text(encoding="utf-8").splitlines())
    outside = {"tests", "benchmarks", "docs", "deploy", "example_workflows", ".ci"}
    missing = {n for n in tracked() if n.split("/")[0] not in outside and not Path(n).name.startswith(".")} - kept()
    assert missing == set(), "of the package, nothing is left out"
    assert {n.split("/")[0] for n in kept()} & outside == set()
    for name in (
        ".git/config",
        "_env/bin/python",
        ".env",
        "deploy/.env",
        "models/sam3d/ss_generator.safetensors",
        "outputs/a/model.glb",
        "install.log",
    ):
        assert ignored(Path(name)), name
    for name in ("worker/__pycache__/loop.cpython-311.pyc", "factory/.secret"):
        assert ignored(Path(name)), name


# --- compose ---


def test_the_services(compose, steps):
    services = compose["services"]
    assert set(services) == {"server", "batch", "weights"} and set(compose["volumes"]) == {"weights", "data"}
    for name, service in services.items():
        build = service["build"]
        assert (COMPOSE.parent / build["context"] / build["dockerfile"]).resolve() == DOCKERFILE
        assert set(build["args"]) <= set(arguments(steps))
        for key, value in build["args"].items():
            assert value.partition(":-")[2].rstrip("}") == arguments(steps)[key], "compose builds what the Dockerfile says"
        scratch = [mount.split(":")[0] for mount in service["tmpfs"]]
        assert [service["environment"]["TMPDIR"]] == scratch, "what can't be written has somewhere for temporary files"
        assert service["cap_drop"] == ["ALL"] and service["read_only"] and "no-new-privileges:true" in service["security_opt"]
        assert {volume.split(":")[0] for volume in service["volumes"]} - {"./in", "./out"} <= set(compose["volumes"])
        if "command" in service:
            accepts(*service["command"])
        gpus = service.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices", [])
        assert bool(gpus) == (name != "weights") and all(device["capabilities"] == ["gpu"] for device in gpus)
    assert [port.split(":")[-2:] for port in services["server"]["ports"]] == [[PORT, PORT]]
    assert "127.0.0.1" in services["server"]["ports"][0] and ":?" in services["server"]["environment"]["SAM3D_TOKEN"]
    assert all("profiles" in services[name] for name in ("batch", "weights")), "`up` starts the server alone"


def test_compose_itself_reads_it():
    found = shutil.which("docker-compose") or os.environ.get("DOCKER_COMPOSE")
    if found is None:
        pytest.skip("set DOCKER_COMPOSE to a docker-compose to have it read compose.yml")
    variables = {k: v for k, v in os.environ.items() if k not in ("SAM3D_TOKEN", "HF_TOKEN")}
    command = [found, "-f", str(COMPOSE), "--profile", "tools", "config", "--quiet"]
    assert subprocess.run(command, env={**variables, "SAM3D_TOKEN": "x"}, timeout=60).returncode == 0
    without = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60)
    assert without.returncode != 0 and "a secret that callers must know" in without.stderr


# --- carried out ---


@pytest.mark.full
@pytest.mark.skipif(sys.platform == "win32", reason="the image is Linux")
def test_the_steps_in_a_folder(tmp_path, steps):
    """COPY, the installer's RUN, the ENTRYPOINT with CMD and the HEALTHCHECK, on this machine, with the profile `cpu`; afterwards the program's folder can't be written."""
    pack = tmp_path / "comfyui_sam3d"
    early = [word for words in copies(steps)[:-1] for word in words[:-1]]

    def copy(wanted: Callable[[str], bool]) -> None:
        for name in sorted(filter(wanted, kept())):
            (pack / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, pack / name)

    copy(lambda name: any(name == word or name.startswith(f"{word}/") for word in early))
    (build,) = [value for name, value in steps if name == "RUN" and "install.py" in value]
    variables = {k: v for k, v in os.environ.items() if not k.startswith("SAM3D_")}
    variables |= {"PROFILE": "cpu", "LAYERS": "server", "SAM3D_TOKEN": "t" * 32, "SAM3D_CACHE": str(tmp_path / "cache")}
    build = (
        build.replace("SAM3D_CACHE_DIR=/var/cache/sam3d", "")
        .replace("&& rm -rf /var/cache/sam3d", "")
        .replace("install.py install", "install.py install --engine uv")
    )
    done = subprocess.run(["sh", "-c", build], cwd=pack, env=variables, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    copy(lambda name: True)
    built = pack / "factory" / "web" / "dist"
    built.mkdir()
    (built / "index.html").write_text("<!DOCTYPE html><title>built</title>")  # Node's part: tests of the page
    (stamp,) = [value for name, value in steps if name == "RUN" and "page_build" in value]
    subprocess.run(["sh", "-c", stamp], cwd=pack, env=variables, check=True, timeout=60)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    entry, command = json.loads(only(steps, "ENTRYPOINT")), json.loads(only(steps, "CMD"))
    entry = [word.replace(only(steps, "WORKDIR"), str(pack)) for word in entry]
    command = [{"0.0.0.0": "127.0.0.1", PORT: port, "/data/server": str(tmp_path / "data")}.get(word, word) for word in command]
    subprocess.run(["chmod", "-R", "a-w", str(pack)], check=True)
    server = subprocess.Popen([*entry, *command], cwd=tmp_path, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        health = json.loads(only(steps, "HEALTHCHECK").partition("CMD")[2])
        health = [word.replace(f":{PORT}/", f":{port}/") for word in health]
        deadline = time.monotonic() + 60
        while subprocess.run(health, capture_output=True, timeout=20).returncode != 0:
            assert server.poll() is None and time.monotonic() < deadline
            time.sleep(0.5)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as page:
            assert page.status == 200 and b"built" in page.read()
    finally:
        server.terminate()
        out = server.communicate(timeout=30)[0]
        subprocess.run(["chmod", "-R", "u+w", str(pack)], check=True)
    assert "Traceback" not in out and "Building the web page" not in out, out
