"""The recorded behaviour of the reference implementations, case by case.

``DABDETR_ORACLE`` names the folder (default: ``../shared/oracle``). A case of a model that the
project does not have is skipped by name, never passed.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dabdetr.checkpoints.key_names import official_table, rename, split_attention
from dabdetr.checkpoints.official import from_official
from dabdetr.checkpoints.transformers import from_transformers
from dabdetr.inference.postprocess import Ranked, postprocess
from dabdetr.model.denoising import Noise
from dabdetr.model.detector import Detector, build
from dabdetr.model.projection import Pyramid
from dabdetr.structures import Images, Memory, Predictions, Targets
from dabdetr.training.losses import detection_loss
from dabdetr.training.matching import Assignment, assign

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ.get("DABDETR_ORACLE", ROOT / ".." / "shared" / "oracle"))
CASES = sorted(path.parent.name for path in FOLDER.glob("cases/*/case.json"))
OFFICIAL = (
    "detr",
    "conditional_detr",
    "deformable_detr",
    "dab_detr",
    "dab_deformable_detr",
    "dn_dab_detr",
    "dn_dab_deformable_detr",
    "deformable_detr_two_stage",
    "dino",
)
TRANSFORMERS = ("hf_detr", "hf_conditional_detr", "hf_dab_detr")


@functools.cache
def _fill() -> Any:
    spec = importlib.util.spec_from_file_location("oracle_fill", FOLDER / "fill.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Case:
    """A case with the detector built from its settings and filled with its weights."""

    def __init__(self, name: str) -> None:
        settings, self.state, inputs, self.expected = _fill().load(name, as_torch=True)
        self.settings, self.kind = settings, settings["model"]
        self.kind += "_two_stage" if settings.get("two_stage") else ""
        if self.kind not in OFFICIAL + TRANSFORMERS:
            pytest.skip(f"{name}: the project has no model {self.kind!r} yet")
        read = from_official if self.kind in OFFICIAL else from_transformers
        foreign = read(self.state, settings)
        names = [str(index) for index in range(len(foreign.names))]
        config = foreign.config
        if settings.get(
            "random_refpoints_xy"
        ):  # the reference means to fix centres and trains them
            config = config.override(["model.queries.fixed_centres=false"])
        self.detector: Detector = build(config, names).eval()
        own = self.detector.state_dict()
        assert sorted(own) == sorted(foreign.state)
        self.detector.load_state_dict(foreign.state)
        mask = inputs["mask"]
        self.images = Images(inputs["batch"], mask if mask.any() else None)
        self.numbers = inputs["denoising"]
        given = inputs["targets"]
        self.sizes = [tuple(t["orig_size"].tolist()) for t in given]
        self.targets = Targets(
            torch.cat([t["labels"] for t in given]),
            torch.cat([t["boxes"] for t in given]),
            tuple(len(t["labels"]) for t in given),
        )
        self.batch_first = (
            self.kind.startswith("hf_") or "deformable" in self.kind or self.kind == "dino"
        )

    def train(self) -> Predictions:
        """The detector's answer in training mode, by the recorded noise where there is any."""
        self.detector.train()
        if self.detector.denoising is not None:
            denoise, noise = self.detector.denoising.forward, self._noise()
            self.detector.denoising.forward = lambda targets: denoise(targets, noise)
        predictions = self.detector(self.images, self.targets)
        if self.detector.denoising is not None:
            del self.detector.denoising.forward
        self.detector.eval()
        return predictions

    def _noise(self) -> Noise:
        chance, objects = self.numbers["noise_p"], len(self.targets.labels)
        labels = torch.zeros(len(chance), dtype=torch.long)
        limit = self.detector.config.model.denoising.label_noise  # pyright: ignore
        labels[chance < limit] = self.numbers["noise_new_label"]
        if "noise_sign" in self.numbers:
            shift = self.numbers["noise_part"] * (2 * self.numbers["noise_sign"] - 1)
        else:
            shift = 2 * self.numbers["noise_box"] - 1
        form = (-1, objects)
        return Noise(chance.view(form), labels.view(form), shift.view(*form, 4))

    def close(self, key: str, ours: torch.Tensor, limit: float) -> None:
        """Every stored element of ``key`` agrees within ``limit``."""
        theirs = self.expected["arrays"][key]
        ours = _fill().take(self.expected, key, ours.detach())
        assert ours.shape == theirs.shape, key
        gap = (ours - theirs).abs().max().item()
        assert gap <= limit, f"{key}: largest difference {gap:.3g} over {limit:.3g}"


@pytest.fixture(scope="module", params=CASES)
def name(request: pytest.FixtureRequest) -> str:
    """The case's name; all tests of one case run before the next is read."""
    return request.param


@pytest.fixture(scope="module")
def c(name: str) -> Case:
    return Case(name)


@pytest.fixture(scope="module")
def out(c: Case) -> Predictions:
    """What the detector says of the case's images."""
    with torch.no_grad():
        return c.detector(c.images)


pytestmark = pytest.mark.skipif(
    not CASES, reason=f"no oracle cases in {FOLDER}; set DABDETR_ORACLE to their folder"
)


def test_inputs_are_those_recorded(name: str) -> None:
    fill = _fill()
    _, state, inputs, expected = fill.load(name)
    ours, theirs = fill.checksum(state, inputs["images"]), expected["checksum"]
    assert ours["weights"] == pytest.approx(theirs["weights"], rel=1e-6)
    assert ours["images"] == pytest.approx(theirs["images"], rel=1e-6)


def test_every_layer_agrees(c: Case, out: Predictions) -> None:
    limits, arrays = c.expected["tolerance"], c.expected["arrays"]
    c.close("pred_logits", out.logits[-1], limits["logits_abs"])
    c.close("pred_boxes", out.boxes[-1], limits["boxes_abs"])
    earlier = sum(key.startswith("aux_logits_") for key in arrays)
    assert earlier in (0, len(out.logits) - 1)
    for layer in range(earlier):
        c.close(f"aux_logits_{layer}", out.logits[layer], limits["logits_abs"])
        c.close(f"aux_boxes_{layer}", out.boxes[layer], limits["boxes_abs"])
    if "references" in arrays:
        ours = _references(c, out)
        if c.kind == "dino":
            c.expected["arrays"]["references"] = arrays["references"][: len(ours)]
        c.close("references", ours, limits["boxes_abs"])
    if out.proposals is not None:
        name = "interm_outputs" if c.kind == "dino" else "enc_outputs"
        c.close(f"{name}_logits", out.proposals.logits[0], limits["logits_abs"])
        c.close(f"{name}_boxes", out.proposals.boxes[0], limits["boxes_abs"])


def _last_code(c: Case, memory: Memory) -> torch.Tensor:
    """Position code [batch, channels, h, w] of the last map of the backbone, level vector off."""
    maps = len(c.detector.config.model.backbone.strides)
    sizes = [height * width for height, width in memory.shapes]
    code = memory.positions.split(sizes, dim=1)[maps - 1]
    if isinstance(c.detector.projection, Pyramid):
        code = code - c.detector.projection.levels[maps - 1]
    return code.unflatten(1, memory.shapes[maps - 1]).permute(0, 3, 1, 2)


def _references(c: Case, out: Predictions) -> torch.Tensor:
    """Anchors as the reference returns them: entering each layer, or leaving (deformable)."""
    entered = (
        torch.stack([a for a in out.anchors if a is not None])
        if (len({a.shape for a in out.anchors if a is not None}) == 1)
        else None
    )
    if c.kind == "conditional_detr":
        assert entered is not None
        return entered[0]
    moved = c.detector.decoder.update_anchors
    if c.kind == "dino":
        assert entered is not None
        return entered  # the reference has one more, which nothing reads
    if "deformable" in c.kind:
        if moved:
            return out.boxes
        assert entered is not None
        return entered
    assert entered is not None
    return entered if moved else entered[:1]


def test_stages_agree(c: Case) -> None:
    """Backbone map, its padding, position codes, memory: where a difference would start."""
    limit, arrays = c.expected["tolerance"]["logits_abs"], c.expected["arrays"]
    with torch.no_grad():
        features = c.detector.backbone(c.images)
        memory = c.detector.encoder(c.detector.projection(features))
    if "stage/backbone_last" in arrays:
        scale = max(1.0, arrays["stage/backbone_last"].abs().max().item())
        c.close("stage/backbone_last", features.maps[-1], 1e-5 * scale)
    if "stage/mask_last" in arrays:
        padding = features.paddings[-1]
        assert padding is not None
        assert padding.equal(arrays["stage/mask_last"].bool())
    if "stage/pos_last" in arrays:
        c.close("stage/pos_last", _last_code(c, memory), 1e-5)
    tokens = memory.tokens if c.batch_first else memory.tokens.transpose(0, 1)
    c.close("stage/memory", tokens, limit)


def test_ranked_boxes_agree(c: Case, out: Predictions) -> None:
    arrays = c.expected["arrays"]
    most = arrays["post_scores"].shape[1]
    found = postprocess(
        out.logits[-1].detach(),
        out.boxes[-1].detach(),
        c.sizes,
        most,
        c.detector.config.classifier,
    )
    for image, each in enumerate(found):
        ours = Ranked(*map(torch.from_numpy, each))
        # DETR's reference leaves its results in the order of the queries.
        scores, order = arrays["post_scores"][image].sort(descending=True, stable=True)
        labels, boxes = (arrays[f"post_{part}"][image][order] for part in ("labels", "boxes"))
        assert (ours.scores - scores).abs().max() <= 1e-4
        # Only ranks that rounding cannot swap.
        gaps = (scores[:-1] - scores[1:]).abs() > 1e-5
        clear = torch.ones(most, dtype=torch.bool)
        clear[1:] &= gaps
        clear[:-1] &= gaps
        assert clear.sum() > most // 4
        assert ours.labels[clear].equal(labels[clear])
        allowed = c.expected["tolerance"]["boxes_abs"] * 2 * max(c.sizes[image])
        gap = (ours.boxes - boxes)[clear].abs().max().item()
        assert gap <= allowed, f"{gap:.3g} px over {allowed:.3g}"


def _proposal_pairs(c: Case, out: Predictions) -> Assignment:
    """Which proposal answers for which object; objectness knows one class only."""
    assert out.proposals is not None
    loss, targets = c.detector.config.loss, c.targets
    if out.proposals.objectness:
        targets = replace(targets, labels=torch.zeros_like(targets.labels))
    return assign(out.proposals, targets, loss)


def test_assignments_agree(name: str, c: Case, out: Predictions) -> None:
    if not c.expected["indices"]:
        pytest.skip(f"{name} records no training")
    found = assign(out, c.targets, c.detector.config.loss)
    starts = [sum(c.targets.counts[:image]) for image in range(len(c.targets.counts))]
    for key, of_layer in c.expected["indices"].items():
        if key in ("enc", "interm"):
            pairs, layer = _proposal_pairs(c, out), 0
        else:
            pairs, layer = found, len(out.logits) - 1 if key == "last" else int(key)
        for image, (queries, objects) in enumerate(of_layer):
            here = (pairs.layer == layer) & (pairs.image == image)
            ours = set(zip(pairs.query[here].tolist(), pairs.target[here].tolist(), strict=True))
            assert ours == {
                (query, starts[image] + n) for query, n in zip(queries, objects, strict=True)
            }


def test_denoising_agrees(name: str, c: Case) -> None:
    """Predictions of both parts in training mode, on the recorded noise."""
    arrays, limits = c.expected["arrays"], c.expected["tolerance"]
    if "train_dn_logits" not in arrays:
        pytest.skip(f"{name} records no denoising")
    with torch.no_grad():
        trained = c.train()
    ((_, part),) = trained.groups
    last = -1 if c.kind == "dino" else slice(None)  # DINO's case holds the last layer only
    c.close("train_dn_logits", part.logits[last], limits["logits_abs"])
    c.close("train_dn_boxes", part.boxes[last], limits["boxes_abs"])
    c.close("train_pred_logits", trained.logits[-1], limits["logits_abs"])
    c.close("train_pred_boxes", trained.boxes[-1], limits["boxes_abs"])


def _reference_name(c: Case, term: str, layer: int, layers: int) -> str:
    """What the reference calls a term of a layer (−1: of the proposals)."""
    place = "" if layer == layers - 1 else f"_{layer}"
    if layer < 0:
        place = "_interm" if c.kind == "dino" else "_enc"
    plain = term.removeprefix("proposal_").removeprefix("denoising_")
    if not term.startswith("denoising_"):
        return plain + place
    return f"{plain}_dn{place}" if c.kind == "dino" else f"tgt_{plain}{place}"


def test_losses_agree(name: str, c: Case) -> None:
    if not c.expected["losses"]:
        pytest.skip(f"{name} records no training")
    with torch.no_grad():
        out = c.train()
    total, table = detection_loss(out, c.targets, c.detector.config.loss)
    limit = c.expected["tolerance"]["loss_rel"]
    for (term, layer), value in table.items():
        key = _reference_name(c, term, layer, len(out.logits))
        assert value.item() == pytest.approx(c.expected["losses"][key], rel=limit, abs=1e-6), key
    weighted = set(c.expected["weights"]) & set(c.expected["losses"])
    assert len(weighted) == len(table)
    assert total.item() == pytest.approx(c.expected["total_loss"], rel=limit)


KINKS = 12
"""Images to try, each value off by its ten-millionth. The loss has kinks (a unit at 0, an edge
on an edge) at which a gradient is one of two; where one lies within float32's rounding of the
recorded image, the order of a sum decides. Over such images dab_detr_r50_dc5's first slope is
3.750, 3.754, 3.768 or 3.778 (3.754 is recorded), whichever way the products are made."""


def test_gradients_agree(name: str, c: Case) -> None:
    if not c.expected["grad_norms"]:
        pytest.skip(f"{name} records no training")
    recorded, off = c.images, {}
    for attempt in range(KINKS):
        differ = _gradients_that_differ(c)
        off = {key: off.get(key, []) + differ[key] for key in differ if key in off or not attempt}
        if not off:
            break
        noise = torch.randn(recorded.pixels.shape, generator=torch.manual_seed(attempt))
        c.images = Images(recorded.pixels * (1 + 1e-7 * noise), recorded.padding)
    c.images = recorded
    assert not off, {key: (c.expected["grad_norms"][key], sizes) for key, sizes in off.items()}


def _gradients_that_differ(c: Case) -> dict[str, list[float]]:
    """Recorded gradients whose norm is another here; none of a parameter lacks a record."""
    out = c.train()
    total, _ = detection_loss(out, c.targets, c.detector.config.loss)
    c.detector.zero_grad()
    total.backward()
    ours = {key: p.grad for key, p in c.detector.named_parameters()}
    trained = {key for key, p in c.detector.named_parameters() if p.requires_grad}
    limits = c.expected["tolerance"]
    compared, differ = set(), {}
    table = official_table(c.state)
    for key, norm in c.expected["grad_norms"].items():
        plain, _, part = key.partition("[")
        parts = [rename(k, table) for k in split_attention({plain: torch.zeros(3)})]
        if key == "query_embed.weight" and "queries.content" in ours:
            parts.append("queries.content")  # deformable: both in one table
        if norm == "frozen":
            assert not set(parts) & trained, key
            continue
        grads = [ours[k] for k in parts]
        if norm == "none":
            assert all(g is None or not g.any() for g in grads), key
            continue
        if part:
            columns = slice(0, 2) if part.startswith(":, :2") else slice(2, None)
            grads = [g[:, columns] for g in grads if g is not None]
        size = sum(float(g.double().square().sum()) for g in grads if g is not None) ** 0.5
        if size != pytest.approx(norm, rel=limits["grad_norm_rel"], abs=limits["grad_norm_abs"]):
            differ[key] = [size]
        compared.update(parts)
    untied = {k for k in trained if k not in compared}
    assert not untied, f"parameters without a recorded gradient: {sorted(untied)[:5]}"
    return differ
