"""The page's own TypeScript modules in Node, without a browser: for what is a function of its arguments."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from comfyui_sam3d.factory import page_build


def in_node(folder: Path, module: str, expression: str, *arguments: object) -> Any:
    """What a JavaScript expression gives, with the module's exports as `module` and `arguments` (JSON) as `given`. folder: for the program.

    Skips without Node, and where the page's packages were never installed.
    """
    node, builder = shutil.which("node"), page_build.SOURCES / "node_modules" / "vite"
    if node is None or not builder.is_dir():
        pytest.skip("no Node, or the page was never built here")
    program = folder / "program.mjs"
    program.write_text(
        f"""import {{ createServer }} from {json.dumps((builder / "dist" / "node" / "index.js").as_uri())};
import {{ readFileSync, writeFileSync }} from "node:fs";
const vite = await createServer({{ root: {json.dumps(page_build.SOURCES.as_posix())}, configFile: false, appType: "custom", logLevel: "silent",
    server: {{ middlewareMode: true, watch: null, hmr: false, ws: false }}, optimizeDeps: {{ noDiscovery: true }} }});
const module = await vite.ssrLoadModule({json.dumps((page_build.SOURCES / "src" / module).as_posix())});
const given = JSON.parse(process.argv[2]);
console.log(JSON.stringify({expression}));
await vite.close();
""",
        encoding="utf-8",
    )
    done = subprocess.run([node, program, json.dumps(arguments)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
