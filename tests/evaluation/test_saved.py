"""A results file gives the numbers that its model gave, without a model and without torch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from dabdetr.cli import app
from dabdetr.data.layouts import open_data
from dabdetr.evaluation.evaluate import score
from dabdetr.evaluation.saved import read_results
from dabdetr.structures import Detections


def some(folder: Path) -> tuple[Any, list[Detections]]:
    """Every second object of the val split, some of them shifted."""
    data = open_data(folder, "val")
    found = []
    for index in range(len(data)):
        record = data.record(index)
        boxes = record.boxes[::2] + np.float32(index)
        scores = np.linspace(0.9, 0.3, len(boxes), dtype=np.float32)
        labels, rows = record.labels[::2], np.arange(len(boxes))
        size = (record.height, record.width)
        found.append(Detections(boxes, scores, labels, rows, data.names, size, record.file))
    return data, found


def val(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["val", *map(str, arguments)])


@pytest.mark.parametrize("form", ["coco", "printed"])
def test_numbers_come_back(coco_folder: Path, tmp_path: Path, form: str) -> None:
    data, found = some(coco_folder)
    expected = score(data, found)
    assert 0 < expected.ap < 1
    file = tmp_path / "results.json"
    tree: Any = {"images": [each.to_dict() for each in found]}
    if form == "coco":
        tree = expected.to_coco()
    file.write_text(json.dumps(tree))
    code = (
        "import sys; from dabdetr.cli import app\n"
        f"sys.argv = ['dabdetr', 'val', '--predictions', {str(file)!r}, '--data', "
        f"{str(coco_folder)!r}, '--json']\n"
        "try: app()\nfinally: print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "False"
    told = json.loads(done.stdout)["numbers"]
    for name, number in expected.numbers.items():
        assert told[name] == (None if number < 0 else pytest.approx(number, abs=1e-6))


def test_what_predict_writes_fits_by_name(coco_folder: Path, tmp_path: Path) -> None:
    """Its ids count images of a run and classes of a model, which are others than the data's."""
    data, found = some(coco_folder)
    expected = score(data, found)
    order, names = list(range(len(found)))[::-1], data.names[::-1]
    rows = [
        {
            **row,
            "file_name": found[index].source,
            "category_id": names.index(data.names[label]) + 1,
            "category_name": data.names[label],
        }
        for place, index in enumerate(order, 1)
        for row, label in zip(found[index].to_coco(place), found[index].labels, strict=True)
    ]
    file = tmp_path / "results.json"
    file.write_text(json.dumps(rows))
    again, notes = read_results(file, data)
    assert notes == []
    assert score(data, again).numbers == pytest.approx(expected.numbers, abs=1e-6)


def test_rows_that_do_not_belong_are_told(coco_folder: Path, tmp_path: Path) -> None:
    data, found = some(coco_folder)
    rows = score(data, found).to_coco()
    file = tmp_path / "results.json"
    file.write_text(json.dumps([*rows, rows[0] | {"image_id": 999}, rows[0] | {"category_id": -5}]))
    _, notes = read_results(file, data)
    assert notes == [
        "left out: 1 detection of images that the data set lacks",
        "left out: 1 detection of classes that the data set lacks",
    ]
    assert val("--predictions", file, "--data", coco_folder).exit_code == 0
    file.write_text("[]")
    empty, _ = read_results(file, data)
    assert [len(each) for each in empty] == [0] * len(data)


def texts(row: dict[str, Any], record: Any, names: tuple[str, ...]) -> dict[str, Any]:
    return {
        "image_id": str(row["image_id"]),
        "category_id": f"{row['category_id']}.0",
        "bbox": [str(value) for value in row["bbox"]],
        "score": str(row["score"]),
    }


def shares(row: dict[str, Any], record: Any, names: tuple[str, ...]) -> dict[str, Any]:
    x, y, w, h = row["bbox"]
    wide, high = record.width, record.height
    return row | {"bbox": [x / wide, y / high, w / wide, h / high]}


def corners(row: dict[str, Any], record: Any, names: tuple[str, ...]) -> dict[str, Any]:
    x, y, w, h = row["bbox"]
    return row | {"bbox": [x, y, x + w, y + h]}


def by_stem(row: dict[str, Any], record: Any, names: tuple[str, ...]) -> dict[str, Any]:
    return row | {"image_id": Path(record.file).stem}


def by_file(row: dict[str, Any], record: Any, names: tuple[str, ...]) -> dict[str, Any]:
    return row | {"image_id": Path(record.file).name}


def from_nought(row: dict[str, Any], record: Any, names: tuple[str, ...]) -> dict[str, Any]:
    return row | {"category_id": row["category_id"] - 1}


ODD = [
    # how each row is written, what is noted of it
    (texts, []),
    (shares, ["boxes given as 0–1 of the image"]),
    (corners, ["boxes given as two corners"]),
    (by_stem, ["image ids are read as"]),
    (by_file, ["image ids are read as names of files"]),
    (from_nought, ["class ids are read as places in the list of classes, counted from 0"]),
]


@pytest.mark.parametrize(("change", "told"), ODD, ids=[change.__name__ for change, _ in ODD])
def test_results_as_other_tools_write_them(
    coco_folder: Path, tmp_path: Path, change: Any, told: list[str]
) -> None:
    data, found = some(coco_folder)
    expected = score(data, found)
    ids = {id_: place for place, id_ in enumerate(data.category_ids, 1)}
    records = {data.record(n).image_id: data.record(n) for n in range(len(data))}
    rows = []
    for row in expected.to_coco():
        if change is from_nought:
            row = row | {"category_id": ids[row["category_id"]]}
        rows.append(change(row, records[row["image_id"]], data.names))
    file = tmp_path / "results.json"
    file.write_text(json.dumps(rows))
    again, notes = read_results(file, data)
    assert len(notes) == len(told)
    assert all(note.startswith(start) for note, start in zip(notes, told, strict=True))
    assert score(data, again).numbers == pytest.approx(expected.numbers, abs=1e-6)


def test_numbers_that_files_are_named_after(coco_folder: Path, tmp_path: Path) -> None:
    """As tools write them that know files only: 7 for 000007.png, whose id may be another."""
    tree = json.loads((coco_folder / "annotations" / "instances_val.json").read_text())
    root = Path(shutil.copytree(coco_folder, tmp_path / "data"))
    folder = next(root.rglob(tree["images"][0]["file_name"])).parent
    numbers = {}
    for place, image in enumerate(tree["images"]):
        numbers[image["id"]] = 700 + 3 * place
        name = f"{700 + 3 * place:06}{Path(image['file_name']).suffix}"
        (folder / image["file_name"]).rename(folder / name)
        image["file_name"] = name
    (root / "annotations" / "instances_val.json").write_text(json.dumps(tree))
    data, found = some(root)
    expected = score(data, found)
    rows = [r | {"image_id": numbers[r["image_id"]]} for r in expected.to_coco()]
    (tmp_path / "results.json").write_text(json.dumps(rows))
    again, notes = read_results(tmp_path / "results.json", data)
    assert notes == ["image ids are read as the numbers that files are named after"]
    assert score(data, again).numbers == pytest.approx(expected.numbers, abs=1e-6)


def test_results_beside_images_and_categories(coco_folder: Path, tmp_path: Path) -> None:
    """An object as COCO's annotations have it, with scores and ids of its own."""
    data, found = some(coco_folder)
    expected = score(data, found)
    records = [data.record(n) for n in range(len(data))]
    images = [{"id": 50 + n, "file_name": Path(r.file).name} for n, r in enumerate(records)]
    names = [{"id": 9 - n, "name": name} for n, name in enumerate(data.names)]
    places = {record.image_id: 50 + n for n, record in enumerate(records)}
    labels = {id_: 9 - n for n, id_ in enumerate(data.category_ids)}
    rows = [
        r | {"image_id": places[r["image_id"]], "category_id": labels[r["category_id"]]}
        for r in expected.to_coco()
    ]
    tree = {"images": images, "categories": names, "annotations": rows}
    (tmp_path / "results.json").write_text(json.dumps(tree))
    again, notes = read_results(tmp_path / "results.json", data)
    assert notes == []
    assert score(data, again).numbers == pytest.approx(expected.numbers, abs=1e-6)


def test_odd_rows_are_left_out_and_told(coco_folder: Path, tmp_path: Path) -> None:
    data, found = some(coco_folder)
    expected = score(data, found)
    rows = expected.to_coco()
    odd = [5, rows[0] | {"bbox": [1, 2]}, rows[0] | {"score": None}, rows[0] | {"score": "x"}]
    (tmp_path / "results.json").write_text(json.dumps([*odd, *rows]))
    again, notes = read_results(tmp_path / "results.json", data)
    assert notes == [
        "left out: 1 row (no JSON objects)",
        "left out: 1 row without a box of four numbers",
        "left out: 2 rows without a score",
    ]
    assert score(data, again).numbers == pytest.approx(expected.numbers, abs=1e-6)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{}", "holds no detections"),
        ("[5]", "all are rows (no JSON objects)"),
        ('[{"image_id": 1, "bbox": [1, 2], "score": 1}]', "a box of four numbers"),
        ('[{"image_id": 1, "bbox": [1, 2, 3, NaN], "score": 1}]', "a box of four numbers"),
        ('[{"image_id": 1, "bbox": [1, 2, 3, 4]}]', "without a score"),
        (
            '[{"image_id": 77, "bbox": [1, 2, 3, 4], "score": 1}]',
            "it has 1 detection, of images that",
        ),
        ('{"images": [{}]}', "holds no detections"),
        ('{"images": [{"detections": []}]}', "without source and detections"),
        ("[", "not readable JSON"),
    ],
)
def test_files_that_are_none(coco_folder: Path, tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "results.json").write_text(text)
    done = val("--predictions", tmp_path / "results.json", "--data", coco_folder)
    assert done.exit_code == 2
    assert told in done.stderr


def test_a_model_or_its_detections(coco_folder: Path, tmp_path: Path) -> None:
    neither = val("--data", coco_folder)
    assert neither.exit_code == 2
    assert "give --model to run one, or --predictions" in neither.stderr
    both = val("--data", coco_folder, "--predictions", "x.json", "--model", "scenes")
    assert both.exit_code == 2
    layers = val("--data", coco_folder, "--predictions", "x.json", "--per-layer")
    assert "leave out --per-layer" in layers.stderr
