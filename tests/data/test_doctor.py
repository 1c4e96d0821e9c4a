"""Faults that are planted in a clean set are found, and nothing else; mended copies are clean."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from typer.testing import CliRunner

from dabdetr.cli import app
from dabdetr.data.doctor import Problem, all_kinds, examine, plain_name, source_name
from dabdetr.data.findings import CHECKS
from dabdetr.data.layouts import open_every
from dabdetr.data.mending import mended
from dabdetr.data.scenes import Scenes
from dabdetr.data.writing import write_data
from dabdetr.presets import PRESETS

CONFIG = PRESETS["dab-lite"]
SIZE = (160, 120)
COUNTS = {"train": 16, "val": 10}
Tree = dict[str, Any]


def make_image(seed: int, boxes: list[list[float]]) -> Image.Image:
    """Shades and rectangles, no two alike."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(20, 230, (9, 12, 3), dtype=np.uint8))
    image = coarse.resize(SIZE, Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(image)
    for x, y, w, h in boxes:
        pen.rectangle((x, y, x + w, y + h), fill=tuple(rng.integers(0, 255, 3).tolist()))
    return image


def clean(root: Path) -> Path:
    """COCO's layout; both classes in every image."""
    (root / "annotations").mkdir(parents=True)
    seed = 0
    for split, count in COUNTS.items():
        (root / split).mkdir()
        images, rows = [], []
        for number in range(count):
            seed += 1
            rng = np.random.default_rng([7, seed])
            corners = rng.integers((0, 0), (100, 70), (2, 2))
            sides = rng.integers((20, 20), (50, 45), (2, 2))
            boxes = np.concatenate((corners, sides), 1).astype(float).tolist()
            name = f"{split[0]}{''.join(rng.choice(list('abcdefgh'), 5))}{number}.png"
            make_image(seed, boxes).save(root / split / name)
            images.append({"id": number + 1, "file_name": name, "width": 160, "height": 120})
            for label, box in enumerate(boxes, 1):
                row = {"id": len(rows) + 1, "image_id": number + 1, "category_id": label}
                rows.append(row | {"bbox": box, "area": box[2] * box[3], "iscrowd": 0})
        names = [{"id": 1, "name": "bolt"}, {"id": 2, "name": "nut"}]
        tree = {"images": images, "annotations": rows, "categories": names}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(tree))
    return root


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clean(tmp_path_factory.mktemp("doctor") / "clean")


@pytest.fixture
def root(base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(base, tmp_path / "mine"))


def problems(root: Path) -> list[Problem]:
    return examine(open_every(root), CONFIG)


def found(root: Path) -> dict[str, int]:
    counts: dict[str, int] = {}
    for each in problems(root):
        counts[each.kind.name] = counts.get(each.kind.name, 0) + each.count
    return counts


def edit(root: Path, change: Callable[[Tree], None], split: str = "train") -> None:
    file = root / "annotations" / f"instances_{split}.json"
    tree = json.loads(file.read_text())
    change(tree)
    file.write_text(json.dumps(tree))


def rows(**values: Any) -> Callable[[Path], None]:
    """Plant: values of the fourth annotation of train."""

    def plant(root: Path) -> None:
        edit(root, lambda tree: tree["annotations"][3].update(values))

    return plant


def without(key: str) -> Callable[[Path], None]:
    return lambda root: edit(root, lambda tree: tree["annotations"][3].pop(key))


def image_row(**values: Any) -> Callable[[Path], None]:
    return lambda root: edit(root, lambda tree: tree["images"][2].update(values))


def file_of(root: Path, split: str = "train", number: int = 2) -> Path:
    tree = json.loads((root / "annotations" / f"instances_{split}.json").read_text())
    return root / split / tree["images"][number]["file_name"]


def add_row(**values: Any) -> Callable[[Path], None]:
    """Plant: a copy of the fourth annotation of train, changed."""

    def change(tree: Tree) -> None:
        tree["annotations"].append(tree["annotations"][3] | {"id": 999} | values)

    return lambda root: edit(root, change)


def add_image(root: Path, split: str, name: str, image: Image.Image, **options: Any) -> None:
    """A further image with a box of each class."""
    image.save(root / split / name, **options)

    def change(tree: Tree) -> None:
        size, id_ = {"width": image.width, "height": image.height}, 500 + len(tree["images"])
        tree["images"].append({"id": id_, "file_name": name, **size})
        for label in (1, 2):
            box = [10 * label, 12, 31, 22 + len(tree["images"])]
            row = {"id": 900 + len(tree["annotations"]), "image_id": id_}
            tree["annotations"].append(row | {"category_id": label, "bbox": box})

    edit(root, change, split)


def all_boxes(change: Callable[[list[float]], list[float]]) -> Callable[[Path], None]:
    def plant(root: Path) -> None:
        for split in COUNTS:
            edit(
                root,
                lambda tree: [r.update(bbox=change(r["bbox"])) for r in tree["annotations"]],  # pyright: ignore
                split,
            )

    return plant


def copied(root: Path) -> None:
    """An image of train in val: smaller, brighter, as a JPEG."""
    image = Image.open(file_of(root)).convert("RGB").resize((120, 90))
    image = Image.fromarray((np.asarray(image) * 0.9 + 20).astype(np.uint8))
    add_image(root, "val", "other.jpg", image, quality=70)


def burst(root: Path) -> None:
    image = Image.open(file_of(root)).convert("RGB")
    add_image(root, "train", "again.jpg", image, quality=80)


def flipped(root: Path) -> None:
    name = file_of(root).stem
    image = Image.open(file_of(root)).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    add_image(root, "val", f"{name}_png.rf.0a1b2c3d4e5f.png", image)


def dated(root: Path) -> None:
    for number, (split, second) in enumerate((("train", 10), ("val", 11), ("train", 50))):
        exif = Image.Exif()
        exif[0x0132] = f"2024:05:06 07:08:{second}"
        add_image(root, split, f"photo{'abc'[number]}.jpg", make_image(700 + number, []), exif=exif)


def video(root: Path) -> None:
    """Frames that move by a pixel, dealt out to both splits in turn."""
    for number in range(8):
        image = make_image(800, []).resize((240, 180)).crop((number * 2, 0, 160 + number * 2, 120))
        add_image(root, ("train", "val")[number % 2], f"clip_{'0' * number}{number}.png", image)


def class_names(*names: str) -> Callable[[Path], None]:
    def change(tree: Tree) -> None:
        tree["categories"] = [{"id": n, "name": name} for n, name in enumerate(names, 1)]
        for number, row in enumerate(tree["annotations"]):
            row["category_id"] = number % len(names) + 1

    def plant(root: Path) -> None:
        for split in COUNTS:
            edit(root, change, split)

    return plant


def only_in(split: str) -> Callable[[Path], None]:
    """Plant: a third class that both list, and of which only one split has boxes."""

    def plant(root: Path) -> None:
        for each in COUNTS:
            edit(root, lambda tree: tree["categories"].append({"id": 3, "name": "nail"}), each)

        def change(tree: Tree) -> None:
            for row in tree["annotations"][::4]:
                row["category_id"] = 3

        edit(root, change, split)

    return plant


def extra_class(split: str) -> Callable[[Path], None]:
    return lambda root: edit(
        root, lambda tree: tree["categories"].append({"id": 3, "name": "nail"}), split
    )


def in_both(change: Callable[[Tree], None]) -> Callable[[Path], None]:
    """Plant: a third class that both list, and a change of both."""

    def plant(root: Path) -> None:
        for split in COUNTS:
            extra_class(split)(root)
            edit(root, change, split)

    return plant


def outlined(root: Path) -> None:
    without("bbox")(root)
    rows(segmentation=[[9, 9, 40, 9, 9, 50]])(root)


def many(root: Path) -> None:
    def change(tree: Tree) -> None:
        for number in range(130):
            box = [number % 13 * 12, number // 13 * 12, 10.5, 10]
            row = {"id": 2000 + number, "image_id": 1, "category_id": 1, "bbox": box}
            tree["annotations"].append(row)

    edit(root, change)


def tiny(root: Path) -> None:
    def change(tree: Tree) -> None:
        for number, row in enumerate(tree["annotations"]):
            if number % 3 == 0:
                row["bbox"] = [*row["bbox"][:2], 2, 2]

    edit(root, change)


def template(root: Path) -> None:
    def change(tree: Tree) -> None:
        for row in tree["annotations"][::2]:
            row["bbox"] = [40, 30, 50, 60]

    edit(root, change)


def shifted(root: Path) -> None:
    """A third of the boxes elsewhere: no format explains them."""

    def change(tree: Tree) -> None:
        for row in tree["annotations"][::3]:
            row["bbox"][0] += 80

    edit(root, change)


def turned(root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    file = file_of(root).with_suffix(".jpg")
    Image.open(file_of(root)).convert("RGB").save(file, exif=exif)
    image_row(file_name=file.name)(root)


def replaced(image: Image.Image | bytes, size: bool = True) -> Callable[[Path], None]:
    def plant(root: Path) -> None:
        if isinstance(image, bytes):
            file_of(root).write_bytes(image)
        else:
            image.save(file_of(root))
            if size:
                image_row(width=image.width, height=image.height)(root)

    return plant


def cut_short(root: Path) -> None:
    content = file_of(root).read_bytes()
    file_of(root).write_bytes(content[: len(content) // 2])


def enlarged(root: Path) -> None:
    image = Image.open(file_of(root))
    image.resize((320, 240)).save(file_of(root))


def gif(root: Path) -> None:
    frames = [make_image(40 + n, []) for n in range(3)]
    file = file_of(root).with_suffix(".gif")
    frames[0].save(file, save_all=True, append_images=frames[1:])
    image_row(file_name=file.name)(root)


def deep(root: Path) -> None:
    grey = np.asarray(make_image(50, []).convert("L")).astype(np.uint16) * 16
    Image.fromarray(grey).save(file_of(root))


def listed_twice(root: Path) -> None:
    def change(tree: Tree) -> None:
        tree["images"].append(tree["images"][2] | {"id": 77})
        box = [11, 13, 44, 41]
        row = {"id": 901, "image_id": 77, "category_id": 1, "bbox": box}
        tree["annotations"].append(row)

    edit(root, change)


def gone(root: Path) -> None:
    file_of(root).unlink()


def no_val(root: Path) -> None:
    shutil.rmtree(root / "val")
    (root / "annotations" / "instances_val.json").unlink()


def small_val(root: Path) -> None:
    edit(root, lambda tree: tree.update(images=tree["images"][:5]), "val")
    edit(
        root,
        lambda tree: tree.update(annotations=[r for r in tree["annotations"] if r["image_id"] < 6]),
        "val",
    )


def unlabelled(root: Path) -> None:
    edit(root, lambda tree: tree.update(annotations=tree["annotations"][:10]))


THIN = [0.0, 10.0, 150.0, 3.0]
PLANTS: list[tuple[str, Callable[[Path], None], set[str]]] = [
    # check that finds it, what plants it, what else is so
    ("row-unreadable", lambda r: edit(r, lambda t: t["annotations"].append(5)), set()),
    ("image-unnamed", image_row(file_name=""), set()),
    ("image-missing", gone, set()),
    ("image-damaged", cut_short, set()),
    ("image-damaged", replaced(b""), set()),
    ("image-size-other", replaced(make_image(3, []).resize((90, 120)), size=False), set()),
    ("image-id-repeated", image_row(id=1), {"image-unknown"}),
    ("image-twice", listed_twice, {"similar-within"}),
    ("box-unreadable", rows(bbox=[1, 2]), set()),
    ("box-infinite", rows(bbox=[1, 2, float("inf"), 9]), set()),
    ("box-empty", rows(bbox=[9, 9, 0, 0]), set()),
    ("box-outside", rows(bbox=[300, 9, 20, 20]), set()),
    ("box-swapped", rows(bbox=[90, 80, -40, -30]), set()),
    ("box-cut", rows(bbox=[120, 80, 70, 30]), set()),
    ("box-text", rows(bbox=["9", "9", "30", "31"]), set()),
    ("box-from-shape", outlined, set()),
    ("box-relative", all_boxes(lambda b: [b[0] / 160, b[1] / 120, b[2] / 160, b[3] / 120]), set()),
    ("box-corners", all_boxes(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]]), set()),
    ("class-unknown", rows(category_id=9), set()),
    ("image-unknown", rows(image_id=999), set()),
    ("annotation-id", rows(id=1), set()),
    ("annotation-id", without("id"), set()),
    ("id-text", rows(image_id="2"), set()),
    ("crowd-odd", rows(iscrowd=7), set()),
    ("area-odd", rows(area=-3), set()),
    ("size-odd", image_row(width=-1), set()),
    ("size-scaled", enlarged, set()),
    ("name-cleaned", lambda r: image_row(file_name=f"C:\\x\\{file_of(r).name}")(r), set()),
    ("name-case", lambda r: image_row(file_name=file_of(r).name.upper())(r), set()),
    ("class-name-repeated", class_names("bolt", "bolt"), set()),
    ("class-name-odd", class_names("bolt", "\x1b[31m"), set()),
    ("class-split", extra_class("train"), {"class-empty"}),
    ("class-empty", in_both(lambda tree: None), set()),
    ("class-untrained", only_in("val"), set()),
    ("class-unmeasured", only_in("train"), {"class-few"}),
    ("class-names-alike", class_names("bolt", "nut", "Bolt "), set()),
    ("class-few", in_both(lambda tree: tree["annotations"][3].update(category_id=3)), set()),
    ("similar-splits", copied, set()),
    ("similar-within", burst, set()),
    ("name-splits", flipped, set()),
    ("time-splits", dated, set()),
    ("sequence-splits", video, {"similar-splits", "similar-within"}),
    ("objects-over-queries", many, {"objects-uncounted", "image-small"}),
    ("objects-uncounted", many, {"objects-over-queries", "image-small"}),
    ("objects-tiny", tiny, set()),
    ("box-duplicate", add_row(), set()),
    ("box-two-classes", add_row(category_id=1), set()),
    ("box-thin", rows(bbox=THIN), set()),
    ("box-first-pixel", add_row(bbox=[0.2, 0.3, 0.5, 0.4]), set()),
    ("box-whole", rows(bbox=[0, 0, 160, 120]), set()),
    ("box-template", template, set()),
    ("convention", shifted, {"box-cut", "box-outside"}),
    ("image-unturned", turned, set()),
    ("image-thin", replaced(make_image(5, []).resize((960, 120))), set()),
    ("image-plain", replaced(Image.new("RGB", SIZE, (40, 40, 40))), set()),
    ("image-dark", replaced(make_image(6, []).point(lambda v: v // 30)), set()),
    ("image-small", replaced(make_image(7, []).resize((64, 60))), {"box-outside", "box-cut"}),
    ("frames", gif, set()),
    ("deep", deep, set()),
    ("split-only", no_val, set()),
    ("val-small", small_val, set()),
    ("images-empty", unlabelled, {"class-few"}),
]


def test_a_clean_set_has_no_finding(base: Path) -> None:
    assert found(base) == {}


@pytest.mark.parametrize(("check", "plant", "more"), PLANTS, ids=[name for name, _, _ in PLANTS])
def test_every_plant_is_found(
    check: str, plant: Callable[[Path], None], more: set[str], root: Path
) -> None:
    plant(root)
    counts = found(root)
    assert check in counts
    assert set(counts) - {check, "image-unlisted"} <= more  # some plants leave files behind


def lines(text: str) -> Callable[[Path], None]:
    """Plant: a line behind those of one label file."""

    def plant(root: Path) -> None:
        file = label_file(root)
        file.write_text(file.read_text() + text)

    return plant


def label_file(root: Path) -> Path:
    return sorted((root / "labels" / "train").iterdir())[2]


def label_upper(root: Path) -> None:
    file = label_file(root)
    file.rename(file.with_name(file.name.upper()))


def same_images(root: Path) -> None:
    file = root / "data.yaml"
    file.write_text(file.read_text().replace("images/val", "images/train"))


def label_shared(root: Path) -> None:
    file = sorted((root / "images" / "train").iterdir())[2]
    make_image(70, []).save(file.with_suffix(".jpg"))


def twice(root: Path) -> None:
    label_file(root).write_text(label_file(root).read_text() * 2)


def pixels(root: Path) -> None:
    for file in (root / "labels").rglob("*.txt"):
        texts = []
        for line in file.read_text().splitlines():
            label, *numbers = line.split()
            scaled = zip(map(float, numbers), (160, 120, 160, 120), strict=True)
            texts.append(" ".join([label, *(f"{value * side:.2f}" for value, side in scaled)]))
        file.write_text("\n".join(texts))


def settings(text: str, encoding: str = "utf-8") -> Callable[[Path], None]:
    content = f"train: images/train\nval: images/val\n{text}\n".encode(encoding)

    def plant(root: Path) -> None:
        (root / "data.yaml").write_bytes(content)

    return plant


YOLO_PLANTS: list[tuple[str, Callable[[Path], None], set[str]]] = [
    ("label-missing", lambda root: label_file(root).unlink(), set()),
    ("label-unused", lambda root: label_file(root).with_name("gone.txt").touch(), set()),
    ("split-shared", same_images, {"similar-splits", "name-splits", "class-few"}),
    ("label-case", label_upper, {"label-missing"}),
    ("label-shared", label_shared, set()),
    ("line-twice", twice, set()),
    ("line-unreadable", lines("0 a b c d\n"), set()),
    ("line-columns", lines("0 0.5 0.5 0.2\n"), set()),
    ("line-separators", lines("0,0.5,0.5,0.2,0.2\n"), set()),
    ("line-confidence", lines("0 0.5 0.5 0.2 0.2 0.9\n"), set()),
    ("line-angle", lines("0 0.5 0.5 0.2 0.2 45\n"), set()),
    ("line-outline", lines("0 0.5 0.5 0.8 0.5 0.6 0.9\n"), set()),
    ("box-rotated", lines("0 0.5 0.5 0.8 0.5 0.6 0.9 0.4 0.8\n"), set()),
    ("box-beyond", lines("0 50 50 20 20\n"), set()),
    ("box-pixels", pixels, set()),
    ("encoding", settings("names: [größe, nut]", "cp1252"), set()),
    ("class-names-missing", settings("nc: 2"), set()),
    ("class-count", settings("nc: 5\nnames: [bolt, nut]"), set()),
    ("split-missing", settings("test: gone\nnames: [bolt, nut]"), set()),
]


@pytest.mark.parametrize(
    ("check", "plant", "more"), YOLO_PLANTS, ids=[name for name, _, _ in YOLO_PLANTS]
)
def test_every_plant_in_yolos_layout_is_found(
    check: str, plant: Callable[[Path], None], more: set[str], base: Path, tmp_path: Path
) -> None:
    write_data(open_every(base), tmp_path / "yolo", "yolo")
    plant(tmp_path / "yolo")
    counts = found(tmp_path / "yolo")
    assert check in counts
    assert set(counts) - {check} <= more


def test_the_generator_plants_nearly_every_check() -> None:
    """The others need another layout, and are planted in the readers' tests."""
    planted = {name for name, _, _ in (*PLANTS, *YOLO_PLANTS)}
    assert planted <= set(all_kinds())
    assert set(CHECKS) <= planted
    assert len(planted) >= 60


FIXED = (
    *("similar-splits", "name-splits", "time-splits", "sequence-splits", "box-duplicate"),
    *("box-first-pixel", "image-plain", "image-twice", "class-names-alike", "class-empty"),
    *("box-relative", "box-corners", "image-damaged", "box-empty", "box-cut", "size-scaled"),
)


@pytest.mark.parametrize("check", FIXED)
@pytest.mark.parametrize("layout", ["coco", "yolo", "voc"])
def test_what_can_be_mended_is_gone_from_the_copy(
    check: str, layout: str, root: Path, tmp_path: Path
) -> None:
    next(plant for name, plant, _ in PLANTS if name == check)(root)
    before = found(root)
    more = ["--fix", str(tmp_path / "out"), "--to", layout, "--quiet"]
    done = CliRunner().invoke(app, ["doctor", str(root), *more])
    assert done.exit_code == 1, done.stderr
    assert (tmp_path / "out" / "doctor-log.txt").read_text().splitlines()
    after = found(tmp_path / "out")
    assert check in before
    assert check not in after
    assert set(after) - {"pixels-from-one"} <= set(before)  # a note on VOC


def test_what_is_not_repaired_is_said(root: Path, tmp_path: Path) -> None:
    def shift(tree: dict[str, Any]) -> None:
        for row in tree["categories"]:
            row["id"] += 1
        tree["categories"] += [{"id": id_, "name": f"rare {id_}"} for id_ in range(10, 15)]

    in_both(shift)(root)
    done = CliRunner().invoke(app, ["doctor", str(root), "--fix", str(tmp_path / "out")])
    assert done.stderr.endswith("in doctor-log.txt; not repaired: class-shifted\n")
    log = (tmp_path / "out" / "doctor-log.txt").read_text()
    assert "train: not repaired: class numbers that seem to count from 1" in log


def test_a_box_in_two_spellings_of_a_class_is_one_box_in_the_copy(root: Path) -> None:
    class_names("bolt", "nut", "Bolt ")(root)
    rows(category_id=1)(root)
    add_row(category_id=3)(root)
    data = open_every(root)
    tables, log = mended(data, examine(data, CONFIG))
    assert (
        sum(len(each.labels) for each in tables)
        == sum(len(each.record(index).labels) for each in data for index in range(len(each))) - 1
    )
    assert sum("(box-duplicate)" in line for line in log) == 1


def test_a_mended_copy_keeps_the_rest(root: Path) -> None:
    add_row()(root)
    data = open_every(root)
    tables, log = mended(data, examine(data, CONFIG))
    assert [len(each) for each in tables] == list(COUNTS.values())
    assert len(tables[0].labels) == 2 * COUNTS["train"]
    assert len(log) == 1
    assert "left out (box-duplicate)" in log[0]
    whole = open_every(root)[0]
    for index in range(len(whole)):
        if len(whole.record(index).labels) == 2:
            expected = whole.record(index).boxes
            np.testing.assert_array_equal(tables[0].record(index).boxes, expected)


def test_the_verb(root: Path, base: Path, tmp_path: Path) -> None:
    add_row(category_id=1)(root)
    page = tmp_path / "page.html"
    run = CliRunner().invoke(app, ["doctor", str(root), "--json", "--html", str(page)])
    assert run.exit_code == 1
    told = json.loads(run.stdout)
    (only,) = told["findings"]
    assert (only["check"], only["split"], only["count"]) == ("box-two-classes", "train", 1)
    assert only["effect"]
    assert only["remedy"]
    assert "'bolt' [" in only["examples"][0]
    assert len(told["checks"]) >= 40
    text = page.read_text()
    assert "box-two-classes" in text
    assert text.count("data:image/jpeg") == 1
    table = CliRunner().invoke(app, ["doctor", str(root)])
    assert table.exit_code == 1
    assert "(box-two-classes, " in table.stdout
    assert "\n    remedy: " in table.stdout  # lines, as a table breaks paths into pieces
    assert "next: --fix COPY" in table.stderr
    assert "1 finding," in table.stdout
    fine = CliRunner().invoke(app, ["doctor", str(base)])
    assert fine.exit_code == 0
    assert "nothing is wrong" in fine.stdout


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("a_jpg.rf.0123abcdef.jpg", "a"),
        ("IMG_1 (2).jpg", "img_1"),
        ("cat-copy.png", "cat"),
        ("cat_flip_3.png", "cat"),
        ("cat.rf.png", "cat.rf"),
        ("cat_2.png", "cat_2"),
    ],
)
def test_names_of_source_images(name: str, source: str) -> None:
    assert source_name(name) == source


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("bolt", "Bolt ", True),
        ("traffic light", "traffic_light", True),
        ("Plate-lets", "platelets", True),
        ("type 1", "type1", True),
        ("x-", "x", False),
        ("a", "A", False),
        ("1-2", "12", False),
        ("+", "-", False),
    ],
)
def test_names_that_mean_one_class(one: str, other: str, alike: bool) -> None:
    assert (plain_name(one) == plain_name(other)) == alike


def test_a_copy_of_a_numbered_image_in_another_split(root: Path) -> None:
    """Numbers are alike in many splits; a copy's name beside its source's is not by chance."""
    turned = [make_image(seed, []) for seed in (301, 302, 303, 304)]
    names = ("0007.png", "0008.png", "0007.png", "0008_png.rf.0a1b2c3d4e5f.png")
    for split, name, image in zip(("train", "train", "val", "val"), names, turned, strict=True):
        add_image(root, split, name, image)
    assert found(root) == {"name-splits": 1}


def test_a_slip_of_an_object_at_the_edge_is_no_line(root: Path) -> None:
    rows(bbox=[159, 10, 1, 60])(root)
    assert found(root) == {}
    rows(bbox=[100, 10, 1, 60])(root)
    assert found(root) == {"box-thin": 1}


def test_what_a_file_of_all_splits_says_is_told_once(base: Path, tmp_path: Path) -> None:
    write_data(open_every(base), tmp_path / "yolo", "yolo")
    settings("test: gone\nnames: [bolt, nut]")(tmp_path / "yolo")
    (only,) = problems(tmp_path / "yolo")
    assert (only.kind.name, only.split, only.count) == ("split-missing", "all", 1)


def test_scenes_are_looked_at_as_well() -> None:
    """Images that are drawn have no files: checks of boxes and classes remain."""
    problems = examine([Scenes("val", count=30)], CONFIG)
    assert {each.kind.name for each in problems if not each.hint} <= {"split-only"}


def test_the_log_of_a_mended_copy_names_every_row_that_was_left_out(
    root: Path, tmp_path: Path
) -> None:
    file = root / "annotations" / "instances_train.json"
    tree = json.loads(file.read_text())
    first = max(row["id"] for row in tree["annotations"]) + 1
    image = tree["images"][0]["id"]
    odd = [{"category_id": 1, "bbox": [5, 5, 0, 9]}] * 7 + [
        {"category_id": 99, "bbox": [5, 5, 9, 9]}
    ] * 6
    for number, row in enumerate(odd):
        tree["annotations"].append({"id": first + number, "image_id": image, "iscrowd": 0, **row})
    file.write_text(json.dumps(tree))
    done = CliRunner().invoke(app, ["doctor", str(root), "--fix", str(tmp_path / "out"), "--json"])
    log = (tmp_path / "out" / "doctor-log.txt").read_text()
    assert all(f"annotation {first + number}" in log for number in range(len(odd)))
    told = [each["examples"] for each in json.loads(done.stdout)["findings"]]
    assert max(map(len, told)) == 3
