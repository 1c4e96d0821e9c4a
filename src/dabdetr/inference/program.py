"""Programs of torch.export, loaded and run without torch's own loader.

``torch.export.load`` unpickles parts of the file and evaluates expressions and names in it, so that
a file can run any code. This loader reads only tensors and a list of operators with their
arguments. It calls only operators that it knows, unpickles only tensors (``weights_only``), and
evaluates nothing.
"""

from __future__ import annotations

import math
import operator
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from dabdetr.files import open_regular
from dabdetr.inference.onnx_file import not_numbers
from dabdetr.text import counted, exhausted, parse_json, reason, shown

# Numbers in the schema of torch.export (torch/_export/serde/schema.py), which is kept stable.
_TYPES = {
    **{1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64},
    **{6: torch.float16, 7: torch.float32, 8: torch.float64, 12: torch.bool, 13: torch.bfloat16},
}
_MEMORY_FORMATS = {
    1: torch.contiguous_format,
    2: torch.channels_last,
    3: torch.channels_last_3d,
    4: torch.preserve_format,
}
_STRIDED = 7
_POSITIONAL = 1
_AUTOCAST = "torch.ops.higher_order.wrap_with_autocast"
_NUMBERS: dict[str, Callable[..., Any]] = {
    **{
        f"_operator.{name}": getattr(operator, name)
        for name in (
            *("add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "pos", "abs"),
            *("eq", "ne", "lt", "le", "gt", "ge", "and_", "or_", "not_"),
        )
    },
    **{f"math.{name}": getattr(math, name) for name in ("ceil", "floor", "trunc", "sqrt")},
    **{f"torch.sym_{name}": getattr(torch, f"sym_{name}") for name in ("max", "min", "not")},
    **{f"torch.sym_{name}": getattr(torch, f"sym_{name}") for name in ("int", "float", "ite")},
}
"""Operators on sizes, which are Python numbers."""
MOST_NUMBER = 2**63
# Operators of ATen besides its core ones that the layers of torch and timm call. None of them reads
# or writes a file, or takes text other than the name of a mode.
_LAYERS = """
absolute adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool2d add_ addcdiv addcmul addmv
affine_grid_generator all alpha_dropout __and__ arange _assert_scalar _assert_tensor_metadata
avg_pool1d baddbmm batch_norm bitwise_left_shift bitwise_right_shift broadcast_tensors
broadcast_to bucketize celu celu_ channel_shuffle chunk clamp_ clamp_max clamp_max_ clamp_min
clamp_min_ column_stack concat contiguous conv1d conv2d conv3d conv_transpose1d conv_transpose2d
copy_ cosine_similarity cross cumprod deg2rad detach detach_ diag diag_embed div_ dot dropout
dropout_ einsum elu_ empty_like erfc exp_ expand_as feature_dropout fill_ flatten fliplr flipud
float_power floor_ floor_divide frac frobenius_norm full gelu_ glu grid_sampler group_norm gru
hardshrink hardsigmoid hardsigmoid_ hardswish hardswish_ hardtanh_ hstack im2col index_add
index_copy index_fill index_put_ inner instance_norm is_nonzero isclose isfinite item kron
layer_norm leaky_relu_ lerp linalg_norm linalg_vector_norm linear linspace log_sigmoid
log_softmax logaddexp logit logsumexp lstm masked_fill masked_fill_ masked_select matmul max
max_pool1d max_pool2d meshgrid min mish mish_ movedim mul_ multiply mv nan_to_num narrow
native_batch_norm neg_ new_empty new_full new_ones new_zeros norm numpy_T one_hot ones ones_like
__or__ outer pad pairwise_distance pixel_shuffle pixel_unshuffle pow prelu ravel reciprocal_
relu_ relu6 relu6_ renorm repeat_interleave reshape reshape_as resolve_conj resolve_neg rms_norm
roll rot90 round_ rsqrt_ rsub scaled_dot_product_attention scatter_ scatter_add_ searchsorted
select selu selu_ sgn _shape_as_tensor sigmoid_ silu silu_ softmax softplus softshrink softsign
special_expit special_logit split square squeeze stack std std_mean sub_ subtract sum swapaxes
sym_is_contiguous sym_numel sym_size t take take_along_dim tanh_ tensor_split threshold
threshold_ tile to _to_copy transpose tril triu true_divide type_as unbind unflatten unfold
unsafe_chunk unsafe_split _unsafe_view unsqueeze_ upsample_bicubic2d _upsample_bicubic2d_aa
upsample_bilinear2d _upsample_bilinear2d_aa upsample_nearest2d _upsample_nearest_exact2d
upsample_nearest_exact2d var var_mean view_as vstack where __xor__ zero_ zeros zeros_like
"""
_LAYER_NAMES = frozenset(_LAYERS.split())


class Program:
    """The program in a ``.pt2`` file, ready to run, and the texts in the file.

    ValueError, with the reason, where the file contains anything but tensors and known operators.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        try:
            with open_regular(path) as file, zipfile.ZipFile(file) as archive:
                self._read(_Archive(archive))
        except OSError as error:
            if error.filename is not None:
                raise
            raise ValueError(  # a damaged archive has places before the start of the file
                f"{path} cannot be loaded as a program of torch ({reason(error)}); export it again"
            ) from None
        except (zipfile.BadZipFile, _Malformed, OverflowError, NotImplementedError) as error:
            raise ValueError(
                f"{path} cannot be loaded as a program of torch ({error}); export it again"
            ) from None
        except (LookupError, TypeError, AttributeError, RuntimeError) as error:
            raise ValueError(
                f"{path} cannot be loaded as a program of torch (its parts do not fit: "
                f"{reason(error)}); export it again"
            ) from None

    def _read(self, archive: _Archive) -> None:
        tree = parse_json(archive.graph(), f"the graph of {self.path}")
        module = tree["graph_module"]
        weights, constants = archive.tensors("weights"), archive.tensors("constants")
        self._fixed: dict[str, Tensor] = {}
        inputs: list[str] = []
        for spec in module["signature"]["input_specs"]:
            ((kind, entry),) = spec.items()
            if kind == "user_input":
                inputs.append(entry["arg"]["as_tensor"]["name"])
            elif kind in ("parameter", "buffer", "tensor_constant"):
                key = entry[f"{kind}_name"]
                tensor = weights[key] if key in weights else constants[key]
                # buffers and constants may contain infinity: masks have it
                wrong = tensor.isfinite().logical_not() if kind == "parameter" else tensor.isnan()
                if wrong.any():
                    raise ValueError(not_numbers(self.path, key))
                self._fixed[entry["arg"]["name"]] = tensor
            else:
                raise _Malformed(f"it takes an input of kind {shown(kind)}")
        if any("user_output" not in spec for spec in module["signature"]["output_specs"]):
            raise _Malformed("it changes its own weights")
        graph = _Graph(module["graph"])
        if not inputs or not graph.outputs:
            raise _Malformed("it should take pixels, and give logits and boxes or the best of them")
        self.inputs, self._graph = tuple(inputs), graph
        self.texts = archive.texts()

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs; ValueError where the program does not fit the inputs or itself."""
        if len(inputs) != len(self.inputs):
            raise ValueError(
                f"{self.path} takes {counted(len(self.inputs), 'input')}; got {len(inputs)}: "
                "export it again"
            )
        values = self._fixed | dict(zip(self.inputs, inputs, strict=True))
        try:
            with torch.no_grad():
                outputs = tuple(self._graph(values))
        except (RuntimeError, LookupError, TypeError, ValueError, ArithmeticError) as error:
            if full := exhausted(error):
                raise full from None
            raise ValueError(
                f"{self.path} cannot compute {list(inputs[0].shape)} pixels "
                f"({reason(error)}); export it again"
            ) from None
        if not all(isinstance(each, Tensor) for each in outputs):
            raise ValueError(f"{self.path} gives no tensors; export it again")
        return outputs


class _Malformed(Exception):
    """The file has something that no program of torch.export has."""


class _Archive:
    """The entries of a ``.pt2`` file written by torch 2.6 or later."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._entries: dict[str, zipfile.ZipInfo] = {}
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED:
                raise _Malformed("its entries are compressed, which torch never does")
            self._entries[entry.filename] = entry
            self._entries.setdefault(entry.filename.partition("/")[2], entry)

    def graph(self) -> bytes:
        """The JSON of the graph."""
        for name in ("models/model.json", "serialized_exported_program.json"):
            if name in self._entries:
                return self._content(name)
        raise _Malformed("it holds no program")

    def texts(self) -> dict[str, str]:
        """The additional text files of the archive, by name."""
        found: dict[str, str] = {}
        for name in self._entries:
            folder, _, file = name.rpartition("/")
            if folder in ("extra", "extra_files"):
                found[file] = self._content(name).decode()
        return found

    def tensors(self, kind: str) -> dict[str, Tensor]:
        """Name → tensor, for ``kind`` weights or constants."""
        table = f"data/{kind}/model_{kind}_config.json"
        if table not in self._entries:
            earlier = "state_dict" if kind == "weights" else "constants"
            for name in (f"data/{kind}/model.pt", f"serialized_{earlier}.json"):
                if name in self._entries:
                    return _unpickled(self._content(name))
            raise _Malformed(f"it holds no {kind}")
        rows = parse_json(self._content(table), table)["config"]
        return {key: self._tensor(kind, row) for key, row in rows.items()}

    def _tensor(self, kind: str, row: Mapping[str, Any]) -> Tensor:
        name, meta = row["path_name"], row["tensor_meta"]
        if row["use_pickle"] or not name.startswith(("weight_", "tensor_")):
            raise _Malformed(f"{shown(name)} of its {kind} is pickled, which could run any code")
        dtype = _TYPES[meta["dtype"]]
        sizes, strides = _integers(meta["sizes"]), _integers(meta["strides"])
        if 0 in sizes:
            return torch.zeros(sizes, dtype=dtype)
        content = bytearray(self._content(f"data/{kind}/{name}"))
        offset = _integers([meta["storage_offset"]])[0]
        try:  # as_strided raises where sizes reach beyond the content
            return torch.frombuffer(content, dtype=dtype).as_strided(sizes, strides, offset)
        except (ValueError, RuntimeError) as error:
            raise _Malformed(f"{shown(name)} is no such tensor: {reason(error)}") from None

    def _content(self, name: str) -> bytes:
        return self._archive.read(self._entries[name])


def _integers(values: Sequence[Any]) -> list[int]:
    return [value["as_int"] if isinstance(value, dict) else value for value in values]


def _unpickled(content: bytes) -> dict[str, Tensor]:
    """Tensors in the form that torch before 2.9 wrote."""
    try:
        tensors = torch.load(BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:  # torch raises many kinds
        raise _Malformed("its tensors are pickled with more than tensors") from None
    if not all(isinstance(value, Tensor) for value in tensors.values()):
        raise _Malformed("its tensors are pickled with more than tensors")
    return tensors


@dataclass(frozen=True)
class _Value:
    """A reference to a named value, as an argument or an output."""

    name: str


@dataclass
class _Step:
    """A call; ``frees`` are the names of values that no later step needs."""

    call: Callable[..., Any]
    arguments: list[Any]
    keywords: dict[str, Any]
    outputs: list[Any]
    frees: list[str] = field(default_factory=list)


class _Graph:
    """The steps of a program, in the order of the file; calling it runs them."""

    def __init__(self, tree: Mapping[str, Any]) -> None:
        self.inputs = [_argument(each).name for each in tree["inputs"]]
        self.steps = [_step(node) for node in tree["nodes"]]
        self.outputs = [_argument(each) for each in tree["outputs"]]
        last: dict[str, int] = {}
        for index, step in enumerate(self.steps):
            parts = [*step.arguments, *step.keywords.values(), *step.outputs]
            last |= dict.fromkeys(_names(parts), index)
        for name, index in last.items():
            if name not in _names(self.outputs):
                self.steps[index].frees.append(name)

    def __call__(self, values: dict[str, Any]) -> list[Any]:
        for step in self.steps:
            arguments = [_resolved(each, values) for each in step.arguments]
            keywords = {key: _resolved(each, values) for key, each in step.keywords.items()}
            _store(step.outputs, step.call(*arguments, **keywords), values)
            for name in step.frees:
                del values[name]
        return [_resolved(each, values) for each in self.outputs]


def _names(parts: Sequence[Any]) -> set[str]:
    """The names of all values in arguments or outputs."""
    nested = [each for part in parts for each in (part if isinstance(part, list) else [part])]
    return {each.name for each in nested if isinstance(each, _Value)}


def _resolved(part: Any, values: Mapping[str, Any]) -> Any:
    """The argument with references replaced by their values."""
    if isinstance(part, _Value):
        return values[part.name]
    if isinstance(part, list):
        return [values[each.name] if isinstance(each, _Value) else each for each in part]
    return part


def _store(outputs: list[Any], result: Any, values: dict[str, Any]) -> None:
    """Store the result of a step: one value, or several, each of which may be a list."""
    results = [] if not outputs else [result] if len(outputs) == 1 else result
    for output, value in zip(outputs, results, strict=True):
        if isinstance(output, list):
            values.update((o.name, v) for o, v in zip(output, value, strict=True))
        elif output is not None:
            values[output.name] = value


def _step(node: Mapping[str, Any]) -> _Step:
    outputs = [_argument(each) for each in node["outputs"]]
    if node["target"] == _AUTOCAST:
        *settings, body = [each["arg"] for each in node["inputs"][:5]]
        operands = [_argument(each["arg"]) for each in node["inputs"][5:]]
        return _Step(_autocast(*map(_argument, settings), body=body), operands, {}, outputs)
    call = _operator(node["target"])
    step = _Step(call, [], {}, outputs)
    for each in node["inputs"]:
        # torch before 2.7 names every argument but does not set "kind"
        if isinstance(call, OpOverload) and each.get("kind") != _POSITIONAL:
            step.keywords[each["name"]] = _argument(each["arg"])
        else:
            step.arguments.append(_argument(each["arg"]))
    return step


def _operator(target: str) -> Callable[..., Any]:
    """The operator of a name, if it is a known one."""
    if target in _NUMBERS:
        return _bounded(_NUMBERS[target])
    space, _, rest = target.partition("aten.")
    name, _, overload = rest.partition(".")
    if space == "torch.ops." and name.isidentifier() and overload.isidentifier():
        found = getattr(getattr(torch.ops.aten, name, None), overload, None)
        if isinstance(found, OpOverload) and (name in _LAYER_NAMES or torch.Tag.core in found.tags):
            return found
    raise _Malformed(f"it calls {shown(target)}, which is none of the operators of a detector")


def _bounded(call: Callable[..., Any]) -> Callable[..., Any]:
    """``call`` with results limited to 64 bits: a few products could fill the memory."""

    def number(*values: Any) -> Any:
        result = call(*values)
        if abs(result) >= MOST_NUMBER:
            raise OverflowError("a size is too large")
        return result

    return number


def _autocast(
    device: Any, dtype: Any, enabled: Any, cache: Any, body: Mapping[str, Any]
) -> Callable[..., Any]:
    """The call of a nested graph under autocast."""
    graph = _Graph(body["as_graph"]["graph"])

    def call(*operands: Any) -> Any:
        values = dict(zip(graph.inputs, operands, strict=True))
        with torch.autocast("cpu", dtype, bool(enabled), bool(cache)):
            outputs = graph(values)
        return outputs[0] if len(outputs) == 1 else outputs

    return call


def _argument(tree: Mapping[str, Any]) -> Any:
    """A constant, a ``_Value``, or a list of these; every device is the CPU."""
    ((kind, value),) = tree.items()
    match kind:
        case "as_none":
            return None
        case "as_int" | "as_bool" | "as_string" | "as_ints" | "as_bools":
            return value
        case "as_float":
            return float(value)
        case "as_floats":
            return [float(each) for each in value]
        case "as_tensor":
            return _Value(value["name"])
        case "as_tensors":
            return [_Value(each["name"]) for each in value]
        case "as_optional_tensor" | "as_sym_int" | "as_sym_float" | "as_sym_bool":
            return _argument(value)
        case "as_optional_tensors" | "as_sym_ints" | "as_sym_floats" | "as_sym_bools":
            return [_argument(each) for each in value]
        case "as_name":
            return _Value(value)
        case "as_scalar_type":
            return _TYPES[value]
        case "as_memory_format":
            return _MEMORY_FORMATS[value]
        case "as_layout" if value == _STRIDED:
            return torch.strided
        case "as_device":
            return torch.device("cpu")
    raise _Malformed(f"it has an argument of kind {shown(kind)}")
