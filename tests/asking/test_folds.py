"""Out-of-fold audits: every image is judged once, by a model that was trained on the others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from dabdetr.asking import folds
from dabdetr.asking.folds import audit_out_of_fold
from dabdetr.cli import app
from dabdetr.data.dataset import DetectionDataset, Subset
from dabdetr.data.layouts import open_data, open_every
from dabdetr.data.writing import write_data
from dabdetr.presets import preset


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven images of digits in two splits."""
    scenes = open_data("scenes:size=96,objects=3", "test")
    first, second = Subset(scenes, range(5)), Subset(scenes, [5, 6])
    first.split, second.split = "train", "val"
    out = tmp_path_factory.mktemp("folds") / "data"
    write_data([first, second], out, "coco")
    return out


def test_every_image_is_judged_once_and_not_by_what_learned_it(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = open_every(data)
    seen: list[tuple[set[int], set[int]]] = []
    write = write_data

    def watched(parts: list[DetectionDataset], out: Path, layout: str) -> list[str]:
        sums = [{int(part.image(i).sum()) for i in range(len(part))} for part in parts]
        seen.append((sums[0], sums[1]))
        return write(parts, out, layout)

    monkeypatch.setattr(folds, "write_data", watched)
    judged, said = [], []
    options = {"epochs": 1, "imgsz": 64, "quiet": True, "tell": said.append}
    for some in audit_out_of_fold(splits, 2, tmp_path, "dn-detr-nano", **options):
        judged += [(each.split, each.image) for each in some if each.row is not None]
        for each in some:
            record = next(s for s in splits if s.split == each.split).record(each.image)
            assert each.file == record.file
            if each.row is not None:
                np.testing.assert_allclose(each.box, record.boxes[each.row], atol=0.01)
    boxes = [(s.split, i) for s in splits for i in range(len(s)) for _ in s.record(i).boxes]
    assert sorted(judged) == sorted(boxes)
    assert len(seen) == 2
    assert all(not trained & held for trained, held in seen)
    assert seen[0][1] | seen[1][1] == seen[0][0] | seen[0][1]  # all images were held out
    assert list(tmp_path.iterdir()) == []
    assert [line.split(":")[0] for line in said] == ["fold 1 of 2", "fold 2 of 2"]
    assert all("1 epoch, and judges the other" in line for line in said)


@pytest.mark.parametrize(("seen", "epochs"), [(0, 10), (60, 20)])
def test_few_images_get_more_epochs(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: int, epochs: int
) -> None:
    said: list[str] = []
    monkeypatch.setattr(folds, "SEEN", seen)

    def stop(*_: object, epochs: int, **__: object) -> None:
        raise InterruptedError(str(epochs))

    monkeypatch.setattr(folds, "train", stop)
    with pytest.raises(InterruptedError, match=str(epochs)):  # 3 of 7 images in the first fold
        next(audit_out_of_fold(open_every(data), 2, tmp_path, "dab-lite", tell=said.append))
    assert f"for {epochs} epochs" in said[0]


def test_weights_are_refused_as_they_may_know_the_labels(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="may have been trained on these labels"):
        next(audit_out_of_fold(open_every(data), 2, tmp_path, "scenes"))


def test_the_verb(data: Path, tmp_path: Path) -> None:
    config = tmp_path / "tiny.yaml"
    preset("dn-detr-nano").override(["image.size=64", "augment=none"]).save(config)
    command = ["audit", str(data), "--folds", "2", "--epochs", "1", "--model", str(config)]
    done = CliRunner().invoke(app, [*command, "--project", str(tmp_path / "runs"), "--quiet"])
    assert done.exit_code == 0, done.output
    (run,) = (tmp_path / "runs").iterdir()
    assert {each.name for each in run.iterdir()} == {"decisions.json", "index.html"}
