"""Hugging Face's data sets in parquet (``push_to_hub``) or Arrow files (``save_to_disk``).

The images of a split are unpacked once into the cache, with a metadata.jsonl of the other columns,
which is read like that of a folder of images.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dabdetr.data.archive import MOST_BYTES, MOST_RATIO, check_room, unpacked_once
from dabdetr.data.box_formats import Asked
from dabdetr.data.entries import image_folders, table_of
from dabdetr.data.findings import Findings
from dabdetr.data.images import IMAGE_SUFFIXES, opened_image
from dabdetr.data.json_forms import BOX_KEYS, hugging_face
from dabdetr.data.locate import child, folders_in, is_image, paths_of
from dabdetr.data.records import Open, RecordTable
from dabdetr.data.split_names import names_split
from dabdetr.data.textfiles import head_of
from dabdetr.files import plain_name, refuse_pointer
from dabdetr.text import printable, reason, shown

ENDINGS = (".parquet", ".arrow")
SHARD = re.compile(r"(^|[-_.])\d+(-of-\d+)?(-[0-9a-f]+)?$")
"""The end of a shard's name: train-00000-of-00001-3f9a."""
UNNAMED = ("", "data", "dataset", "metadata")
"""Names of files that name no split."""
ROWS = 32
"""Rows in memory at a time."""


def find_parquet(root: Path) -> dict[str, Open]:
    """Splits by the names of the files in ``root`` and ``data``, or of folders in these."""
    base = root.parent if root.is_file() else root
    groups: dict[str, list[Path]] = {}
    places = [] if root.is_file() else [root, child(root, "data")]
    for place in places:
        for folder in (place, *(each for each in folders_in(place) if names_split(each.name))):
            for file in paths_of(folder, *ENDINGS):
                split = folder.name if folder != place else _split_of(file)
                groups.setdefault(split, []).append(file)
    if root.is_file() and root.suffix.lower() in ENDINGS:
        groups[_split_of(root)] = [root]
    return {name: partial(_open, base, files, name) for name, files in groups.items()}


def _split_of(file: Path) -> str:
    name = SHARD.sub("", file.stem)
    return "default" if name.casefold() in UNNAMED else name


def _open(
    root: Path, files: list[Path], name: str, split: str, box_format: Asked | None = None
) -> RecordTable:
    findings = Findings()
    folder = unpacked_once("parquet", files, name, partial(_unpack, files, root))
    findings.add("images-packed", [f"{file}: {folder}" for file in files])
    entries = hugging_face(folder / "metadata.jsonl", findings)
    folders = [folder, files[0].parent, *image_folders(files[0], root, name)]
    return table_of(entries, folders, root, split, "xywh", box_format, findings)


def _unpack(files: Sequence[Path], root: Path, folder: Path) -> None:
    """Write the images of all rows, metadata.jsonl, and the features (class names) of the files."""
    packed = sum(file.stat().st_size for file in files)
    check_room(folder, files[0], packed)
    most = min(MOST_BYTES, MOST_RATIO * max(packed, 1 << 20))
    written = number = 0
    with (folder / "metadata.jsonl").open("w", encoding="utf-8") as lines:
        for file in files:
            for row in _rows(file, folder):
                number += 1
                path = next((path for each in row.values() if (path := _path(each))), "")
                column = next((key for key, each in row.items() if _content(each)), None)
                if column is not None:
                    content = _content(row.pop(column))
                    path = _image_name(path, content, number, folder)
                    written += (folder / path).write_bytes(content)
                row |= {"file_name": path} if path else {}
                written += lines.write(json.dumps(row, default=lambda _: None) + "\n")
                if written > most:
                    raise ValueError(
                        f"{file} unpacks to more than {most >> 20:,} MiB, which is more than a "
                        "data set of its size needs; export it as COCO if you trust it"
                    )
    card = root / "README.md"
    if not (folder / "dataset_info.json").exists() and card.is_file():
        (folder / "README.md").write_bytes(card.read_bytes())


def _rows(file: Path, folder: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file, with only the first or only the so called column of images."""
    refuse_pointer(head_of(file)[:64], file)
    try:
        import pyarrow  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ValueError(
            f"{file} is a parquet or Arrow file, which needs a package: pip install pyarrow"
        ) from None
    try:
        schema, batches = _opened(file)
        text = schema.to_string(show_schema_metadata=False)
        if not re.search(rf"\b({'|'.join(BOX_KEYS)})\b", text):  # in any column, however deep
            raise ValueError(
                f"{file} has no boxes, only the columns {shown(schema.names)}; expected are image, "
                "and objects with bbox and category"
            )
        features = (schema.metadata or {}).get(b"huggingface")
        if features:
            (folder / "dataset_info.json").write_bytes(features)
        for batch in batches:
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(
            f"{file} is not a readable {file.suffix[1:]} file ({reason(error)}); is it cut short?"
        ) from None


def _opened(file: Path) -> tuple[Any, Iterator[Any]]:
    """Schema and batches of a file, without columns of masks and other images."""
    import pyarrow  # pyright: ignore[reportMissingImports]
    from pyarrow import ipc, parquet  # pyright: ignore[reportMissingImports]

    if file.suffix.lower() == ".parquet":
        table = parquet.ParquetFile(file)
        schema = table.schema_arrow
        return schema, table.iter_batches(ROWS, columns=_columns(schema))
    source = pyarrow.memory_map(str(file))
    if source.read(6) == b"ARROW1":
        reader = ipc.open_file(source)
        batches = map(reader.get_batch, range(reader.num_record_batches))
    else:
        source.seek(0)
        reader = batches = ipc.open_stream(source)
    columns = _columns(reader.schema)
    parts = (
        batch.slice(start, ROWS).select(columns)
        for batch in batches
        for start in range(0, batch.num_rows, ROWS)
    )
    return reader.schema, parts


def _columns(schema: Any) -> list[str]:
    """The columns to read: those without bytes, and of those with bytes that of the images."""
    of_bytes = ("binary", "large_binary", "binary_view")
    packed = [
        field.name
        for field in schema
        if str(field.type) in of_bytes
        or "bytes" in [field.type.field(n).name for n in range(field.type.num_fields)]
    ]
    image = [name for name in packed if name.casefold() in ("image", "img")] or packed
    return [name for name in schema.names if name not in packed or name == image[0]]


def _content(cell: Any) -> bytes:
    """The bytes of an image cell: bytes, or a mapping with bytes; empty for another cell."""
    given = cell.get("bytes") if isinstance(cell, dict) else cell
    return given if isinstance(given, bytes) else b""


def _path(cell: Any) -> str:
    """The path in a cell, of an image or of nothing else."""
    path = cell.get("path") if isinstance(cell, dict) and "bytes" in cell else cell
    return path if isinstance(path, str) and is_image(path) else ""


def _image_name(path: str, content: bytes, number: int, folder: Path) -> str:
    """A new file name in ``folder`` for the image of row ``number``: that of ``path`` if free."""
    name = plain_name(printable(path.replace("\\", "/").rpartition("/")[2])).lstrip(".")
    stem, ending = os.path.splitext(name)
    if ending.lower() in IMAGE_SUFFIXES and not (folder / name).exists():
        return name
    try:
        with opened_image(content) as (image, _):
            ending = f".{(image.format or '').lower()}"
    except ValueError:  # counted when the image is read
        ending = ""
    return f"{stem or 'row'}-{number}{ending if ending in IMAGE_SUFFIXES else '.png'}"
