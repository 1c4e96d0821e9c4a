"""Model files that try to run code: pickles in every wrapping, programs, external data, YAML tags.

Each attack makes the file ``flag`` if what is hidden in it is carried out.
"""

from __future__ import annotations

import io
import itertools
import json
import pickle
import random
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.fuzz.mutations import bytes_changed

PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".safetensors", ".onnx", ".pt2", ".xml", ".zip")
"""Endings that a pickle is given: none of them may make a difference."""


class Attack(NamedTuple):
    """``files`` of a folder (name → content), of which ``given`` is what a user is made to open."""

    kind: str
    given: str
    files: dict[str, bytes]


class _Call:
    """Pickled, it calls ``function`` when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


def _text(lines: str) -> bytes:
    return lines.encode()


def payloads(flag: Path) -> dict[str, bytes]:
    """Pickles that make ``flag``, by each way that a pickle has to call something."""
    import os
    import posix
    import subprocess

    touch, code = f"touch {flag}", f"open({str(flag)!r}, 'w').close()"
    calls: dict[str, _Call] = {
        "system": _Call(os.system, touch),
        "posix": _Call(posix.system, touch),
        "mkdir": _Call(os.mkdir, str(flag)),
        "open": _Call(open, str(flag), "w"),
        "exec": _Call(exec, code),
        "eval": _Call(eval, code),
        "popen": _Call(subprocess.Popen, ["touch", str(flag)]),
        "map": _Call(list, _Call(map, os.mkdir, [str(flag)])),
        "path": _Call(Path.touch, flag),
    }
    made = {
        f"{name}-{protocol}": pickle.dumps(call, protocol)
        for name, call in calls.items()
        for protocol in range(6)
    }
    by_hand = {
        "inst": f"(S{touch!r}\nios\nsystem\n.",
        "object": f"(cos\nsystem\nS{touch!r}\no.",
        "global": f"cos\nsystem\n(S{touch!r}\ntR.",
        "dotted": f"cbuiltins\nexec\n(S{code!r}\ntR.",
        "getattr": "cbuiltins\ngetattr\n(cbuiltins\ngetattr\n(cos\npath\nS'os'\ntRS'system'\ntR"
        f"(S{touch!r}\ntR.",
        "build": f"cbuiltins\nexec\n(S{code!r}\ntR(dS'x'\nI1\nsb.",
        "numpy": f"cnumpy.testing._private.utils\nrunstring\n(S{code!r}\n(dtR.",
        "torch": f"ctorch.serialization\nos.system\n(S{touch!r}\ntR.",
        "jit": f"ctorch.jit._script\nexec\n(S{code!r}\ntR.",
        "import": f"cimportlib\nimport_module\n(S'this'\ntR0cos\nsystem\n(S{touch!r}\ntR.",
        "timeit": f"ctimeit\ntimeit\n(S'pass'\nS{code!r}\ntR.",
        "runpy": f"crunpy\n_run_code\n(S{code!r}\n(dtR.",
        "pip": f"cpip\nmain\n((lS'install'\nS{str(flag)!r}\ntR.",
    }
    return made | {name: _text(text) for name, text in by_hand.items()}


def wrappings(evil: bytes) -> dict[str, bytes]:
    """One pickle in every form that a checkpoint has or had."""
    import numpy as np

    magic, protocol = pickle.dumps(0x1950A86A20F9469CFC6C, 2), pickle.dumps(1001, 2)
    system = pickle.dumps({"protocol_version": 1001, "little_endian": True, "type_sizes": {}}, 2)
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            entry = tarfile.TarInfo(name)
            entry.size = len(evil)
            archive.addfile(entry, io.BytesIO(evil))
    array = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        array, {"descr": "|O", "fortran_order": False, "shape": (1,)}
    )
    return {
        "plain": evil,
        "legacy": magic + protocol + system + evil,
        "legacy-system": magic + protocol + evil + system,
        "legacy-magic": evil + magic,
        "zip": _zip({"archive/data.pkl": evil, "archive/version": b"3\n"}),
        "zip-constants": _zip(
            {
                "archive/data.pkl": pickle.dumps({}, 2),
                "archive/constants.pkl": evil,
                "archive/code/__torch__.py": b"",
                "archive/version": b"3\n",
            }
        ),
        "zip-named": _zip({"x/data.pkl": evil, "x/byteorder": b"little", "x/version": b"3\n"}),
        "deflated": _zip({"archive/data.pkl": evil, "archive/version": b"3\n"}, packed=True),
        "tar": tar.getvalue(),
        "npy": array.getvalue() + evil,
        "npz": _zip({"weights.npy": array.getvalue() + evil}),
        "safetensors": struct.pack("<Q", len(evil)) + evil,
        "hidden": b"\x89HDF\r\n\x1a\n" + evil,
    }


def _zip(entries: dict[str, bytes], packed: bool = False) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED if packed else 0) as archive:
        for name, each in entries.items():
            archive.writestr(name, each)
    return content.getvalue()


def pickled(flag: Path) -> Iterator[Attack]:
    """Every payload in every wrapping, endings in turn; alone, and where folders have weights."""
    endings = itertools.cycle(PICKLES)
    for payload, evil in payloads(flag).items():
        for wrapping, content in wrappings(evil).items():
            name = f"model{next(endings)}"
            yield Attack(f"{payload} {wrapping}", name, {name: content})
    config = json.dumps({"model_type": "dab-detr", "auto_map": {"AutoModel": "evil.Model"}})
    code = f"open({str(flag)!r}, 'w').close()\n".encode()
    for payload, evil in payloads(flag).items():
        for name in ("pytorch_model.bin", "model.safetensors", "best.safetensors", "model.pth"):
            files = {
                f"x/{name}": wrappings(evil)["zip"],
                "x/config.json": config.encode(),
                **{f"x/{module}.py": code for module in ("evil", "sitecustomize", "__init__")},
            }
            yield Attack(f"{payload} in a folder", "x", files)


def programs(flag: Path, honest: dict[str, bytes], rng: random.Random) -> Iterator[Attack]:
    """An honest ``.pt2`` with pickles, operators or expressions that are none of a detector's."""
    evils = payloads(flag)
    tables = [name for name in honest if name.endswith("_config.json")]
    graph = next(name for name in honest if name.endswith("models/model.json"))
    for payload, evil in evils.items():
        for table in tables:
            tree = json.loads(honest[table])
            rows = tree["config"] or {
                "x": {"path_name": "opaque_0", "tensor_meta": None, "use_pickle": True}
            }
            key = rng.choice(list(rows))
            rows[key]["use_pickle"] = True
            folder = table.rpartition("/")[0]
            changed = {table: json.dumps(tree | {"config": rows}).encode()}
            changed[f"{folder}/{rows[key]['path_name']}"] = wrappings(evil)["zip"]
            yield _program(f"{payload} {table}", honest | changed)
        for place in (
            "data/sample_inputs/model.pt",
            "data/constants/custom_obj_0",
            "data/weights/model.pt",
        ):
            root = graph.partition("models/")[0]
            yield _program(f"{payload} {place}", honest | {root + place: wrappings(evil)["zip"]})
    code = f"__import__('os').mkdir({str(flag)!r})"
    targets = (
        *("os.system", "builtins.exec", "torch.ops.aten.system", "torch.ops.os.system.default"),
        *("_operator.methodcaller", "_operator.attrgetter", "math.system", "torch.sym_eval"),
        *("torch.ops.aten.__class__.default", "torch.ops.aten.add.__globals__", "torch.load"),
        *("torch.ops.higher_order.cond", "torch.ops.higher_order.call_torchbind", code),
        *("torch.ops.aten.from_file.default", "torch.ops.prim.ModuleContainerInput.default"),
        *("torch.ops.aten._print.default", "torch.ops.aten.save.default", "numpy.load"),
    )
    text = honest[graph].decode()
    tree = json.loads(text)
    for target in targets:
        changed = json.loads(text)
        node = rng.choice(changed["graph_module"]["graph"]["nodes"])
        node["target"] = target
        node["inputs"] = [
            {"name": "x", "arg": {"as_string": f"touch {flag}"}, "kind": 1},
            *node["inputs"][: rng.randrange(2)],
        ]
        yield _program(f"operator {target}", honest | {graph: json.dumps(changed).encode()})
    expressions = [code, f"exec({code!r})", f"sympify({code!r})", f"().__class__.__base__; {code}"]
    for expression in expressions:
        for key in ("as_expr", "expr_str", "as_string", "as_name", "as_custom_obj", "as_operator"):
            changed = json.loads(text)
            for node in changed["graph_module"]["graph"]["nodes"]:
                if node["inputs"]:
                    node["inputs"][0]["arg"] = {key: expression}
            yield _program(f"{key} expression", honest | {graph: json.dumps(changed).encode()})
        for key in ("range_constraints", "module_call_graph", "guards_code", "opset_version"):
            changed = tree | {key: {expression: {"min_val": expression, "max_val": expression}}}
            yield _program(f"{key} expression", honest | {graph: json.dumps(changed).encode()})


def _program(kind: str, entries: dict[str, bytes]) -> Attack:
    return Attack(f"program: {kind}", "model.pt2", {"model.pt2": _zip(entries)})


def graphs(flag: Path, honest: bytes, xml: str, weights: bytes) -> Iterator[Attack]:
    """ONNX and OpenVINO with data elsewhere, operators of plugins, entities, code in metadata."""
    import onnx
    from onnx import helper

    code = f"__import__('os').mkdir({str(flag)!r})"
    places = (
        "/etc/passwd",
        "../../../etc/passwd",
        "/dev/zero",
        str(flag),
        "x\0y",
        "https://x/y",
        "~",
    )
    for place, kind in itertools.product(places, range(3)):
        model = onnx.load_from_string(honest)
        tensor = model.graph.initializer[0]
        if kind == 2:
            tensor = (
                model.graph.node.add(op_type="Constant", output=["c"])
                .attribute.add(name="value", type=onnx.AttributeProto.TENSOR)
                .t
            )
            tensor.data_type, tensor.dims[:] = 1, [1]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", place), ("offset", "0"), ("length", "4")):
            tensor.external_data.add(key=key, value=value)
        yield Attack("onnx: data elsewhere", "x.onnx", {"x.onnx": model.SerializeToString()})
    domains = ("ai.onnx.contrib", "com.microsoft.extensions", "aten", "os", "org.pytorch.aten")
    operators = ("PyOp", "PyCustomOp", "ATen", "system", "PythonOp", "Exec", "DecodeImage")
    for domain, operator in itertools.product(domains, operators):
        model = onnx.load_from_string(honest)
        node = helper.make_node(
            operator, ["pixels"], ["x"], domain=domain, code=code, name="os.system"
        )
        model.graph.node.insert(0, node)
        model.opset_import.add(domain=domain, version=1)
        yield Attack("onnx: operator", "x.onnx", {"x.onnx": model.SerializeToString()})
    tags = (
        f"!!python/object/apply:os.mkdir [{flag}]",
        f"!!python/object/new:os.system ['touch {flag}']",
        "!!python/name:os.system",
        code,
        f"${{jndi:{flag}}}",
        f"{{{{ {code} }}}}",
        pickle.dumps(_Call(exec, code), 0).decode(),
    )
    for key, tag in itertools.product(
        ("config", "names", "size", "precision", "certificate"), tags
    ):
        model = onnx.load_from_string(honest)
        for entry in model.metadata_props:
            if entry.key == key:
                entry.value = tag
        yield Attack("onnx: metadata", "x.onnx", {"x.onnx": model.SerializeToString()})
        strings = {entry.key: entry.value for entry in model.metadata_props}
        card = json.dumps(strings).replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
        files = {"x/model.xml": xml.replace("CARD", card).encode(), "x/model.bin": weights}
        yield Attack("openvino: metadata", "x", files)
    entities = (
        '<!DOCTYPE net [<!ENTITY x SYSTEM "file:///etc/passwd">]>',
        f'<!DOCTYPE net SYSTEM "file://{flag}">',
        '<!DOCTYPE net [<!ENTITY x SYSTEM "http://127.0.0.1:9/">]>',
        f'<?xml-stylesheet href="{flag}"?>',
    )
    for entity in entities:
        head, rest = xml.split("?>", 1)
        files = {"x/model.xml": f"{head}?>{entity}{rest}".encode(), "x/model.bin": weights}
        yield Attack("openvino: entity", "x", files)
    for kind in ("Extension", "os.system", "PythonOp", "TensorIterator", "ReadValue", "../evil.so"):
        evil = xml.replace('type="Sigmoid"', f'type="{kind}"').replace(
            'version="opset1"', 'version="extension"'
        )
        yield Attack(
            "openvino: operation", "x", {"x/model.xml": evil.encode(), "x/model.bin": weights}
        )


def runs(flag: Path) -> Iterator[Attack]:
    """Run folders: checkpoints that are pickles, YAML that builds objects."""
    tags = (
        f"!!python/object/apply:os.mkdir ['{flag}']",
        f"!!python/object/new:os.mkdir ['{flag}']",
        f"!!python/object/apply:subprocess.check_call [[touch, '{flag}']]",
        f"!!python/object/apply:builtins.exec [\"open('{flag}', 'w').close()\"]",
        "!!python/module:os",
        "!!python/name:os.system",
    )
    honest = b"data: scenes:count=3\nannotations: null\nimages: null\n"
    for payload, evil in payloads(flag).items():
        for wrapping in ("plain", "legacy", "zip", "zip-constants", "tar"):
            files = {
                "x/last.ckpt": wrappings(evil)[wrapping],
                "x/previous.ckpt": wrappings(evil)[wrapping],
                "x/run.yaml": honest,
                "x/config.yaml": b"name: x\n",
            }
            yield Attack(f"run: {payload} {wrapping}", "x", files)
    for tag, name in itertools.product(tags, ("run.yaml", "config.yaml")):
        for text in (f"data: {tag}\n", f"{tag}\n", f"x: &a {tag}\ny: *a\n", f"? {tag}\n: 1\n"):
            files = {"x/run.yaml": honest, "x/config.yaml": b"name: x\n", "x/last.ckpt": b"x"}
            yield Attack(f"run: {name}", "x", files | {f"x/{name}": text.encode()})


def changed(attacks: list[Attack], count: int, rng: random.Random) -> Iterator[Attack]:
    """More of the same, damaged here and there: so they may slip past a check."""
    for _ in range(count):
        kind, given, files = rng.choice(attacks)
        name = rng.choice(list(files))
        yield Attack(f"{kind}, changed", given, files | {name: bytes_changed(rng, files[name])})


def corpus(flag: Path, seed: int = 0) -> list[Attack]:
    """All attacks, and a quarter as many again that are changed."""
    from tests.fuzz.targets import tiny_config, tiny_onnx, tiny_openvino, tiny_program

    from dabdetr.inference.metadata import Metadata

    rng = random.Random(seed)
    strings = Metadata("onnx", ("a", "b", "c"), tiny_config(), size=(20, 30)).to_strings()
    attacks = [
        *pickled(flag),
        *programs(flag, tiny_program(strings), rng),
        *graphs(flag, tiny_onnx(strings), *tiny_openvino()),
        *runs(flag),
    ]
    return attacks + list(changed(attacks, len(attacks) // 4, rng))


ENTRIES: dict[str, tuple[str, ...]] = {
    "predict": ("predict", "--model", "MODEL", "IMAGE", "--no-save"),
    "val": ("val", "--model", "MODEL", "--data", "scenes:count=3"),
    "explain": ("explain", "--model", "MODEL", "IMAGE"),
    "export": ("export", "--model", "MODEL", "--output", "out.onnx", "--force"),
    "convert": ("convert", "MODEL", "out.safetensors", "--force"),
    "bench": ("bench", "--model", "MODEL", "--data", "scenes:count=3", "--formats", "onnx"),
    "compare": ("compare", "MODEL", "dab-detr-nano", "--data", "scenes:count=3"),
    "train": ("train", "--model", "MODEL", "--data", "scenes:count=3", "--epochs", "1"),
    "start": (
        *("train", "--model", "dab-detr-nano", "--start", "MODEL", "--data", "scenes:count=3"),
        *("--epochs", "1", "--quiet"),
    ),
    "config": ("train", "--config", "MODEL", "--data", "scenes:count=3", "--epochs", "1"),
    "to-transformers": ("convert", "MODEL", "out.folder", "--to", "transformers"),
    "prune": ("prune", "MODEL", "scenes:count=3", "--output", "out.safetensors"),
    "snap": ("snap", "scenes:count=3", "--model", "MODEL", "--output", "out.folder"),
    "audit": ("audit", "scenes:count=3", "--model", "MODEL"),
    "fix": ("audit", "scenes:count=3", "--fix", "MODEL", "--output", "out.folder"),
    "predictions": ("val", "--predictions", "MODEL", "--data", "scenes:count=3"),
    "against": ("val", "--model", "scenes", "--data", "scenes:count=3", "--against", "MODEL"),
    "resume": ("train", "--resume", "MODEL"),
    "resume-compare": ("compare", "--resume", "MODEL"),
}
"""Verb → its command line, with MODEL and IMAGE where the files stand."""


def opened(attack: Attack, entry: str, folder: Path, image: Path) -> Callable[[], None]:
    """A case that opens the attack by a verb; it writes the files at once."""
    from typer.testing import CliRunner

    from dabdetr.cli import app

    for name, content in attack.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    places = {"MODEL": str(folder / attack.given), "IMAGE": str(image)}
    line = [places.get(word, word) for word in ENTRIES[entry]]
    line = [str(folder / word) if word.startswith("out.") else word for word in line]

    def case() -> None:
        done = CliRunner().invoke(app, line)
        if done.exit_code in (1, 2, 3):
            raise SystemExit(done.exit_code)
        if done.exit_code:
            raise RuntimeError(f"{entry} of {attack.kind}: {done.output[-300:]}")

    return case
