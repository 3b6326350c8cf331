"""Refuse operations on symbols that belong to a torch module with weights, buffers, a mode or random numbers.

A recorded torch function is replayed as it was called. It cannot train a weight, follow the mode of a model or save a
buffer. A torch module becomes a part of a model through `TorchModuleWrapper(module)(x)`, as in Keras 3. Modules that
only call functions, such as `nn.ReLU`, need no wrapper.
"""

from __future__ import annotations

from weakref import WeakSet

from torch import Tensor, nn
from torch.nn.modules.module import register_module_buffer_registration_hook

from padless._threads import ForkSafeLock
from padless.errors import ArgumentError
from padless.graph.symbolic import leaves

_RANDOM = set(
    "alpha_dropout bernoulli binomial dropout feature_alpha_dropout feature_dropout fractional_max_pool2d "
    "fractional_max_pool3d gumbel_softmax multinomial native_dropout normal normal_like poisson rand_like randint_like "
    "randn_like rrelu".split()
)
_modules_with_buffers: WeakSet[nn.Module] = WeakSet()
_lock = ForkSafeLock()  # a set must not change while it is copied


def _remember_module(module: nn.Module, name: str, buffer: Tensor | None) -> None:
    """Remember a module that registers a buffer; torch calls this hook."""
    with _lock:
        _modules_with_buffers.add(module)


register_module_buffer_registration_hook(_remember_module)


def check_stateless(name: str, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
    """Raise `ArgumentError` if a torch function on symbols cannot be replayed without a module around it.

    Args:
        name: the name of the torch function.
        args: its positional arguments, symbols among them.
        kwargs: its named arguments.
    """
    tensors = [leaf for leaf in leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    if any(isinstance(tensor, nn.Parameter) for tensor in tensors):
        reason = "was given a parameter of a torch module, which the model would neither train nor save"
    elif any(map(_is_buffer, tensors)):
        reason = "was given a buffer of a torch module, which the model would not save"
    elif "training" in kwargs or name == "batch_norm":
        reason = "depends on the mode, training or inference, which a recorded function cannot follow"
    elif name in _RANDOM or name == "scaled_dot_product_attention" and _dropout_rate(args, kwargs):
        reason = "draws random numbers, in inference, too"
    else:
        return
    raise ArgumentError(
        f"`{name}` on a symbol {reason}. For a torch module wrap it: padless.layers.TorchModuleWrapper(module)(x). "
        f"Else use a layer of padless, or call `{name}` in the `call` of a user-defined layer."
    )


def _is_buffer(tensor: Tensor) -> bool:
    """Return whether a tensor is a buffer of a module; modules made by `deepcopy` or before the import are not known."""
    with _lock:
        modules = list(_modules_with_buffers)
    return any(tensor is buffer for module in modules for buffer in module.buffers(recurse=False))


def _dropout_rate(args: tuple[object, ...], kwargs: dict[str, object]) -> object:
    """Return the argument `dropout_p` of `scaled_dot_product_attention`."""
    return args[4] if len(args) > 4 else kwargs.get("dropout_p", 0.0)
