"""Saving and loading of weights: safetensors with config and class names in the metadata."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from dabdetr.checkpoints.key_names import State
from dabdetr.checkpoints.reading import listing, read
from dabdetr.config import Config, parse
from dabdetr.files import write_atomically
from dabdetr.model.detector import Detector, build
from dabdetr.text import counted, parse_json, parse_names, shortened

OF_PROPOSALS = "queries.classes."
"""Prefix of the encoder's class head; if objectness ranks proposals, its first row is that."""
TRAINING_ONLY = "collaborative."
"""Prefix of the heads that only training needs; they are not saved."""
UNCOUNTED = "num_batches_tracked"
"""A buffer of batch norms that is neither saved nor expected in a file."""


@dataclass(frozen=True)
class LoadReport:
    """What happened to every tensor of a load; ``new_classes`` have newly initialised head rows."""

    source: str
    format: str
    loaded: tuple[str, ...]
    reinitialised: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    new_classes: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.source == "none":
            return "starting from random weights"
        kind = self.format.replace("dabdetr 1", "dabdetr format 1")
        lines = [f"{self.source}: {counted(len(self.loaded), 'tensor')} loaded ({kind})"]
        for title in ("missing", "unexpected"):
            if keys := getattr(self, title):
                lines.append(f"  {len(keys)} {title}: {listing(keys)}")
        if self.reinitialised:
            parts = list(dict.fromkeys(key.split(".")[0] for key in self.reinitialised))
            keys = self.reinitialised if len(self.reinitialised) <= 8 else parts
            lines.append(f"  {len(self.reinitialised)} reinitialised: {listing(keys)}")
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)


@dataclass(frozen=True)
class Loaded:
    """A detector with weights, and the report of their loading."""

    model: Detector
    report: LoadReport


def save_model(
    path: str | Path,
    detector: Detector,
    dtype: torch.dtype = torch.float32,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write weights, config and class names as one safetensors file, atomically.

    ``dtype`` float16 halves the file, and loading returns float32 again; ValueError lists weights
    that are too large for it. Collaborative heads, which only training needs, are left out, and so
    is the folder of the weights that training started from.

    >>> from dabdetr import PRESETS, Predictor, build, save_model
    >>> save_model("new.safetensors", build(PRESETS["dab-detr-nano"], ["cat", "dog"]))
    >>> Predictor("new.safetensors").names
    ('cat', 'dog')
    """
    state, start = _portable(detector, dtype), Path(detector.config.training.start)
    if dtype != torch.float32 and (large := _non_finite(state)):
        raise ValueError(
            f"{listing(large, 3)}: float16 holds no numbers that large; save in float32"
        )
    changes = [f"training.start={start.name}"] if start.is_absolute() else []
    metadata = {
        **(metadata or {}),
        "format": "dabdetr 1",
        "config": detector.config.override(changes).model_dump_json(),
        "names": json.dumps(detector.names),
    }
    write_atomically(path, save(state, metadata))


def save_backbone(path: str | Path, detector: Detector) -> None:
    """Write the weights of the backbone only, for ``initialise`` to start from."""
    state = _portable(detector, torch.float32)
    backbone = {key: value for key, value in state.items() if key.startswith("backbone.")}
    write_atomically(path, save(backbone, {"format": "dabdetr 1 backbone"}))


def load_model(
    source: str | Path,
    names: Sequence[str] | None = None,
    device: torch.device | str = "cpu",
    overrides: Iterable[str] = (),
) -> Loaded:
    """A detector in evaluation mode from a file, folder, shipped name or hub name ``org/repo``.

    Every tensor must fit: a mismatch is an error that lists the keys. ``names``, where given, must
    be the class names of the weights, in any order. ``overrides`` are config assignments for values
    that cannot be inferred from a foreign file (``model.position_temperature=10``).

    >>> from dabdetr import load_model
    >>> loaded = load_model("scenes")
    >>> loaded.model.config.name, loaded.model.names[:3]
    ('dab-detr-nano', ('0', '1', '2'))
    """
    checkpoint = read(source)
    if checkpoint.foreign is not None:
        config, known = checkpoint.foreign.config, checkpoint.foreign.names
        state = rows_of_names(checkpoint.state, known, config)
        class_names = tuple(name for name in known if name is not None)
        notes = checkpoint.foreign.notes
    elif "config" in checkpoint.metadata:
        config, class_names = described(checkpoint.metadata, str(source))
        state, notes = checkpoint.state, ()
    else:
        raise ValueError(
            f"{source} holds {shortened(checkpoint.format, 80)}, not a whole detector; "
            "give it to train with --from, or name the weights of a detector"
        )
    if names is not None and set(names) != set(class_names):
        raise ValueError(f"{source}: {name_difference(class_names, names)}")
    detector = build(config.override(overrides), class_names)
    detector.collaborative = None
    report = fill(detector, state, str(source), checkpoint.format, notes)
    if report.missing or report.unexpected:
        wrong = {"missing": report.missing, "unexpected": report.unexpected}
        parts = [f"{len(k)} {title} ({listing(k, 3)})" for title, k in wrong.items() if k]
        raise ValueError(
            f"the tensors of {source} do not fit its config: {', '.join(parts)}; give the whole "
            "file, and leave out --set of what the file settles"
        )
    return Loaded(detector.eval().to(device), report)


def described(metadata: Mapping[str, str], source: str) -> tuple[Config, tuple[str, ...]]:
    """The config and the class names in the metadata of a dabdetr file; ValueError names it."""
    for key in ("config", "names"):
        if key not in metadata:
            raise ValueError(f"the metadata of {source} have no {key}; it is damaged: train again")
    tree = parse_json(metadata["config"], f"the config in {source}")
    names = parse_names(metadata["names"], f"the names in {source}")
    return parse(tree, f"{source} (its config)"), names


def name_difference(model: Iterable[str], data: Iterable[str]) -> str:
    """A sentence that lists the class names that only the model or only the data have."""
    model, data = list(model), list(data)
    parts = []
    if lacking := [name for name in data if name not in model]:
        parts.append(f"the model does not know {listing(lacking)}")
    if extra := [name for name in model if name not in data]:
        parts.append(f"the data do not have {listing(extra)}")
    return f"class names do not fit: {'; '.join(parts)}; rename the classes or train on these data"


def _portable(detector: Detector, dtype: torch.dtype) -> State:
    """The detector's tensors on the CPU, row-major, floats in ``dtype``."""
    return {
        key: (value.to(dtype) if value.is_floating_point() else value).detach().cpu().contiguous()
        for key, value in detector.state_dict().items()
        if not key.endswith(UNCOUNTED) and not key.startswith(TRAINING_ONLY)
    }


def _non_finite(state: Mapping[str, Tensor]) -> list[str]:
    return [key for key, value in state.items() if not value.isfinite().all()]


def fill(
    detector: Detector,
    state: Mapping[str, Tensor],
    source: str,
    format: str,
    notes: tuple[str, ...] = (),
    partial: bool = False,
) -> LoadReport:
    """Copy the tensors that fit by name and shape; ``partial``: the others stay as initialised.

    ValueError lists weights that are not finite.
    """
    own = {k: v for k, v in detector.state_dict().items() if not k.endswith(UNCOUNTED)}
    given = {k: v for k, v in state.items() if not k.endswith(UNCOUNTED)}
    given = anchors_as_in(own, given)
    wrong = {k: f"{k} {tuple(given[k].shape)} for {tuple(own[k].shape)}" for k in own
             if k in given and given[k].shape != own[k].shape}  # fmt: skip
    loaded = tuple(k for k in own if k in given and k not in wrong)
    if broken := _non_finite({key: given[key] for key in loaded}):
        raise ValueError(
            f"{source} holds weights that are not finite: {listing(broken, 3)}; did its training "
            "diverge? take another checkpoint"
        )
    with torch.no_grad():
        for key in loaded:
            own[key].copy_(given[key])
    lacking = (*(k for k in own if k not in given), *wrong.values())
    unexpected = tuple(k for k in given if k not in own)
    reinitialised, missing = (lacking, ()) if partial else ((), lacking)
    return LoadReport(source, format, loaded, reinitialised, missing, unexpected, notes)


def anchors_as_in(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state ``given`` with anchors split into centres and sizes, or joined, as in ``own``."""
    whole, parts = "queries.anchors", ("queries.centres", "queries.sizes")
    rest = {key: value for key, value in given.items() if key not in (whole, *parts)}
    if whole in given and parts[0] in own:
        return rest | dict(zip(parts, given[whole].split(2, dim=1), strict=True))
    if parts[0] in given and whole in own:
        return rest | {whole: torch.cat([given[part] for part in parts], dim=1)}
    return dict(given)


def ranks_by_objectness(config: Config) -> bool:
    """Whether the first logit of the encoder's class head is objectness, by which tokens rank."""
    queries = config.model.queries
    return queries.kind == "from_encoder" and queries.rank != "classes"


def by_class(key: str, config: Config) -> bool:
    """Whether a tensor has one row for each class."""
    if key.startswith(OF_PROPOSALS):
        return not ranks_by_objectness(config)
    return key.startswith(("decoder.heads.classes.", "denoising.labels."))


def rows_of_names(state: State, names: Sequence[str | None], config: Config) -> State:
    """The state with the rows of real classes only in tensors by class (COCO: 80 of 91)."""
    keep = [index for index, name in enumerate(names) if name is not None]
    kept = dict(state)
    for key, value in state.items():
        if by_class(key, config):  # softmax: "no object" comes last
            kept[key] = value[[*keep, *range(len(names), len(value))]]
        elif key.startswith(OF_PROPOSALS):
            kept[key] = value[: len(keep)]
    return kept
