"""report.html: every item of the manifest with its picture, mask and result; no network, no server, sortable.

The page is one file beside the results; its thumbnails lie in report_files/, the previews are the results' own. All text is escaped, and a
content security policy forbids everything that isn't the page's own.
"""

from __future__ import annotations

import base64
import hashlib
import os
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ...contract.pairing import natural_key
from ..output import META, Place, is_inside
from .ledger import Ledger

if TYPE_CHECKING:
    from ...contract.request import ReconstructRequest

NAME, FILES = "report.html", "report_files"
_SIDE = 160  # pixels of a thumbnail's longest side
_TINT = (255, 40, 120)

_STYLE = """
body{font:14px/1.4 system-ui,sans-serif;margin:24px;color:#222;background:#fff}
table{border-collapse:collapse;width:100%}
th,td{border-bottom:1px solid #ddd;padding:6px 8px;text-align:left;vertical-align:top}
th button{font:inherit;font-weight:600;border:0;background:none;padding:0;cursor:pointer}
th[aria-sort=ascending] button::after{content:" \\25B2"}
th[aria-sort=descending] button::after{content:" \\25BC"}
img{max-width:320px;max-height:160px;background:repeating-conic-gradient(#eee 0 25%,#fff 0 50%) 0 0/16px 16px}
.failed td:first-child,.refused td:first-child{border-left:4px solid #c22}
.done td:first-child{border-left:4px solid #2a2}
.error{color:#a11}
@media (prefers-color-scheme:dark){body{color:#ddd;background:#181818}th,td{border-color:#444}.error{color:#f88}
img{background:repeating-conic-gradient(#333 0 25%,#222 0 50%) 0 0/16px 16px}th button{color:inherit}}
"""

_SCRIPT = """
for (const button of document.querySelectorAll("th button")) button.addEventListener("click", () => {
  const th = button.closest("th"), column = th.cellIndex, body = document.querySelector("tbody");
  const down = th.getAttribute("aria-sort") === "ascending";
  for (const other of document.querySelectorAll("th")) other.removeAttribute("aria-sort");
  th.setAttribute("aria-sort", down ? "descending" : "ascending");
  const key = (row) => row.cells[column].dataset.key ?? row.cells[column].textContent;
  const rows = [...body.rows].sort((a, b) => key(a).localeCompare(key(b), undefined, {numeric: true}));
  body.append(...(down ? rows.reverse() : rows));
});
"""

_COLUMNS = ("Name", "State", "Picture and mask", "Result", "Engine", "Seed", "Seconds", "Files")


class Report:
    """The report of one output folder. `add` may be called from several threads, for different names."""

    def __init__(self, out: Path, flat: bool, ledger: Ledger) -> None:
        self._out, self._flat, self._ledger = out, flat, ledger

    def clear_leftovers(self) -> None:
        """Delete what a run that was killed left behind. Only under the folder's lock."""
        for aside in (self._out / FILES).glob(".*.tmp"):
            with suppress(OSError):
                aside.unlink()

    def forget(self, name: str) -> None:
        """Delete the thumbnail: its item is made again, perhaps of another picture."""
        with suppress(OSError):
            self._thumbnail(name).unlink()

    def has(self, name: str) -> bool:
        """Whether there is a thumbnail of this item."""
        return self._thumbnail(name).is_file()

    def add(self, name: str, request: ReconstructRequest, rule: str) -> None:
        """Make the thumbnail: the picture, and beside it the picture with its masks. A folder that refuses it costs only the thumbnail."""
        import numpy as np
        from PIL import Image

        height, width = request.image.shape[:2]
        scale = min(1.0, _SIDE / max(height, width))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))

        def shrunk(pixels: Any) -> np.ndarray:
            return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))

        small = shrunk(request.image)
        share = shrunk(request.masks.any(axis=0).astype(np.uint8) * 255)[..., None].astype(np.float32) / 255
        tinted = (small * (0.25 + 0.75 * share) + np.asarray(_TINT, np.float32) * 0.25 * (1 - share)).astype(np.uint8)
        opaque = np.full((*small.shape[:2], 1), 255, np.uint8)
        own = (share * 255).astype(np.uint8) if rule == "alpha" else opaque  # what is transparent in the picture is so here
        both = np.concatenate([np.dstack([small, own]), np.dstack([tinted, opaque])], axis=1)
        path = self._thumbnail(name)
        aside = path.with_name(f".{path.name}.tmp")
        try:
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(both).save(aside, format="WEBP", quality=80)
            os.replace(aside, path)
        except OSError:
            aside.unlink(missing_ok=True)

    def write(self) -> Path:
        """Write the page; returns its path. Raises OSError."""
        path = self._out / NAME
        aside = path.with_name(f".{NAME}.tmp")
        aside.write_text(self._page(), encoding="utf-8", errors="backslashreplace")
        os.replace(aside, path)
        return path

    def _thumbnail(self, name: str) -> Path:
        return self._out / FILES / f"{name}.webp"

    def _page(self) -> str:
        entries = sorted(self._ledger.last.values(), key=lambda e: natural_key(e["name"]))
        count = {status: sum(e.get("status") == status for e in entries) for status in ("done", "failed", "quarantined", "refused")}
        policy = f"default-src 'none'; img-src 'self' file: data:; style-src '{_csp_hash(_STYLE)}'; script-src '{_csp_hash(_SCRIPT)}'; base-uri 'none'"
        heads = "".join(f'<th scope="col"><button type="button">{escape(c)}</button></th>' for c in _COLUMNS)
        rows = "\n".join(self._row(entry) for entry in entries)
        summary = f"{count['done']} done, {count['failed']} failed, {count['refused']} refused"
        summary += f", {count['quarantined']} quarantined" if count["quarantined"] else ""
        return (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">'
            '<meta name="viewport" content="width=device-width,initial-scale=1">'
            f"<title>Batch report</title><style>{_STYLE}</style></head>\n"
            f"<body><h1>Batch report</h1><p>{summary}</p>\n"
            f"<table><thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody></table>\n<script>{_SCRIPT}</script></body></html>\n"
        )

    def _row(self, entry: dict[str, Any]) -> str:
        name, status = entry["name"], str(entry.get("status"))
        place = Place(self._out, name, self._flat)
        outputs = entry.get("outputs")
        files = [file for file in outputs if is_inside(file)] if isinstance(outputs, dict) and status == "done" else []
        source = " + ".join(str(part) for part in (entry.get("image"), *(entry.get("masks") or ())))
        thumbnail = _picture(f"{FILES}/{name}.webp", f"picture and mask of {name}") if self.has(name) else ""
        preview = next((file for file in ("turntable.webp", "preview.png") if file in files), None)
        result = _picture(self._link(place, preview), f"result of {name}") if preview else _error(entry)
        links = " ".join(f'<a href="{_url(self._link(place, file))}">{escape(file)}</a>' for file in ([*files, META] if files else []))
        seconds = entry.get("seconds")
        shown = f"{seconds:.1f}" if isinstance(seconds, (int, float)) else ""
        state = f"{status}, attempt {entry['attempt']}" if entry.get("attempt", 0) and status in ("failed", "quarantined") else status
        warnings = "".join(f"<br><small>{escape(str(w))}</small>" for w in entry.get("warnings") or ())
        cells = (
            f"{escape(name)}<br><small>{escape(source)}</small>",
            escape(state),
            thumbnail,
            result,
            escape(str(entry.get("engine") or "")) + warnings,
            escape("" if entry.get("seed") is None else str(entry["seed"])),
            shown,
            links,
        )
        known = {"quarantined": "failed"}.get(status, status if status in ("done", "failed", "refused") else "other")
        first, *others = cells
        data = f'<td data-key="{escape(name)}">{first}</td>' + "".join(f"<td>{cell}</td>" for cell in others)
        return f'<tr class="{known}">{data}</tr>'

    def _link(self, place: Place, file: str) -> str:
        return place.path(file).relative_to(self._out).as_posix()


def _error(entry: dict[str, Any]) -> str:
    error = entry.get("error")
    if not isinstance(error, dict):
        return ""
    text = f"{error.get('code', '')}: {error.get('message', '')}"
    return f'<span class="error">{escape(text)}</span><br>{escape(str(error.get("hint", "")))}'


def _picture(path: str, alt: str) -> str:
    return f'<img src="{_url(path)}" alt="{escape(alt)}" loading="lazy">'


def _url(path: str) -> str:
    """A relative link; quoted, so that no name can be a scheme or an attribute."""
    return "./" + quote(path, safe="/", errors="surrogatepass")


def _csp_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
