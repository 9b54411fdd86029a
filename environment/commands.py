"""The commands of install.py: what is typed, what is printed, the exit code.

0 done, ready    1 degraded (doctor), not ready (status)    2 wrong usage, broken (doctor)    3 failed    75 another install is running    130 interrupted
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from . import audit, doctor, engines, journal, plan, profiles, steps, transaction
from .errors import InstallError
from .host import look
from .process import mask
from .settings import Settings, from_environment
from .uninstall import uninstall

OK, NOT_READY, USAGE, FAILED, LOCKED, INTERRUPTED = 0, 1, 2, 3, 75, 130
COMMANDS = {
    "install": "build _env/, or do nothing where it is as it should be (the default)",
    "plan": "say what install would do; nothing is touched",
    "status": "say what is there",
    "doctor": "try every package of the environment, and look at every file",
    "repair": "build again where something is missing or doesn't work",
    "uninstall": "remove the environment, the tools and the notes",
}


def main(root: str, argv: Sequence[str]) -> int:
    """install.py's whole work; the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a console that can't show a letter of a path must not stop an installation
    options = _parse(argv)
    settings = from_environment(
        profile=options.profile,
        engine=options.engine,
        layers=_names(options.layers),
        extras=_names(options.with_),
        without=_names(options.without),
        rebuild=options.rebuild,
        offline=options.offline or None,
        wait=not options.no_wait,
        keep_failed=options.keep_failed,
        gpu_check=not options.no_gpu_check,
        env_dir=options.env_dir,
    )
    if hasattr(signal, "SIGTERM"):
        signal.signal(signal.SIGTERM, _interrupt)
    try:
        if options.dry_run:
            options.command = "plan"
        code = {"install": _install, "plan": _plan, "status": _status, "doctor": _doctor, "repair": _repair, "uninstall": _uninstall}[
            options.command
        ](root, settings, options)
        sys.stdout.flush()
        return code
    except InstallError as error:
        return _failed(error, options)
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the interpreter's own last flush fails no more
        return OK
    except OSError as problem:  # `install` and `repair` say it themselves
        text = f"{problem.strerror or problem}: {problem.filename or root}."
        return _failed(InstallError("E_PERM", text, "Check the disk and who owns this; then run the same command again."), options)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    about = "\n".join(f"  {name:<11}{text}" for name, text in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="install.py",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Builds _env/, the isolated environment that the worker runs in. Nothing is installed into the Python that runs this.",
        epilog=f"commands:\n{about}\n\ndocs/install.md has the variables, the error codes and what to do about each.",
    )
    parser.add_argument("command", nargs="?", default="install", choices=list(COMMANDS), metavar="COMMAND")
    parser.add_argument("--profile", help=f"{', '.join(profiles.NAMES)} or auto: which torch (by the GPU that is seen)")
    parser.add_argument("--engine", default="", help=f"{', '.join(engines.NAMES)} or auto: what makes Python and the conda packages")
    parser.add_argument("--layers", default="", help=f"on top of the profile's, comma-separated, out of: {', '.join(journal.LAYERS)}")
    parser.add_argument("--with", dest="with_", default="", metavar="NAMES", help="optional packages (environment/README.md)")
    parser.add_argument("--without", default="", metavar="NAMES", help="leave out optional packages that the profile brings")
    parser.add_argument("--env-dir", help="where the environment lies; _env becomes a link to it")
    parser.add_argument("--rebuild", action="store_true", help="build again from nothing")
    parser.add_argument("--offline", action="store_true", help="fetch nothing: the caches must hold everything")
    parser.add_argument("--no-wait", action="store_true", help=f"end with {LOCKED} when another install is running")
    parser.add_argument("--no-gpu-check", action="store_true", help="this is made for another machine, a container for instance")
    parser.add_argument("--keep-failed", action="store_true", help="keep what a failed build left, in _env.failed-*")
    parser.add_argument("--keep-cache", action="store_true", help="uninstall: keep fetched packages")
    parser.add_argument("--dry-run", action="store_true", help="the same as the command plan")
    parser.add_argument("--json", action="store_true", help="plan, status, doctor: one JSON object on stdout")
    parser.add_argument("--yes", action="store_true", help="accepted for scripts; nothing is ever asked")
    return parser.parse_args(argv)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def say(line: str) -> None:
    print("install: " + mask(line), flush=True)


def _failed(error: InstallError, options: argparse.Namespace) -> int:
    if options.json:
        print(json.dumps({"error": {key: mask(value) for key, value in error.to_dict().items()}}, indent=1))
    print(f"install: ERROR {mask(error.message)} [{error.code}]\n         {error.hint}", file=sys.stderr, flush=True)
    return {"E_LOCKED": LOCKED, "E_IN_USE": LOCKED, "E_USAGE": USAGE}.get(error.code, FAILED)


def _install(root: str, settings: Settings, options: argparse.Namespace) -> int:
    named = os.environ.get("SAM3D_WORKER_PYTHON")
    if named:
        say("SAM3D_WORKER_PYTHON is set, so nothing is built: the worker runs in " + named)
        return OK
    transaction.ensure(root, settings, say)
    return OK


def _plan(root: str, settings: Settings, options: argparse.Namespace) -> int:
    made = plan.make(root, settings, look())
    print(json.dumps(made, indent=1) if options.json else plan.text(made))
    return OK


def _status(root: str, settings: Settings, options: argparse.Namespace) -> int:
    env = journal.env_dir(root)
    record = journal.read(env)
    state, why = journal.state(root, [])
    last = steps.read(root)
    known: dict[str, Any] = {"state": state, "why": why, "env_dir": env, "journal": record, "last_run": last or None}
    if options.json:
        print(json.dumps(known, indent=1))
    else:
        print(f"{env}: {state}" + (f", {why}" if why else ""))
        if record:
            with_ = f", with {', '.join(record['with'])}" if record.get("with") else ""
            print(
                f"profile {record.get('profile')}, layers {', '.join(record.get('layers', []))}{with_}, Python {record.get('python')}, made by {record.get('engine')}"
            )
        if last:
            done = last["steps"][-1]["step"] if last.get("steps") else "nothing"
            how = "ready" if last.get("status") == "ready" else f"{last.get('status')} after {done}"
            print(f"last run: {last.get('began')}, {how}")
            if last.get("error"):
                print(f"   {last['error']['message']} [{last['error']['code']}]\n   {last['error']['hint']}")
    return OK if state == "ready" else NOT_READY


def _doctor(root: str, settings: Settings, options: argparse.Namespace) -> int:
    checks, code = doctor.examine(root)
    print(doctor.report(checks, code, as_json=options.json))
    return code


def _repair(root: str, settings: Settings, options: argparse.Namespace) -> int:
    env = journal.env_dir(root)
    broken = ""
    if journal.read(env):
        missing = audit.audit(env).broken
        checks, code = doctor.examine(root)
        wrong = [check.name for check in checks if check.state == "broken" or (check.needed and check.state == "absent")]
        broken = f"{len(missing)} files are missing" if missing else f"{', '.join(wrong)}: broken" if code != doctor.OK else ""
    if broken:
        say(f"{broken}: building again")
    transaction.ensure(root, settings._replace(rebuild=settings.rebuild or bool(broken)), say)
    return OK


def _uninstall(root: str, settings: Settings, options: argparse.Namespace) -> int:
    freed = uninstall(root, settings, say, keep_cache=options.keep_cache)
    say(f"removed; {freed / 1e6:.0f} MB are free again")
    return OK
