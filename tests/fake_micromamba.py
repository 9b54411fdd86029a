"""An executable that takes micromamba's command line as its sources have it, and nothing else: what it doesn't know, or what is said in a way that
the real one refuses, is an error. It makes a prefix in conda's layout whose Python is the scratch pack's.

FAKE_MM_LOG   a file that notes each call      FAKE_MM_SAYS   text for stderr, then exit code 1
FAKE_MM_HANG  a file that gets its process id once half a prefix is there; then it waits      FAKE_MM_NOTHING  exit 0 without making anything
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from .scratch_pack import INTERPRETER

SCRIPT = """#!{python}
import json, os, sys, time
from pathlib import Path

args = sys.argv[1:]
if args == ["--version"]:
    print("2.9.0")
    sys.exit()
with open(os.environ["FAKE_MM_LOG"], "a") as log:
    log.write(json.dumps({{"argv": args, "env": dict(os.environ)}}) + "\\n")

def refuse(text):
    print("critical libmamba " + text, file=sys.stderr)
    sys.exit(1)

FLAGS = {{"--yes", "--no-rc", "--no-env", "--override-channels", "--retry-clean-cache", "--dry-run", "--offline"}}
VALUES = {{"--prefix", "--root-prefix", "--channel", "--channel-priority", "--repodata-ttl"}}
if args[:1] != ["create"]:
    refuse("A subcommand is required: " + " ".join(args[:1]))
given, specs, i = {{}}, [], 1
while i < len(args):
    word = args[i]
    if word in FLAGS:
        given[word] = True
    elif word in VALUES:
        i += 1
        given.setdefault(word, []).append(args[i])
    elif word.startswith("-"):
        refuse("The following argument was not expected: " + word)
    else:
        specs.append(word)
    i += 1
prefix = Path(given["--prefix"][0])
if not prefix.is_absolute() or not Path(given["--root-prefix"][0]).is_absolute() or "--yes" not in given or not specs:
    refuse("wrong usage: " + " ".join(args))
if given["--channel-priority"] not in (["flexible"], ["strict"], ["disabled"]):
    refuse("Invalid value for --channel-priority")
if any("://" not in channel for channel in given["--channel"]):
    refuse("a channel is no address")
if prefix.exists() and not (prefix / "conda-meta").exists() and "--dry-run" not in given:
    refuse("Non-conda folder exists at prefix")
if os.environ.get("FAKE_MM_SAYS"):
    print(os.environ["FAKE_MM_SAYS"], file=sys.stderr)
    sys.exit(1)
if "--dry-run" in given or os.environ.get("FAKE_MM_NOTHING"):
    print("Dry run. Not executing the transaction.")
    sys.exit()
site = prefix / "lib/python3.11/site-packages"
(prefix / "conda-meta").mkdir(parents=True)
site.mkdir(parents=True)
if os.environ.get("FAKE_MM_HANG"):
    Path(os.environ["FAKE_MM_HANG"]).write_text(str(os.getpid()))
    time.sleep(600)
(prefix / "bin").mkdir()
(prefix / "bin/python").write_text({interpreter!r})
(prefix / "bin/python").chmod(0o755)
(site / "theirs.py").write_text("1")
paths = [{{"_path": name, "path_type": "hardlink", "size_in_bytes": os.path.getsize(prefix / name)}} for name in ("bin/python", "lib/python3.11/site-packages/theirs.py")]
record = {{"name": "python", "files": [path["_path"] for path in paths], "paths_data": {{"paths_version": 1, "paths": paths}}}}
(prefix / "conda-meta/python-3.12.0-h0_0.json").write_text(json.dumps(record))
print("Transaction finished")
"""


class FakeMicromamba:
    def __init__(self, folder: Path) -> None:
        self.path, self.log = folder / "micromamba", folder / "micromamba.log"
        self.path.write_text(SCRIPT.format(python=sys.executable, interpreter=INTERPRETER.format(python=sys.executable)))
        self.path.chmod(0o755)

    def variables(self, **more: str | None) -> dict[str, Any]:
        return {"SAM3D_MICROMAMBA": str(self.path), "FAKE_MM_LOG": str(self.log), **more}

    def calls(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []
