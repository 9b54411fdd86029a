"""The step from `python sam3d.py COMMAND ...` into `_env/`: what the command needs, then the command itself.

On POSIX this process becomes the command (exec), so that signals and exit codes are its own. On Windows it waits for it.
`transaction` is imported only when there is something to build: a warm start costs a few milliseconds.
"""

from __future__ import annotations

import os
import sys

from . import journal

NOT_READY = 3  # exit code: the environment isn't ready


def main(root: str, argv: list[str]) -> int:
    """Run the command line `argv` (without the program's name) of the pack at `root`."""
    testing = argv[:1] == ["test"]
    layers = _layers(root, argv)
    named = os.environ.get("SAM3D_WORKER_PYTHON")
    python = _named_python(named, layers) if named else _env_python(root, layers)
    if python is None:
        return NOT_READY
    if testing:
        os.chdir(root)
        command = ["-m", "pytest", *_gate(argv[1:]), *argv[1:]]
    else:
        # -I, as client/ starts the worker: neither the current folder nor a host's PYTHON* variables may put other modules before ours
        command = ["-I", "-X", "utf8", "-m", "comfyui_sam3d.factory.cli", *argv]
    return _become([python, *command])


def _layers(root: str, argv: list[str]) -> tuple[str, ...]:
    """What a command needs: the tests everything, the learned engine and work on its weights the layer `model`, the job server `server`, and `node`
    where it has a page to build and there is no Node that could; all else `base`."""
    if argv[:1] == ["test"]:
        return tuple(layer for layer in journal.LAYERS if layer != "node")
    if {"-h", "--help"} & set(argv):
        return ("base",)
    words = " ".join(argv).replace("=", " ").split()
    if argv[:1] == ["serve"]:
        return ("base", "server", "node") if "--no-build" not in argv and _needs_node(root) else ("base", "server")
    learned = any(pair == ("engine", "sam3d") for pair in zip((word.lstrip("-") for word in words), words[1:]))
    files = argv[:1] == ["weights"] and argv[1:2] != ["status"]  # a look at what is there shouldn't fetch gigabytes first
    return ("base", "model") if learned or files else ("base",)


def _needs_node(root: str) -> bool:
    """Whether the web page (factory/page_build.py) is still to be built, on a machine without npm or with a Node that is too old for it, as many systems bring."""
    import shutil

    page = os.path.join(root, "factory", "web")
    if not os.path.isfile(os.path.join(page, "package.json")) or os.path.isfile(os.path.join(page, "dist", "index.html")):
        return False
    node = shutil.which("node")
    return shutil.which("npm") is None or node is None or not _will_do(node)


def _will_do(node: str) -> bool:
    """As in factory/page_build.py, which is not ours to import: it runs in `_env/`."""
    import re
    import subprocess

    try:
        said = subprocess.run([node, "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return False
    found = re.match(r"v(\d+)\.(\d+)", said)
    version = (int(found[1]), int(found[2])) if found else (0, 0)
    return version >= (22, 12) or (20, 19) <= version < (21, 0)


def say(line: str) -> None:
    """Progress goes to stderr: stdout belongs to the command."""
    print("sam3d: " + line, file=sys.stderr, flush=True)


def _env_python(root: str, layers: tuple[str, ...]) -> str | None:
    """The Python of a ready `_env/`, built now if need be; None when that failed, which has then been said."""
    if journal.state(root, layers)[0] != "ready":
        from .errors import InstallError
        from .settings import from_environment
        from .transaction import ensure

        try:
            ensure(root, from_environment(layers=layers, launcher=True), say)
        except InstallError as error:
            optional = "node" in layers
            say(f"{'WARNING' if optional else 'ERROR'} {error.message} [{error.code}]")
            say(f"      {error.hint}")
            if not optional:
                return None
            say("going on without Node: the web page isn't built, and `serve` has a plain form until it is")
            return _env_python(root, tuple(layer for layer in layers if layer != "node"))
    return journal.env_python(journal.env_dir(root))


def _named_python(python: str, layers: tuple[str, ...]) -> str | None:
    """SAM3D_WORKER_PYTHON, when it has what the command imports; else None, and it has been said what to type."""
    import shutil
    import subprocess

    named, python = python, shutil.which(python) or python
    modules = {"base": ["comfyui_sam3d"], "server": ["fastapi", "uvicorn"], "dev": ["pytest", "pytest_cov", "xdist"]}
    if "dev" not in layers:  # tests of networks skip themselves where there are none
        modules["model"] = ["torch", "safetensors", "yaml"]
    needed = [name for layer in layers for name in modules.get(layer, ())]
    code = "import sys, importlib.util as u; print('lacks:', *[n for n in sys.argv[1:] if u.find_spec(n) is None])"
    try:
        done = subprocess.run([python, "-I", "-c", code, *needed], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        say(f"ERROR SAM3D_WORKER_PYTHON is {named}, which can't be run ({error}).")
        say("      Correct it, or unset it to use _env.")
        return None
    if done.returncode == 0 and not done.stdout.startswith("lacks:"):
        say(f"ERROR SAM3D_WORKER_PYTHON is {named}, which is no Python.")
        say("      Correct it, or unset it to use _env.")
        return None
    if done.returncode or done.stdout.strip() != "lacks:":
        root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        say(f"ERROR SAM3D_WORKER_PYTHON is {named}, which {done.stdout.strip() or 'fails: ' + done.stderr.strip()[-200:]}")
        files = " ".join(f"-r {os.path.join('environment', layer + '.txt')}" for layer in layers)
        say(f'      In {root} type: "{python}" -m pip install {files} -e . ; or unset it to use _env.')
        return None
    return python


def _gate(args: list[str]) -> list[str]:
    """What belongs to the whole suite, and not to a choice of tests: the coverage gate (its limit and its scope stand in pyproject.toml), and several processes,
    each with whole files; but for the long counts, which weigh and count processes."""
    gate = ["--cov", "--cov-config=pyproject.toml", "--cov-report=term:skip-covered"] if set(args) <= {"--full"} else []
    return gate if args else [*gate, "-n", "logical", "--maxprocesses=4", "--dist=loadfile"]


def _become(argv: list[str]) -> int:
    for name in ("PYTHONHOME", "PYTHONPATH", "__PYVENV_LAUNCHER__"):  # another Python's; they would break this one's children
        os.environ.pop(name, None)
    os.environ["PYTHONUTF8"] = "1"
    sys.stdout.flush()
    sys.stderr.flush()
    if os.name != "nt":
        os.execv(argv[0], argv)
    import signal
    import subprocess

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the console sends Ctrl-C to the child too, which decides
    return subprocess.call(argv)
