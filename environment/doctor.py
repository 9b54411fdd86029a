"""Does what is in `_env/` work? Each package in a process of its own (probes.py), so that a crash in one hides no other; then the files, all of them.

`sam3d.py doctor` asks the worker; this asks the environment below it, and works when the worker doesn't start.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from . import audit, journal
from .errors import HINTS, InstallError
from .probes import PACKAGES
from .process import child_environment

OK, DEGRADED, BROKEN = 0, 1, 2  # exit codes
TIMEOUT = 180.0  # seconds for one package; the first import of torch from a cold disk takes tens of them
# what a layer can't do without; everything else may be absent
NEEDED = {
    "base": ("pack", "numpy", "scipy", "pillow", "click", "rich"),
    "model": ("torch", "safetensors", "pyyaml", "huggingface_hub", "fast-simplification"),
    "video": ("av",),
    "server": ("fastapi", "uvicorn", "opencv"),
    "node": ("nodejs",),
    "ray": ("ray",),
    "modal": ("modal",),
    "dev": ("pytest",),
}


class Check(NamedTuple):
    name: str
    state: str  # ok, note, absent, broken
    needed: bool
    version: str = ""
    seconds: float = 0.0
    text: str = ""
    hint: str = ""


def probe(python: str, name: str, *, needed: bool, deep: bool) -> Check:
    """One package in one process."""
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "probes.py")
    argv = [python, "-I", "-X", "utf8", script, name, *(["deep"] if deep else [])]
    began = time.perf_counter()
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT,
            env=child_environment(dict(os.environ)),
            encoding="utf-8",
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        return Check(name, "broken", needed, seconds=TIMEOUT, text=f"it doesn't answer within {TIMEOUT:.0f} s", hint=HINTS["E_ENV_BROKEN"])
    except OSError as problem:
        return Check(name, "broken", needed, text=f"{python} can't be run: {problem.strerror}", hint=HINTS["E_ENV_BROKEN"])
    took = round(time.perf_counter() - began, 2)
    answer = _last_object(done.stdout)
    if not answer:
        answer = {"state": "broken", "version": "", "text": _death(done.returncode, done.stderr)}
    hint = "" if answer["state"] in ("ok", "absent") else _hint(name, answer["text"])
    return Check(name, answer["state"], needed, answer["version"], took, answer["text"], hint)


def _last_object(stdout: str) -> dict[str, Any]:
    """The probe's own line: the last one that is a JSON object with a state. Packages print what they like before it."""
    for line in reversed(stdout.splitlines()):
        with contextlib.suppress(ValueError):
            found = json.loads(line)
            if isinstance(found, dict) and "state" in found:
                return found
    return {}


def _death(code: int, stderr: str) -> str:
    last = (stderr.strip().splitlines() or [""])[-1]
    if code < 0:
        return f"the process was ended by {signal.Signals(-code).name}. {last}".strip()
    return f"the process ended with code {code}. {last}".strip()


# what a broken import says -> what to do
_HINTS = (
    (r"no kernel image", "E_NO_KERNEL_IMAGE"),
    (r"CUDA driver version is insufficient|driver.* too old", "E_DRIVER_OLD"),
    (
        r"operator torchvision::nms does not exist|partially initialized|has no attribute|cannot import name|No module named|cannot open shared object",
        "E_ENV_BROKEN",
    ),
)


def _hint(name: str, text: str) -> str:
    if re.search(r"DLL load failed", text):
        return "Install Microsoft's Visual C++ redistributable (x64)."
    if re.search(r"[Cc]ompiler|gcc|cc1plus|ninja|nvcc|Python\.h", text):
        return "Install a C compiler (Debian, Ubuntu: apt install gcc python3-dev), or do without: SAM3D_OPS=torch."
    if re.search(r"no GPU to try|no GPU answers", text):
        return "Nothing to do on a machine without a GPU; else update NVIDIA's driver."
    return next((HINTS[code] for pattern, code in _HINTS if re.search(pattern, text)), HINTS["E_ENV_BROKEN"])


def needed(layers: list[str]) -> list[str]:
    return [name for layer in layers for name in NEEDED.get(layer, ())]


def check_new(env: str, layers: list[str], extras: list[str], cuda: str) -> None:
    """After a build: whatever the layers need imports. Raises InstallError E_ENV_BROKEN, or E_CPU_TORCH where a CUDA profile got a CPU build."""
    python = journal.env_python(env)
    checks = _probe_all(python, needed(layers), extras=(), deep=False)
    broken = [check for check in checks if check.state in ("absent", "broken")]
    if broken:
        said = "\n".join(f"      {check.name}: {check.text or 'it is not there'}" for check in broken)
        raise InstallError("E_ENV_BROKEN", "The new environment doesn't work:\n" + said, "Run the same command again; see install.log.")
    torch = next((check for check in checks if check.name == "torch"), None)
    if cuda and torch and torch.text == "cpu":
        raise InstallError("E_CPU_TORCH", f"torch {torch.version} came as the CPU build, the profile has CUDA {cuda}.")


def _probe_all(python: str, names: list[str], *, extras: tuple[str, ...], deep: bool) -> list[Check]:
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda name: probe(python, name, needed=name in names, deep=deep), [*names, *extras]))


def examine(root: str) -> tuple[list[Check], int]:
    """(every check, exit code) of the environment that is there."""
    env = journal.env_dir(root)
    record = journal.read(env)
    state, why = journal.state(root, [])
    if record is None:
        return [Check("journal", "broken", True, text=f"{env}: {why}", hint="Run: python install.py")], BROKEN
    stale = state == "stale"
    checks = [
        Check(
            "journal",
            "note" if stale else "ok",
            True,
            text=why if stale else _summary(record),
            hint="Run: python install.py" if stale else "",
        )
    ]
    names = needed(record.get("layers", [])) + (["moge"] if "model" in record.get("layers", []) else [])
    python = journal.env_python(env)
    there = probe(python, "present", needed=False, deep=False).text.split()
    others = [name for name in there if name in PACKAGES and name not in (*names, "moge")]
    checks += _probe_all(python, names, extras=tuple(others), deep=True)
    checks += [_files(env, record), *_rules(env, record, checks)]
    broken = [check for check in checks if check.state in ("broken", "absent")]
    return checks, BROKEN if any(check.needed for check in broken) else DEGRADED if broken else OK


def _summary(record: dict[str, Any]) -> str:
    extras = f", with {', '.join(record['with'])}" if record.get("with") else ""
    return f"profile {record.get('profile')}, layers {', '.join(record.get('layers', []))}{extras}, Python {record.get('python')}, made by {record.get('engine', 'uv')}"


def _files(env: str, record: dict[str, Any]) -> Check:
    began = time.perf_counter()
    count, broken = audit.audit(env)
    broken = [*audit.gone(env, record), *broken]
    took = round(time.perf_counter() - began, 2)
    if not broken:
        return Check("files", "ok", True, seconds=took, text=f"{count} in place")
    return Check(
        "files",
        "broken",
        True,
        seconds=took,
        text=f"{len(broken)} of {count} are missing or cut short, the first: {broken[0]}",
        hint=HINTS["E_ENV_BROKEN"],
    )


def _rules(env: str, record: dict[str, Any], checks: list[Check]) -> list[Check]:
    """What single imports don't show: packages that don't go together."""
    found = []
    versions = {check.name: check.version for check in checks}
    if record.get("profile") == "cu121" and not versions.get("numpy", "1.").startswith("1."):
        found.append(
            Check(
                "numpy rule", "broken", True, text=f"profile cu121 needs numpy 1, this is {versions['numpy']}", hint=HINTS["E_ENV_BROKEN"]
            )
        )
    runtimes = _openmp(env)
    if len(runtimes) > 1:
        text = f"{len(runtimes)} of Intel's OpenMP libraries: {', '.join(runtimes)}"
        found.append(
            Check("openmp", "note", False, text=text, hint="If a worker dies with 'OMP: Error #15', set KMP_DUPLICATE_LIB_OK=TRUE.")
        )
    return found


def _openmp(env: str) -> list[str]:
    found = glob.glob(os.path.join(glob.escape(env), "**", "libiomp5*"), recursive=True)
    return sorted({os.path.relpath(os.path.realpath(path), env) for path in found})


def report(checks: list[Check], code: int, *, as_json: bool) -> str | None:
    """The whole as text for people, or as one JSON object."""
    if as_json:
        return json.dumps({"exit": code, "checks": [check._asdict() for check in checks]}, indent=1)
    lines = []
    for check in checks:
        lines.append(f"{check.state:<7} {check.name:<20} {' '.join(part for part in (check.version, check.text) if part)}".rstrip())
        if check.hint:
            lines.append(f"{'':<28} {check.hint}")
    lines.append({OK: "everything works", DEGRADED: "something optional doesn't work", BROKEN: "the environment is broken"}[code])
    return "\n".join(lines)
