"""The prompt and the workflow inside a GLB, where ComfyUI's own SaveGLB puts them: `asset.extras`. Dropping the file on the canvas
brings the graph back."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

from ..contract.errors import OutputError

_MAGIC, _JSON = 0x46546C67, 0x4E4F534A


def with_extras(glb: bytes, extras: Mapping[str, Any]) -> bytes:
    """The same file with `extras` added to its asset.extras; every other chunk stays byte for byte.

    Format: glTF 2.0, section "GLB File Format". Raises OutputError for bytes that are no GLB.
    """
    if not extras:
        return glb
    try:
        magic, version, _ = struct.unpack_from("<III", glb, 0)
        length, kind = struct.unpack_from("<II", glb, 12)
        if (magic, version, kind) != (_MAGIC, 2, _JSON):
            raise ValueError("another magic number or version")
        tree = json.loads(glb[20 : 20 + length])
        asset = tree["asset"]
    except (struct.error, ValueError, KeyError) as problem:
        raise OutputError(f"The encoder's GLB can't be read: {problem}.", "This is a defect: please report it.") from None
    asset["extras"] = {**asset.get("extras", {}), **extras}
    text = json.dumps(tree, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 4)
    rest = glb[20 + length :]
    return struct.pack("<III", _MAGIC, 2, 20 + len(text) + len(rest)) + struct.pack("<II", len(text), _JSON) + text + rest


def host_metadata(prompt: Any, extra_pnginfo: Any) -> dict[str, str]:
    """The hidden inputs PROMPT and EXTRA_PNGINFO as the host writes them: each one JSON text."""
    found = {} if prompt is None else {"prompt": json.dumps(prompt)}
    if isinstance(extra_pnginfo, Mapping):
        found |= {str(key): json.dumps(value) for key, value in extra_pnginfo.items()}
    return found
