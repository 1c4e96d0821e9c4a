"""The data of the base before `experiments/base.py`: objects of every kind, all of one class.

    python experiments/mixture.py OUT --data ../shared/data --without bccd raccoon --generated 4000

OUT becomes a folder in COCO's layout with the single class `object`: the train splits of the data
sets below DATA but those left out, and generated pictures: cut-out objects (the polygons of
annotated pictures, ellipses within other boxes, random outlines filled with texture) on natural
textures (backgrounds free of objects, and pictures whose Fourier phases are drawn anew). What an
object hides of another shrinks that one's box; one that is nearly hidden is none. `val` is as many
pictures of each set's val split as `--val` says. The same arguments give the same files.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIDE = (320, 448)
"""Least and largest sides of generated pictures."""


class Source:
    """The pictures and boxes of one split, read as they are asked for."""

    def __init__(self, root: Path, split: str) -> None:
        tree = json.loads((root / "annotations" / f"instances_{split}.json").read_text())
        self.name, self.folder, self.images = root.name, root / split, tree["images"]
        self.objects: dict[int, list[dict]] = {image["id"]: [] for image in self.images}
        for annotation in tree["annotations"]:
            self.objects[annotation["image_id"]].append(annotation)

    def picture(self, image: dict) -> Image.Image:
        return Image.open(self.folder / image["file_name"]).convert("RGB")


def texture(sources: list[Source], size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """A background without objects: a free part of a picture, or one with new phases."""
    source = sources[rng.integers(len(sources))]
    image = source.images[rng.integers(len(source.images))]
    picture = source.picture(image)
    free = _free_part(picture.size, source.objects[image["id"]], rng)
    if free is not None and rng.random() < 0.6:
        return picture.crop(free).resize(size, Image.Resampling.BICUBIC)
    pixels = np.asarray(picture.resize(size, Image.Resampling.BICUBIC), dtype=np.float32)
    phases = np.exp(1j * np.angle(np.fft.rfft2(rng.random(pixels.shape[:2]))))
    spectrum = np.fft.rfft2(pixels - pixels.mean((0, 1)), axes=(0, 1)) * phases[..., None]
    noise = np.fft.irfft2(spectrum, s=pixels.shape[:2], axes=(0, 1)) + pixels.mean((0, 1))
    return Image.fromarray(noise.clip(0, 255).astype(np.uint8))


def _free_part(
    size: tuple[int, int], objects: list[dict], rng: np.random.Generator
) -> tuple[int, int, int, int] | None:
    """A rectangle (x0, y0, x1, y1) of at least a third of the picture's sides, clear of boxes."""
    for _ in range(20):
        width, height = (int(side * rng.uniform(0.34, 0.8)) for side in size)
        x, y = (
            int(rng.integers(s - part + 1)) for s, part in zip(size, (width, height), strict=True)
        )
        boxes = (annotation["bbox"] for annotation in objects)
        if not any(
            bx < x + width and x < bx + bw and by < y + height and y < by + bh
            for bx, by, bw, bh in boxes
        ):
            return x, y, x + width, y + height
    return None


def cut_out(sources: list[Source], rng: np.random.Generator) -> tuple[Image.Image, Image.Image]:
    """Pixels and mask of one object."""
    if rng.random() < 0.4:
        return _made_up(sources, rng)
    source = sources[rng.integers(len(sources))]
    for _ in range(50):
        image = source.images[rng.integers(len(source.images))]
        usable = [
            o for o in source.objects[image["id"]] if min(o["bbox"][2:]) >= 12 and not o["iscrowd"]
        ]
        if usable:
            found = usable[rng.integers(len(usable))]
            return _cut(source.picture(image), found)
    return _made_up(sources, rng)


def _cut(picture: Image.Image, annotation: dict) -> tuple[Image.Image, Image.Image]:
    x, y, width, height = annotation["bbox"]
    mask = Image.new("L", picture.size)
    draw = ImageDraw.Draw(mask)
    outlines = annotation.get("segmentation") or []
    for outline in outlines:
        draw.polygon(
            [(px, py) for px, py in zip(outline[::2], outline[1::2], strict=True)], fill=255
        )
    if not outlines:
        draw.ellipse((x, y, x + width, y + height), fill=255)
    box = (int(x), int(y), int(np.ceil(x + width)), int(np.ceil(y + height)))
    return picture.crop(box), mask.crop(box)


def _made_up(sources: list[Source], rng: np.random.Generator) -> tuple[Image.Image, Image.Image]:
    """A random outline (ellipse, polygon, blob; some with a hole) filled with texture or colour."""
    size = (160, 160)
    fill = texture(sources, size, rng)
    if rng.random() < 0.5:
        flat = Image.new("RGB", size, tuple(int(c) for c in rng.integers(0, 256, 3)))
        fill = Image.blend(fill, flat, float(rng.uniform(0.5, 1)))
    kind, angles = rng.integers(3), np.linspace(0, 2 * np.pi, 72, endpoint=False)
    radius = np.ones_like(angles)
    if kind == 1:
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 8)))
        radius = np.ones_like(angles)
    elif kind == 2:
        for wave in range(2, 6):
            radius += rng.normal(0, 0.35 / wave) * np.cos(wave * angles + rng.uniform(0, 6.28))
    radius = np.abs(radius) / np.abs(radius).max() * 78
    points = np.stack((80 + radius * np.cos(angles), 80 + radius * np.sin(angles)), -1)
    mask = Image.new("L", size)
    draw = ImageDraw.Draw(mask)
    draw.polygon([tuple(p) for p in points.tolist()], fill=255)
    if rng.random() < 0.15:
        draw.ellipse((55, 55, 105, 105), fill=0)
    return fill, mask


def compose(
    sources: list[Source], rng: np.random.Generator
) -> tuple[Image.Image, list[tuple[int, int, int, int]]]:
    """One generated picture and the boxes (x0, y0, x1, y1) of what is visible of its objects."""
    width, height = (int(s) for s in rng.integers(SIDE[0], SIDE[1] + 1, 2))
    picture = texture(sources, (width, height), rng)
    owners = np.zeros((height, width), dtype=np.int32)
    whole: list[int] = []
    many = rng.random() < 0.3
    count = int(rng.integers(8, 25)) if many else int(rng.integers(1, 8))
    longest = 0.25 if many else 0.8
    alike = cut_out(sources, rng) if rng.random() < 0.25 else None
    for number in range(1, count + 1):
        pixels, mask = alike or cut_out(sources, rng)
        side = np.exp(rng.uniform(np.log(14), np.log(longest * min(width, height))))
        pixels, mask = _turn(pixels, mask, side, rng)
        x = int(rng.integers(-pixels.width // 4, width - pixels.width * 3 // 4))
        y = int(rng.integers(-pixels.height // 4, height - pixels.height * 3 // 4))
        soft = mask.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1.2))))
        picture.paste(pixels, (x, y), soft)
        layer = Image.new("L", (width, height))
        layer.paste(mask, (x, y))
        covered = np.asarray(layer) > 127
        whole.append(int((np.asarray(mask) > 127).sum()))
        owners[covered] = number
    if rng.random() < 0.3:
        picture = picture.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1))))
    boxes = []
    for number, area in enumerate(whole, 1):
        rows, columns = np.nonzero(owners == number)
        if len(rows) > 0.3 * area and len(rows) > 40:
            boxes.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
    return picture, boxes


def _turn(
    pixels: Image.Image, mask: Image.Image, side: float, rng: np.random.Generator
) -> tuple[Image.Image, Image.Image]:
    """The object stretched, turned, mirrored and scaled to ``side``, its colours shifted."""
    stretch = np.exp(rng.uniform(-0.5, 0.5))
    scale = side / max(pixels.size)
    width, height = pixels.size
    size = (max(8, round(width * scale * stretch)), max(8, round(height * scale / stretch)))
    angle = float(rng.uniform(-180, 180))
    mirror = rng.random() < 0.5
    both = []
    for image in (pixels, mask):
        image = image.resize(size, Image.Resampling.BILINEAR)
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirror else image
        both.append(image.rotate(angle, Image.Resampling.BILINEAR, expand=True))
    gain, shift = rng.uniform(0.6, 1.4, 3), rng.uniform(-30, 30)
    coloured = (np.asarray(both[0], dtype=np.float32) * gain + shift).clip(0, 255)
    return Image.fromarray(coloured.astype(np.uint8)), both[1]


class Writer:
    """Collects one split of the mixture."""

    def __init__(self, out: Path, split: str) -> None:
        self.out, self.split = out, split
        self.images: list[dict] = []
        self.annotations: list[dict] = []
        (out / split).mkdir(parents=True, exist_ok=True)

    def add(self, name: str, size: tuple[int, int], boxes: list, crowd: list[int]) -> Path:
        """Notes a picture; returns where its file goes."""
        number = len(self.images) + 1
        self.images.append({"id": number, "file_name": name, "width": size[0], "height": size[1]})
        for (x, y, w, h), is_crowd in zip(boxes, crowd, strict=True):
            box = [round(float(v), 2) for v in (x, y, w, h)]
            self.annotations.append(
                {
                    "id": len(self.annotations) + 1,
                    "image_id": number,
                    "category_id": 1,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": is_crowd,
                }
            )
        return self.out / self.split / name

    def close(self) -> None:
        tree = {
            "images": self.images,
            "annotations": self.annotations,
            "categories": [{"id": 1, "name": "object"}],
        }
        (self.out / "annotations").mkdir(exist_ok=True)
        path = self.out / "annotations" / f"instances_{self.split}.json"
        path.write_text(json.dumps(tree))


def copy(source: Source, images: list[dict], writer: Writer) -> None:
    """Real pictures, byte for byte, their classes forgotten."""
    for image in images:
        objects = source.objects[image["id"]]
        name = f"{source.name}_{Path(image['file_name']).name}"
        boxes, crowd = [o["bbox"] for o in objects], [o["iscrowd"] for o in objects]
        path = writer.add(name, (image["width"], image["height"]), boxes, crowd)
        path.write_bytes((source.folder / image["file_name"]).read_bytes())


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder of data sets")
    parser.add_argument("--without", nargs="*", default=[], help="data sets left out")
    parser.add_argument("--generated", type=int, default=4000)
    parser.add_argument("--most", type=int, default=1500, help="pictures of one set, at most")
    parser.add_argument("--val", type=int, default=60, help="validation pictures of each set")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    folders = [f for f in sorted(given.data.iterdir()) if (f / "annotations").is_dir()]
    folders = [f for f in folders if f.name not in given.without]
    sources = [Source(folder, "train") for folder in folders]
    rng = np.random.default_rng(given.seed)
    train, val = Writer(given.out, "train"), Writer(given.out, "val")
    for source, folder in zip(sources, folders, strict=True):
        chosen = rng.permutation(len(source.images))[: given.most]
        copy(source, [source.images[i] for i in chosen], train)
        held = Source(folder, "val")
        copy(held, held.images[:: max(1, len(held.images) // given.val)][: given.val], val)
    for number in range(given.generated):
        picture, boxes = compose(sources, np.random.default_rng([given.seed, number]))
        corners = [(x0, y0, x1 - x0, y1 - y0) for x0, y0, x1, y1 in boxes]
        path = train.add(f"made_{number:05}.jpg", picture.size, corners, [0] * len(corners))
        picture.save(path, quality=88)
    train.close()
    val.close()
    print(f"{given.out}: {len(train.images)} pictures, {len(train.annotations)} boxes to train on")


if __name__ == "__main__":
    main()
