"""Programs of torch.export give what torch gives, and nothing in a file is run."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dabdetr.inference.program import Program


class Small(nn.Module):
    """Sizes that are computed, several results, a constant, an inner graph, an op in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.LayerNorm(4)
        self.register_buffer("scale", torch.tensor([2.0, 0.5, 1.0, 1.0]), persistent=False)

    def forward(self, pixels: Tensor, padding: Tensor) -> tuple[Tensor, Tensor]:
        pixels = F.pad(pixels, (0, -pixels.shape[3] % 4, 0, -pixels.shape[2] % 4))
        with torch.autocast("cpu", torch.bfloat16):
            maps = self.conv(pixels)
        tokens = self.norm(maps.float().flatten(2).transpose(1, 2)).relu_()
        best, places = tokens.sum(-1).topk(3, dim=1)
        one, two, three, four = tokens.unbind(-1)
        boxes = torch.stack((one, two, three, four), -1) * self.scale
        rows = places[..., None].expand(-1, -1, 4)
        return best[..., None] + padding.sum(), boxes.gather(1, rows).sigmoid()


@pytest.fixture(scope="module")
def small() -> torch.export.ExportedProgram:
    torch.manual_seed(0)
    free = torch.export.Dim.DYNAMIC
    pixels, padding = torch.randn(2, 3, 12, 16), torch.zeros(2, 12, 16, dtype=torch.bool)
    sides = {"pixels": {0: free, 2: free, 3: free}, "padding": {0: free, 1: free, 2: free}}
    return torch.export.export(Small().eval(), (pixels, padding), dynamic_shapes=sides)


@pytest.fixture(scope="module")
def saved(small: torch.export.ExportedProgram, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("programs") / "small.pt2"
    torch.export.save(small, path, extra_files={"card.json": '{"a": 1}'})
    return path


def assert_same(program: Program, small: torch.export.ExportedProgram) -> None:
    for shape in ((1, 3, 12, 16), (3, 3, 9, 21)):
        pixels, padding = torch.randn(shape), torch.zeros(shape[0], *shape[2:], dtype=torch.bool)
        padding[:, -1] = True
        wanted = small.module(check_guards=False)(pixels, padding)
        for given, own in zip(program(pixels, padding), wanted, strict=True):
            assert torch.equal(given, own)


def test_a_program_computes_what_torch_does(
    saved: Path, small: torch.export.ExportedProgram
) -> None:
    program = Program(saved)
    assert program.texts == {"card.json": '{"a": 1}'}
    assert_same(program, small)


@pytest.mark.parametrize("version", ["2.6", "2.8"])
def test_files_of_older_torch_open(
    version: str, saved: Path, small: torch.export.ExportedProgram, tmp_path: Path
) -> None:
    content = dict(entries(saved))
    tensors = [dict(small.state_dict), dict(small.constants)]
    graph = content["small/models/model.json"]
    names = {
        "2.6": ("serialized_exported_program", "serialized_state_dict", "serialized_constants"),
        "2.8": ("x/models/model", "x/data/weights/model", "x/data/constants/model"),
    }[version]
    ending = {"2.6": (".json", ".json"), "2.8": (".json", ".pt")}[version]
    made = {names[0] + ending[0]: graph}
    for name, each in zip(names[1:], tensors, strict=True):
        made[name + ending[1]] = as_torch(each)
    write(tmp_path / "old.pt2", made)
    assert_same(Program(tmp_path / "old.pt2"), small)
    for name in names[1:]:
        flag = tmp_path / "ran"
        write(tmp_path / "evil.pt2", made | {name + ending[1]: as_torch({"a": Evil(flag)})})
        refused(tmp_path / "evil.pt2", "pickled with more than tensors", flag)


class Evil:
    """Makes the file ``flag`` when it is unpickled."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.flag),)


def as_torch(value: Any) -> bytes:
    content = io.BytesIO()
    torch.save(value, content)
    return content.getvalue()


def entries(path: Path) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        return [(name, archive.read(name)) for name in archive.namelist()]


def write(path: Path, content: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, each in content.items():
            archive.writestr(name, each)


def refused(path: Path, message: str, flag: Path) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Program(path)(torch.zeros(1, 3, 12, 16), torch.zeros(1, 12, 16, dtype=torch.bool))
    assert str(path) in str(caught.value)
    assert not flag.exists()


def configured(kind: str, change: Callable[[dict[str, Any]], None]) -> Callable[..., None]:
    """A change of the table of tensors, and the payload in the place of the first."""

    def changed(content: dict[str, bytes], flag: Path) -> None:
        place = f"small/data/{kind}/model_{kind}_config.json"
        tree = json.loads(content[place])
        row = next(iter(tree["config"].values()))
        content[f"small/data/{kind}/{row['path_name']}"] = as_torch(Evil(flag))
        change(row)
        content[f"small/data/{kind}/{row['path_name']}"] = pickle.dumps(Evil(flag))
        content[place] = json.dumps(tree).encode()

    return changed


def graphed(change: Callable[[Any, Path], None]) -> Callable[..., None]:
    """A change of the graph's json."""

    def changed(content: dict[str, bytes], flag: Path) -> None:
        tree = json.loads(content["small/models/model.json"])
        change(tree, flag)
        content["small/models/model.json"] = json.dumps(tree).encode()

    return changed


def called(target: str, *values: Any) -> Callable[..., None]:
    """The first step calls ``target``; "FLAG" among the values is the file that tells."""

    def change(tree: Any, flag: Path) -> None:
        given = [str(flag) if value == "FLAG" else value for value in values]
        kinds = {str: "as_string", int: "as_int", bool: "as_bool"}
        tree["graph_module"]["graph"]["nodes"].insert(
            0,
            {
                "target": target,
                "inputs": [{"name": "", "arg": {kinds[type(v)]: v}, "kind": 1} for v in given],
                "outputs": [],
                "metadata": {},
            },
        )

    return graphed(change)


FITS = "none of the operators of a detector"
ATTACKS: dict[str, tuple[Callable[..., None], str]] = {
    "weights": (configured("weights", lambda row: row.update(use_pickle=True)), "is pickled"),
    "constants": (configured("constants", lambda row: row.update(use_pickle=True)), "is pickled"),
    "custom": (
        configured("constants", lambda row: row.update(path_name="custom_obj_0")),
        "is pickled",
    ),
    "opaque": (
        configured("constants", lambda row: row.update(path_name="opaque_obj_0")),
        "is pickled",
    ),
    "mkdir": (called("torch.os.mkdir", "FLAG"), FITS),
    "serialization": (called("torch.serialization.os.mkdir", "FLAG"), FITS),
    "operator": (called("_operator.attrgetter", "FLAG"), FITS),
    "power": (called("_operator.pow", 10, 10), FITS),
    "loader": (called("math.__loader__.load_module", "FLAG"), FITS),
    "sym": (called("torch.sym_sqrt.__globals__", "FLAG"), FITS),
    "dunder": (called("torch.ops.aten.add.__class__", "FLAG"), FITS),
    "from_file": (called("torch.ops.aten.from_file.default", "FLAG", True, 16), FITS),
    "save": (called("torch.ops.aten.save.default", "FLAG"), FITS),
    "extension": (called("#custom:x", "FLAG"), FITS),
    "number": (
        graphed(
            lambda tree, flag: tree["graph_module"]["graph"]["nodes"].insert(
                0,
                {
                    "target": "_operator.mul",
                    "inputs": [{"name": "", "arg": {"as_int": 2**40}, "kind": 1}] * 2,
                    "outputs": [{"as_sym_int": {"as_name": "big"}}],
                },
            )
        ),
        "a size is too large",
    ),
    "graph gone": (graphed(lambda tree, flag: tree.clear()), "its parts do not fit"),
    "no outputs": (
        graphed(lambda tree, flag: tree["graph_module"]["graph"]["outputs"].clear()),
        "give logits and boxes",
    ),
    "unknown name": (
        graphed(
            lambda tree, flag: tree["graph_module"]["graph"].update(
                outputs=[{"as_tensor": {"name": "x"}}] * 2
            )
        ),
        "cannot compute",
    ),
    "beyond the content": (
        configured("weights", lambda row: row["tensor_meta"].update(storage_offset={"as_int": 99})),
        "is no such tensor",
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_what_would_run_code_is_refused(name: str, saved: Path, tmp_path: Path) -> None:
    content, flag = dict(entries(saved)), tmp_path / "ran"
    change, message = ATTACKS[name]
    change(content, flag)
    write(tmp_path / "evil.pt2", content)
    refused(tmp_path / "evil.pt2", message, flag)


def test_what_is_never_read_does_no_harm(
    saved: Path, small: torch.export.ExportedProgram, tmp_path: Path
) -> None:
    """Sample inputs are pickled in honest files too; expressions are evaluated by torch alone."""
    content, flag = dict(entries(saved)), tmp_path / "ran"
    tree = json.loads(content["small/models/model.json"])
    evil = f"__import__('os').mkdir({str(flag)!r})"
    tree["guards_code"] = [evil]
    for value in tree["graph_module"]["graph"]["sym_int_values"].values():
        value["as_expr"]["expr_str"] = evil
    content["small/models/model.json"] = json.dumps(tree).encode()
    content["small/data/sample_inputs/model.pt"] = as_torch(Evil(flag))
    write(tmp_path / "evil.pt2", content)
    assert_same(Program(tmp_path / "evil.pt2"), small)
    assert not flag.exists()
    with pytest.raises(Exception):  # noqa: B017, PT011 - the attack is one: torch itself runs it
        torch.export.load(tmp_path / "evil.pt2")
    assert flag.exists()


def test_damaged_archives(saved: Path, tmp_path: Path) -> None:
    whole, flag = saved.read_bytes(), tmp_path / "ran"
    path = tmp_path / "x.pt2"
    for content in (b"", b"nothing", whole[: len(whole) // 2], whole[:-30]):
        path.write_bytes(content)
        refused(path, "cannot be loaded as a program of torch", flag)
    write(path, dict(entries(saved)), zipfile.ZIP_DEFLATED)
    refused(path, "its entries are compressed", flag)
    write(path, {"a/models/model.json": b"[" * 100_000})
    refused(path, "nested too deep", flag)
    with pytest.raises(FileNotFoundError):
        Program(tmp_path / "none.pt2")


def test_an_error_of_the_system_names_the_file(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: Any) -> bytes:
        raise OSError(22, "Invalid argument")  # of a place before the start of the file

    monkeypatch.setattr(zipfile.ZipFile, "read", read)
    with pytest.raises(ValueError, match=rf"{saved.name} cannot be .*\(invalid argument\)"):
        Program(saved)


@pytest.mark.parametrize(
    ("name", "value", "sound"),
    [
        ("conv.weight", float("nan"), False),
        ("conv.weight", float("inf"), False),
        ("scale", float("nan"), False),
        ("scale", float("-inf"), True),  # as masks have it
    ],
)
def test_a_value_that_is_no_number_is_named(
    name: str, value: float, sound: bool, tmp_path: Path
) -> None:
    model = Small().eval()
    model.state_dict(keep_vars=True).get(name, model.scale).data.view(-1)[1] = value
    inputs = torch.zeros(1, 3, 12, 16), torch.zeros(1, 12, 16, dtype=torch.bool)
    torch.export.save(torch.export.export(model, inputs), tmp_path / "m.pt2")
    if sound:
        assert Program(tmp_path / "m.pt2").inputs
        return
    with pytest.raises(ValueError, match=rf"m\.pt2 holds weights that are not finite: '{name}'"):
        Program(tmp_path / "m.pt2")
