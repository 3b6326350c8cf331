"""Check a layer, loss, metric or model of anyone's against the laws, and show the smallest example that breaks one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from padless.errors import ArgumentError, unknown_name
from padless.losses import losses
from padless.metrics import metrics
from padless.testing import layer_properties as laws
from padless.testing import loss_properties as objectives
from padless.testing import model_properties as models
from padless.testing.harness import LayerHarness
from padless.testing.layer_properties import PropertyViolation
from padless.testing.loss_properties import Objective, Weights
from padless.testing.masks import Mask, as_draw, random_masks, special_masks
from padless.testing.masks import apart as beside
from padless.testing.model_properties import Task

LAYER_PROPERTIES: dict[str, Callable[..., None]] = {
    "deterministic": laws.deterministic,
    "matches_unpadded": laws.matches_unpadded,
    "gradients": laws.gradients,
    "ignores_padding": laws.ignores_padding,
    "independent_of_batch": laws.independent_of_batch,
    "round_trip": laws.round_trip,
}
OBJECTIVE_PROPERTIES: dict[str, Callable[..., None]] = {
    "matches_unpadded": objectives.loss_matches_unpadded,
    "ignores_padding": objectives.loss_ignores_padding,
    "independent_of_batch": objectives.loss_independent_of_batch,
    "independent_of_split": objectives.loss_independent_of_split,
    "round_trip": objectives.loss_round_trip,
}
PROPERTIES = (
    "deterministic",
    "matches_unpadded",
    "gradients",
    "ignores_padding",
    "independent_of_batch",
    "round_trip",
    "independent_of_split",
)


def check_layer(
    layer: Any,
    input_shape: Any = (3,),
    *,
    breaks: Mapping[str, str] | None = None,
    creates_mask: bool = False,
    apart: bool = False,
    rows: Mapping[str, Any] | None = None,
    training: bool = False,
    masks: int = 10,
    custom_objects: Mapping[str, Any] | None = None,
) -> None:
    """Run the laws of DESIGN on a layer, or on what a function makes; raises `PropertyViolation` with the smallest example.

    `input_shape` is that of a step, without batch and time: a tuple, a function that draws numbers (as
    `padless.testing.ids(9)`), or a list of them for several inputs. With `creates_mask` zeros are masked steps,
    with `apart` each of several inputs has a mask of its own, as in attention from one sequence to another. `rows` are
    further arguments, as `{"initial_state": ((4,), (4,))}`. A layer that cannot keep a law says so, with the reason, in
    `breaks` or in an attribute of that name: then the law is skipped.

    >>> from padless.layers import LSTM, Layer
    >>> check_layer(LSTM(4, return_sequences=True), (3,))
    >>> class Leak(Layer):
    ...     stepwise = True
    ...     def call(self, inputs):
    ...         return inputs - inputs.mean(1, keepdim=True)
    >>> check_layer(Leak(name="leak"), (1,))
    Traceback (most recent call last):
    ...
    padless.testing.layer_properties.PropertyViolation: matches_unpadded: Leak 'leak' ... Smallest mask: [[1], [1]]. ...
    """
    subject = LayerHarness.of(layer, input_shape, creates_mask=creates_mask, rows=dict(rows or {}), training=training)
    declared = {**getattr(subject.layer, "breaks", {}), **(breaks or {})}
    spread = partial(beside, count=len(subject.inputs)) if apart else _alike
    more = {"round_trip": {"custom_objects": custom_objects}}
    broken: dict[str, PropertyViolation] = {}
    for name in kept(LAYER_PROPERTIES, declared):
        law = partial(LAYER_PROPERTIES[name], subject, **more.get(name, {}))
        try:
            hold(law, masks if name != "round_trip" else 1, spread, f"{name}: {subject.label}", shrink=not broken)
        except PropertyViolation as found:
            broken[name] = found
    if broken:
        first, *others = broken.values()
        also = f" It also breaks: {', '.join(list(broken)[1:])}." if others else ""
        raise PropertyViolation(f"{first}{also}") from first


def check_loss(loss: Any, output_shape: Any = (3,), target_shape: Any = None, **options: Any) -> None:
    """Run the laws on a loss: a name, an object, or a function that `compile` takes; raises `PropertyViolation`.

    Shapes are those of one step: a tuple, or a function that draws numbers, such as `padless.testing.labels(4)`; targets
    are drawn like outputs unless said otherwise. `weights` are the kinds of sample weights to try, `breaks` the laws that
    it does not keep, with the reason, `masks` how many random masks are tried.

    >>> check_loss("mae")
    >>> from padless.testing import labels, probabilities
    >>> check_loss("sparse_categorical_crossentropy", probabilities(4), labels(4))
    """
    _check_objective(lambda: losses.get(loss), output_shape, target_shape, **options)


def check_metric(metric: Any, output_shape: Any = (3,), target_shape: Any = None, **options: Any) -> None:
    """Run the laws on a metric: a name, an object (it is copied), or a function; as `check_loss`.

    >>> from padless.testing import one_hot, probabilities
    >>> check_metric("categorical_accuracy", probabilities(4), one_hot(4))
    """
    made = metrics.get(metric)
    _check_objective(lambda: copy.deepcopy(made), output_shape, target_shape, **options)


def _check_objective(
    make: Callable[[], Any],
    output_shape: Any,
    target_shape: Any,
    *,
    breaks: Mapping[str, str] | None = None,
    weights: Sequence[Weights] = ("none", "rows"),
    masks: int = 10,
) -> None:
    draw = as_draw(output_shape)
    declared = {**getattr(make(), "breaks", {}), **(breaks or {})}
    for kind in weights:
        objective = Objective(make, draw, draw if target_shape is None else as_draw(target_shape), kind)
        for name in kept(OBJECTIVE_PROPERTIES, declared):
            hold(
                partial(OBJECTIVE_PROPERTIES[name], objective),
                masks if name != "round_trip" else 1,
                label=f"{name}: {objective.label}",
            )


def check_model(
    model: Any,
    input_shape: Any = (3,),
    target_shape: Any = (1,),
    *,
    loss: Any = "mse",
    metrics: Any = None,
    masks: int = 3,
    **options: Any,
) -> None:
    """Run the laws on a model, or on what a function makes: those of a layer, and of training, split and archive.

    Shapes and options are `check_layer`'s; `target_shape` is a list for several outputs. Targets stand on the input's
    steps.

    >>> from padless import Input, Model
    >>> from padless.layers import Dense
    >>> x = Input((None, 3), masked=True)
    >>> check_model(Model(x, Dense(1)(x)), masks=1)
    """
    check_layer(model, input_shape, masks=masks, **options)
    subject = LayerHarness.of(model, input_shape, creates_mask=options.get("creates_mask", False))
    targets = tuple(as_draw(shape) for shape in (target_shape if isinstance(target_shape, list) else [target_shape]))
    task = Task(subject, targets, loss, metrics)
    declared = {**getattr(subject.layer, "breaks", {}), **(options.get("breaks") or {})}
    more: dict[str, Callable[[Mask], None]] = {
        "ignores_padding": partial(models.training_ignores_padding, task),
        "independent_of_split": partial(models.model_independent_of_split, task),
        "round_trip": partial(models.archive, subject),
    }
    for name in kept(more, declared):
        hold(more[name], masks, label=f"{name}: {subject.label}")


def kept(known: Mapping[str, Any], declared: Mapping[str, str]) -> Iterator[str]:
    """The laws that are not declared broken; a declaration needs a reason."""
    for name, reason in declared.items():
        if name not in PROPERTIES:
            raise ArgumentError(unknown_name("law", name, PROPERTIES))
        if not reason or not isinstance(reason, str):
            raise ArgumentError(f"To break the law {name!r} takes a reason, in words; got {reason!r}.")
    return (name for name in known if name not in declared)


def _alike(mask: Mask) -> Any:
    return mask


def hold(
    law: Callable[[Any], None],
    count: int = 10,
    spread: Callable[[Mask], Any] = _alike,
    label: str = "a law",
    shrink: bool = True,
) -> None:
    """A law on the special masks and on `count` random ones; raises `PropertyViolation` with the smallest mask.

    `spread` makes of a mask the masks of all inputs. An error on the way breaks the law that `label` begins with.
    """

    def tried(mask: Mask) -> None:
        try:
            law(spread(mask))
        except PropertyViolation:
            raise
        except Exception as error:
            raise PropertyViolation(f"{label} fails with {type(error).__name__}: {str(error).removesuffix('.')}.") from error

    for mask in (*special_masks().values(), *random_masks(count)):
        broken = _breaks(tried, mask)
        if broken is not None:
            mask, broken = smallest(tried, mask, broken) if shrink else (mask, broken)
            shown = spread(mask)
            several = (
                f"masks: {[m.astype(int).tolist() for m in shown]}"
                if isinstance(shown, list)
                else (f"mask: {mask.astype(int).tolist()}")
            )
            raise PropertyViolation(f"{broken} Smallest {several}.") from broken


def smallest(law: Callable[[Mask], None], mask: Mask, broken: PropertyViolation) -> tuple[Mask, PropertyViolation]:
    """A mask from which no row, column or masked step can be taken without the law holding again."""
    for smaller in _smaller(mask):
        found = _breaks(law, smaller)
        if found is not None:
            return smallest(law, smaller, found)
    return mask, broken


def _smaller(mask: Mask) -> Iterator[Mask]:
    rows, columns = mask.shape
    if rows > 1:
        yield from (np.delete(mask, row, axis=0) for row in range(rows))
    if columns > 1:
        yield from (np.delete(mask, column, axis=1) for column in range(columns))
    for cell in np.flatnonzero(~mask):
        fuller = mask.copy()
        fuller.reshape(-1)[cell] = True
        yield fuller


def _breaks(law: Callable[[Mask], None], mask: Mask) -> PropertyViolation | None:
    try:
        law(mask)
    except PropertyViolation as broken:
        return broken
    return None
