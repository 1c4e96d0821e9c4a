"""How many queries there are and where: elastic anchors, fixed centres, proposals of two stages."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dabdetr.checkpoints.native import load_model, save_model
from dabdetr.checkpoints.resize import set_queries
from dabdetr.checkpoints.transfer import initialise
from dabdetr.config import Config
from dabdetr.model.detector import Detector, build
from dabdetr.model.proposals import peaks_first
from dabdetr.model.queries import LearnedQueries
from dabdetr.presets import derive, preset
from dabdetr.structures import Images, Targets
from dabdetr.training.losses import detection_loss
from dabdetr.training.module import TrainingModule
from dabdetr.training.optim import parameter_groups

TINY = derive(
    preset("dab-detr-nano"),
    "tiny",
    model__width=32,
    model__feedforward=32,
    model__queries__count=9,
    model__encoder__layers=1,
    model__decoder__layers=2,
    model__backbone__norm="frozen",
)
FIXED = TINY.override(["model.queries.fixed_centres=true"])
TWO_STAGE = TINY.override(
    [
        "model.backbone.strides=[4, 8]",
        "model.encoder={kind: deformable, levels: 3, points: 2, layers: 1}",
        "model.decoder.cross_attention={kind: deformable, points: 3}",
        "model.decoder.norm=false",
        "model.decoder.look_forward_twice=false",
        "model.queries={kind: from_encoder, count: 9, content: token}",
    ]
)
IMAGES = Images(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
TARGETS = Targets(
    torch.tensor([0, 1, 0]),
    torch.tensor([[0.3, 0.3, 0.2, 0.2], [0.7, 0.6, 0.3, 0.2], [0.5, 0.5, 0.4, 0.4]]),
    (2, 1),
)


def made(config: Config, seed: int = 0) -> Detector:
    """Every parameter drawn anew, so that no path is silent."""
    torch.manual_seed(seed)
    detector = build(config, ("a", "b")).eval()
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return detector


def anchors(detector: Detector) -> torch.Tensor:
    """Logits of the anchors [count, 4]."""
    assert isinstance(detector.queries, LearnedQueries)
    logits = detector.queries.logits()
    assert logits is not None
    return logits.detach().clone()


def content(detector: Detector) -> torch.Tensor:
    """Learned content [count, width]."""
    assert detector.queries.content is not None
    return detector.queries.content.detach().clone()


def step(detector: Detector, times: int = 1) -> None:
    """Updates as training makes them, weight decay included."""
    module = TrainingModule(detector.train(), lambda _: ())
    groups = parameter_groups(detector, detector.config.training)
    optimiser = torch.optim.AdamW(groups, weight_decay=0.1)
    for _ in range(times):
        out = module.detector(IMAGES, TARGETS)
        optimiser.zero_grad()
        detection_loss(out, TARGETS, detector.config.loss)[0].backward()
        optimiser.step()


# Elastic queries


@pytest.mark.parametrize("base", [TINY, FIXED], ids=["free", "fixed centres"])
@pytest.mark.parametrize("how", ["keep", "grid", "kmeans"])
@pytest.mark.parametrize("count", [1, 4, 9, 20])
def test_the_number_of_anchors_changes(base: Config, how: str, count: int, tmp_path: Path) -> None:
    detector = made(base)
    set_queries(detector, count, torch.rand(30, 4) * 0.4 + 0.1 if how == "kmeans" else how)
    assert detector.config == base.override([f"model.queries.count={count}"])
    assert anchors(detector).shape == (count, 4)
    with torch.no_grad():
        out = detector(IMAGES)
    assert out.logits.shape == (2, 2, count, 2)
    assert out.boxes.isfinite().all()
    save_model(tmp_path / "a.safetensors", detector)
    again = load_model(tmp_path / "a.safetensors").model
    with torch.no_grad():
        assert torch.equal(again(IMAGES).boxes, out.boxes)
    step(detector)  # what changed is trained as before


def test_as_many_as_before_are_the_same() -> None:
    detector, other = made(TINY), made(TINY)
    set_queries(other, 9)
    with torch.no_grad():
        assert torch.equal(detector(IMAGES).boxes, other(IMAGES).boxes)


def test_fewer_drop_the_anchors_that_crowd() -> None:
    detector = made(TINY)
    places = torch.tensor([0.1, 0.11, 0.3, 0.5, 0.515, 0.7, 0.9, 0.92, 0.8])
    with torch.no_grad():
        detector.queries.anchors.copy_(torch.logit(places)[:, None].expand(9, 4))  # pyright: ignore
    before, of_before = anchors(detector), content(detector)
    set_queries(detector, 6)
    kept = [row for row, anchor in enumerate(before) if (anchors(detector) == anchor).all(1).any()]
    assert len(kept) == 6
    assert {2, 3, 4, 5, 8} & set(kept) >= {2, 5, 8}
    for pair in ((0, 1), (3, 4), (6, 7)):
        assert len(set(pair) & set(kept)) == 1
    assert torch.equal(content(detector), of_before[kept])
    assert torch.equal(anchors(detector), before[kept])


def test_more_fill_the_gaps_with_content_from_near_by() -> None:
    detector = made(TINY)
    places = torch.cartesian_prod(torch.tensor([0.1, 0.25, 0.4]), torch.tensor([0.2, 0.5, 0.8]))
    boxes = torch.cat((places, torch.full((9, 2), 0.2)), dim=1)  # the right half is empty
    with torch.no_grad():
        detector.queries.anchors.copy_(torch.logit(boxes))  # pyright: ignore
    before, of_before = anchors(detector), content(detector)
    set_queries(detector, 13)
    assert torch.equal(anchors(detector)[:9], before)
    assert torch.equal(content(detector)[:9], of_before)
    added = anchors(detector)[9:].sigmoid()
    assert (added[:, 0] > 0.5).all()
    assert torch.cdist(added[:, :2], added[:, :2]).fill_diagonal_(1).min() > 0.2
    assert torch.allclose(added[:, 2:], torch.tensor(0.2))
    sources = [int((of_before == row).all(1).nonzero()) for row in content(detector)[9:]]
    assert len(set(sources)) == 4  # each old query serves once before any serves twice
    assert (boxes[sources, 0] >= 0.25).all()


def test_a_grid_covers_the_image_evenly() -> None:
    detector = made(TINY)
    median = anchors(detector)[:, 2:].median(0).values
    set_queries(detector, 6, "grid")
    centres, sizes = anchors(detector).split(2, dim=1)
    rows = sorted((round(y, 3), round(x, 3)) for x, y in centres.sigmoid().tolist())
    assert rows == [(y, x) for y in (0.25, 0.75) for x in (0.167, 0.5, 0.833)]
    assert torch.equal(sizes, median.expand(6, 2))
    set_queries(detector, 7, "grid")
    assert len(anchors(detector).unique(dim=0)) == 7


def test_clusters_of_boxes_lie_where_boxes_are() -> None:
    detector = made(TINY)
    scale = anchors(detector)[:, 2:].mean(0)
    middles = torch.tensor([[0.2, 0.2, 0.1, 0.1], [0.7, 0.3, 0.2, 0.1], [0.5, 0.8, 0.1, 0.3]])
    boxes = middles.repeat(20, 1) + 0.01 * torch.randn(60, 4).clamp(-1, 1)
    set_queries(detector, 3, boxes)
    found = anchors(detector)
    order = torch.cdist(middles[:, :2], found[:, :2].sigmoid()).argmin(1)
    assert torch.allclose(found[order, :2].sigmoid(), middles[:, :2], atol=0.01)
    assert torch.allclose(found[:, 2:].mean(0), scale, atol=1e-4)  # as large as the old ones
    shift = found[order, 2:] - torch.logit(middles[:, 2:])
    assert torch.allclose(shift, shift[:1].expand(3, 2), atol=0.15)  # all by the same factor
    with pytest.raises(ValueError, match="30 anchors were asked of the k-means of 3 different"):
        set_queries(detector, 30, middles)


@pytest.mark.parametrize("name", ["detr-nano", "conditional-detr-nano", "deformable-detr-nano"])
def test_queries_that_are_no_boxes_refuse(name: str) -> None:
    detector = build(preset(name), ("a",))
    with pytest.raises(ValueError, match="learned positional queries"):
        set_queries(detector, 80)
    assert detector.config == preset(name)


def test_wrong_requests_are_told_and_change_nothing() -> None:
    detector = made(TINY)
    with pytest.raises(ValueError, match=r"model\.queries.*count"):
        set_queries(detector, 0)
    with pytest.raises(ValueError, match="'keep', 'grid' or boxes to cluster; got 'rows'"):
        set_queries(detector, 4, "rows")
    assert detector.config == TINY
    assert anchors(detector).shape == (9, 4)


@pytest.mark.parametrize(
    "changes",
    [
        ["model.queries.content=zeros"],
        ["model.queries={content: unknown, count: 9}", "model.denoising={kind: dn, groups: 2}"],
        ["model.denoising={kind: dn, groups: 2}"],
        ["model.queries={content: zeros, patterns: 2, count: 9}"],
        [
            "model.queries={content: learned, patterns: 2, count: 9}",
            "model.denoising={kind: dn, groups: 2}",
        ],
    ],
    ids=["zeros", "unknown", "learned beside denoising", "patterns", "patterns on learned"],
)
def test_every_content_serves_another_number(changes: list[str]) -> None:
    detector = made(TINY.override(changes))
    for count in (4, 12):
        set_queries(detector, count)
        with torch.no_grad():
            out = detector(IMAGES)
        assert out.logits.shape[2] == count * max(1, detector.config.model.queries.patterns)
        step(detector)
        detector.eval()


@pytest.mark.parametrize("kind", ["learned", "token", "box"])
def test_two_stages_take_another_number_of_proposals(kind: str, tmp_path: Path) -> None:
    config = TWO_STAGE.override([f"model.queries.content={kind}"])
    if kind == "box":
        config = config.override(["model.decoder.modulate_position=null"])
    detector = made(config)
    with torch.no_grad():
        before = detector(IMAGES).anchors[0]
        set_queries(detector, 4)
        fewer = detector(IMAGES).anchors[0]
        set_queries(detector, 12)
        more = detector(IMAGES)
    assert before is not None
    assert torch.allclose(before[:, :4], fewer)
    assert torch.allclose(before, more.anchors[0][:, :9])  # pyright: ignore
    assert more.logits.shape[2] == 12
    save_model(tmp_path / "a.safetensors", detector)
    assert load_model(tmp_path / "a.safetensors").model.config.model.queries.count == 12
    with pytest.raises(ValueError, match="the encoder proposes"):
        set_queries(detector, 12, "grid")


# Fixed centres


def test_training_leaves_fixed_centres_exactly_as_they_are() -> None:
    fixed, free = made(FIXED), made(TINY)
    before, of_free = anchors(fixed), anchors(free)
    step(fixed, 2)
    step(free, 2)
    assert torch.equal(anchors(fixed)[:, :2], before[:, :2])
    assert (anchors(fixed)[:, 2:] != before[:, 2:]).all()
    assert (anchors(free) != of_free).all()
    assert "queries.centres" in dict(fixed.named_buffers())
    assert not any(key.startswith("queries.anchors") for key in fixed.state_dict())


def test_fixed_centres_come_back_from_a_file(tmp_path: Path) -> None:
    detector = made(FIXED)
    step(detector)
    save_model(tmp_path / "a.safetensors", detector.eval())
    loaded = load_model(tmp_path / "a.safetensors")
    assert torch.equal(anchors(loaded.model), anchors(detector))
    assert not loaded.report.missing + loaded.report.unexpected
    assert loaded.model.config.model.queries.fixed_centres  # pyright: ignore


@pytest.mark.parametrize(("given", "wanted"), [(TINY, FIXED), (FIXED, TINY)])
def test_whole_and_parted_anchors_start_one_another(
    given: Config, wanted: Config, tmp_path: Path
) -> None:
    source = made(given)
    save_model(tmp_path / "a.safetensors", source)
    detector = made(wanted, seed=1)
    report = initialise(detector, tmp_path / "a.safetensors")
    assert torch.equal(anchors(detector), anchors(source))
    assert not report.reinitialised + report.unexpected


def test_fixed_centres_need_boxes() -> None:
    with pytest.raises(
        ValueError, match=r"fixed_centres is true and model\.queries\.anchor is 'point'"
    ):
        preset("conditional-detr-nano").override(["model.queries.fixed_centres=true"])


# Two stages


def test_proposals_are_the_anchors_of_the_first_layer() -> None:
    detector = made(TWO_STAGE)
    with torch.no_grad():
        out = detector(IMAGES)
    assert out.proposals is not None
    assert torch.equal(out.anchors[0], out.proposals.boxes[0])  # pyright: ignore
    assert out.anchors[0].shape == (2, 9, 4)  # pyright: ignore
    scores = out.proposals.logits[0].max(-1).values
    assert (scores.diff(dim=1) <= 0).all()  # the best first


def test_the_published_two_stage_member_differs_in_its_queries_only() -> None:
    one, two = preset("dab-deformable-detr-r50"), preset("dab-deformable-detr-r50-two-stage")
    assert two.model.model_copy(update={"queries": one.model.queries}) == one.model
    assert (two.model.queries.kind, two.model.queries.content) == ("from_encoder", "token")


def test_content_of_tokens_is_what_the_encoder_says_and_passes_no_gradient() -> None:
    detector = made(TWO_STAGE)
    memory = detector.encoder(detector.projection(detector.backbone(IMAGES)))
    queries = detector.queries(memory)
    assert queries.positions is None  # the positional query is made of the anchor, as in DAB-DETR
    assert not queries.content.requires_grad
    assert not queries.anchors.requires_grad
    tokens = detector.queries.norm(detector.queries.project(memory.tokens))  # pyright: ignore
    for row in queries.content[0]:
        assert (tokens[0] - row).abs().amax(1).min() < 1e-5
    assert len(queries.content[0].unique(dim=0)) > 1


def test_content_of_tokens_is_no_copy_of_denoising() -> None:
    detector = made(TWO_STAGE.override(["model.denoising={kind: dn, groups: 2}"]))
    memory = detector.encoder(detector.projection(detector.backbone(IMAGES)))
    assert detector.denoising is not None
    content = detector.denoising.beside_copies(detector.queries(memory)).content
    assert content.shape[-1] == 32
    assert not content[..., -1].any()
    assert content[..., -2].all()
    step(detector)


def test_every_parameter_of_the_two_stage_member_learns() -> None:
    detector = made(TWO_STAGE).train()
    out = detector(IMAGES, TARGETS)
    detection_loss(out, TARGETS, detector.config.loss)[0].backward()
    silent = [
        name
        for name, p in detector.named_parameters()
        if p.requires_grad and (p.grad is None or not p.grad.any())
    ]
    assert silent == []


def test_peaks_come_before_their_neighbours() -> None:
    level = [[9.0, 8.0, 1.0, 2.0], [7.0, 6.0, 0.0, 1.0], [0.0, 0.0, 3.0, 2.5]]
    scores = torch.tensor([*level[0], *level[1], *level[2], 5.0, 4.0])[None]
    ranked = peaks_first(scores, ((3, 4), (1, 2)))
    order = ranked.argsort(descending=True)[0].tolist()
    assert order[:3] == [0, 12, 3]  # 9, 5 of the other level, 2; then the rest by score
    rest = [i for i in scores.argsort(descending=True)[0].tolist() if i not in order[:3]]
    assert scores[0, order[3:]].tolist() == scores[0, rest].tolist()


def test_near_scores_of_surpassed_tokens_keep_their_order() -> None:
    """Rounding to a coarser grid would leave ties, which every runtime breaks in its own way."""
    scores = torch.tensor([[5.0, -8.000002, -8.0, -8.000001, -8.000003]])
    ranked = peaks_first(scores, ((1, 5),))
    assert ranked.argsort(descending=True)[0].tolist() == [0, 2, 3, 1, 4]
    assert len(set(ranked[0].tolist())) == 5
    assert peaks_first(scores * 100, ((1, 5),)).isfinite().all()


def test_one_class_of_proposals_serves_any_classes() -> None:
    config = derive(
        preset("dino-nano"),
        "object",
        model__queries__rank="object",
        model__queries__distinct=True,
    )
    detector = build(config, ["a", "b", "c"])
    assert detector.queries.classes.weight.shape[0] == 1
    targets = Targets(torch.tensor([2, 1]), torch.rand(2, 4) * 0.3 + 0.3, (1, 1))
    predictions = detector(Images(torch.randn(2, 3, 64, 64)), targets)
    assert predictions.proposals is not None
    assert predictions.proposals.logits.shape == (1, 2, 40, 1)
    total, table = detection_loss(predictions, targets, config.loss)
    total.backward()
    assert table["proposal_loss_ce", -1] > 0
    assert detector.queries.classes.weight.grad.abs().max() > 0
