"""The data that `dab-lite-base` learns from: many sets, each labelled for its own classes only.

    python experiments/base.py OUT --data ../shared/data/base --data ../shared/data/coco128 \
        --without kuih microcontrollers oilpalm --share 20

OUT becomes a folder in COCO's layout whose classes are the union of the sets' names. Every image
lists the other classes of its set as ``neg_category_ids``, as LVIS does: the loss of a class covers
only images of the sets that label it. A set gives at most SHARE · √(its images) images, chosen
with those of rare classes first, so that no set outweighs the others. Images whose shorter side is
above ``--shorter`` pixels are made so small. The same arguments give the same files.

With ``--complete`` every image counts as labelled for all classes: the sets of `fruit`, whose
orchards hold one kind each.

    python experiments/base.py OUT --data apples --data pears … --complete --share 100 --val 100
"""

from __future__ import annotations

import argparse
import io
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Tree = dict[str, Any]


def sets(folders: list[Path], without: list[str]) -> list[Path]:
    """The data sets that lie in ``folders``, or are one of them."""
    found = []
    for folder in folders:
        inside = [folder] if (folder / "annotations").is_dir() else sorted(folder.iterdir())
        found += [each for each in inside if (each / "annotations").is_dir()]
    return [each for each in found if each.name not in without]


def read(folder: Path, split: str) -> Tree:
    return json.loads((folder / "annotations" / f"instances_{split}.json").read_text())


def chosen(tree: Tree, most: int, rng: np.random.Generator) -> list[int]:
    """Ids of at most ``most`` images: in random order, those with rare classes first."""
    classes: dict[int, set[int]] = {image["id"]: set() for image in tree["images"]}
    for annotation in tree["annotations"]:
        classes[annotation["image_id"]].add(annotation["category_id"])
    images = Counter(category for held in classes.values() for category in held)
    ids = rng.permutation([image["id"] for image in tree["images"]]).tolist()
    if len(ids) <= most:
        return ids
    rarest = {id_: min((images[c] for c in classes[id_]), default=math.inf) for id_ in ids}
    first = sorted(ids, key=lambda id_: rarest[id_])[: most // 2]
    rest = [id_ for id_ in ids if id_ not in set(first)]
    return first + rest[: most - len(first)]


def shrunk(content: bytes, shorter: int) -> tuple[bytes, int, int]:
    """The file, its width and its height, with a shorter side of at most ``shorter`` pixels."""
    with Image.open(io.BytesIO(content)) as image:
        width, height = image.size
        factor = shorter / min(width, height)
        if factor >= 1:
            return content, width, height
        width, height = round(width * factor), round(height * factor)
        small = image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, "jpeg", quality=90)
    return file.getvalue(), width, height


class Union:
    """One split of all sets together, their images copied."""

    def __init__(
        self, out: Path, split: str, names: dict[str, int], shorter: int, complete: bool
    ) -> None:
        self.out, self.split, self.names = out, split, names
        self.shorter, self.complete = shorter, complete
        self.images: list[Tree] = []
        self.annotations: list[Tree] = []
        (out / split).mkdir(parents=True, exist_ok=True)
        (out / "annotations").mkdir(exist_ok=True)

    def add(self, folder: Path, tree: Tree, ids: list[int]) -> None:
        """Images ``ids`` of the set that lies in ``folder``, copied under the set's name."""
        own = {row["id"]: self.names[row["name"].casefold()] for row in tree["categories"]}
        of_image: dict[int, list[Tree]] = {id_: [] for id_ in ids}
        for annotation in tree["annotations"]:
            if annotation["image_id"] in of_image:
                of_image[annotation["image_id"]].append(annotation)
        for row in tree["images"]:
            if row["id"] not in of_image:
                continue
            name = f"{folder.name}_{Path(row['file_name']).name}"
            content = (folder / self.split / row["file_name"]).read_bytes()
            content, width, height = shrunk(content, self.shorter)
            (self.out / self.split / name).write_bytes(content)
            image = {"id": len(self.images) + 1, "file_name": name}
            image |= {"width": width, "height": height}
            factor = width / row["width"], height / row["height"]
            if not self.complete:
                image["neg_category_ids"] = sorted(set(own.values()))
            self.images.append(image)
            for each in of_image[row["id"]]:
                bbox = [value * factor[i % 2] for i, value in enumerate(each["bbox"])]
                box = {"bbox": bbox, "area": bbox[2] * bbox[3], "iscrowd": each["iscrowd"]}
                number = {"id": len(self.annotations) + 1, "image_id": image["id"]}
                self.annotations.append(number | box | {"category_id": own[each["category_id"]]})

    def close(self) -> None:
        categories = [{"id": id_, "name": name} for name, id_ in self.names.items()]
        tree = {"images": self.images, "annotations": self.annotations, "categories": categories}
        path = self.out / "annotations" / f"instances_{self.split}.json"
        path.write_text(json.dumps(tree))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, action="append", required=True, help="sets, or one")
    parser.add_argument("--without", nargs="*", default=[], help="names of sets left out")
    parser.add_argument("--share", type=float, default=20.0, help="images of a set, of √images")
    parser.add_argument("--val", type=int, default=12, help="validation images of each set")
    parser.add_argument("--shorter", type=int, default=352, help="pixels of a shorter side at most")
    parser.add_argument("--complete", action="store_true", help="sets are labelled for all classes")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng = np.random.default_rng(given.seed)
    folders = sets(given.data, given.without)
    names: dict[str, int] = {}
    for folder in folders:
        for row in read(folder, "train")["categories"]:
            names.setdefault(row["name"].casefold(), len(names) + 1)
    for split in ("train", "val"):
        union = Union(given.out, split, names, given.shorter, given.complete)
        for folder in folders:
            tree = read(folder, split)
            most = given.val
            if split == "train":
                most = round(given.share * math.sqrt(len(tree["images"])))
            union.add(folder, tree, chosen(tree, most, rng))
        union.close()
        print(f"{split}: {len(union.images)} images, {len(union.annotations)} boxes")
    print(f"{len(folders)} sets, {len(names)} classes")


if __name__ == "__main__":
    main()
