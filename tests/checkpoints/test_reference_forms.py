"""Options of the references that are rarely switched on, against their formulas written out here.

The weights are random and have the authors' names; what is computed from them is plain torch,
one formula after another, and shares nothing with the package but the backbone's map.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dabdetr.checkpoints.key_names import State
from dabdetr.checkpoints.official import from_official
from dabdetr.model.detector import Detector, build
from dabdetr.structures import Images

WIDTH, HEADS, INNER, CLASSES, QUERIES = 64, 4, 48, 5, 7
ENCODER, DECODER, PATTERNS = 2, 3, 3
COMMON = {"backbone": "resnet18", "nheads": HEADS, "dropout": 0.0, "dataset_file": "other"}


def draw(shapes: Iterable[tuple[str, tuple[int, ...]]], seed: int = 0) -> State:
    """Random tensors: matrices that keep the spread of what they multiply, norms about 1."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes:
        values = torch.randn(shape, generator=generator)
        if "norm" in name and name.endswith("weight"):
            state[name] = 1 + 0.2 * values
        elif len(shape) > 1 and "embed.weight" not in name and "patterns" not in name:
            strength = 3.0 if "in_proj" in name or "content" in name else 1.0
            state[name] = strength * values / math.sqrt(values[0].numel())
        elif len(shape) > 1:
            state[name] = values
        else:
            state[name] = 0.1 * values
    return state


def linear(name: str, rows: int, columns: int) -> list[tuple[str, tuple[int, ...]]]:
    return [(f"{name}.weight", (rows, columns)), (f"{name}.bias", (rows,))]


def mlp(name: str, *widths: int) -> list[tuple[str, tuple[int, ...]]]:
    pairs = enumerate(itertools.pairwise(widths))
    return [part for i, (a, b) in pairs for part in linear(f"{name}.layers.{i}", b, a)]


def norm(name: str, width: int = WIDTH) -> list[tuple[str, tuple[int, ...]]]:
    return [(f"{name}.weight", (width,)), (f"{name}.bias", (width,))]


def packed(name: str, width: int = WIDTH) -> list[tuple[str, tuple[int, ...]]]:
    """torch's own attention."""
    return [
        (f"{name}.in_proj_weight", (3 * width, width)),
        (f"{name}.in_proj_bias", (3 * width,)),
        *linear(f"{name}.out_proj", width, width),
    ]


def feedforward(name: str, width: int = WIDTH) -> list[tuple[str, tuple[int, ...]]]:
    return [*linear(f"{name}.linear1", INNER, width), *linear(f"{name}.linear2", width, INNER)]


class Reference:
    """The operations, reading their weights by the authors' names."""

    def __init__(self, state: State) -> None:
        self.state = state

    def lin(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def norm(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        return F.layer_norm(x, (x.shape[-1],), weight, bias)

    def mlp(self, name: str, x: Tensor, layers: int) -> Tensor:
        for index in range(layers):
            x = self.lin(f"{name}.layers.{index}", x)
            x = x.relu() if index + 1 < layers else x
        return x

    def attention(self, name: str, q: Tensor, k: Tensor, v: Tensor, hidden: Any = None) -> Tensor:
        """torch's multi-head attention of [batch, n, width]; ``hidden`` keys [batch, n]."""
        s = self.state
        out, _ = F.multi_head_attention_forward(
            *(x.transpose(0, 1) for x in (q, k, v)),
            q.shape[-1],
            HEADS,
            s[f"{name}.in_proj_weight"],
            s[f"{name}.in_proj_bias"],
            None,
            None,
            False,
            0.0,
            s[f"{name}.out_proj.weight"],
            s[f"{name}.out_proj.bias"],
            training=False,
            key_padding_mask=hidden,
            need_weights=False,
        )
        return out.transpose(0, 1)

    def ffn(self, name: str, x: Tensor) -> Tensor:
        inner = self.lin(f"{name}.linear1", x)
        slope = self.state.get(f"{name}.activation.weight")
        inner = inner.relu() if slope is None else F.prelu(inner, slope)
        return self.lin(f"{name}.linear2", inner)


def sine(value: Tensor, features: int, temperature: float) -> Tensor:
    """One number after another, as slowly as the formula reads."""
    columns = []
    for k in range(features):
        angle = value / temperature ** (2 * (k // 2) / features)
        columns.append(angle.sin() if k % 2 == 0 else angle.cos())
    return torch.stack(columns, dim=-1)


def map_code(hidden: Tensor, width: int, t_height: float, t_width: float, offset: float) -> Tensor:
    """[batch, h · w, width]: y features, then x features."""
    shown = (~hidden).float()
    y, x = shown.cumsum(1), shown.cumsum(2)
    y = 2 * math.pi * (y + offset) / (y[:, -1:] + 1e-6)
    x = 2 * math.pi * (x + offset) / (x[:, :, -1:] + 1e-6)
    half = width // 2
    return torch.cat((sine(y, half, t_height), sine(x, half, t_width)), dim=-1).flatten(1, 2)


def anchor_code(anchors: Tensor, width: int) -> Tensor:
    x, y, w, h = (2 * math.pi * anchors).unbind(-1)
    return torch.cat([sine(v, width // 2, 10000.0) for v in (y, x, w, h)], dim=-1)


def inverse_sigmoid(x: Tensor, eps: float) -> Tensor:
    x = x.clamp(0, 1)
    return (x.clamp(min=eps) / (1 - x).clamp(min=eps)).log()


def images() -> Images:
    """Two images, one of them padded."""
    coarse = torch.randn(2, 3, 6, 8, generator=torch.Generator().manual_seed(1))
    pixels = 2 * F.interpolate(coarse, scale_factor=32.0)
    padding = torch.zeros(2, 192, 256, dtype=torch.bool)
    padding[1, 128:], padding[1, :, 160:] = True, True
    return Images(pixels.masked_fill(padding[:, None], 0.0), padding)


def loaded(state: State, args: dict[str, Any]) -> Detector:
    """The detector of a release's state, but for the backbone, which stays random."""
    foreign = from_official(state, COMMON | args)
    torch.manual_seed(2)
    detector = build(foreign.config, [str(n) for n in range(len(foreign.names))]).eval()
    report = detector.load_state_dict(foreign.state, strict=False)
    assert not report.unexpected_keys
    assert all(key.startswith("backbone.") for key in report.missing_keys)
    return detector


def agree(detector: Detector, logits: list[Tensor], boxes: list[Tensor], given: Images) -> None:
    with torch.no_grad():
        found = detector(given)
    assert len(found.logits) == len(logits) == DECODER
    for layer in range(DECODER):
        assert (found.logits[layer] - logits[layer]).abs().max() < 1e-4, layer
        assert (found.boxes[layer] - boxes[layer]).abs().max() < 1e-5, layer
    # Queries differ far more than the two do, and so do layers.
    assert logits[-1].std(dim=1).mean() > 0.005
    assert (boxes[-1] - boxes[0]).abs().max() > 0.01


# DETR with pre-norm layers (its switch pre_norm)


def detr_state() -> State:
    t = "transformer"
    shapes = linear("input_proj", WIDTH, 512)
    for i in range(ENCODER):
        name = f"{t}.encoder.layers.{i}"
        shapes += packed(f"{name}.self_attn") + feedforward(name)
        shapes += norm(f"{name}.norm1") + norm(f"{name}.norm2")
    shapes += norm(f"{t}.encoder.norm")
    for i in range(DECODER):
        name = f"{t}.decoder.layers.{i}"
        shapes += packed(f"{name}.self_attn") + packed(f"{name}.multihead_attn")
        shapes += feedforward(name)
        shapes += [part for n in (1, 2, 3) for part in norm(f"{name}.norm{n}")]
    shapes += [*norm(f"{t}.decoder.norm"), ("query_embed.weight", (QUERIES, WIDTH))]
    shapes += linear("class_embed", CLASSES + 1, WIDTH) + mlp("bbox_embed", WIDTH, WIDTH, WIDTH, 4)
    state = draw(shapes)
    state["input_proj.weight"] = state["input_proj.weight"][..., None, None]
    return state


def detr_pre_norm(state: State, fine: Tensor, hidden: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    r, flat = Reference(state), hidden.flatten(1)
    x = F.conv2d(fine, state["input_proj.weight"], state["input_proj.bias"])
    x = x.flatten(2).transpose(1, 2)
    code = map_code(hidden, WIDTH, 10000.0, 10000.0, 0.0)
    for i in range(ENCODER):
        name = f"transformer.encoder.layers.{i}"
        normed = r.norm(f"{name}.norm1", x)
        place = normed + code
        x = x + r.attention(f"{name}.self_attn", place, place, normed, flat)
        x = x + r.ffn(name, r.norm(f"{name}.norm2", x))
    memory = r.norm("transformer.encoder.norm", x)
    position = state["query_embed.weight"].expand(len(fine), -1, -1)
    content, logits, boxes = torch.zeros_like(position), [], []
    for i in range(DECODER):
        name = f"transformer.decoder.layers.{i}"
        normed = r.norm(f"{name}.norm1", content)
        place = normed + position
        content = content + r.attention(f"{name}.self_attn", place, place, normed)
        place = r.norm(f"{name}.norm2", content) + position
        seen = r.attention(f"{name}.multihead_attn", place, memory + code, memory, flat)
        content = content + seen
        content = content + r.ffn(name, r.norm(f"{name}.norm3", content))
        out = r.norm("transformer.decoder.norm", content)
        logits.append(r.lin("class_embed", out))
        boxes.append(r.mlp("bbox_embed", out, 3).sigmoid())
    return logits, boxes


def test_detr_with_pre_norm() -> None:
    state, given = detr_state(), images()
    detector = loaded(state, {"pre_norm": True})
    assert detector.config.model.norm_first
    assert detector.config.model.encoder.norm
    with torch.no_grad():
        features = detector.backbone(given)
        expected = detr_pre_norm(state, features.maps[-1], features.paddings[-1])
    agree(detector, *expected, given)


def test_pre_norm_is_told_by_the_encoders_norm_where_no_arguments_were_saved() -> None:
    foreign = from_official(detr_state() | {"backbone.0.body.layer3.0.conv1.weight": torch.ones(1),
        "backbone.0.body.layer3.1.conv1.weight": torch.ones(1)}, None)  # fmt: skip
    assert foreign.config.model.norm_first


# Dense DAB-DETR: two temperatures of the image's code; its pre_norm is a last norm of the encoder


def dab_state() -> State:
    t, shapes = "transformer", linear("input_proj", WIDTH, 512)
    for i in range(ENCODER):
        name = f"{t}.encoder.layers.{i}"
        shapes += packed(f"{name}.self_attn") + feedforward(name)
        shapes += norm(f"{name}.norm1") + norm(f"{name}.norm2")
        shapes.append((f"{name}.activation.weight", (1,)))
    shapes += mlp(f"{t}.encoder.query_scale", WIDTH, WIDTH, WIDTH) + norm(f"{t}.encoder.norm")
    for i in range(DECODER):
        name = f"{t}.decoder.layers.{i}"
        parts = ["sa_qcontent", "sa_qpos", "sa_kcontent", "sa_kpos", "sa_v"]
        parts += ["ca_qcontent", "ca_kcontent", "ca_kpos", "ca_v", "ca_qpos_sine"]
        for part in [*parts, *(["ca_qpos"] if i == 0 else [])]:
            shapes += linear(f"{name}.{part}_proj", WIDTH, WIDTH)
        for part in ("self_attn", "cross_attn"):
            shapes += linear(f"{name}.{part}.out_proj", WIDTH, WIDTH)
        shapes += [*feedforward(name), (f"{name}.activation.weight", (1,))]
        shapes += [part for n in (1, 2, 3) for part in norm(f"{name}.norm{n}")]
    d = f"{t}.decoder"
    shapes += norm(f"{d}.norm") + mlp(f"{d}.query_scale", WIDTH, WIDTH, WIDTH)
    shapes += mlp(f"{d}.ref_point_head", 2 * WIDTH, WIDTH, WIDTH)
    shapes += mlp(f"{d}.ref_anchor_head", WIDTH, WIDTH, 2)
    shapes += [("refpoint_embed.weight", (QUERIES, 4))]
    shapes += linear("class_embed", CLASSES, WIDTH) + mlp("bbox_embed", WIDTH, WIDTH, WIDTH, 4)
    state = draw(shapes)
    state["input_proj.weight"] = state["input_proj.weight"][..., None, None]
    return state


def dab(
    state: State,
    fine: Tensor,
    hidden: Tensor,
    t_height: float,
    t_width: float,
    first: Tensor | None = None,
    update: bool = True,
) -> tuple[list[Tensor], list[Tensor]]:
    """``first``: what content begins with [n, width]; anchors are repeated to as many."""
    r, flat = Reference(state), hidden.flatten(1)
    x = F.conv2d(fine, state["input_proj.weight"], state["input_proj.bias"])
    x = x.flatten(2).transpose(1, 2)
    code = map_code(hidden, WIDTH, t_height, t_width, 0.0)
    for i in range(ENCODER):  # normalised after each step: the layers ignore the switch
        name = f"transformer.encoder.layers.{i}"
        place = x + code * r.mlp("transformer.encoder.query_scale", x, 2)
        x = r.norm(f"{name}.norm1", x + r.attention(f"{name}.self_attn", place, place, x, flat))
        x = r.norm(f"{name}.norm2", x + r.ffn(name, x))
    memory = r.norm("transformer.encoder.norm", x)
    first = torch.zeros(QUERIES, WIDTH) if first is None else first
    anchors = state["refpoint_embed.weight"].sigmoid().repeat(len(first) // QUERIES, 1)
    anchors, content = (part.expand(len(fine), -1, -1) for part in (anchors, first))
    logits, boxes = [], []
    for i in range(DECODER):
        name = f"transformer.decoder.layers.{i}"
        whole = anchor_code(anchors, WIDTH)
        position = r.mlp("transformer.decoder.ref_point_head", whole, 2)
        place = whole[..., :WIDTH]
        if i:
            place = place * r.mlp("transformer.decoder.query_scale", content, 2)
        wanted = r.mlp("transformer.decoder.ref_anchor_head", content, 2).sigmoid()
        half = WIDTH // 2
        place = torch.cat(
            (
                place[..., :half] * (wanted[..., 1:] / anchors[..., 3:]),
                place[..., half:] * (wanted[..., :1] / anchors[..., 2:3]),
            ),
            dim=-1,
        )
        q = r.lin(f"{name}.sa_qcontent_proj", content) + r.lin(f"{name}.sa_qpos_proj", position)
        k = r.lin(f"{name}.sa_kcontent_proj", content) + r.lin(f"{name}.sa_kpos_proj", position)
        seen = heads(q, k, r.lin(f"{name}.sa_v_proj", content))
        content = r.norm(f"{name}.norm1", content + r.lin(f"{name}.self_attn.out_proj", seen))
        q, k = r.lin(f"{name}.ca_qcontent_proj", content), r.lin(f"{name}.ca_kcontent_proj", memory)
        k_place = r.lin(f"{name}.ca_kpos_proj", code)
        if i == 0:
            q, k = q + r.lin(f"{name}.ca_qpos_proj", position), k + k_place
        q = side_by_side(q, r.lin(f"{name}.ca_qpos_sine_proj", place))
        k = side_by_side(k, k_place)
        seen = heads(q, k, r.lin(f"{name}.ca_v_proj", memory), flat)
        content = r.norm(f"{name}.norm2", content + r.lin(f"{name}.cross_attn.out_proj", seen))
        content = r.norm(f"{name}.norm3", content + r.ffn(name, content))
        out = r.norm("transformer.decoder.norm", content)
        logits.append(r.lin("class_embed", out))
        start = inverse_sigmoid(anchors, 1e-3)
        boxes.append((r.mlp("bbox_embed", out, 3) + start).sigmoid())
        if update:
            anchors = (r.mlp("bbox_embed", content, 3) + start).sigmoid()
    return logits, boxes


def side_by_side(a: Tensor, b: Tensor) -> Tensor:
    """In every head, the channels of a, then those of b."""
    return torch.cat((a.unflatten(-1, (HEADS, -1)), b.unflatten(-1, (HEADS, -1))), -1).flatten(-2)


def heads(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor | None = None) -> Tensor:
    """Attention head by head and image by image."""
    rows = []
    for image in range(len(q)):
        parts = [x[image].chunk(HEADS, dim=-1) for x in (q, k, v)]
        columns = []
        for one, other, value in zip(*parts, strict=True):
            score = one @ other.T / math.sqrt(one.shape[-1])
            if hidden is not None:
                score[:, hidden[image]] = -math.inf
            columns.append(score.softmax(-1) @ value)
        rows.append(torch.cat(columns, dim=-1))
    return torch.stack(rows)


@pytest.mark.parametrize("names", ["pe_temperature", "temperature"])
def test_dab_detr_with_two_temperatures_and_a_last_norm_of_the_encoder(names: str) -> None:
    state, given = dab_state(), images()
    temperatures = {f"{names}H": 20, f"{names}W": 7.5}
    detector = loaded(state, {"pre_norm": True, "iter_update": True, **temperatures})
    model = detector.config.model
    assert (model.position_temperature, model.position_temperature_width) == (20.0, 7.5)
    assert not model.norm_first
    with torch.no_grad():
        features = detector.backbone(given)
        expected = dab(state, features.maps[-1], features.paddings[-1], 20.0, 7.5)
    agree(detector, *expected, given)


def by_pattern(patterns: Tensor, content: Tensor) -> Tensor:
    """All anchors with the first pattern, then all with the second … [patterns · n, width]."""
    return torch.stack([each + pattern for pattern in patterns for each in content])


@pytest.mark.parametrize("update", [True, False], ids=["anchors move", "anchors stay"])
@pytest.mark.parametrize("denoising", [False, True], ids=["DAB", "DN"])
def test_dab_and_dn_detr_with_patterns_and_two_temperatures(denoising: bool, update: bool) -> None:
    patterns = draw([("patterns", (PATTERNS, WIDTH))], seed=3)["patterns"]
    labels = draw([("labels_embed.weight", (CLASSES + 1, WIDTH - 1))], seed=4)
    state, given = dab_state() | {"transformer.patterns.weight": patterns}, images()
    content = torch.zeros(QUERIES, WIDTH)
    args = {"pe_temperatureH": 10, "pe_temperatureW": 30, "pre_norm": True, "iter_update": update}
    if denoising:  # the unknown label's row, and 0: no query to be denoised
        state["label_enc.weight"] = labels["labels_embed.weight"]
        content = torch.cat((state["label_enc.weight"][CLASSES], torch.zeros(1))).expand_as(content)
        args |= {"scalar": 3, "label_noise_scale": 0.2, "box_noise_scale": 0.4}
    detector = loaded(state, args | {"num_patterns": PATTERNS})
    assert detector.config.model.decoder.update_anchors == update
    assert (detector.config.model.denoising is not None) == denoising
    first = by_pattern(patterns, content)
    with torch.no_grad():
        features = detector.backbone(given)
        fine, hidden = features.maps[-1], features.paddings[-1]
        expected = dab(state, fine, hidden, 10.0, 30.0, first, update)
    assert expected[0][-1].shape[1] == PATTERNS * QUERIES
    agree(detector, *expected, given)


# DAB-Deformable-DETR with several patterns for each anchor

LEVELS, POINTS = 4, 2


def deformable_state(shared: bool = False) -> State:
    """``shared``: one head for all layers, whose weights stand in the file once for each."""
    t, shapes = "transformer", [("transformer.level_embed.weight", (LEVELS, WIDTH))]
    channels = (128, 256, 512, 512)
    for level, (n, kernel) in enumerate(zip(channels, (1, 1, 1, 3), strict=True)):
        shapes += [(f"input_proj.{level}.0.weight", (WIDTH, n, kernel, kernel))]
        shapes += [(f"input_proj.{level}.0.bias", (WIDTH,)), *norm(f"input_proj.{level}.1.norm")]

    def sampling(name: str) -> list[tuple[str, tuple[int, ...]]]:
        points = HEADS * LEVELS * POINTS
        return [
            *linear(f"{name}.sampling_offsets", 2 * points, WIDTH),
            *linear(f"{name}.attention_weights", points, WIDTH),
            *linear(f"{name}.value_proj", WIDTH, WIDTH),
            *linear(f"{name}.output_proj", WIDTH, WIDTH),
        ]

    for i in range(ENCODER):
        name = f"{t}.encoder.layers.{i}"
        shapes += sampling(f"{name}.self_attn") + feedforward(name)
        shapes += norm(f"{name}.norm1") + norm(f"{name}.norm2")
    for i in range(DECODER):
        name = f"{t}.decoder.layers.{i}"
        shapes += sampling(f"{name}.cross_attn") + packed(f"{name}.self_attn") + feedforward(name)
        shapes += [part for n in (1, 2, 3) for part in norm(f"{name}.norm{n}")]
        shapes += linear(f"class_embed.{i}", CLASSES, WIDTH)
        shapes += mlp(f"bbox_embed.{i}", WIDTH, WIDTH, WIDTH, 4)
    shapes += mlp(f"{t}.decoder.query_scale", WIDTH, WIDTH, WIDTH)
    shapes += mlp(f"{t}.decoder.ref_point_head", 2 * WIDTH, WIDTH, WIDTH)
    shapes += [("tgt_embed.weight", (QUERIES, WIDTH)), ("refpoint_embed.weight", (QUERIES, 4))]
    shapes += [("patterns_embed.weight", (PATTERNS, WIDTH))]
    state = draw(shapes)
    state["transformer.level_embed"] = state.pop("transformer.level_embed.weight")
    for level in range(LEVELS):
        for part in ("weight", "bias"):
            name = f"input_proj.{level}.1"
            state[f"{name}.{part}"] = state.pop(f"{name}.norm.{part}")
    for key in [key for key in state if shared and key.startswith(("class_embed", "bbox_embed"))]:
        kind, _, rest = key.split(".", 2)
        state[key] = state[f"{kind}.0.{rest}"]
    return state


def sample(
    r: Reference,
    name: str,
    query: Tensor,
    references: Tensor,
    tokens: Tensor,
    shapes: list[tuple[int, int]],
    flat: Tensor,
) -> Tensor:
    """Deformable attention; references [batch, n, levels, 2 or 4]."""
    values = r.lin(f"{name}.value_proj", tokens).masked_fill(flat[..., None], 0.0)
    form = (HEADS, LEVELS, POINTS)
    offsets = r.lin(f"{name}.sampling_offsets", query).unflatten(-1, (*form, 2))
    weights = r.lin(f"{name}.attention_weights", query).unflatten(-1, (HEADS, -1)).softmax(-1)
    weights = weights.unflatten(-1, form[1:])
    out, start = [], 0
    for level, (height, width) in enumerate(shapes):
        own = values[:, start : start + height * width].unflatten(-1, (HEADS, -1))
        start += height * width
        centre = references[:, :, None, level, None, :2]
        if references.shape[-1] == 4:
            step = offsets[:, :, :, level] / POINTS * references[:, :, None, level, None, 2:] / 2
        else:
            step = offsets[:, :, :, level] / torch.tensor([width, height])
        places = centre + step  # [batch, n, heads, points, 2]
        for head in range(HEADS):
            plane = own[:, :, head].transpose(1, 2).unflatten(-1, (height, width))
            read = F.grid_sample(plane, 2 * places[:, :, head] - 1, align_corners=False)
            out.append((read * weights[:, None, :, head, level]).sum(-1).transpose(1, 2))
    per_level = [torch.cat(out[n * HEADS : (n + 1) * HEADS], dim=-1) for n in range(len(shapes))]
    return r.lin(f"{name}.output_proj", torch.stack(per_level).sum(0))


def dab_deformable(
    state: State, given: Images, maps: list[Tensor], paddings: list[Tensor], refine: bool
) -> Any:
    r, planes, hidden = Reference(state), [], [*paddings]
    for level in range(LEVELS):
        source = maps[min(level, 2)]
        name, stride, pad = f"input_proj.{level}", *((1, 0) if level < 3 else (2, 1))
        plane = F.conv2d(
            source, state[f"{name}.0.weight"], state[f"{name}.0.bias"], stride, padding=pad
        )
        planes.append(F.group_norm(plane, 32, state[f"{name}.1.weight"], state[f"{name}.1.bias"]))
    assert given.padding is not None
    hidden.append(F.interpolate(given.padding[None].float(), size=planes[3].shape[-2:])[0].bool())
    shapes = [(plane.shape[-2], plane.shape[-1]) for plane in planes]
    code = torch.cat(
        [
            map_code(mask, WIDTH, 10000.0, 10000.0, -0.5) + state["transformer.level_embed"][level]
            for level, mask in enumerate(hidden)
        ],
        dim=1,
    )
    ratios = torch.stack(
        [
            torch.stack(((~m[:, 0]).float().mean(1), (~m[:, :, 0]).float().mean(1)), -1)
            for m in hidden
        ],
        dim=1,
    )  # [batch, levels, (x, y)]
    flat = torch.cat([mask.flatten(1) for mask in hidden], dim=1)
    x = torch.cat([plane.flatten(2).transpose(1, 2) for plane in planes], dim=1)
    centres = []
    for level, (height, width) in enumerate(shapes):
        row = (torch.arange(height) + 0.5)[:, None].expand(height, width).flatten()
        column = (torch.arange(width) + 0.5).repeat(height)
        size = ratios[:, level, None] * torch.tensor([width, height])
        centres.append(torch.stack((column, row), -1) / size)
    references = torch.cat(centres, dim=1)[:, :, None] * ratios[:, None]
    for i in range(ENCODER):
        name = f"transformer.encoder.layers.{i}"
        seen = sample(r, f"{name}.self_attn", x + code, references, x, shapes, flat)
        x = r.norm(f"{name}.norm1", x + seen)
        x = r.norm(f"{name}.norm2", x + r.ffn(name, x))
    content = by_pattern(state["patterns_embed.weight"], state["tgt_embed.weight"])
    content = content.expand(len(x), -1, -1)
    anchors = state["refpoint_embed.weight"].sigmoid().repeat(PATTERNS, 1).expand(len(x), -1, -1)
    logits, boxes = [], []
    for i in range(DECODER):
        name = f"transformer.decoder.layers.{i}"
        inside = anchors[:, :, None] * torch.cat((ratios, ratios), -1)[:, None]
        place = r.mlp("transformer.decoder.ref_point_head", anchor_code(inside[:, :, 0], WIDTH), 2)
        if i:
            place = place * r.mlp("transformer.decoder.query_scale", content, 2)
        q = content + place
        content = r.norm(f"{name}.norm2", content + r.attention(f"{name}.self_attn", q, q, content))
        seen = sample(r, f"{name}.cross_attn", content + place, inside, x, shapes, flat)
        content = r.norm(f"{name}.norm1", content + seen)
        content = r.norm(f"{name}.norm3", content + r.ffn(name, content))
        logits.append(r.lin(f"class_embed.{i}", content))
        moved = r.mlp(f"bbox_embed.{i}", content, 3) + inverse_sigmoid(anchors, 1e-3)
        boxes.append(moved.sigmoid())
        anchors = boxes[-1] if refine else anchors
    return logits, boxes


@pytest.mark.parametrize("refine", [True, False], ids=["refined", "anchors stay"])
def test_dab_deformable_detr_with_patterns(refine: bool) -> None:
    state, given = deformable_state(shared=not refine), images()
    # the deformable members have arguments of temperatures and do not read them
    args = {"with_box_refine": refine, "pe_temperatureH": 20, "pe_temperatureW": 7}
    detector = loaded(state, {"num_patterns": PATTERNS, "num_queries": QUERIES, **args})
    assert detector.config.model.decoder.update_anchors == refine
    assert detector.config.model.queries.patterns == PATTERNS  # pyright: ignore
    with torch.no_grad():
        features = detector.backbone(given)
        expected = dab_deformable(state, given, features.maps, features.paddings, refine)  # pyright: ignore
    assert expected[0][-1].shape[1] == PATTERNS * QUERIES
    agree(detector, *expected, given)
