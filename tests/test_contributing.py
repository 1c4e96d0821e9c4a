"""What CONTRIBUTING says it takes to add something is what it takes: a toy of each is added."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
Edit = str | list[tuple[str, str]]
"""A new file, or (what stands once in the file, what stands there instead)."""

MEMBER: dict[str, Edit] = {
    "presets/small.py": [
        (
            "\nDINO_NANO = derive(",
            'TOY = derive(DAB_DETR_NANO, "toy-detr", "A toy", model__queries__count=7)\n\n'
            "\nDINO_NANO = derive(",
        )
    ]
}
PART: dict[str, Edit] = {
    "config/parts.py": [
        (
            "class DeformableEncoder(Section):",
            "class MeanEncoder(DenseEncoder):\n"
            '    """Every token gets the mean of all."""\n\n'
            '    kind: Literal["mean"] = "mean"\n\n\n'
            "class DeformableEncoder(Section):",
        ),
        ('kinds("dense", "deformable")', 'kinds("dense", "deformable", "mean")'),
        (
            'EncoderKind = Annotated[\n    Annotated[DenseEncoder, Tag("dense")] |',
            'EncoderKind = Annotated[\n    Annotated[MeanEncoder, Tag("mean")]\n'
            '    | Annotated[DenseEncoder, Tag("dense")] |',
        ),
    ],
    "model/mean.py": """
from torch import nn

class TokenMean(nn.Module):
    def forward(self, x, positions, memory):
        seen = x.new_ones(x.shape[:2]) if memory.padding is None else (~memory.padding).to(x.dtype)
        return ((x * seen[..., None]).sum(1, True) / seen.sum(1)[:, None, None]).expand(x.shape)
""",
    "model/encoder.py": [
        (
            '    if part.kind == "deformable":',
            '    if part.kind == "mean":\n        return TokenMean()\n'
            '    if part.kind == "deformable":',
        ),
        (
            "from dabdetr.model.positions import mlp\n",
            "from dabdetr.model.mean import TokenMean\nfrom dabdetr.model.positions import mlp\n",
        ),
    ],
}
LOSS: dict[str, Edit] = {
    "config/recipe.py": [
        (
            "    class_cost: float = Field(",
            "    centre_weight: float = Field(\n"
            '        default=0.0, ge=0, description="weight of the distance of centres"\n    )\n'
            "    class_cost: float = Field(",
        )
    ],
    "training/losses.py": [
        (
            'TERMS = ("loss_ce", "loss_bbox", "loss_giou")',
            'TERMS = ("loss_ce", "loss_bbox", "loss_giou", "loss_centre")',
        ),
        (
            "(loss.class_weight, loss.box_weight, loss.giou_weight)",
            "(loss.class_weight, loss.box_weight, loss.giou_weight, loss.centre_weight)",
        ),
        (
            '        "loss_giou": nothing.index_add(0, assignment.layer, 1 - giou) / objects,\n',
            '        "loss_giou": nothing.index_add(0, assignment.layer, 1 - giou) / objects,\n'
            '        "loss_centre": nothing.index_add(\n'
            "            0, assignment.layer, (found - wanted)[:, :2].norm(dim=-1)\n"
            "        ) / objects,\n",
        ),
    ],
}
LAYOUT: dict[str, Edit] = {
    "data/toy.py": '''
from dabdetr.data.findings import Findings
from dabdetr.data.records import Rows, named_table

def find_toy(root):
    """boxes.toy: image, class and four corners in a line."""
    file = root / "boxes.toy"
    if not file.is_file():
        return {}
    return {"train": lambda split, box_format=None: read(root, file, split)}

def read(root, file, split):
    rows, names, images = Rows(Findings(), "xyxy"), {}, {}
    for line in file.read_text().splitlines():
        image, name, *edges = line.split()
        if image not in images:
            images[image] = rows.add_image(str(root / image))
        rows.add_box(images[image], names.setdefault(name, len(names)), [*map(float, edges)])
    return named_table(rows, names, root, split, None)
''',
    "data/layouts.py": [
        (
            "from dabdetr.data.voc import find_voc\n",
            "from dabdetr.data.toy import find_toy\nfrom dabdetr.data.voc import find_voc\n",
        ),
        (
            '    "VOC": (find_voc,',
            '    "toy": (find_toy, "boxes.toy"),\n    "VOC": (find_voc,',
        ),
    ],
}
FORMAT: dict[str, Edit] = {
    "export/formats.py": [
        (
            "FORMATS = {\n",
            "class ToyFile(OnnxFile):\n"
            '    """ONNX under another name."""\n\n\n'
            "FORMATS = {\n"
            '    "toy": Format("Toy", ".toy", False, ("fp32",), (), ToyFile),\n',
        )
    ],
    "inference/exported.py": [
        (
            "ENGINES: dict[str, type[Engine]] = {",
            'class _Toy(_Onnx):\n    """Runs what ToyFile writes."""\n\n\n'
            'ENGINES: dict[str, type[Engine]] = {".toy": _Toy, ',
        )
    ],
}
VERB: dict[str, Edit] = {
    "cli/toy.py": '''
import typer

def toy(name: str) -> None:
    """Greet NAME."""
    typer.echo(f"hello {name}")
''',
    "cli/__init__.py": [
        (
            "from dabdetr.cli.app import add_verb, app\n",
            "from dabdetr.cli import toy\nfrom dabdetr.cli.app import add_verb, app\n",
        ),
        ("(train.train, val.val,", "(toy.toy, train.train, val.val,"),
    ],
}
TOYS = {
    "A family member": MEMBER,
    "A part": PART,
    "A loss term": LOSS,
    "A data layout": LAYOUT,
    "An export format": FORMAT,
    "A verb": VERB,
}

USED = """
import sys
from pathlib import Path
import numpy as np, torch
from PIL import Image
from typer.testing import CliRunner
import dabdetr
from dabdetr.cli import app
from dabdetr.data.layouts import open_data
from dabdetr.presets import preset
from dabdetr.training.train import train

assert Path(dabdetr.__file__).is_relative_to(Path.cwd()), dabdetr.__file__
run = CliRunner().invoke

member = preset("toy-detr")
assert member.model.queries.count == 7
assert "toy-detr" in run(app, ["models", "--all"]).stdout

Path("data").mkdir()
for number in range(2):
    Image.fromarray(np.full((64, 64, 3), 90 * number, np.uint8)).save(f"data/{number}.png")
Path("data/boxes.toy").write_text("0.png cat 4 4 30 30\\n1.png dog 8 8 40 60\\n")
data = open_data("data")
assert (len(data), data.names) == (2, ("cat", "dog"))
assert data.record(1).boxes.tolist() == [[8, 8, 40, 60]]

config = member.override([
    "model.encoder={kind: mean, layers: 1}", "model.decoder.layers=2", "loss.centre_weight=2",
    "image.size=64", "image.max_size=64", "training.batch=2", "training.effective_batch=2",
    "training.start=none", "training.epochs=1", "training.precision=fp32",
])
torch.manual_seed(0)
done = train("data", config, project="runs", quiet=True)
row = done.rows[0]
assert row["loss_centre"] > 0
last = sum(w * row[n] for w, n in zip(
    (config.loss.class_weight, 5, 2, 2), ("loss_ce", "loss_bbox", "loss_giou", "loss_centre")))
assert row["loss"] > last > 0
from dabdetr.checkpoints.native import load_model
model = load_model(done.weights).model
assert type(model.encoder.layers[0].attention).__name__ == "TokenMean"

arguments = ["export", "--model", str(done.weights), "--format", "toy"]
made = run(app, [*arguments, "--output", "model.toy"])
assert made.exit_code == 0, (made.output, made.stderr)
found = run(app, ["predict", "--model", "model.toy", "data/0.png", "--json", "--quiet"])
assert found.exit_code == 0, (found.output, found.stderr)

assert run(app, ["toy", "you"]).stdout == "hello you\\n"
"""


def sections() -> dict[str, tuple[int, str]]:
    """What can be added → the number of files it says, and its text."""
    text = (ROOT / "CONTRIBUTING.md").read_text().partition("## How to add")[2]
    text = text.partition("\n## ")[0]
    parts = re.findall(r"^### ([^:\n]+): (\d) files?\n(.+?)(?=^### |\Z)", text, re.M | re.S)
    return {title: (int(number), body) for title, number, body in parts}


@pytest.mark.parametrize("title", TOYS)
def test_files_are_as_many_as_said_and_named(title: str) -> None:
    said = sections()
    assert list(said) == list(TOYS)
    number, text = said[title]
    assert len(TOYS[title]) == number
    assert len(text.split()) < 200  # half a page
    for file in TOYS[title]:
        assert (
            f"`{file}`" in text
            or f"`{file.partition('/')[0]}/`" in text
            or (f"`{file.rpartition('/')[2]}`" in text)
        ), file


def test_a_toy_of_each_works(tmp_path: Path) -> None:
    """All six at once, in a copy of the package; none touches another file."""
    house = tmp_path / "dabdetr"
    weights = shutil.ignore_patterns("*.safetensors", "__pycache__")
    shutil.copytree(ROOT / "src" / "dabdetr", house, ignore=weights)
    files = [file for toy in TOYS.values() for file in toy]
    assert len(files) == len(set(files)) == sum(number for number, _ in sections().values())
    for file, edit in (pair for toy in TOYS.values() for pair in toy.items()):
        path = house / file
        if isinstance(edit, str):
            assert not path.exists(), file
            path.write_text(edit)
            continue
        text = path.read_text()
        for old, new in edit:
            assert text.count(old) == 1, (file, old)
            text = text.replace(old, new)
        path.write_text(text)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", USED], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
