"""Which mask belongs to which picture: every rule, their order, and what is refused. Files here are tiny; only headers are read."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from comfyui_sam3d.contract import pairing
from comfyui_sam3d.contract.errors import ImageError, PairingError
from comfyui_sam3d.contract.pairing import RULES, find_pairs, natural_key
from PIL import Image

from factory_cli import mask, sprite


def make(folder: Path, *names: str, alpha: bool = False) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = Path(name).suffix.lower()
        mode = "RGBA" if alpha else "RGB"
        Image.new(mode, (4, 4)).save(path, format={".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}.get(kind, "PNG"))


def found(folder: Path, **options) -> list[tuple[str, str, tuple[str, ...]]]:
    """(name, rule, masks relative to the folder); an error's code in the place of the rule."""
    return [
        (p.name, p.error.code if p.error else p.rule, tuple(m.relative_to(folder).as_posix() for m in p.masks))
        for p in find_pairs(folder, **options)
    ]


def test_each_rule(tmp_path):
    make(tmp_path, "a.png", "masks/a.png", "b.jpg", "b_mask.png", "c.png", "c-mask.png", "d.png", "d.mask.webp")
    make(tmp_path, "room/image.png", "room/0.png", "room/1.png", "room/10.png", "room/2.png")
    make(tmp_path, "e.png", alpha=True)
    make(tmp_path, "f.png")
    assert found(tmp_path) == [
        ("a", "folder", ("masks/a.png",)),
        ("b", "suffix", ("b_mask.png",)),
        ("c", "suffix", ("c-mask.png",)),
        ("d", "suffix", ("d.mask.webp",)),
        ("e", "alpha", ()),
        ("f", "E_PAIRING", ()),
        ("room_0", "layout", ("room/0.png",)),
        ("room_1", "layout", ("room/1.png",)),
        ("room_2", "layout", ("room/2.png",)),
        ("room_10", "layout", ("room/10.png",)),
    ]


def test_the_first_rule_wins_and_pair_forces_another(tmp_path):
    make(tmp_path, "a.png", alpha=True)
    make(tmp_path, "a_mask.png", "masks/a.png")
    assert found(tmp_path) == [("a", "folder", ("masks/a.png",))]
    assert found(tmp_path, pair="suffix") == [("a", "suffix", ("a_mask.png",))]
    assert found(tmp_path, pair="alpha") == [("a", "alpha", ())]
    assert found(tmp_path, pair="auto") == [("a", "auto", ())]
    assert found(tmp_path, pair="layout") == [("a", "E_PAIRING", ())]
    with pytest.raises(PairingError, match=r"no pairs\.csv"):
        find_pairs(tmp_path, pair="table")
    with pytest.raises(PairingError, match="no pairing rule"):
        find_pairs(tmp_path, pair="magic")
    assert "magic" not in RULES


def test_a_mask_is_never_a_picture(tmp_path):
    make(tmp_path, "cat.png", "cat_mask.png", "cat_MASK.webp", "masks/dog.png", "ski_mask.png", alpha=True)
    # ski_mask.png is no mask: there is no ski.png. masks/dog.png belongs to a dog that isn't there, and stays out.
    assert [(n, r) for n, r, _ in found(tmp_path, pair="alpha", recursive=True)] == [("cat", "alpha"), ("ski_mask", "alpha")]


def test_images_beside_masks(tmp_path):
    make(tmp_path, "images/x.png", "masks/x.jpg", "images/deep/y.png", "masks/deep/y.png")
    assert found(tmp_path) == [("x", "folder", ("masks/x.jpg",))]
    assert found(tmp_path, recursive=True) == [("x", "folder", ("masks/x.jpg",)), ("y", "folder", ("masks/deep/y.png",))]
    inside = find_pairs(tmp_path / "images", recursive=True)  # the folder of pictures itself is given: its neighbour counts
    assert [(p.name, p.rule, p.masks[0].name) for p in inside] == [("x", "folder", "x.jpg"), ("y", "folder", "y.png")]


def test_the_layout_folder_itself(tmp_path):
    make(tmp_path, "kidsroom/image.png", "kidsroom/3.png", "kidsroom/notes.png")
    assert found(tmp_path / "kidsroom") == [("kidsroom_3", "layout", ("3.png",)), ("notes", "E_PAIRING", ())]


def test_not_recursive_unless_asked(tmp_path):
    make(tmp_path, "a.png", "sub/b.png", ".hidden/c.png", ".d.png", alpha=True)
    assert [n for n, *_ in found(tmp_path)] == ["a"]
    assert [n for n, *_ in found(tmp_path, recursive=True)] == ["a", "b"]
    assert [n for n, *_ in found(tmp_path, recursive=True, skip=tmp_path / "sub")] == ["a"]


def test_a_link_to_a_parent_ends(tmp_path):
    make(tmp_path, "sub/a.png", alpha=True)
    (tmp_path / "sub" / "up").symlink_to(tmp_path)
    assert "a" in [n for n, *_ in found(tmp_path, recursive=True)]


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (("a.png", "a_mask.png", "a-mask.png"), "2 possible masks: a-mask.png and a_mask.png"),
        (("a.png", "masks/a.png", "masks/a.jpg"), "2 possible masks: masks/a.jpg and masks/a.png"),
        (("a.png", "a.jpg", "a_mask.png"), "fits 2 pictures: a.jpg and a.png"),
    ],
)
def test_ambiguity_is_an_error_of_that_item(tmp_path, names, text):
    make(tmp_path, *names)
    make(tmp_path, "good.png", alpha=True)
    jobs = find_pairs(tmp_path)
    assert [p.error for p in jobs if p.name == "good"] == [None]
    errors = [p.error for p in jobs if p.name == "a"]
    assert errors and all(isinstance(e, PairingError) and text in e.message and "pairs.csv" in e.hint for e in errors)


def test_pair_resolves_an_ambiguity(tmp_path):
    make(tmp_path, "a.png", "a_mask.png", "a-mask.png", "masks/a.png")
    assert found(tmp_path) == [("a", "folder", ("masks/a.png",))]
    assert found(tmp_path, pair="suffix")[0][1] == "E_PAIRING"
    assert found(tmp_path, pair="folder")[0][1] == "folder"


def test_unicode_names_in_both_normal_forms(tmp_path):
    nfc, nfd = (unicodedata.normalize(form, "ガーリック") for form in ("NFC", "NFD"))
    assert nfc != nfd
    make(tmp_path, f"{nfd}.png", f"{nfc}_mask.png", "焼き鳥.PNG", "masks/焼き鳥.JPG")
    assert found(tmp_path) == [(nfc, "suffix", (f"{nfc}_mask.png",)), ("焼き鳥", "folder", ("masks/焼き鳥.JPG",))]


def test_extensions_in_any_case(tmp_path):
    make(tmp_path, "A.PNG", "A_Mask.PnG", "B.JpEg", "B.MASK.PNG")
    (tmp_path / "notes.txt").write_text("no picture")
    assert [(n, r) for n, r, _ in found(tmp_path)] == [("A", "suffix"), ("B", "suffix")]


def test_natural_order(tmp_path):
    make(tmp_path, "x10.png", "x2.png", "X1.png", "x.png", "2.png", "10.png", alpha=True)
    assert [n for n, *_ in found(tmp_path)] == ["2", "10", "x", "X1", "x2", "x10"]
    assert natural_key("a²") and natural_key("a٣") < natural_key("a10")  # digits of any script, and what only looks like one


def test_only_and_exclude(tmp_path):
    make(tmp_path, "steak.png", "stick.png", "log.PNG", "sub/steak2.png", "room/image.png", "room/0.png", alpha=True)
    names = lambda **o: [n for n, *_ in found(tmp_path, recursive=True, **o)]  # noqa: E731
    assert names(only=["st*.png"]) == ["steak", "stick", "steak2"]
    assert names(only=["*.png"], exclude=["sub/*", "room_0"]) == ["log", "steak", "stick"]
    assert names(only=["room*"]) == ["room_0"]
    assert names(only=["steak"]) == ["steak"]


def test_not_a_picture(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    (pair,) = find_pairs(tmp_path)
    assert isinstance(pair.error, ImageError) and "broken.png" in pair.error.message


def test_nothing_there(tmp_path):
    assert find_pairs(tmp_path) == []
    with pytest.raises(PairingError, match="no folder"):
        find_pairs(tmp_path / "nowhere")
    make(tmp_path, "one.png")
    with pytest.raises(PairingError, match="is a file"):
        find_pairs(tmp_path / "one.png")


# --- tables ---


def test_csv(tmp_path):
    make(tmp_path, "a.png", "m1.png", "m2.png", "sub/ä.png", "b_mask.png")
    make(tmp_path, "b.png", alpha=True)
    text = 'image,mask,name,seed,params\na.png,m1.png|m2.png,メイン,7,\nsub/ä.png,m1.png,,,"{""preset"": ""ball""}"\nb.png,,,,\n\n'
    (tmp_path / "pairs.csv").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())  # as a spreadsheet saves it
    for source in (tmp_path, tmp_path / "pairs.csv"):
        jobs = find_pairs(source)
        assert [(p.name, p.rule, len(p.masks), p.params, p.error) for p in jobs] == [
            ("メイン", "table", 2, {"seed": "7"}, None),
            ("ä", "table", 1, {"preset": "ball"}, None),
            ("b", "suffix", 1, {}, None),  # no mask in its row: the other rules
        ]
    assert [p.name for p in find_pairs(tmp_path, pair="alpha")] == ["a", "b", "m1", "m2"]  # a forced rule leaves the table out


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_csv_of_other_spreadsheets(tmp_path, delimiter):
    make(tmp_path, "a.png", "m.png")
    (tmp_path / "pairs.csv").write_text(f"Image{delimiter}Mask\na.png{delimiter}m.png\n", encoding="utf-8")
    assert found(tmp_path) == [("a", "table", ("m.png",))]


def test_jsonl(tmp_path):
    make(tmp_path, "a.png", "m1.png", "m2.png")
    rows = [
        {"image": "a.png", "mask": ["m1.png", "m2.png"], "name": "one", "params": {"seed": 3}},
        {"image": "a.png", "mask": "m1.png", "grid": 64},
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert [(p.name, len(p.masks), p.params) for p in find_pairs(tmp_path)] == [("one", 2, {"seed": 3}), ("a", 1, {"grid": 64})]


def test_a_table_finds_names_in_the_other_normal_form(tmp_path):
    nfc, nfd = (unicodedata.normalize(form, "ばら.png") for form in ("NFC", "NFD"))
    make(tmp_path, nfd, "m.png")
    (tmp_path / "pairs.csv").write_text(f"image,mask\n{nfc},m.png\n", encoding="utf-8")
    (pair,) = find_pairs(tmp_path)
    assert pair.error is None and pair.image.name == nfd and pair.name == unicodedata.normalize("NFC", "ばら")


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ('{"image": "a.png", "mask": "gone.png"}', "no file gone.png"),
        ('{"image": "gone.png"}', "no file gone.png"),
        ('{"mask": "a.png"}', "names no image"),
        ('{"image": ', "can't be read"),
        ("[1, 2]", "can't be read"),
        ('{"image": "a.png", "mask": 5}', "no path and no list"),
        ('{"image": "a.png", "params": [1]}', "params is no JSON object"),
        ('{"image": "a.png", "params": "{"}', "params is no JSON object"),
    ],
)
def test_a_bad_row_is_an_error_of_that_row(tmp_path, row, text):
    make(tmp_path, "a.png", alpha=True)
    (tmp_path / "pairs.jsonl").write_text(row + '\n{"image": "a.png"}\n', encoding="utf-8")
    bad, good = find_pairs(tmp_path)
    assert good.error is None and good.rule == "alpha"
    assert isinstance(bad.error, PairingError) and text in bad.error.message and "line 1" in bad.error.message


@pytest.mark.parametrize("text", ["", "name,mask\n", "image,image\n", "a.png,b.png\n"])
def test_a_table_without_its_columns(tmp_path, text):
    (tmp_path / "pairs.csv").write_text(text)
    with pytest.raises(PairingError, match="column names"):
        find_pairs(tmp_path)


def test_tables_that_contradict(tmp_path):
    (tmp_path / "pairs.csv").write_text("image\n")
    (tmp_path / "pairs.jsonl").write_text("")
    with pytest.raises(PairingError, match="has both"):
        find_pairs(tmp_path)
    (tmp_path / "pairs.csv").write_bytes(b"image\n\xff\xfe\n")
    with pytest.raises(PairingError, match="UTF-8"):
        find_pairs(tmp_path / "pairs.csv")


def test_a_row_with_too_many_cells(tmp_path):
    make(tmp_path, "a.png", alpha=True)
    (tmp_path / "pairs.csv").write_text("image\na.png,b.png\n")
    (pair,) = find_pairs(tmp_path)
    assert pair.error is not None and "line 2" in pair.error.message


@pytest.mark.parametrize("kind", ["alpha", "suffix", "folder", "layout"])
def test_twice_as_many_pictures_are_twice_the_work(tmp_path, monkeypatch, kind):
    """Counted, not timed: how often a file's name is looked at, for each picture."""
    looks = 0
    real = pairing.nfc_stem

    def counted(path: Path) -> str:
        nonlocal looks
        looks += 1
        return real(path)

    monkeypatch.setattr(pairing, "nfc_stem", counted)
    each = []
    for count in (20, 80):
        folder = tmp_path / str(count)
        for number in range(count):
            picture = folder / f"{number:03}" / "image.png" if kind == "layout" else folder / f"{number:03}.png"
            sprite(picture, alpha=kind == "alpha", size=4)
            if kind != "alpha":
                names = {"suffix": f"{number:03}_mask.png", "folder": f"masks/{number:03}.png", "layout": f"{number:03}/0.png"}
                mask(folder / names[kind], size=4, where=(slice(1, 3), slice(1, 3)))
        looks = 0
        pairs = find_pairs(folder)
        assert len(pairs) == count and {pair.rule for pair in pairs} == {kind}
        each.append(looks / count)
    assert each[1] <= each[0] * 1.05
