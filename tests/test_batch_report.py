"""report.html: every item, all text escaped, nothing from outside, sortable - read as HTML, and with --full in a real browser."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from comfyui_sam3d.factory.batch.ledger import Ledger
from comfyui_sam3d.factory.batch.report import Report
from PIL import Image

from factory_cli import STUB, here, mask, sprite

NASTY = "<script>alert('1')</script> \"onerror='x' javascript:x & 焼き鳥#?%41"


class Page(HTMLParser):
    """Rows of cells' texts, and every attribute that leads somewhere."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.rows: list[list[str]] = []
        self.classes: list[str] = []
        self.links: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self.policy = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.attributes += [(name, value or "") for name, value in attributes]
        self.links += [found[name] for name in ("src", "href") if name in found]
        if tag == "tr":
            self.rows.append([])
            self.classes.append(found.get("class", ""))
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "meta" and found.get("http-equiv") == "Content-Security-Policy":
            self.policy = found["content"]
        self._open.append(tag)

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data):
        if "script" in self._open:
            self.scripts.append(data)
        elif "style" in self._open:
            self.styles.append(data)
        elif {"td", "th"} & set(self._open):
            self.rows[-1][-1] += data


@pytest.fixture
def made(tmp_path, capsys, monkeypatch) -> Path:
    monkeypatch.setenv("SAM3D_WORKER_COMMAND", STUB)
    source = tmp_path / "in"
    sprite(source / "a.png")
    sprite(source / "bare.png", alpha=False)
    mask(source / "m.png")
    rows = [
        {"image": "a.png", "name": NASTY},
        {"image": "bare.png", "mask": "m.png", "name": "item2", "seed": 12},
        {"image": "a.png", "name": "item10"},
        {"image": "a.png", "name": "dies", "seed": 666},
        {"image": "a.png", "mask": "<b>gone</b>.png", "name": "gone"},
    ]
    (source / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    here("batch", source, "--out", tmp_path / "out", "-f", "glb,preview", "--set", "preview_size=64", "--retries", 0, capsys=capsys)
    return tmp_path / "out"


def test_the_page(made):
    text = (made / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    head, *rows = page.rows
    assert head == ["Name", "State", "Picture and mask", "Result", "Engine", "Seed", "Seconds", "Files"]
    assert len(rows) == 5 and all(len(row) == len(head) for row in rows)
    assert sorted(page.classes[1:]) == ["done", "done", "done", "failed", "refused"]
    by_name = {row[0]: row for row in rows}
    (nasty,) = (row for name, row in by_name.items() if "焼き鳥" in name)
    assert nasty[1] == "done" and "draft" in nasty[4] and "model.glb" in nasty[7]
    (dies,) = (row for name, row in by_name.items() if name.startswith("dies"))
    assert dies[1] == "failed, attempt 1" and "E_WORKER_CRASH" in dies[3]
    (gone,) = (row for row in rows if row[1] == "refused")
    assert "no file <b>gone</b>.png" in gone[3]
    assert "3 done, 1 failed, 1 refused" in text

    # Nothing from outside, nothing that a name could have smuggled in; every link leads to a file that is there.
    assert not re.search(r"https?:|//", text.replace("<!DOCTYPE", ""))
    assert [name for name, _ in page.attributes if name.startswith("on")] == []
    assert len(page.scripts) == 1 and "alert" not in page.scripts[0]
    for link in page.links:
        assert link.startswith("./") and (made / unquote(link)).is_file(), link
    assert len(page.links) == 4 + 3 + 3 * 3  # thumbnails (not of the refused one), previews, files


def test_the_policy_allows_this_script_and_style_alone(made):
    page = Page((made / "report.html").read_text(encoding="utf-8"))
    for part, texts in (("script-src", page.scripts), ("style-src", page.styles)):
        digest = base64.b64encode(hashlib.sha256("".join(texts).encode()).digest()).decode()
        assert f"{part} 'sha256-{digest}'" in page.policy
    assert "default-src 'none'" in page.policy and "unsafe" not in page.policy
    assert "style" not in {name for name, _ in page.attributes}


def test_thumbnails(made):
    with Image.open(made / "report_files" / "item2.webp") as picture:
        assert picture.size == (48, 24)  # the picture, and the picture with its mask
        left, right = picture.convert("RGB").getpixel((12, 1)), picture.convert("RGB").getpixel((36, 1))
    with Image.open(made / "report_files" / "item10.webp") as picture:
        assert picture.getpixel((1, 1))[3] == 0 and picture.getpixel((25, 1))[3] == 255, "what is transparent stays so, beside the mask"
    assert min(left) > 230 and right[1] < 200, "white background on the left, tinted on the right"


def test_nothing_in_a_manifest_gets_into_the_page_unescaped(tmp_path):
    """Most of these a batch would never write: names are safe file names. A manifest can be edited."""
    bad = "'><img src=x onerror=alert(1)>&<script>"
    entry = {"name": "a'&b", "status": "done", "image": bad, "masks": [bad], "engine": bad, "seed": bad, "warnings": [bad]}
    lines = [
        {**entry, "outputs": {"preview.png": {}, "../../etc/passwd": {}, "/etc/passwd": {}, "x'&.glb": {}}},
        {**entry, "name": "b", "status": bad, "error": {"code": bad, "message": bad, "hint": bad}},
        {**entry, "name": "../c"},
        {**entry, "name": "<i>"},
    ]
    (tmp_path / "manifest.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    text = Report(tmp_path, False, Ledger(tmp_path)).write().read_text(encoding="utf-8")
    page = Page(text)
    assert [row[0].split("'>")[0] for row in page.rows[1:]] == ["a'&b", "b"] and len(page.scripts) == 1
    assert page.links == [f"./a%27%26b/{name}" for name in ("preview.png", "preview.png", "x%27%26.glb", "meta.json")]
    assert "a&#x27;&amp;b<br>" in text and text.count("<img") == 1
    assert "onerror" not in {name for name, _ in page.attributes}
    assert text.count("&lt;img src=x") == 2 * 5 + 4


def test_a_manifest_from_elsewhere_breaks_nothing(tmp_path):
    lines = [{"name": "x"}, {"name": "y", "status": "odd", "outputs": [1], "seconds": "z", "error": 3, "attempt": 1, "masks": None}]
    (tmp_path / "manifest.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    page = Page(Report(tmp_path, False, Ledger(tmp_path)).write().read_text(encoding="utf-8"))
    assert len(page.rows) == 3 and page.links == []


@pytest.mark.full
def test_in_a_real_browser(made, tmp_path):
    """The script runs under the policy and sorts; pictures load; nothing is blocked."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium here")
    page = made / "report.html"
    # The page alone says nothing to a test: a copy, whose policy allows one script more, clicks and writes what it sees into the document.
    probe = (
        "addEventListener('load',()=>{const n=()=>[...document.querySelectorAll('tbody tr')].map(r=>r.cells[0].dataset.key);"
        "const b=document.querySelectorAll('th button')[0];b.click();const up=n();b.click();const down=n();"
        "const seen=[...document.images].map(i=>i.complete&&i.naturalWidth>0);"
        "document.body.dataset.probe=JSON.stringify({up,down,seen,sort:document.querySelector('th').getAttribute('aria-sort')})})"
    )
    digest = base64.b64encode(hashlib.sha256(probe.encode()).digest()).decode()
    text = page.read_text(encoding="utf-8").replace(' loading="lazy"', "")
    text = text.replace("script-src &#x27;", f"script-src &#x27;sha256-{digest}&#x27; &#x27;")
    (made / "probe.html").write_text(text.replace("</body>", f"<script>{probe}</script></body>"), encoding="utf-8")

    def dump(file: Path) -> tuple[str, str]:
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}"]
        done = subprocess.run([chromium, *options, "--dump-dom", file.as_uri()], capture_output=True, text=True, timeout=120)
        return done.stdout, done.stderr

    dom, log = dump(made / "probe.html")
    seen = json.loads(dict(Page(dom).attributes)["data-probe"])
    assert seen["up"] == seen["down"][::-1] and len(seen["up"]) == 5 and seen["sort"] == "descending"
    assert seen["up"].index("item2") < seen["up"].index("item10"), "numbers sort as numbers"
    assert seen["seen"] == [True] * 7
    _, log = dump(page)
    assert "Content Security Policy" not in log and "Refused" not in log
