"""What is fuzzed: for each kind of file an honest one, how it is damaged, and what reads it."""

from __future__ import annotations

import io
import itertools
import json
import random
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, features
from tests.fuzz.harness import Case, Target
from tests.fuzz.mutations import (
    TEXTS,
    VALUES,
    YAML_WORDS,
    attempt,
    bytes_changed,
    json_bytes,
    text_changed,
    tree_changed,
    yaml_bytes,
)

HEAVY = ("config", "set", "safetensors", "checkpoint", "onnx", "openvino", "program")
"""Targets whose honest values may ask for more memory than there is."""


SHARES = {"images": 6, "coco": 4, "yolo": 2, "voc": 3, "config": 3, "set": 6, "metadata": 6}
"""How often a target is run, where that is not once for each round."""


class Targets:
    """The targets by name; what they need is made in ``folder`` when it is first used."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: dict[str, Any] = {}
        self.all: dict[str, Target] = {
            "images": self.images,
            "image-files": self.image_files,
            "coco": self.coco,
            "yolo": self.yolo,
            "voc": self.voc,
            "labelme": self.labelme,
            "via": self.via,
            "zip": self.zip,
            "config": self.config,
            "set": self.set,
            "run-yaml": self.run_yaml,
            "compare": self.compare,
            "safetensors": self.safetensors,
            "checkpoint": self.checkpoint,
            "transformers": self.transformers,
            "metadata": self.metadata,
            "onnx": self.onnx,
            "openvino": self.openvino,
            "program": self.program,
        }

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """What ``make`` gave the first time."""
        if name not in self.made:
            self.made[name] = make()
        return self.made[name]

    def place(self, name: str) -> Path:
        """An empty folder for this case."""
        path = self.folder / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        return path

    # Images

    def images(self, rng: random.Random) -> Case:
        """An image's bytes, read whole."""
        from dabdetr.data.images import read_image, used_bits

        kind = rng.choice(list(self.once("images", _images)))
        base = self.made["images"][kind]
        content = bytes_changed(rng, base, _IMAGE_WORDS)
        if base.startswith(b"\x89PNG") and rng.random() < 0.6:
            content = _png_changed(rng, base)
        if rng.random() < 0.02:
            content = _wrapped(content)
        bits = rng.choice((None, None, 12))

        def case() -> None:
            try:
                array = read_image(content, bits=bits)
            finally:
                if content and rng.random() < 0.1:
                    used_bits(content)
            assert array.dtype == np.uint8
            assert array.ndim == 3

        return case, content

    def image_files(self, rng: random.Random) -> Case:
        """Files of a folder, through what ``predict`` reads sources with; none may stop it."""
        from dabdetr.data.images import image_size
        from dabdetr.inference.sources import read_sources

        kinds = list(self.once("images", _images))
        folder = self.place("image-files")
        good = self.made["images"]["rgb.png"]
        content = bytes_changed(rng, self.made["images"][rng.choice(kinds)], _IMAGE_WORDS)
        ending = rng.choice((".png", ".jpg", ".tif", ".webp", ".gif", ".avif", ".jp2", ".heic"))
        name = rng.choice(("bad", "b\x1bad", "b\nad", "b\u202ead", "-bad", "b%ad"))
        (folder / "a.png").write_bytes(good)
        (folder / f"{name}{ending}").write_bytes(content)
        (folder / "z.png").write_bytes(good)

        def case() -> None:
            failed: list[str] = []
            read = list(read_sources(folder, on_error=lambda name, error: failed.append(name)))
            assert len(read) + len(failed) == 3, (len(read), failed)
            assert len(failed) <= 1
            image_size(folder / f"{name}{ending}")

        return case, content

    # Data sets

    def coco(self, rng: random.Random) -> Case:
        """COCO's json beside good images."""
        folder = self.once("coco", lambda: image_folder(self.place("coco/data") / "train"))
        content = attempt(lambda: json_bytes(rng, _COCO), b"{}")
        file = folder.parent / "annotations" / "instances_train.json"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)
        return opened(folder.parent), content

    def yolo(self, rng: random.Random) -> Case:
        """YOLO's data.yaml, or the text of a label file."""
        folder = self.place("yolo")
        image_folder(folder / "images" / "train")
        (folder / "labels" / "train").mkdir(parents=True)
        texts = {"data.yaml": _YOLO, **{f"labels/train/{n}.txt": _LABELS for n in range(3)}}
        for name, text in texts.items():
            (folder / name).write_text(text)
        if rng.random() < 0.6:
            content = attempt(lambda: yaml_bytes(rng, _YOLO, _YOLO_TREE), b"")
            (folder / "data.yaml").write_bytes(content)
        else:
            content = text_changed(rng, _LABELS, ("nan", "1e400", "-1", "99", "\x00", "0.5,0.5"))
            (folder / "labels" / "train" / "1.txt").write_bytes(content)
        return opened(folder), content

    def voc(self, rng: random.Random) -> Case:
        """One of VOC's xml files."""
        folder = self.place("voc")
        image_folder(folder / "JPEGImages")
        (folder / "Annotations").mkdir()
        for number in range(3):
            (folder / "Annotations" / f"{number}.xml").write_text(_VOC.format(number=number))
        text = _VOC.format(number=1)
        if rng.random() < 0.5:
            content = _xml_changed(rng, text)
        else:
            content = bytes_changed(
                rng, text.encode(), (b"<object>", b"</", b"&lol;", b"<!--", b"]]>")
            )
        (folder / "Annotations" / "1.xml").write_bytes(content)
        return opened(folder), content

    def labelme(self, rng: random.Random) -> Case:
        """One of LabelMe's json files."""
        folder = self.once("labelme", lambda: image_folder(self.place("labelme")))
        for number in range(3):
            tree = _LABELME | {"imagePath": f"{number}.png"}
            (folder / f"{number}.json").write_text(json.dumps(tree))
        content = attempt(lambda: json_bytes(rng, _LABELME), b"{}")
        (folder / "1.json").write_bytes(content)
        return opened(folder), content

    def via(self, rng: random.Random) -> Case:
        """The json of the VGG image annotator."""
        folder = self.once("via", lambda: image_folder(self.place("via")))
        content = attempt(lambda: json_bytes(rng, _VIA), b"{}")
        (folder / "via_region_data.json").write_bytes(content)
        return opened(folder), content

    def zip(self, rng: random.Random) -> Case:
        """A data set in a zip."""

        def pack() -> bytes:
            folder = self.place("zipped")
            image_folder(folder / "train")
            (folder / "train" / "_annotations.coco.json").write_text(json.dumps(_COCO))
            content = io.BytesIO()
            with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
                for file in sorted(folder.rglob("*.*")):
                    archive.write(file, file.relative_to(folder))
            return content.getvalue()

        base = self.once("zip", pack)
        content = bytes_changed(
            rng, base, (b"../../x", b"/etc/passwd", b"PK\x01\x02", b"PK\x05\x06")
        )
        if rng.random() < 0.3:
            extra = io.BytesIO(base)
            with zipfile.ZipFile(extra, "a") as archive:
                entry = zipfile.ZipInfo(
                    rng.choice(("../ran", "/tmp/ran", "a/../../ran", "..\\ran"))
                )
                if rng.random() < 0.3:
                    entry.external_attr = 0o120777 << 16  # a symbolic link
                archive.writestr(entry, str(rng.choice(("/etc/passwd", "x"))))
            content = extra.getvalue()
        path = self.place("zip") / "data.zip"
        path.write_bytes(content)
        return opened(path), content

    # Configs and runs

    def config(self, rng: random.Random) -> Case:
        """A config's YAML, and building its model where it is small."""
        from dabdetr.config import load

        config = self.once("tiny", tiny_config)
        tree = config.model_dump(mode="json")
        import yaml

        content = attempt(lambda: yaml_bytes(rng, yaml.safe_dump(tree, sort_keys=False), tree), b"")
        path = self.place("config") / "config.yaml"
        path.write_bytes(content)
        builds = rng.random() < 0.05

        def case() -> None:
            read = load(path)
            read.save(path)
            if builds:
                _build(read)

        return case, content

    def set(self, rng: random.Random) -> Case:
        """One to three assignments of ``--set``."""
        config = self.once("tiny", tiny_config)
        paths = self.once("paths", lambda: list(_leaves(config.model_dump(mode="json"))))
        assignments: list[str] = []
        for _ in range(rng.choice((1, 1, 2, 3))):
            path = rng.choice(paths)
            if rng.random() < 0.1:
                path = rng.choice(
                    (path + ".x", path.partition(".")[0], "", "..", path + "\x1b", "a" * 9000)
                )
            value = rng.choice((*map(str, VALUES), *YAML_WORDS, *TEXTS))
            assignments.append(rng.choice((f"{path}={value}", f"{path} = {value}", path)))
        builds = rng.random() < 0.05

        def case() -> None:
            changed = config.override(assignments)
            if builds:
                _build(changed)

        return case, "\n".join(assignments).encode("utf-8", "surrogatepass")

    def run_yaml(self, rng: random.Random) -> Case:
        """What a resumed run reads of its sources."""
        from dabdetr.training.options import Sources

        content = attempt(lambda: yaml_bytes(rng, _RUN, _RUN_TREE), b"")
        path = self.place("run") / "run.yaml"
        path.write_bytes(content)
        return lambda: Sources.load(path), content

    def compare(self, rng: random.Random) -> Case:
        """A comparison's settings, a member's config, or the record of one of its runs."""
        from dabdetr.compare.plan import Settings, plan
        from dabdetr.compare.report import write_report
        from dabdetr.compare.run import finished

        files = self.once("compare", comparison)
        folder = self.place("compare")
        changed = rng.choice(list(files))
        text = files[changed]
        if changed.endswith(".csv"):
            content = text_changed(rng, text, RECORD_WORDS)
            if rng.random() < 0.5:
                content = attempt(lambda: _record_changed(rng, text), b"")
        else:
            import yaml

            content = attempt(lambda: yaml_bytes(rng, text, yaml.safe_load(text)), b"")
        for name, each in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if name == changed else each.encode())
        reports = rng.random() < (0.5 if changed.endswith(".csv") else 0.2)

        def case() -> None:
            if reports:
                write_report(folder)
            else:  # what --resume reads before it trains
                for task in plan(Settings.load(folder), folder):
                    finished(folder / "runs" / task.name)

        return case, changed.encode() + b"\n" + content

    # Models

    def safetensors(self, rng: random.Random) -> Case:
        """Weights of our own: header, metadata, config, tensors."""
        from dabdetr.checkpoints.native import load_model

        base = self.weights()
        length = int.from_bytes(base[:8], "little")
        header, body = json.loads(base[8 : 8 + length]), base[8 + length :]
        kind = rng.random()
        if kind < 0.2:
            content = bytes_changed(rng, base[: length + 400]) + base[length + 400 :]
        else:
            about = header["__metadata__"]
            if kind < 0.6:
                config = tree_changed(rng, json.loads(about["config"]))
                about["config"] = attempt(lambda: json.dumps(config).encode(), b"{}").decode()
            elif kind < 0.8:
                about = tree_changed(rng, about)
                header["__metadata__"] = about
            else:
                header = tree_changed(rng, header)
            content = safetensors(header, body)
        path = self.place("weights") / "x.safetensors"
        path.write_bytes(content)
        return lambda: load_model(path), content[: length + 400]

    def checkpoint(self, rng: random.Random) -> Case:
        """A checkpoint as the authors and others write them, by torch.save."""
        from dabdetr.checkpoints.reading import read

        base = self.once("checkpoints", _checkpoints)
        kind = rng.choice(list(base))
        content = base[kind]
        if rng.random() < 0.4:
            content = bytes_changed(rng, content, (b"cos\nsystem\n", b"\x80\x02c", b"PK\x05\x06"))
        else:
            content = attempt(lambda: _checkpoint_changed(rng, kind), content)
        path = self.place("checkpoint") / rng.choice(("x.pth", "x.pt", "x.bin", "x.ckpt"))
        path.write_bytes(content)
        return lambda: read(path), content[:20_000]

    def transformers(self, rng: random.Random) -> Case:
        """A folder of transformers: config.json beside safetensors."""
        from dabdetr.checkpoints.native import load_model

        folder = self.place("transformers")
        content = attempt(lambda: json_bytes(rng, _TRANSFORMERS), b"{}")
        (folder / "config.json").write_bytes(content)
        state = self.once("transformers", _transformers_state)
        (folder / "model.safetensors").write_bytes(state)
        return lambda: load_model(folder), content

    def metadata(self, rng: random.Random) -> Case:
        """The metadata of an exported file, as every format carries them."""
        from dabdetr.inference.metadata import Metadata

        strings = self.once("strings", self.strings)
        changed = _metadata_changed(rng, strings)

        def case() -> None:
            Metadata.from_strings(changed, "x.onnx").to_strings()

        return case, repr(changed).encode("utf-8", "surrogatepass")

    def onnx(self, rng: random.Random) -> Case:
        """An ONNX file with other metadata, or with other bytes in its head."""
        import onnx

        from dabdetr.inference.exported import Exported

        base = self.once("onnx", lambda: tiny_onnx(self.strings()))
        path = self.place("onnx") / "x.onnx"
        model = onnx.load_from_string(base)
        if rng.random() < 0.7:
            strings = _metadata_changed(rng, self.strings())
            del model.metadata_props[:]
            for key, value in strings.items() if isinstance(strings, dict) else ():
                if isinstance(value, str) and isinstance(key, str):
                    attempt(lambda k=key, v=value: model.metadata_props.add(key=k, value=v), b"")
            content = model.SerializeToString()
        else:
            content = bytes_changed(rng, base, (b"../x", b"location", b"\x6a\x00"))
        path.write_bytes(content)

        def case() -> None:
            exported = Exported(path)
            pixels = exported.prepare(np.zeros((20, 30, 3), np.uint8))
            exported.detect([pixels], [(20, 30)], 5)

        return case, content

    def openvino(self, rng: random.Random) -> Case:
        """OpenVINO's xml with other metadata."""
        from dabdetr.inference.exported import Exported

        xml, weights = self.once("openvino", tiny_openvino)
        folder = self.place("openvino")
        changed = _metadata_changed(rng, self.strings())
        text = attempt(lambda: json.dumps(changed).encode(), b"{}").decode()
        if rng.random() < 0.2:
            text = attempt(lambda: json_bytes(rng, self.strings()), b"{}").decode("latin-1")
        content = xml.replace("CARD", _escaped(text)).encode("utf-8", "replace")
        (folder / "model.xml").write_bytes(content)
        (folder / "model.bin").write_bytes(weights)

        def case() -> None:
            exported = Exported(folder)
            pixels = exported.prepare(np.zeros((20, 30, 3), np.uint8))
            exported.detect([pixels], [(20, 30)], 5)

        return case, content

    def program(self, rng: random.Random) -> Case:
        """A program of torch: its graph, its tables, its archive."""
        from dabdetr.inference.exported import Exported

        base: dict[str, bytes] = self.once("program", lambda: tiny_program(self.strings()))
        content = dict(base)
        kind = rng.random()
        place = rng.choice([name for name in base if name.endswith(".json")])
        if kind < 0.8:
            tree = json.loads(base[place])
            content[place] = attempt(lambda: json_bytes(rng, tree), b"{}")
        packed = _packed(content)
        if kind >= 0.8:
            packed = bytes_changed(rng, packed, (b"PK\x01\x02", b"weight_", b"custom_obj_0"))
        path = self.place("program") / "x.pt2"
        path.write_bytes(packed)

        def case() -> None:
            exported = Exported(path)
            pixels = exported.prepare(np.zeros((20, 30, 3), np.uint8))
            exported.detect([pixels], [(20, 30)], 5)

        return case, packed

    def weights(self) -> bytes:
        """Of a tiny detector, as ``save_model`` writes them."""
        return self.once("weights", lambda: _weights(self.place("weights")))

    def strings(self) -> dict[str, str]:
        from dabdetr.inference.metadata import Metadata

        config = self.once("tiny", tiny_config)
        return Metadata("onnx", ("a", "b", "c"), config, size=(20, 30)).to_strings()


# Honest files

_IMAGE_WORDS = (b"IHDR", b"PLTE", b"tRNS", b"iCCP", b"eXIf", b"acTL", b"fcTL", b"IDAT", b"IEND",
                b"\xff\xd8", b"\xff\xda", b"\xff\xc0", b"Exif\0\0", b"II*\0", b"MM\0*", b"%!PS",
                b"ftyp", b"meta", b"VP8X", b"\0\0\0\x0cjP  ")  # fmt: skip


def _images() -> dict[str, bytes]:
    """An image of each promised format and of many modes."""
    rng = np.random.default_rng(0)
    rgba = Image.fromarray(rng.integers(0, 256, (40, 48, 4), dtype=np.uint8))
    sixteen = Image.fromarray(rng.integers(0, 65536, (40, 48), dtype=np.uint16))
    rgb, grey, palette = rgba.convert("RGB"), rgba.convert("L"), rgba.convert("RGB").convert("P")
    exif = Image.Exif()
    exif[0x0112] = 6
    made: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
        "rgb.png": (rgb, "PNG", {}),
        "rgba.png": (rgba, "PNG", {}),
        "palette.png": (palette, "PNG", {"transparency": 3}),
        "grey.png": (grey, "PNG", {}),
        "16.png": (sixteen, "PNG", {}),
        "animated.png": (rgb, "PNG", {"save_all": True, "append_images": [rgb.rotate(90)]}),
        "rgb.jpg": (rgb, "JPEG", {"exif": exif}),
        "progressive.jpg": (rgb, "JPEG", {"progressive": True}),
        "cmyk.jpg": (rgb.convert("CMYK"), "JPEG", {}),
        "phone.mpo": (rgb, "MPO", {"save_all": True, "append_images": [rgb]}),
        "palette.gif": (palette, "GIF", {"save_all": True, "append_images": [palette.rotate(90)]}),
        "rgb.bmp": (rgb, "BMP", {}),
        "rgba.bmp": (rgba, "BMP", {}),
        "one.bmp": (grey.convert("1"), "BMP", {}),
        "raw.tif": (rgb, "TIFF", {}),
        "lzw.tif": (rgb, "TIFF", {"compression": "tiff_lzw"}),
        "deflate.tif": (rgba, "TIFF", {"compression": "tiff_adobe_deflate"}),
        "fax.tif": (grey.convert("1"), "TIFF", {"compression": "group4"}),
        "jpeg.tif": (rgb, "TIFF", {"compression": "jpeg"}),
        "16.tif": (sixteen, "TIFF", {}),
        "float.tif": (grey.convert("F"), "TIFF", {}),
        "pages.tif": (grey, "TIFF", {"save_all": True, "append_images": [grey, rgb]}),
        "lossy.webp": (rgb, "WEBP", {}),
        "lossless.webp": (rgba, "WEBP", {"lossless": True}),
        "rgb.jp2": (rgb, "JPEG2000", {}),
        "rgba.jp2": (rgba, "JPEG2000", {"irreversible": True}),
        "rgb.ppm": (rgb, "PPM", {}),
        "grey.pgm": (grey, "PPM", {}),
        **({"rgb.avif": (rgb, "AVIF", {})} if features.check("avif") else {}),
    }
    found: dict[str, bytes] = {}
    for name, (image, kind, options) in made.items():
        content = io.BytesIO()
        image.save(content, kind, **options)
        found[name] = content.getvalue()
    found["plain.ppm"] = b"P3\n2 2\n255\n" + b"1 2 3 4 5 6 7 8 9 10 11 12\n"
    return found


def _png_changed(rng: random.Random, content: bytes) -> bytes:
    """Chunks of a PNG changed, repeated, left out or moved, with right checksums."""
    import zlib

    chunks: list[tuple[bytes, bytes]] = []
    at = 8
    while at + 8 <= len(content):
        size = int.from_bytes(content[at : at + 4], "big")
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + size]))
        at += 12 + size
    at = rng.randrange(len(chunks))
    kind, body = chunks[at]
    change = rng.randrange(6)
    if change == 0:
        del chunks[at]
    elif change == 1:
        chunks.insert(at, rng.choice(chunks))
    elif change == 2:
        chunks[at] = kind, bytes_changed(rng, body)
    elif change == 3:
        words = (b"PLTE", b"tRNS", b"iCCP", b"eXIf", b"iTXt", b"zTXt", b"acTL", b"fcTL", b"fdAT")
        chunks.insert(at, (rng.choice(words), rng.randbytes(rng.choice((0, 3, 30)))))
    elif change == 4 and chunks[0][0] == b"IHDR":
        sides = [rng.choice((0, 1, 48, 5000, 2**31 - 1)) for _ in range(2)]
        rest = [rng.choice((1, 2, 4, 8, 16)), rng.choice((0, 2, 3, 4, 6)), 0, 0, rng.choice((0, 1))]
        chunks[0] = b"IHDR", struct.pack(">IIBBBBB", *sides, *rest)
    elif kind == b"IDAT":
        chunks[at] = kind, zlib.compress(bytes(rng.choice((0, 10, 10**6))))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def _wrapped(content: bytes) -> bytes:
    """What is no image at all around what was one."""
    return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n" + content


def image_folder(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(3):
        Image.new("RGB", (64, 48), (number * 70, 90, 30)).save(folder / f"{number}.png")
    return folder


def opened(data: Path) -> Callable[[], None]:
    """Opens the train split, looks at every record and image."""

    def case() -> None:
        from dabdetr.data.layouts import open_data
        from dabdetr.text import check_name

        found = open_data(data, "train")
        for name in found.names:
            assert check_name(name, "a class") == name
        for index in range(len(found)):
            record = found.record(index)
            assert np.isfinite(record.boxes).all()
            found.image(index)

    return case


_COCO: dict[str, Any] = {
    "info": {"year": 2020},
    "images": [
        {"id": n, "file_name": f"{n}.png", "width": 64, "height": 48, "license": 1}
        for n in range(3)
    ],
    "annotations": [
        {
            "id": n,
            "image_id": n % 3,
            "category_id": 1 + n % 2,
            "bbox": [5.0 + n, 6.0, 20.0, 10.0],
            "area": 200.0,
            "iscrowd": int(n == 4),
            "segmentation": [[5, 6, 25, 6, 25, 16]],
        }
        for n in range(5)
    ],
    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog", "supercategory": "animal"}],
}
_YOLO = "path: .\ntrain: images/train\nval: images/train\nnc: 2\nnames:\n  0: cat\n  1: dog\n"
_YOLO_TREE = {
    "path": ".",
    "train": "images/train",
    "val": ["images/train"],
    "nc": 2,
    "names": ["cat", "dog"],
}
_LABELS = "0 0.5 0.5 0.25 0.25\n1 0.25 0.5 0.1 0.2\n0 0.1 0.1 0.4 0.1 0.4 0.4\n"
_VOC = """<?xml version="1.0" encoding="utf-8"?><annotation><filename>{number}.png</filename>
<size><width>64</width><height>48</height><depth>3</depth></size><object><name>cat</name>
<difficult>0</difficult><bndbox><xmin>3</xmin><ymin>4</ymin><xmax>30</xmax><ymax>40</ymax></bndbox>
</object><object><name>dog</name><bndbox><xmin>10</xmin><ymin>4</ymin><xmax>60</xmax>
<ymax>44</ymax></bndbox></object></annotation>
"""
_LABELME: dict[str, Any] = {
    "version": "5.0",
    "flags": {},
    "shapes": [
        {"label": "cat", "points": [[3, 4], [30, 40]], "shape_type": "rectangle", "flags": {}},
        {"label": "dog", "points": [[3, 4], [30, 40], [9, 30]], "shape_type": "polygon"},
    ],
    "imagePath": "1.png",
    "imageData": None,
    "imageHeight": 48,
    "imageWidth": 64,
}
_VIA: dict[str, Any] = {
    f"{n}.png{99}": {
        "filename": f"{n}.png",
        "size": 99,
        "regions": [
            {
                "shape_attributes": {"name": "rect", "x": 3, "y": 4, "width": 20, "height": 20},
                "region_attributes": {"class": "cat"},
            }
        ],
        "file_attributes": {},
    }
    for n in range(3)
}
_RUN = (
    "data: scenes:count=3\nannotations: null\nimages: null\nval_annotations: null\n"
    "val_images: null\nval_every: 1\n"
)
_RUN_TREE = {"data": "scenes:count=3", "annotations": None, "images": None, "val_every": 1}
_TRANSFORMERS: dict[str, Any] = {
    "model_type": "dab-detr",
    "architectures": ["DabDetrForObjectDetection"],
    "backbone": "resnet18",
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "num_queries": 4,
    "temperature_height": 20,
    "id2label": {"0": "cat", "1": "dog"},
    "auto_map": {"AutoModel": "modeling.Evil"},
}


def _xml_changed(rng: random.Random, text: str) -> bytes:
    """One or two values of elements replaced, or an entity declared."""
    if rng.random() < 0.1:
        bomb = '<!DOCTYPE x [<!ENTITY a "lol"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">'
        bomb += "".join(
            f'<!ENTITY {n} "{f"&{m};" * 10}">' for m, n in itertools.pairwise("bcdefghij")
        )
        bomb += '<!ENTITY f SYSTEM "file:///etc/passwd">]>'
        used = rng.choice(("&j;", "&f;"))
        text = text.replace("?>", "?>" + bomb).replace("cat", used)
        return text.encode()
    for _ in range(rng.choice((1, 1, 2))):
        old = rng.choice(("64", "48", "cat", "dog", "3<", "30", "1.png", ">0<"))
        value = str(rng.choice(VALUES)).replace("<", "&lt;")
        text = text.replace(old, {"3<": f"{value}<", ">0<": f">{value}<"}.get(old, value))
    return text.encode("utf-8", "surrogatepass")


def tiny_config() -> Any:
    from dabdetr.presets import preset

    return preset("dab-detr-nano").override(
        [
            *("model.encoder.layers=1", "model.decoder.layers=1", "model.queries.count=4"),
            *("image.size=32", "image.max_size=48"),
        ]
    )


RECORD_WORDS = ("nan", "inf", "-1", "1e308", "1e400", "1e-320", "", "x", "\x00", '"', ",", "1_0")


def comparison() -> dict[str, str]:
    """The files of a finished comparison of two members with two seeds."""
    import yaml

    settings = {"data": "scenes", "members": ["a", "b"], "seeds": 2, "epochs": 2}
    files = {"compare.yaml": yaml.safe_dump(settings)}
    for name, seed in itertools.product("ab", range(2)):
        changes = {"name": name, "training.seed": seed, "training.epochs": 2}
        config = tiny_config().changed(changes.items()).model_dump(mode="json")
        files[f"configs/{name}.yaml"] = files[f"runs/{name}-{seed}/config.yaml"] = yaml.safe_dump(
            config, sort_keys=False
        )
        files[f"runs/{name}-{seed}/results.csv"] = (
            "epoch,seconds,AP,AP50,APS,cpu_seconds,memory_mib\n"
            "1,61.5,0.125,0.25,,30.5,500\n2,60.25,0.375,0.5,0.125,30.25,501\n"
        )
    return files


def _record_changed(rng: random.Random, text: str) -> bytes:
    """A record with some values, columns or rows changed."""
    rows = [line.split(",") for line in text.splitlines()]
    for _ in range(rng.choice((1, 1, 2, 5))):
        row = rng.choice(rows)
        kind = rng.randrange(5)
        at = rng.randrange(len(row))
        if kind <= 2:
            row[at] = rng.choice((*RECORD_WORDS, *map(str, VALUES)))
        elif kind == 3:
            rows[:] = [[each for place, each in enumerate(row) if place != at] for row in rows]
        else:
            rows.append(list(row))
    return "\n".join(",".join(row) for row in rows).encode("utf-8", "surrogatepass")


def _build(config: Any) -> None:
    from dabdetr.model.detector import build

    build(config, ("a", "b"))


def _leaves(tree: Any, path: str = "") -> Any:
    for key, value in tree.items():
        here = f"{path}.{key}" if path else key
        yield here
        if isinstance(value, dict):
            yield from _leaves(value, here)


def _weights(folder: Path) -> bytes:
    import torch

    from dabdetr.checkpoints.native import save_model
    from dabdetr.model.detector import build

    torch.manual_seed(0)
    save_model(folder / "x.safetensors", build(tiny_config(), ("a", "b")))
    return (folder / "x.safetensors").read_bytes()


def safetensors(header: Any, body: bytes) -> bytes:
    text = attempt(lambda: json.dumps(header).encode("utf-8", "surrogatepass"), b"{}")
    return len(text).to_bytes(8, "little") + text + body


def _checkpoint_state(kind: str) -> dict[str, Any]:
    """Keys as other implementations name them, with small tensors."""
    import torch

    names = {
        "official": (
            *("transformer.encoder.layers.0.self_attn.in_proj_weight", "query_embed.weight"),
            *("transformer.decoder.layers.0.linear1.weight", "class_embed.weight", "bbox_embed.0"),
            *("refpoint_embed.weight", "backbone.0.body.conv1.weight", "input_proj.weight"),
            *("transformer.decoder.layers.0.sa_qcontent_proj.weight", "transformer.level_embed"),
        ),
        "detrex": (
            *(
                "transformer.encoder.layers.0.attentions.0.attn.in_proj_weight",
                "anchor_box_embed.weight",
            ),
            *(
                "transformer.decoder.layers.0.ffns.0.layers.0.0.weight",
                "backbone.stem.conv1.weight",
            ),
        ),
        "mmdetection": (
            *("query_head.transformer.encoder.layers.0.attentions.0.sampling_offsets.weight",),
            *(
                "query_head.cls_branches.0.weight",
                "backbone.conv1.weight",
                "neck.convs.0.conv.weight",
            ),
        ),
    }[kind]
    return {name: torch.zeros(8, 8) for name in names}


def _saved(value: Any) -> bytes:
    import torch

    content = io.BytesIO()
    torch.save(value, content)
    return content.getvalue()


def _checkpoints() -> dict[str, bytes]:
    kinds = ("official", "detrex", "mmdetection")
    return {kind: _saved({"model": _checkpoint_state(kind)}) for kind in kinds}


def _checkpoint_changed(rng: random.Random, kind: str) -> bytes:
    """A checkpoint with other shapes, keys, or things beside the state."""
    import argparse

    import torch

    state = _checkpoint_state(kind)
    for _ in range(rng.choice((1, 2, 5))):
        key = rng.choice(list(state))
        change = rng.randrange(5)
        if change == 0:
            del state[key]
        elif change == 1:
            shape = [rng.choice((0, 1, 2, 3, 91, 256)) for _ in range(rng.randrange(5))]
            state[key] = torch.zeros(
                shape, dtype=rng.choice((torch.float32, torch.int64, torch.bool))
            )
        elif change == 2:
            state[key + rng.choice(("", ".x", ".0", "\x1b", ".99999999"))] = state[key]
        elif change == 3:
            state[key] = rng.choice(VALUES)
        else:
            state[str(rng.choice(TEXTS))] = torch.zeros(2)
        if not state:
            break
    args = argparse.Namespace(
        **{key: rng.choice(VALUES) for key in ("nheads", "enc_layers", "dilation")}
    )
    beside = rng.choice(
        ({}, {"args": args}, {"args": 3}, {"meta": rng.choice(VALUES)}, {"epoch": 1})
    )
    place = rng.choice(("model", "state_dict", "", "other"))
    return _saved({place: state, **beside} if place else state)


def _transformers_state() -> bytes:
    import torch
    from safetensors.torch import save

    names = ("query_refpoint_embeddings.weight", "encoder.layers.0.self_attn.k_proj.weight")
    return save({f"model.{name}": torch.zeros(8, 8) for name in names})


def _metadata_changed(rng: random.Random, strings: dict[str, str]) -> Any:
    """Strings changed as they are, or by what they hold."""
    changed: dict[str, Any] = dict(strings)
    if rng.random() < 0.3:
        return tree_changed(rng, changed)
    for _ in range(rng.choice((1, 1, 2))):
        key = rng.choice(list(changed))
        try:
            held = json.loads(changed[key])
        except (ValueError, RecursionError):
            changed[key] = str(rng.choice(TEXTS))
            continue
        kind = rng.random()
        if kind < 0.1:
            changed[key] = "[" * rng.choice((3, 3000, 100_000))
        elif kind < 0.3:
            changed[key] = json.dumps(rng.choice(VALUES))
        elif isinstance(held, dict | list):
            changed[key] = attempt(
                lambda h=held: json.dumps(tree_changed(rng, h)).encode(), b"{}"
            ).decode()
        else:
            changed[key] = str(rng.choice(TEXTS))
    return changed


def tiny_onnx(strings: dict[str, str]) -> bytes:
    """A graph that gives three classes and four boxes whatever it is given."""
    from onnx import TensorProto, helper, numpy_helper

    logits = numpy_helper.from_array(np.zeros((1, 4, 3), np.float32), "zeros")
    boxes = numpy_helper.from_array(np.full((1, 4, 4), 0.5, np.float32), "halves")
    nodes = [
        helper.make_node("ReduceMean", ["pixels"], ["grey"], keepdims=0),
        helper.make_node("Cast", ["padding"], ["edge"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["edge"], ["empty"], keepdims=0),
        helper.make_node("Add", ["grey", "empty"], ["both"]),
        helper.make_node("Add", ["zeros", "both"], ["logits"]),
        helper.make_node("Mul", ["halves", "both"], ["small"]),
        helper.make_node("Sigmoid", ["small"], ["boxes"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [
            helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [None, 3, None, None]),
            helper.make_tensor_value_info("padding", TensorProto.BOOL, [None, None, None]),
        ],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 4, 3]),
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [1, 4, 4]),
        ],
        [logits, boxes],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    for key, value in strings.items():
        model.metadata_props.add(key=key, value=value)
    return model.SerializeToString()


def tiny_openvino() -> tuple[str, bytes]:
    """The same as OpenVINO's xml, with CARD where the metadata are, and its weights."""
    import tempfile

    from dabdetr.inference.openvino import import_unreported

    openvino = import_unreported("openvino")
    model = openvino.convert_model(io.BytesIO(tiny_onnx({})))
    model.set_rt_info("CARD", ["dabdetr", "card"])
    with tempfile.TemporaryDirectory() as folder:
        openvino.save_model(model, Path(folder) / "model.xml", compress_to_fp16=False)
        text = (Path(folder) / "model.xml").read_text()
        return text, (Path(folder) / "model.bin").read_bytes()


def _escaped(text: str) -> str:
    from xml.sax.saxutils import escape

    return escape("".join(c for c in text if c.isprintable()), {'"': "&quot;"})


def tiny_program(strings: dict[str, str]) -> dict[str, bytes]:
    """A small program of torch with a card, as the entries of its archive."""
    import torch
    from torch import Tensor, nn

    class Tiny(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3)

        def forward(self, pixels: Tensor, padding: Tensor) -> tuple[Tensor, Tensor]:
            maps = self.conv(pixels).flatten(2).transpose(1, 2)
            logits = maps.topk(4, 1)[0] + padding.sum()
            return logits, torch.cat((logits, logits[..., :1]), -1).sigmoid()

    free = torch.export.Dim.DYNAMIC
    pixels, padding = torch.zeros(2, 3, 20, 30), torch.zeros(2, 20, 30, dtype=torch.bool)
    sides = {"pixels": {0: free, 2: free, 3: free}, "padding": {0: free, 1: free, 2: free}}
    program = torch.export.export(Tiny().eval(), (pixels, padding), dynamic_shapes=sides)
    content = io.BytesIO()
    card = {"card.json": json.dumps(strings)}
    torch.export.save(program, content, extra_files=card)
    with zipfile.ZipFile(content) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _packed(content: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, each in content.items():
            archive.writestr(name, each)
    return packed.getvalue()
