"""Torch functions in files: only pure functions of a closed list are saved and loaded, with arguments of their kinds."""

import copy
import random

import numpy as np
import pytest
import torch

from padless import Input, Model, load_model
from padless._torch_compat import pytree
from padless.errors import ArgumentError
from padless.graph import saved_functions
from padless.graph.saved_functions import MAX_ELEMENTS, Parameter, SavedFunction, check_call
from padless.graph.symbolic import SymbolicTensor
from padless.layers import Lambda

FUNCTIONS = saved_functions.saved_functions()


def process_state():
    """Return what a function must not change in the process."""
    return {
        "default dtype": torch.get_default_dtype(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "random": (torch.get_rng_state().numpy().tobytes(), random.getstate(), np.random.get_state()[1].tobytes()),
        "gradients": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn": (torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32),
        "anomaly": torch.is_anomaly_enabled(),
    }


def examples_of(saved: SavedFunction):
    """Yield positional and named arguments of a function: plausible ones of each kind of its required parameters."""
    name = saved.path.rpartition(".")[2]
    if name in SPECIAL:
        yield SPECIAL[name]()
        return
    required = [p for p in saved.parameters if not p.is_named_only and p.name not in OPTIONAL]
    required = [p for p in required if "None" not in p.kinds and "false" not in p.kinds and "zero" not in p.kinds]
    for dtype in (torch.float32, torch.int64, torch.bool, torch.complex64):
        yield tuple(value_of(p, dtype, number) for number, p in enumerate(required)), {}


OPTIONAL = set(
    "alpha value rtol atol equal_nan keepdim unbiased _stacklevel start_dim end_dim inplace approximate min_val max_val "
    "negative_slope beta threshold lambd eps p largest sorted descending stable offset dim1 dim2 diagonal n padding "
    "ceil_mode count_include_pad dilation return_indices groups stride mode is_causal cudnn_enable size step "
    "dimension append prepend k interpolation norm_type scale_grad_by_freq sparse ord max_norm out axis0 axis1".split()
)


def value_of(parameter: Parameter, dtype: torch.dtype, number: int):
    kind = parameter.kinds[0]
    values = torch.linspace(0.1, 0.9, 24).reshape(2, 3, 4)
    tensor = (values * 5).to(dtype) if dtype != torch.complex64 else torch.complex(values, values)
    match kind:
        case "tensor" | "operand":
            return {"index": torch.zeros(2, 3, 4, dtype=torch.long), "mask": values > 0.5, "condition": values > 0.5}.get(
                parameter.name, tensor
            )
        case "tensors":
            return [tensor, tensor + tensor if dtype != torch.bool else tensor]
        case "int" | "axes":
            return 1
        case "number":
            return 0.5
        case "dtype":
            return torch.float64
        case _:
            raise AssertionError(f"Add an example for {parameter}.")


def floats(*shape):
    return torch.linspace(0.1, 0.9, int(np.prod(shape))).reshape(shape)


SPECIAL = {
    "index_select": lambda: ((floats(2, 3, 4), 1, torch.tensor([0, 2])), {}),
    "take_along_dim": lambda: ((floats(2, 3), torch.zeros(2, 3, dtype=torch.long), 1), {}),
    "prelu": lambda: ((floats(2, 3), floats(1)), {}),
    "layer_norm": lambda: ((floats(2, 3), (3,)), {}),
    "rms_norm": lambda: ((floats(2, 3), (3,)), {}),
    "group_norm": lambda: ((floats(2, 4, 3), 2), {}),
    "roll": lambda: ((floats(2, 3), 1, 1), {}),
    "rot90": lambda: ((floats(2, 3), 1, [0, 1]), {}),
    "__getitem__": lambda: ((floats(2, 3, 4), (slice(None), [0, 2], ..., None)), {}),
    "reshape": lambda: ((floats(2, 3, 4), (2, -1)), {}),
    "view": lambda: ((floats(2, 3, 4), (2, -1)), {}),
    "t": lambda: ((floats(2, 3),), {}),
    "adjoint": lambda: ((floats(2, 3),), {}),
    "unflatten": lambda: ((floats(2, 4), 1, (2, 2)), {}),
    "permute": lambda: ((floats(2, 3, 4), (2, 0, 1)), {}),
    "transpose": lambda: ((floats(2, 3), 0, 1), {}),
    "swapdims": lambda: ((floats(2, 3), 0, 1), {}),
    "swapaxes": lambda: ((floats(2, 3), 0, 1), {}),
    "movedim": lambda: ((floats(2, 3), 0, 1), {}),
    "moveaxis": lambda: ((floats(2, 3), 0, 1), {}),
    "split": lambda: ((floats(2, 3), 2, 1), {}),
    "split_with_sizes": lambda: ((floats(2, 3), [1, 2], 1), {}),
    "tensor_split": lambda: ((floats(2, 3), [1, 2], 1), {}),
    "narrow": lambda: ((floats(2, 3), 1, 1, 2), {}),
    "kthvalue": lambda: ((floats(2, 3), 2, 1), {}),
    "topk": lambda: ((floats(2, 3), 2, 1), {}),
    "median": lambda: ((floats(2, 3), 1), {}),
    "quantile": lambda: ((floats(2, 3), 0.5, 1), {}),
    "matmul": lambda: ((floats(2, 3), floats(3, 2)), {}),
    "__matmul__": lambda: ((floats(2, 3), floats(3, 2)), {}),
    "__rmatmul__": lambda: ((floats(2, 3), floats(3, 2)), {}),
    "mm": lambda: ((floats(2, 3), floats(3, 2)), {}),
    "bmm": lambda: ((floats(1, 2, 3), floats(1, 3, 2)), {}),
    "mv": lambda: ((floats(2, 3), floats(3)), {}),
    "dot": lambda: ((floats(3), floats(3)), {}),
    "outer": lambda: ((floats(3), floats(2)), {}),
    "baddbmm": lambda: ((floats(1, 2, 2), floats(1, 2, 3), floats(1, 3, 2)), {}),
    "addmm": lambda: ((floats(2, 2), floats(2, 3), floats(3, 2)), {}),
    "linear": lambda: ((floats(2, 3), floats(4, 3)), {}),
    "embedding": lambda: ((torch.zeros(2, 3, dtype=torch.long), floats(4, 3)), {"max_norm": None}),
    "einsum": lambda: (("ij,jk->ik", floats(2, 3), floats(3, 2)), {}),
    "tensordot": lambda: ((floats(2, 3), floats(3, 2), 1), {}),
    "scaled_dot_product_attention": lambda: ((floats(1, 2, 3),) * 3, {"dropout_p": 0.0}),
    "avg_pool1d": lambda: ((floats(1, 2, 4), 2), {}),
    "max_pool1d": lambda: ((floats(1, 2, 4), 2), {}),
    "avg_pool2d": lambda: ((floats(1, 2, 4, 4), 2), {}),
    "max_pool2d": lambda: ((floats(1, 2, 4, 4), 2), {}),
    "adaptive_avg_pool1d": lambda: ((floats(1, 2, 4), 2), {}),
    "adaptive_avg_pool2d": lambda: ((floats(1, 2, 4, 4), 2), {}),
    "conv1d": lambda: ((floats(1, 2, 4), floats(3, 2, 2)), {}),
    "conv2d": lambda: ((floats(1, 2, 4, 4), floats(3, 2, 2, 2)), {}),
    "expand": lambda: ((floats(2, 1), 2, 5), {}),
    "repeat": lambda: ((floats(2, 1), 2, 5), {}),
    "broadcast_to": lambda: ((floats(2, 1), (2, 5)), {}),
    "tile": lambda: ((floats(2, 1), (2, 5)), {}),
    "repeat_interleave": lambda: ((floats(2, 1), 5, 1), {}),
    "one_hot": lambda: ((torch.zeros(2, dtype=torch.long), 5), {}),
    "pad": lambda: ((floats(2, 1), (2, 5)), {}),
    "interpolate": lambda: ((floats(1, 2, 3),), {"scale_factor": 2.0}),
    "new_zeros": lambda: ((floats(2), (2, 5)), {}),
    "new_ones": lambda: ((floats(2), (2, 5)), {}),
    "new_full": lambda: ((floats(2), (2, 5), 0.5), {}),
    "unfold": lambda: ((floats(2, 5), 1, 3, 1), {}),
    "diag": lambda: ((floats(3),), {}),
    "hardshrink": lambda: ((floats(3),), {}),
    "cross": lambda: ((floats(2, 3), floats(2, 3)), {"dim": 1}),
    "glu": lambda: ((floats(2, 4), 1), {}),
    "aminmax": lambda: ((floats(2, 4),), {"dim": 1}),
    "unbind": lambda: ((floats(2, 4), 1), {}),
    "chunk": lambda: ((floats(2, 4), 2, 1), {}),
    "softmax": lambda: ((floats(2, 4), 1), {}),
    "softmin": lambda: ((floats(2, 4), 1), {}),
    "log_softmax": lambda: ((floats(2, 4), 1), {}),
    "float": lambda: ((floats(2).double(),), {}),
    "polygamma": lambda: ((2, floats(2)), {}),
    "masked_fill": lambda: ((floats(2), floats(2) > 0.5, 0.0), {}),
    "threshold": lambda: ((floats(2), 0.5, 2.0), {}),
    "logsumexp": lambda: ((floats(2, 4), 1), {}),
    "flip": lambda: ((floats(2, 4), (0, 1)), {}),
    "polar": lambda: ((floats(2), floats(2)), {}),
    "to": lambda: ((floats(2), torch.float64), {}),
    "ldexp": lambda: ((floats(2), floats(2)), {}),
    "clamp": lambda: ((floats(2), 0.2, 0.4), {}),
    "clip": lambda: ((floats(2), 0.2, 0.4), {}),
    "view_as_real": lambda: ((torch.complex(floats(2), floats(2)),), {}),
    "where": lambda: ((floats(2) > 0.5, floats(2), 0.0), {}),
    "tril": lambda: ((floats(2, 2),), {}),
    "triu": lambda: ((floats(2, 2),), {}),
    "matrix_norm": lambda: ((floats(2, 2),), {}),
}

SPECIAL |= {name: SPECIAL["float"] for name in "double half bfloat16 int long short byte char bool".split()}


@pytest.mark.parametrize("namespace", sorted({path.rpartition(".")[0] for path in FUNCTIONS}))
def test_each_function_of_the_list_is_pure_and_its_output_bounded(namespace):
    """It changes neither its arguments nor the process, gives the same twice, and has an output of bounded size."""
    for path, saved in FUNCTIONS.items():
        if path.rpartition(".")[0] == namespace:
            check_is_pure(path, saved)


def check_is_pure(path: str, saved: SavedFunction):
    """Call a function twice on the same arguments and compare everything that it might change."""
    num_calls, refusal = 0, ""
    for args, kwargs in examples_of(saved):
        if path in ("torch.Tensor.where", "torch.Tensor.polygamma"):
            args = (args[1], args[0], *args[2:])
        before_args, before = copy.deepcopy((args, kwargs)), process_state()
        try:
            results = [saved.function(*args, **kwargs) for _ in range(2)]
        except (RuntimeError, TypeError) as error:  # this dtype is not supported
            refusal = str(error)
            continue
        num_calls += 1
        assert process_state() == before, path
        torch.testing.assert_close(tensors_in((args, kwargs)), tensors_in(before_args), rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(*map(tensors_in, results), rtol=0, atol=0, equal_nan=True)
        limit = sum(x.numel() for x in tensors_in((args, kwargs))) ** 2 * 16
        assert 0 < sum(x.numel() for x in tensors_in(results[0])) <= limit, path
        check_call(path, *as_symbols(args, kwargs))
    assert num_calls, f"{path}: {refusal}"


def tensors_in(tree):
    return [x for x in pytree.tree_leaves(tree) if isinstance(x, torch.Tensor)]


def as_symbols(args, kwargs):
    """Return arguments with symbols in the place of tensors."""
    return pytree.tree_map(
        lambda x: SymbolicTensor(tuple(x.shape), x.dtype) if isinstance(x, torch.Tensor) else x, (args, kwargs)
    )


RECORDED = {
    "operators": lambda x: (2 - x) * x / 3 + 1 - x**2 + (-x).abs(),
    "comparison": lambda x: torch.where((x > 0) & ~(x == 1) | (x >= 2), x, 0.0),
    "activations": lambda x: sum(
        f(x) for f in (torch.nn.functional.gelu, torch.nn.functional.relu, torch.nn.functional.elu)
    ),
    "softmax": lambda x: torch.nn.functional.softmax(x, dim=-1) + x.softmax(-1) + torch.log_softmax(x, -1),
    "features": lambda x: torch.cat([x[..., :2], x[..., 2:].flip(-1), x.sum(-1, keepdim=True)], dim=-1),
    "normalize": lambda x: torch.nn.functional.normalize(x, dim=-1) + torch.nn.functional.layer_norm(x, (4,)),
    "shapes": lambda x: x.unsqueeze(-1).squeeze(-1).unflatten(-1, (2, 2)).flatten(2),
    "products": lambda x: x @ torch.eye(4) + torch.nn.functional.linear(x, torch.eye(4)),
    "dtypes": lambda x: x.double().float().to(torch.float64),
    "split": lambda x: torch.stack([*x.split(2, dim=-1), *torch.chunk(x, 2, dim=-1)], dim=-1),
    "max": lambda x: x.max(-1).values + torch.topk(x, 2, dim=-1).indices[..., 0] + torch.maximum(x, x * 2)[..., 0],
    "clamp": lambda x: x.clamp(0, 1) + torch.clamp(x, min=0.5) + x.masked_fill(x > 1, 0.0),
}


@pytest.mark.parametrize("name", RECORDED)
@pytest.mark.parametrize("masked", [True, False])
def test_functions_that_a_model_records_are_saved(name, masked, tmp_path):
    x = Input((None, 4), masked=masked)
    model = Model(x, RECORDED[name](x))
    model.save(tmp_path / "m")
    data = (
        [torch.linspace(-1, 2, 12).reshape(3, 4), torch.ones(2, 4)] if masked else torch.linspace(-1, 2, 24).reshape(2, 3, 4)
    )
    ours, theirs = model.predict(data, verbose=0), load_model(tmp_path / "m").predict(data, verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_a_function_outside_the_list_is_used_but_not_saved(tmp_path):
    x = Input((3,))
    model = Model(x, torch.empty_like(x) * 0)
    with pytest.raises(ArgumentError, match="empty_like.*not in the list.*docs/security.md"):
        model.save(tmp_path / "m")
    assert not list(tmp_path.iterdir())
    assert model.predict(np.ones((1, 3), np.float32), verbose=0).shape == (1, 3)
    model = Model(x, x.to("cpu"))
    with pytest.raises(ArgumentError, match=r"torch.Tensor.to has the argument dtype = 'cpu'"):
        model.save(tmp_path / "m")
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------ forged calls

SYMBOL = {"class_name": "__keras_tensor__", "config": {"keras_history": ["x", 0, 0]}}


def graph_with(path, args=(SYMBOL,), kwargs=None, config=None):
    """Return the config of a model whose only call is a torch function."""
    call = {"args": list(args), "kwargs": kwargs or {}}
    x = {"class_name": "InputLayer", "config": {"batch_shape": [None, 3], "name": "x"}, "name": "x", "inbound_nodes": []}
    config = {"name": "f", "function": path} if config is None else config
    f = {"class_name": "TorchFunction", "config": config, "name": "f", "inbound_nodes": [call]}
    output = {"class_name": "__keras_tensor__", "config": {"keras_history": ["f", 0, 0]}}
    return {"name": "m", "layers": [x, f], "input_layers": [SYMBOL], "output_layers": [output]}


def test_a_graph_with_one_function_is_loaded():
    model = Model.from_config(graph_with("torch.relu"))
    assert np.array_equal(model.predict(np.array([[-1.0, 0, 1]]), verbose=0)[0], [[0, 0, 1]])
    dtype = {"class_name": "__dtype__", "name": "float64"}
    assert Model.from_config(graph_with("torch.Tensor.to", (SYMBOL, dtype))).outputs[0].dtype == torch.float64


@pytest.mark.parametrize(
    "path",
    [
        *("torch.load", "torch.save", "torch.set_num_threads", "torch.from_file", "torch.Tensor.from_file", "torch.compile"),
        *("torch.Tensor.__torch_function__", "torch.Tensor.apply_", "torch.Tensor.map_", "torch.Tensor.set_", "torch.relu_"),
        *("torch.Tensor.register_hook", "torch.Tensor.__reduce_ex__", "torch.Tensor.__setitem__", "torch.Tensor.storage"),
        *(
            "torch.Tensor.__class__",
            "torch.nn.functional.dropout",
            "torch.Tensor.cuda",
            "torch.empty_like",
            "torch.rand_like",
        ),
        *(
            "torch.hub.load",
            "torch.nn.functional.torch.load",
            "torch.nn.functional.handle_torch_function",
            "os.system",
            "abs",
        ),
        *("torch.Tensor.__init__", "torch.Tensor.numpy", "torch.Tensor.backward", "torch.Tensor.requires_grad_", "torch."),
        *("", None, 3, ["torch.abs"], {"torch.abs": 1}),
    ],
)
def test_other_names_are_refused_as_functions(path):
    before = process_state()
    with pytest.raises(ArgumentError, match="torch function"):
        Model.from_config(graph_with(path))
    with pytest.raises(ArgumentError):
        Lambda.from_config({"name": "f", "function": path})
    assert process_state() == before


@pytest.mark.parametrize(
    ("path", "args", "kwargs"),
    [
        ("torch.relu", (), {}),
        ("torch.relu", (1.0,), {}),
        ("torch.relu", (SYMBOL, SYMBOL), {}),
        ("torch.add", (SYMBOL, 1), {"out": SYMBOL}),
        ("torch.add", (SYMBOL, "x" * 9), {}),
        ("torch.add", (SYMBOL, [1]), {}),
        ("torch.sum", (SYMBOL,), {"out": None}),
        ("torch.zeros_like", (SYMBOL,), {"device": "cpu"}),
        ("torch.zeros_like", (SYMBOL,), {"requires_grad": True}),
        ("torch.zeros_like", (SYMBOL,), {"dtype": "float32"}),
        ("torch.nn.functional.relu", (SYMBOL,), {"inplace": True}),
        ("torch.Tensor.to", (SYMBOL, "cpu"), {}),
        ("torch.Tensor.to", (SYMBOL, {"class_name": "__dtype__", "name": "load"}), {}),
        ("torch.Tensor.to", (SYMBOL, {"class_name": "__dtype__", "name": "float33"}), {}),
        ("torch.Tensor.to", (SYMBOL, {"class_name": "__dtype__"}), {}),
        ("torch.Tensor.sum", (SYMBOL,), {"__dtype__": 1}),
        ("torch.Tensor.sum", (SYMBOL, "N"), {}),
        ("torch.Tensor.sum", (SYMBOL, True), {}),
        ("torch.Tensor.sum", (SYMBOL, 10**30), {}),
        ("torch.Tensor.sum", (SYMBOL, 7), {}),
        ("torch.nn.functional.gelu", (SYMBOL,), {"approximate": "exact"}),
        ("torch.nn.functional.embedding", (SYMBOL, SYMBOL), {"max_norm": 1.0}),
        ("torch.nn.functional.scaled_dot_product_attention", (SYMBOL, SYMBOL, SYMBOL), {"dropout_p": 0.5}),
        ("torch.abs", (SYMBOL,), SYMBOL),  # a symbol where the named arguments are
        ("torch.einsum", ("__import__('os')", SYMBOL), {}),
        ("torch.Tensor.__getitem__", (SYMBOL, "name"), {}),
        ("torch.Tensor.__getitem__", (SYMBOL, {"class_name": "__slice__", "items": ["a", 1, 2]}), {}),
        ("torch.Tensor.__getitem__", (SYMBOL, {"class_name": "__slice__", "items": [1]}), {}),
        ("torch.Tensor.__getitem__", (SYMBOL, {"class_name": "__tuple__"}), {}),
        ("torch.add", (SYMBOL, {"class_name": "__tensor__", "dtype": "float32", "items": [[1], [2, 3]]}), {}),
        ("torch.add", (SYMBOL, {"class_name": "__tensor__", "dtype": "int8", "items": [10**40]}), {}),
        ("torch.add", (SYMBOL, {"class_name": "__tensor__", "dtype": "float32", "items": ["1"]}), {}),
        ("torch.add", (SYMBOL, {"class_name": "__tensor__", "dtype": ["float32"], "items": [1]}), {}),
        ("torch.add", (SYMBOL, {"class_name": "__keras_tensor__", "config": {"keras_history": ["x", 0, 1]}}), {}),
        ("torch.add", (SYMBOL, {"class_name": "__keras_tensor__", "config": {"keras_history": ["x", 0, -1]}}), {}),
        ("torch.add", (SYMBOL, {"class_name": "__keras_tensor__", "config": {"keras_history": [["x"], 0, 0]}}), {}),
        ("torch.add", (SYMBOL, {"class_name": "__keras_tensor__", "config": None}), {}),
        ("torch.add", (SYMBOL, {"class_name": "__keras_tensor__", "config": {"keras_history": ["f", 0, 0]}}), {}),
        # results that are much larger than the inputs
        ("torch.Tensor.repeat", (SYMBOL, 1, 10**9), {}),
        ("torch.Tensor.repeat", (SYMBOL, [1, 10**9]), {}),
        ("torch.Tensor.expand", (SYMBOL, 10**5, 10**5, 3), {}),
        ("torch.tile", (SYMBOL, [10**10]), {}),
        ("torch.repeat_interleave", (SYMBOL, 10**10, 1), {}),
        ("torch.nn.functional.pad", (SYMBOL, [10**10, 0]), {}),
        ("torch.nn.functional.one_hot", (SYMBOL, 10**10), {}),
        ("torch.nn.functional.interpolate", (SYMBOL,), {"scale_factor": 1e12}),
        ("torch.nn.functional.interpolate", (SYMBOL,), {"scale_factor": float("inf")}),
        ("torch.Tensor.new_zeros", (SYMBOL, 10**6, 10**6), {}),
        ("torch.Tensor.new_full", (SYMBOL, [10**6, 10**6], 0.0), {}),
        ("torch.fft.fft", (SYMBOL, 10**10), {}),
    ],
)
def test_arguments_that_are_not_in_the_signature_are_refused(path, args, kwargs):
    with pytest.raises(ArgumentError):
        Model.from_config(graph_with(path, args, kwargs))


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"name": "f"},
        {"function": "torch.abs"},
        {"name": 3, "function": "torch.abs"},
        {"name": "f", "function": "torch.abs", "x": 1},
    ],
)
def test_a_config_of_another_form_is_refused(config):
    with pytest.raises(ArgumentError, match="not a config of a TorchFunction"):
        Model.from_config(graph_with(None, config=config))


def test_a_call_without_a_symbol_is_refused():
    for args in ((), (1.0,), (torch.ones(2),)):
        with pytest.raises(ArgumentError, match="no symbolic input"):
            check_call("torch.abs", args, {})


def test_results_that_double_are_refused_at_the_limit():
    """Forty calls of `cat(x, x)`, one after the other, each with the result of the one before."""
    config = graph_with("torch.cat", ([SYMBOL, SYMBOL],), {"dim": 1})
    for number in range(40):
        previous = {
            "class_name": "__keras_tensor__",
            "config": {"keras_history": ["f" if not number else f"f{number}", 0, 0]},
        }
        call = {"args": [[previous, previous]], "kwargs": {"dim": 1}}
        function = {"name": f"f{number + 1}", "function": "torch.cat"}
        entry = {"class_name": "TorchFunction", "config": function, "name": f"f{number + 1}", "inbound_nodes": [call]}
        config["layers"].append(entry)
    with pytest.raises(ArgumentError, match=f"more than {MAX_ELEMENTS} elements"):
        Model.from_config(config)


def test_a_lambda_names_only_functions_of_the_list():
    layer = Lambda.from_config(Lambda(torch.sum, arguments={"dim": -1}, name="s").get_config())
    assert layer(torch.ones(2, 3)).tolist() == [3, 3]
    for config in (
        {"function": "torch.sum", "arguments": {"out": None}},
        {"function": "torch.Tensor.to", "arguments": {"device": "cpu"}},
        {"function": "torch.abs", "arguments": 3},
        {"function": "torch.abs", "mask": "torch.load"},
        {"function": "torch.abs", "output_shape": "torch.abs"},
        {"function": "torch.Tensor.repeat", "arguments": {"repeats": [1, 10**10]}},
    ):
        with pytest.raises(ArgumentError):
            Lambda.from_config(config)
