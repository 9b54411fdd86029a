"""What an installation would do on a machine, as one JSON object; nothing is touched and nothing fetched.

The argument lists are the ones that the transaction runs: both come from engines/ and packages.py.
"""

from __future__ import annotations

import os
import re
from typing import Any

from . import checks, engines, journal, packages, profiles, transaction, uv
from .errors import InstallError
from .host import Host, base_python
from .process import mask
from .settings import Settings

UV = "uv"  # stands for its path, where it isn't on the machine yet


def make(root: str, settings: Settings, host: Host) -> dict[str, Any]:
    """The plan. An error that would stop the installation stands in it, under `error`."""
    env = os.path.realpath(settings.env_dir) if settings.env_dir else journal.env_dir(root)
    had = journal.read(env) or {}
    profile, why = profiles.choose(root, settings, host, had)
    layers, extras = transaction.wanted(root, profile, settings, host, had)
    state, reason = journal.state(root, layers, profile.name, extras)
    action = "rebuild" if settings.rebuild or state == "stale" else {"ready": "nothing", "lacks": "extend", "missing": "build"}[state]
    builds = action in ("build", "rebuild")
    need = checks.megabytes(profile, layers)
    job = engines.Job(root, env, profile, host, settings, os.devnull, _silent)
    candidates = engines.candidates(job, settings.engine)
    engine = candidates[0]
    plan: dict[str, Any] = {
        "action": action,
        "reason": reason,
        "profile": profile.name,
        "why": why,
        "host": {
            "system": host.system,
            "glibc": list(host.glibc),
            "python": list(host.python),
            "gpus": [gpu._asdict() for gpu in host.gpus],
        },
        "engine": engine.name,
        "engines": [candidate.name for candidate in candidates],
        "layers": layers,
        "with": extras,
        "env_dir": env,
        "disk_needed_mb": need,
        "channels": job.channels,
        "specs": list(profile.specs),
        "inputs_sha256": journal.inputs_sha256(root, layers, profile.name),
        "checks": [finding._asdict() for finding in checks.look(host, profile, env, need, settings)],
        "downloads": engine.downloads() if builds else [],
        "commands": [],
        "error": None,
    }
    try:
        if action != "nothing":
            plan["commands"] = _commands(job, engine if builds else None, layers, extras, torch=builds or not had.get("torch"))
    except InstallError as error:
        plan["error"] = error.to_dict()
    masked: dict[str, Any] = _masked(plan)
    return masked


def _commands(job: engines.Job, engine: engines.Engine | None, layers: list[str], extras: list[str], *, torch: bool) -> list[list[str]]:
    """engine: None where the environment stays and is only completed. torch: whether it is yet to come."""
    root, profile, settings, system = job.root, job.profile, job.settings, job.host.system
    found = uv.locate(root)
    tool = uv.Uv(found.path if found else UV, "", "")
    python = engines.python_of(job.env, system) if engine is None else _python_to_be(job.env, system, engine.name)
    commands = [] if engine is None else [engine.argv()] if engine.name == "uv" else [engine.argv(dry_run=True), engine.argv()]
    if torch and "model" in layers and profile.data.get("torch_by") != "conda":
        offline = settings._replace(offline=True)  # the index isn't asked whether it answers
        for _, args in packages.torch_sources(root, profile, python, _version(job, engine), system, offline, _silent):
            commands.append(uv.argv(tool, args))
    commands.append(uv.argv(tool, packages.layers_args(root, profile, python, layers)))
    more = packages.extras_args(root, profile, python, extras, system, settings)
    return [*commands, uv.argv(tool, more)] if more else commands


def _python_to_be(env: str, system: str, engine: str) -> str:
    if not system.startswith("win"):
        return os.path.join(env, "bin", "python")
    return os.path.join(env, "Scripts", "python.exe") if engine == "uv" else os.path.join(env, "python.exe")


def _version(job: engines.Job, engine: engines.Engine | None) -> tuple[int, int]:
    """Of the Python that the environment has, or will have."""
    by_conda = job.profile.specs[0].partition("=")[2] if engine is not None and engine.name != "uv" else ""
    wanted = by_conda or base_python(job.host, str(job.profile.data.get("python", "")))
    found = re.fullmatch(r"(\d+)\.(\d+)", wanted)
    return (int(found[1]), int(found[2])) if found else job.host.python


def _masked(value: Any) -> Any:
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, list):
        return [_masked(item) for item in value]
    return {key: _masked(item) for key, item in value.items()} if isinstance(value, dict) else value


def text(plan: dict[str, Any]) -> str:
    """The plan for people."""
    lines = [
        f"{plan['action']}: {plan['reason'] or 'the environment is as it should be'}",
        f"profile {plan['profile']}: {plan['why']}",
        f"layers {', '.join(plan['layers'])}" + (f"; with {', '.join(plan['with'])}" if plan["with"] else ""),
        f"engine {plan['engine']}" + (f", else {', '.join(plan['engines'][1:])}" if plan["engines"][1:] else ""),
        f"into {plan['env_dir']}, about {plan['disk_needed_mb']} MB",
    ]
    lines += [f"{finding['severity']}: {finding['text']} {finding['hint']}".rstrip() for finding in plan["checks"]]
    lines += [f"would fetch {download['url']}" for download in plan["downloads"]]
    lines += ["would run " + " ".join(command) for command in plan["commands"]]
    if plan["error"]:
        lines.append(f"would fail: {plan['error']['message']} [{plan['error']['code']}]")
    return "\n".join(lines)


def _silent(line: str) -> None:
    pass
