"""Run by `_tools/rattler`'s Python: `solve` or `create` what stdin asks for, a JSON object (rattler.py writes it). Errors go to stderr, exit code 1."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any


async def main(action: str, request: dict[str, Any]) -> None:
    from rattler import (  # type: ignore[import-not-found,unused-ignore]
        BuildString,
        Gateway,
        GenericVirtualPackage,
        MatchSpec,
        PackageName,
        SourceConfig,
        Version,
        VirtualPackage,
        install,
        solve,
    )

    here = [package.into_generic() for package in VirtualPackage.detect()]
    if request["cuda"]:
        here = [package for package in here if package.name.normalized != "__cuda"]
        here.append(GenericVirtualPackage(PackageName("__cuda"), Version(request["cuda"]), BuildString("0")))
    config = SourceConfig(cache_action="force-cache-only") if request["offline"] else SourceConfig()
    cache = Path(request["cache"])
    records = await solve(
        sources=request["channels"],
        specs=[MatchSpec(spec, strict=False) for spec in request["specs"]],  # as conda reads them; the solver's own reading is stricter
        platforms=[request["system"], "noarch"],
        virtual_packages=here,
        gateway=Gateway(cache_dir=cache / "repodata", default_config=config),
    )
    print(f"solved {len(records)} packages", flush=True)
    for record in sorted(records, key=lambda record: str(record.name.normalized)):
        print(f"  {record.name.normalized} {record.version} {record.build}", flush=True)
    if action == "create":
        await install(records, target_prefix=request["prefix"], cache_dir=cache / "pkgs", show_progress=False)
        print(f"linked {len(records)} packages", flush=True)


if __name__ == "__main__":
    code = 0
    try:
        asyncio.run(main(sys.argv[1], json.load(sys.stdin)))
    except Exception as error:  # the library's errors have many types, and a message each; whoever started this reads it
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # the library's threads may still run, and crash an interpreter that takes itself apart
