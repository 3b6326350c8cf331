"""The closed list of torch functions that a saved model may call, each with its parameters.

A file names a function by its path, such as `torch.cat`. The path is looked up in this list and nowhere else. Each
function here is pure: it returns new values or views, and changes neither its arguments nor the process. Functions that
draw random numbers, write in place, choose a device, or read uninitialized memory are not in the list. Each argument has
a kind, and only values of this kind are accepted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

import torch
from torch import Tensor

from padless.errors import ArgumentError, unknown_name
from padless.graph.symbolic import Shape, SymbolicTensor
from padless.ragged.tensor_like import Args, Kwargs, TensorFunction
from padless.ragged.tree import leaves

MAX_ELEMENTS = 2**26
"""The largest number of elements of a tensor in a loaded graph, for each example and time step (256 MiB in float32)."""

DTYPES: Mapping[str, torch.dtype] = MappingProxyType(
    {
        str(dtype).removeprefix("torch."): dtype
        for dtype in (
            *(torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.complex128, torch.bool),
            *(torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint16, torch.uint32, torch.uint64),
        )
    }
)
"""The dtypes that a saved model may name."""

# Each row: the namespaces of the functions, their parameters with kinds, their names. A parameter without a kind is a
# tensor. "?" allows None. A list of ints may replace the ints of a parameter with a star, as in torch.
_BOTH = "torch torch.Tensor"
_ROWS: tuple[tuple[str, str, str], ...] = (
    # ---------------------------------------------------------------------------------------------- of each number
    (
        _BOTH,
        "input",
        "abs absolute acos acosh angle arccos arccosh arcsin arcsinh arctan arctanh asin asinh atan atanh bitwise_not ceil "
        "clone conj conj_physical cos cosh deg2rad detach digamma erf erfc erfinv exp exp2 expm1 fix floor frac frexp i0 "
        "isfinite isinf isnan isneginf isposinf isreal lgamma log log10 log1p log2 logical_not neg negative positive "
        "rad2deg reciprocal relu rsqrt sgn sigmoid sign signbit sin sinc sinh sqrt square tan tanh trunc resolve_conj",
    ),
    ("torch", "input", "selu real imag"),
    ("torch.Tensor", "input", "__neg__ __pos__ __invert__ __abs__ contiguous hardshrink"),
    ("torch.Tensor", "input", "float double half bfloat16 int long short byte char bool"),
    (
        "torch.special",
        "input",
        "digamma entr erf erfc erfcx erfinv exp2 expit expm1 gammaln i0 i0e i1 i1e log1p log_ndtr ndtr ndtri psi sinc "
        "bessel_j0 bessel_j1 bessel_y0 bessel_y1",
    ),
    ("torch.special", "input, eps:number?", "logit"),
    ("torch.special", "input, other:operand", "xlog1py xlogy zeta gammainc gammaincc"),
    (_BOTH, "input, eps:number?", "logit"),
    (_BOTH, "input, nan:number?, posinf:number?, neginf:number?", "nan_to_num"),
    (_BOTH, "input, *, decimals:int", "round"),
    ("torch.special", "input, *, decimals:int", "round"),
    ("torch", "n:int, input", "polygamma"),
    ("torch.special", "n:int, input", "polygamma"),
    ("torch.Tensor", "input, n:int", "polygamma"),
    (
        _BOTH,
        "input, other:operand",
        "arctan2 atan2 bitwise_and bitwise_left_shift bitwise_or bitwise_right_shift bitwise_xor copysign eq "
        "float_power floor_divide fmax fmin fmod gcd ge greater greater_equal gt heaviside hypot igamma igammac lcm ldexp "
        "le less less_equal logaddexp logaddexp2 logical_and logical_or logical_xor lt maximum minimum mul multiply ne "
        "nextafter not_equal remainder true_divide xlogy",
    ),
    ("torch", "input:operand, exponent:operand", "pow float_power"),
    ("torch.Tensor", "input, exponent:operand", "pow float_power"),
    (_BOTH, "input:operand, other:operand, *, alpha:number", "add sub subtract"),
    ("torch", "input, other:operand, alpha:number", "rsub"),
    (_BOTH, "input, other:operand, *, rounding_mode:floor|trunc?", "div divide"),
    (
        "torch.Tensor",
        "input, other:operand",
        "__add__ __radd__ __sub__ __rsub__ __mul__ __rmul__ __truediv__ __rtruediv__ __floordiv__ __rfloordiv__ __mod__ "
        "__rmod__ __pow__ __rpow__ __and__ __rand__ __or__ __ror__ __xor__ __rxor__ __lt__ __le__ __gt__ __ge__ __eq__ "
        "__ne__ __div__ __rdiv__",
    ),
    (_BOTH, "input, min:operand?, max:operand?", "clamp clip"),
    (_BOTH, "input, min:operand", "clamp_min"),
    (_BOTH, "input, max:operand", "clamp_max"),
    (_BOTH, "input, end, weight:operand", "lerp"),
    (_BOTH, "input, tensor1, tensor2, *, value:number", "addcmul addcdiv"),
    (_BOTH, "input, other, rtol:number, atol:number, equal_nan:bool", "isclose"),
    (_BOTH, "input, mask, value:operand", "masked_fill"),
    ("torch", "condition, input:operand, other:operand", "where"),
    ("torch.Tensor", "input, condition, other:operand", "where"),
    ("torch", "real, imag", "complex"),
    ("torch", "abs, angle", "polar"),
    ("torch.Tensor", "input, dtype:dtype", "to"),
    ("torch.Tensor", "input, other", "type_as"),
    ("torch", "input, *, dtype:dtype?", "zeros_like ones_like"),
    ("torch", "input, fill_value:number, *, dtype:dtype?", "full_like"),
    # ---------------------------------------------------------------------------------------------- activations
    ("torch.nn.functional", "input", "softsign tanhshrink logsigmoid tanh sigmoid"),
    ("torch.nn.functional", "input, inplace:false", "relu relu6 selu silu mish hardswish hardsigmoid"),
    ("torch.nn.functional", "input, alpha:number, inplace:false", "elu celu"),
    ("torch", "input, alpha:number", "celu"),
    ("torch.nn.functional", "input, approximate:none|tanh", "gelu"),
    ("torch.nn.functional", "input, min_val:number, max_val:number, inplace:false", "hardtanh"),
    ("torch.nn.functional", "input, negative_slope:number, inplace:false", "leaky_relu"),
    ("torch.nn.functional", "input, beta:number, threshold:number", "softplus"),
    ("torch.nn.functional torch", "input, lambd:number", "hardshrink"),
    ("torch.nn.functional", "input, lambd:number", "softshrink"),
    ("torch.nn.functional torch", "input, threshold:number, value:number", "threshold"),
    ("torch.nn.functional torch torch.Tensor", "input, weight", "prelu"),
    ("torch.nn.functional", "input, dim:int", "glu"),
    ("torch.nn.functional", "input, dim:int?, _stacklevel:int, dtype:dtype?", "softmax softmin log_softmax"),
    (_BOTH, "input, dim:int, dtype:dtype?", "softmax log_softmax"),
    ("torch.special", "input, dim:int, *, dtype:dtype?", "softmax log_softmax"),
    ("torch.nn.functional", "input, p:number, dim:int, eps:number, out:None", "normalize"),
    ("torch.nn.functional torch", "x1, x2, dim:int, eps:number", "cosine_similarity"),
    ("torch.nn.functional torch", "x1, x2, p:number, eps:number, keepdim:bool", "pairwise_distance"),
    ("torch.nn.functional", "input, normalized_shape:ints, weight?, bias?, eps:number", "layer_norm"),
    ("torch.nn.functional", "input, normalized_shape:ints, weight?, eps:number?", "rms_norm"),
    ("torch", "input, normalized_shape:ints, weight?, bias?, eps:number, cudnn_enable:bool", "layer_norm"),
    ("torch", "input, normalized_shape:ints, weight?, eps:number?", "rms_norm"),
    ("torch.nn.functional", "input, num_groups:int, weight?, bias?, eps:number", "group_norm"),
    # ---------------------------------------------------------------------------------------------- reductions
    (_BOTH, "input, dim:axes?, keepdim:bool, *, dtype:dtype?", "sum mean nansum nanmean"),
    (_BOTH, "input, dim:int?, keepdim:bool, *, dtype:dtype?", "prod"),
    (_BOTH, "input, dim:axes, keepdim:bool", "amax amin"),
    (_BOTH, "input, dim:axes?, keepdim:bool", "logsumexp all any"),
    ("torch.special", "input, dim:axes, keepdim:bool", "logsumexp"),
    (_BOTH, "input, dim:int?, keepdim:bool", "argmax argmin median nanmedian mode"),
    (_BOTH, "input, k:int, dim:int, keepdim:bool", "kthvalue"),
    (_BOTH, "input, dim:operand, keepdim:bool, *, other", "max min"),
    (_BOTH, "input, *, dim:int?, keepdim:bool", "aminmax"),
    (_BOTH, "input, dim:axes|bool?, unbiased:bool, keepdim:bool, *, correction:number?", "std var"),
    ("torch", "input, dim:axes|bool?, unbiased:bool, keepdim:bool, *, correction:number?", "std_mean var_mean"),
    (_BOTH, "input, q:operand, dim:int?, keepdim:bool, *, interpolation:linear|lower|higher|midpoint|nearest", "quantile"),
    (_BOTH, "input, dim:axes?", "count_nonzero"),
    (_BOTH, "input, p:fro|nuc|number?, dim:axes?, keepdim:bool, *, dtype:dtype?", "norm"),
    ("torch.linalg", "input:, ord:number, dim:axes?, keepdim:bool, *, x, dtype:dtype?", "vector_norm"),
    ("torch.linalg", "input:, ord:fro|nuc|number?, dim:axes?, keepdim:bool, *, A, dtype:dtype?", "norm matrix_norm"),
    (_BOTH, "input, dim:int, *, dtype:dtype?", "cumsum cumprod"),
    (_BOTH, "input, dim:int", "cummax cummin logcumsumexp"),
    # ---------------------------------------------------------------------------------------------- order
    (_BOTH, "input, dim:int, descending:bool, *, stable:bool", "sort argsort"),
    (_BOTH, "input, k:int, dim:int, largest:bool, sorted:bool", "topk"),
    (_BOTH, "input, *dims:int", "flip"),
    (_BOTH, "input", "fliplr flipud"),
    (_BOTH, "input, shifts:ints, dims:ints", "roll"),
    (_BOTH, "input, k:int, dims:ints", "rot90"),
    (_BOTH, "input, dim:int, index", "gather index_select"),
    (_BOTH, "input, indices, dim:int?", "take_along_dim"),
    (_BOTH, "input, dim:int, index, src:operand", "scatter scatter_add"),
    # ---------------------------------------------------------------------------------------------- shapes
    ("torch.Tensor", "input, key:index", "__getitem__"),
    ("torch", "input, shape:ints", "reshape"),
    ("torch.Tensor", "input, *shape:int, size:ints", "reshape view"),
    ("torch.Tensor", "input, other", "view_as reshape_as expand_as"),
    (_BOTH, "input, start_dim:int, end_dim:int", "flatten"),
    (_BOTH, "input", "ravel t adjoint"),
    (_BOTH, "input, dim:int, sizes:ints", "unflatten"),
    (_BOTH, "input, dim:axes", "squeeze"),
    (_BOTH, "input, dim:int", "unsqueeze unbind"),
    (_BOTH, "input, dim0:int, dim1:int", "transpose swapdims"),
    (_BOTH, "input, axis0:int, axis1:int, dim0:int, dim1:int", "swapaxes"),
    (_BOTH, "input, *dims:int", "permute"),
    (_BOTH, "input, source:ints, destination:ints", "movedim moveaxis"),
    (_BOTH, "input, chunks:int, dim:int", "chunk"),
    ("torch", "tensor, split_size_or_sections:ints, dim:int", "split"),
    ("torch.Tensor", "input, split_size:ints, dim:int", "split"),
    (_BOTH, "input, split_sizes:ints, dim:int", "split_with_sizes"),
    (_BOTH, "input, indices_or_sections:ints, dim:int, *, sections:int, indices:ints", "tensor_split"),
    (_BOTH, "input, dim:int, index:int", "select"),
    (_BOTH, "input, dim:int, start:int, length:int", "narrow"),
    (_BOTH, "input, offset:int, dim1:int, dim2:int", "diagonal"),
    (_BOTH, "input, diagonal:int", "tril triu"),
    (_BOTH, "input, n:int, dim:int, prepend?, append?", "diff"),
    # ---------------------------------------------------------------------------------------------- products
    (_BOTH, "input, other", "matmul inner"),
    ("torch.Tensor", "input, other", "__matmul__ __rmatmul__"),
    (_BOTH, "input, mat2", "mm bmm"),
    (_BOTH, "input, vec", "mv"),
    (_BOTH, "input, tensor", "dot"),
    (_BOTH, "input, batch1, batch2, *, beta:number, alpha:number", "baddbmm"),
    (_BOTH, "input, mat1, mat2, *, beta:number, alpha:number", "addmm"),
    ("torch.linalg", "input, other, *, dim:int, x, y", "matmul vecdot cross"),
    ("torch", "input, other, dim:int?", "cross"),
    ("torch.nn.functional", "input, weight, bias?", "linear"),
    (
        "torch.nn.functional",
        "input, weight, padding_idx:int?, max_norm:None, norm_type:number, scale_grad_by_freq:bool, sparse:bool",
        "embedding",
    ),
    ("torch", "x1, x2, p:number", "cdist"),
    ("torch", "equation:equation, *operands:tensor", "einsum"),
    ("torch", "a, b, dims:ints|lists", "tensordot"),
    (
        "torch.nn.functional",
        "query, key, value, attn_mask?, dropout_p:zero, is_causal:bool, *, scale:number?, enable_gqa:bool",
        "scaled_dot_product_attention",
    ),
    ("torch.fft", "input, n:size?, dim:int, norm:forward|backward|ortho?", "fft ifft rfft irfft hfft ihfft"),
    ("torch.fft", "input, dim:axes?", "fftshift ifftshift"),
    # ---------------------------------------------------------------------------------------------- losses of each number
    (
        "torch.nn.functional",
        "input, target, *, reduction:none|mean|sum, beta:number, delta:number",
        "mse_loss l1_loss smooth_l1_loss huber_loss",
    ),
    # ---------------------------------------------------------------------------------------------- pooling
    (
        "torch.nn.functional",
        "input, kernel_size:ints, stride:ints?, padding:ints, ceil_mode:bool, count_include_pad:bool, divisor_override:int?",
        "avg_pool1d avg_pool2d",
    ),
    (
        "torch.nn.functional",
        "input, kernel_size:ints, stride:ints?, padding:ints, dilation:ints, ceil_mode:bool, return_indices:bool",
        "max_pool1d max_pool2d",
    ),
)
# Functions whose result can be much larger than their inputs. `check_call` estimates the size before the call.
_GROWING_ROWS: tuple[tuple[str, str, str], ...] = (
    ("torch", "tensors:tensors, dim:int", "cat concat concatenate stack"),
    ("torch", "tensors:tensors", "hstack vstack dstack column_stack"),
    ("torch.Tensor", "input, *sizes:int, size:ints", "expand"),
    ("torch.Tensor", "input, *repeats:int", "repeat"),
    ("torch", "input, size:ints", "broadcast_to"),
    ("torch", "input, dims:ints", "tile"),
    ("torch.Tensor", "input, *dims:int", "tile"),
    (_BOTH, "input, repeats:int, dim:int?", "repeat_interleave"),
    ("torch.nn.functional", "input, num_classes:int", "one_hot"),
    ("torch.nn.functional", "input, pad:ints, mode:constant|reflect|replicate|circular, value:number?", "pad"),
    (
        "torch.nn.functional",
        "input, size:ints?, scale_factor:number|numbers?, mode:nearest|linear|bilinear|bicubic|area|nearest-exact, "
        "align_corners:bool?, recompute_scale_factor:bool?, antialias:bool",
        "interpolate",
    ),
    ("torch.nn.functional", "input, output_size:ints", "adaptive_avg_pool1d adaptive_avg_pool2d"),
    (
        "torch.nn.functional",
        "input, weight, bias?, stride:ints, padding:same|valid|ints, dilation:ints, groups:int",
        "conv1d conv2d",
    ),
    ("torch.Tensor", "input, *size:int, dtype:dtype?", "new_zeros new_ones"),
    ("torch.Tensor", "input, size:ints, fill_value:number, *, dtype:dtype?", "new_full"),
    ("torch.Tensor", "input, dimension:int, size:int, step:int", "unfold"),
    (_BOTH, "input, vec2", "outer"),
    ("torch", "input, other", "kron"),
    (_BOTH, "input, offset:int, dim1:int, dim2:int", "diag_embed"),
    (_BOTH, "input, diagonal:int", "diag"),
)
_ALIASES = {"axis": "dim", "keepdims": "keepdim"}  # torch accepts NumPy's names, too
_MODULES: Mapping[str, object] = {
    "torch": torch,
    "torch.Tensor": Tensor,
    "torch.nn.functional": torch.nn.functional,
    "torch.special": torch.special,
    "torch.linalg": torch.linalg,
    "torch.fft": torch.fft,
}


@dataclass(frozen=True)
class Parameter:
    """A parameter of a function: its name and the kinds of its values, such as ("number", "None")."""

    name: str
    kinds: tuple[str, ...]
    is_named_only: bool = False
    is_variadic: bool = False

    def describe(self) -> str:
        """Return the kinds in words."""
        return " or ".join("False" if kind == "false" else "0" if kind == "zero" else kind for kind in self.kinds)


@dataclass(frozen=True)
class SavedFunction:
    """A torch function that a saved model may call.

    Args:
        path: the path of the function, such as `torch.cat`.
        function: the function.
        parameters: its parameters, in order.
        may_grow: whether the result can be much larger than the inputs.
    """

    path: str
    function: TensorFunction
    parameters: tuple[Parameter, ...]
    may_grow: bool


@cache
def saved_functions() -> Mapping[str, SavedFunction]:
    """Return the functions that a saved model may call, by path."""
    functions = {}
    for rows, may_grow in ((_ROWS, False), (_GROWING_ROWS, True)):
        for namespaces, signature, names in rows:
            parameters = _parse_signature(signature)
            for namespace in namespaces.split():
                for name in names.split():
                    function = getattr(_MODULES[namespace], name, None)
                    if function is not None:  # older versions of torch lack a few
                        path = f"{namespace}.{name}"
                        functions[path] = SavedFunction(path, function, parameters, may_grow)
    return MappingProxyType(functions)


def torch_path(function: TensorFunction) -> str:
    """Return the path of a torch function in the list.

    Raises:
        ArgumentError: the function is not in the list, so a model that calls it cannot be saved.

    Example:
        >>> torch_path(torch.exp), torch_path(torch.special.erf)
        ('torch.exp', 'torch.special.erf')
    """
    path = _paths().get(function)
    if path is None:
        raise ArgumentError(
            f"{function!r} cannot be saved: it is not in the list of torch functions that a file may name "
            f"(docs/security.md). Call it in the `call` of a registered layer; the model can be used and trained as it is."
        )
    return path


@cache
def _paths() -> dict[TensorFunction, str]:
    """Return the path of each function; of several, that in the namespace that is first in this order."""
    order = ["torch.nn.functional", "torch.Tensor", "torch", "torch.special", "torch.linalg", "torch.fft"]
    paths: dict[TensorFunction, str] = {}
    for saved in sorted(saved_functions().values(), key=lambda saved: order.index(saved.path.rpartition(".")[0])):
        paths.setdefault(saved.function, saved.path)
    return paths


def torch_function_at(path: str) -> TensorFunction:
    """Return the function at a path that `torch_path` returned.

    Raises:
        ArgumentError: the path is not in the list.
    """
    return _saved_function(path).function


def _saved_function(path: object) -> SavedFunction:
    """Return the entry of a path; raise `ArgumentError` if the path is not in the list."""
    saved = saved_functions().get(path) if isinstance(path, str) else None
    if saved is None:
        names = [name for name in saved_functions() if isinstance(path, str) and name.endswith(path.rpartition(".")[2])]
        raise ArgumentError(
            f"{unknown_name('torch function', path, names or ['a path of the list in docs/security.md'])} A saved model "
            f"may only call the functions of this list."
        )
    return saved


# ------------------------------------------------------------------------------------------------ arguments of a call


def check_function_call(function: object, args: Args, kwargs: Kwargs) -> None:
    """Check a call of a function that a file names: `check_call` if it is one of torch, else it is user-defined.

    Raises:
        ArgumentError: see `check_call`.
    """
    path = _paths().get(function) if callable(function) else None
    if path is not None:
        check_call(path, args, kwargs)


def check_call(path: str, args: Args, kwargs: Kwargs) -> None:
    """Check a call of a function of a saved graph: its arguments have the kinds of its parameters.

    Args:
        path: the path of the function.
        args: the positional arguments, symbols among them.
        kwargs: the named arguments.

    Raises:
        ArgumentError: the path is not in the list, an argument is not allowed, no argument is symbolic, or the result
            would have more than `MAX_ELEMENTS` elements.
    """
    saved = _saved_function(path)
    symbols = [leaf for leaf in leaves((args, kwargs)) if isinstance(leaf, SymbolicTensor)]
    if not symbols:
        raise ArgumentError(
            f"A saved call of {path} has no symbolic input. Expected a result of a layer among its arguments."
        )
    positional = [parameter for parameter in saved.parameters if not parameter.is_named_only]
    by_name = {parameter.name: parameter for parameter in saved.parameters}
    for position, value in enumerate(args):
        if position < len(positional):
            _check_value(path, positional[position], value)
        elif (variadic := next((p for p in positional if p.is_variadic), None)) is not None:
            _check_value(path, variadic, value)
        else:
            raise ArgumentError(f"A saved call of {path} has {len(args)} positional arguments; expected {len(positional)}.")
    for name, value in kwargs.items():
        parameter = by_name.get(name) or by_name.get(_ALIASES.get(name, ""))
        if parameter is None:
            raise ArgumentError(f"{unknown_name(f'argument of {path} in a saved call', name, by_name)}")
        _check_value(path, parameter, value)
    if saved.may_grow:
        _check_growth(path, args, kwargs)


def check_elements(shape: Shape, source: str) -> None:
    """Check the size of a symbol: its known axes have at most `MAX_ELEMENTS` elements together.

    Args:
        shape: the shape, None for open axes.
        source: what has this shape, for the message.

    Raises:
        ArgumentError: there are more elements.
    """
    if _num_elements(shape) > MAX_ELEMENTS:
        raise ArgumentError(
            f"{source} has the shape {tuple(shape)}: more than {MAX_ELEMENTS} elements for each example, or for each step "
            f"if the number of steps is open. A saved model may not have larger results."
        )


def _check_growth(path: str, args: Args, kwargs: Kwargs) -> None:
    """Check an upper bound of the size of the result: the elements of all tensors, times all numbers of the arguments."""
    tensors = [x for x in leaves((args, kwargs)) if isinstance(x, Tensor | SymbolicTensor)]
    counts = {name: value for name, value in kwargs.items() if name not in ("value", "fill_value", "dim")}
    numbers = [x for x in leaves((args, counts)) if isinstance(x, int | float) and not isinstance(x, bool)]
    sizes = [max(_num_elements(tuple(x.shape)), 1) for x in tensors]
    is_product = path.rpartition(".")[2] in ("outer", "kron", "diag", "diag_embed", "conv1d", "conv2d")
    bound = math.prod(sizes) ** (2 if len(sizes) == 1 else 1) if is_product else sum(sizes)
    for number in (1, *numbers):
        bound *= max(abs(number), 1)
        if not bound <= MAX_ELEMENTS:  # NaN, too
            raise ArgumentError(
                f"A saved call of {path} with the numbers {numbers} could give more than {MAX_ELEMENTS} elements. "
                f"Use smaller numbers, or call the function in the `call` of a registered layer."
            )


def _num_elements(shape: Shape) -> int:
    return math.prod(size for size in shape if size is not None)


def _check_value(path: str, parameter: Parameter, value: object) -> None:
    """Check that a value has one of the kinds of a parameter."""
    values: Sequence[object] = value if parameter.is_variadic and isinstance(value, list | tuple) else [value]
    for item in values:
        if not any(_is_of_kind(item, kind) for kind in parameter.kinds):
            raise ArgumentError(
                f"A saved call of {path} has the argument {parameter.name} = {value!r:.100}. Expected "
                f"{parameter.describe()}."
            )


def _is_of_kind(value: object, kind: str) -> bool:
    """Return whether a value is of a kind. A kind without a rule is a word that the value must equal."""
    is_tensor = isinstance(value, Tensor | SymbolicTensor)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    is_int = isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63
    match kind:
        case "tensor":
            return is_tensor
        case "tensors":
            return isinstance(value, list | tuple) and bool(value) and all(_is_of_kind(x, "tensor") for x in value)
        case "operand":
            return is_tensor or isinstance(value, int | float)
        case "number":
            return is_number
        case "numbers":
            return isinstance(value, list | tuple) and all(_is_of_kind(x, "number") for x in value)
        case "int":
            return is_int
        case "size":
            return is_int and isinstance(value, int) and value <= 2**16
        case "ints" | "axes":
            return is_int or isinstance(value, list | tuple) and all(_is_of_kind(x, "int") for x in value)
        case "lists":
            return isinstance(value, list | tuple) and all(_is_of_kind(x, "ints") for x in value)
        case "bool":
            return isinstance(value, bool)
        case "false":
            return value is False
        case "zero":
            return is_number and value == 0
        case "dtype":
            return isinstance(value, torch.dtype)
        case "None":
            return value is None
        case "index":
            return _is_index(value)
        case "equation":
            return isinstance(value, str) and re.fullmatch(r"[A-Za-z ,.>-]{1,200}", value) is not None
        case _:
            return isinstance(value, str) and value == kind


def _is_index(value: object) -> bool:
    """Return whether a value is a key of a tensor: numbers, slices of numbers, None, an ellipsis, tensors, tuples, lists."""
    if isinstance(value, list | tuple):
        return all(map(_is_index, value))
    if isinstance(value, slice):
        return all(part is None or _is_of_kind(part, "int") for part in (value.start, value.stop, value.step))
    return (
        value is None or value is Ellipsis or isinstance(value, bool | Tensor | SymbolicTensor) or _is_of_kind(value, "int")
    )


def _parse_signature(signature: str) -> tuple[Parameter, ...]:
    """Return the parameters of a row of the list."""
    parameters, is_named_only = [], False
    for text in signature.split(", "):
        if text == "*":
            is_named_only = True
            continue
        name, _, kinds = text.partition(":")
        is_optional = text.endswith("?")
        allowed = tuple((kinds.removesuffix("?") or "tensor").split("|")) + (("None",) if is_optional else ())
        parameters.append(Parameter(name.strip("*?"), allowed, is_named_only, name.startswith("*")))
    return tuple(parameters)
