"""Check a layer, loss, metric or model against the properties, and report the smallest mask that violates one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from padless.errors import ArgumentError, unknown_name
from padless.layers.base.layer import Layer
from padless.losses import losses
from padless.losses.loss import Loss
from padless.metrics import metrics
from padless.metrics.metric import Metric
from padless.models.model import Model
from padless.testing import layer_properties, loss_properties, model_properties
from padless.testing.harness import LayerHarness
from padless.testing.layer_properties import PropertyViolation
from padless.testing.loss_properties import ObjectiveHarness, WeightForm
from padless.testing.masks import Mask, StepShape, as_draw, different_masks, random_masks, special_masks
from padless.testing.model_properties import TrainingHarness
from padless.types import LossLike, MetricLike

LAYER_PROPERTIES: dict[str, Callable[..., None]] = {
    "deterministic": layer_properties.deterministic,
    "matches_unpadded": layer_properties.matches_unpadded,
    "gradients": layer_properties.gradients,
    "ignores_padding": layer_properties.ignores_padding,
    "independent_of_batch": layer_properties.independent_of_batch,
    "round_trip": layer_properties.round_trip,
}
OBJECTIVE_PROPERTIES: dict[str, Callable[..., None]] = {
    "matches_unpadded": loss_properties.loss_matches_unpadded,
    "ignores_padding": loss_properties.loss_ignores_padding,
    "independent_of_batch": loss_properties.loss_independent_of_batch,
    "independent_of_split": loss_properties.loss_independent_of_split,
    "round_trip": loss_properties.loss_round_trip,
}
TRAINING_PROPERTIES: dict[str, Callable[..., None]] = {
    "ignores_padding": model_properties.training_ignores_padding,
    "independent_of_split": model_properties.model_independent_of_split,
    "round_trip": model_properties.model_round_trip,
}
PROPERTIES = tuple(dict.fromkeys((*LAYER_PROPERTIES, *OBJECTIVE_PROPERTIES)))


def check_layer(
    layer: Layer | Callable[[], Layer],
    input_shape: StepShape | list[StepShape] = (3,),
    *,
    known_violations: Mapping[str, str] | None = None,
    creates_mask: bool = False,
    separate_masks: bool = False,
    sequence_arguments: Mapping[str, tuple[tuple[int, ...], ...]] | None = None,
    training: bool = False,
    num_masks: int = 10,
    custom_objects: Mapping[str, object] | None = None,
) -> None:
    """Check that a layer has the properties of `padless.testing`, on special and on random masks.

    The layer is copied and runs in double precision. All its properties are checked; the error describes the first
    violation with the smallest mask, and names the others.

    Args:
        layer: A layer, or a function that returns one.
        input_shape: The shape of one step, without batch and time, or a function that draws inputs, such as
            `padless.testing.ids(9)`. A list of them for several inputs.
        known_violations: Properties that the layer cannot have, each with the reason. They are not checked. A layer
            class can declare them in its attribute `known_violations`.
        creates_mask: Whether the layer creates its mask from the zeros of its input, as `Embedding(mask_zero=True)`.
        separate_masks: Whether each of several inputs gets a different mask, as queries and values in attention.
        sequence_arguments: The shapes of further arguments with one row for each sequence, such as
            `{"initial_state": ((4,), (4,))}`.
        training: The argument `training` of the calls.
        num_masks: The number of random masks.
        custom_objects: Names in the config of the layer that are not registered.

    Raises:
        PropertyViolation: A property does not hold.
        ArgumentError: `known_violations` has an unknown property, or no reason.

    Example:
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
    harness = LayerHarness.from_layer(
        layer,
        input_shape,
        creates_mask=creates_mask,
        sequence_arguments=dict(sequence_arguments or {}),
        training=training,
    )
    violations: dict[str, PropertyViolation] = {}
    for name in checked_properties(LAYER_PROPERTIES, harness.layer.known_violations, known_violations):
        check = partial(LAYER_PROPERTIES[name], harness)
        if name == "round_trip":
            check = partial(check, custom_objects=custom_objects)
        try:
            check_property(
                check,
                f"{name}: {harness.label}",
                num_masks=1 if name == "round_trip" else num_masks,
                num_inputs=len(harness.inputs) if separate_masks else None,
                shrink=not violations,
            )
        except PropertyViolation as violation:
            violations[name] = violation
    if violations:
        first, *others = violations
        message = str(violations[first])
        if others:
            message += f" It also violates: {', '.join(others)}."
        raise PropertyViolation(message) from violations[first]


def check_loss(
    loss: LossLike,
    output_shape: StepShape = (3,),
    target_shape: StepShape | None = None,
    *,
    known_violations: Mapping[str, str] | None = None,
    weights: Sequence[WeightForm] = ("none", "rows"),
    num_masks: int = 10,
) -> None:
    """Check that a loss has the properties of `padless.testing`.

    Args:
        loss: Whatever `compile` accepts as a loss: a name, a `Loss`, a function of `(y_true, y_pred)`.
        output_shape: The shape of one step of the outputs, or a function that draws them.
        target_shape: The same for the targets. Default: that of the outputs.
        known_violations: Properties that the loss cannot have, each with the reason. They are not checked.
        weights: The forms of sample weights to check: "none", "rows" `(B,)`, "column" `(B, 1)`, "steps" `(B, T)`.
        num_masks: The number of random masks.

    Raises:
        PropertyViolation: A property does not hold.

    Example:
        >>> check_loss("mae")
        >>> from padless.testing import labels, probabilities
        >>> check_loss("sparse_categorical_crossentropy", probabilities(4), labels(4))
    """
    _check_objective(lambda: losses.get(loss), output_shape, target_shape, known_violations, weights, num_masks)


def check_metric(
    metric: MetricLike,
    output_shape: StepShape = (3,),
    target_shape: StepShape | None = None,
    *,
    known_violations: Mapping[str, str] | None = None,
    weights: Sequence[WeightForm] = ("none", "rows"),
    num_masks: int = 10,
) -> None:
    """Check that a metric has the properties of `padless.testing`; a metric object is copied.

    Args:
        metric: Whatever `compile` accepts as a metric: a name, a `Metric`, a function of `(y_true, y_pred)`.
        output_shape: As for `check_loss`.
        target_shape: As for `check_loss`.
        known_violations: As for `check_loss`.
        weights: As for `check_loss`.
        num_masks: As for `check_loss`.

    Raises:
        PropertyViolation: A property does not hold.

    Example:
        >>> from padless.testing import one_hot, probabilities
        >>> check_metric("categorical_accuracy", probabilities(4), one_hot(4))
    """
    original = metrics.get(metric)
    _check_objective(lambda: copy.deepcopy(original), output_shape, target_shape, known_violations, weights, num_masks)


def _check_objective(
    create: Callable[[], Loss] | Callable[[], Metric],
    output_shape: StepShape,
    target_shape: StepShape | None,
    known_violations: Mapping[str, str] | None,
    weights: Sequence[WeightForm],
    num_masks: int,
) -> None:
    outputs = as_draw(output_shape)
    targets = outputs if target_shape is None else as_draw(target_shape)
    for form in weights:
        harness = ObjectiveHarness(create, outputs, targets, form)
        for name in checked_properties(OBJECTIVE_PROPERTIES, create().known_violations, known_violations):
            check = partial(OBJECTIVE_PROPERTIES[name], harness)
            check_property(check, f"{name}: {harness.label}", num_masks=1 if name == "round_trip" else num_masks)


def check_model(
    model: Model | Callable[[], Model],
    input_shape: StepShape | list[StepShape] = (3,),
    target_shape: StepShape | list[StepShape] = (1,),
    *,
    loss: LossLike | list[LossLike] = "mse",
    metrics: MetricLike | list[MetricLike] | None = None,
    known_violations: Mapping[str, str] | None = None,
    creates_mask: bool = False,
    separate_masks: bool = False,
    sequence_arguments: Mapping[str, tuple[tuple[int, ...], ...]] | None = None,
    training: bool = False,
    num_masks: int = 3,
    custom_objects: Mapping[str, object] | None = None,
) -> None:
    """Check that a model has the properties of a layer, and those of training, of splits and of saving.

    Args:
        model: A model, or a function that returns one.
        input_shape: As for `check_layer`.
        target_shape: The shape of one step of the targets, or a function that draws them. A list of them for several
            outputs. The targets have the steps of the input.
        loss: The loss of `compile`; a list for several outputs.
        metrics: The metrics of `compile`.
        known_violations: As for `check_layer`.
        creates_mask: As for `check_layer`.
        separate_masks: As for `check_layer`. In training all inputs have one mask.
        sequence_arguments: As for `check_layer`.
        training: As for `check_layer`.
        num_masks: As for `check_layer`.
        custom_objects: As for `check_layer`.

    Raises:
        PropertyViolation: A property does not hold.

    Example:
        >>> from padless import Input, Model
        >>> from padless.layers import Dense
        >>> x = Input((None, 3), masked=True)
        >>> check_model(Model(x, Dense(1)(x)), num_masks=1)
    """
    check_layer(
        model,
        input_shape,
        known_violations=known_violations,
        creates_mask=creates_mask,
        separate_masks=separate_masks,
        sequence_arguments=sequence_arguments,
        training=training,
        num_masks=num_masks,
        custom_objects=custom_objects,
    )
    harness = LayerHarness.from_layer(model, input_shape, creates_mask=creates_mask)
    shapes = target_shape if isinstance(target_shape, list) else [target_shape]
    trained = TrainingHarness(harness, tuple(as_draw(shape) for shape in shapes), loss, metrics)
    for name in checked_properties(TRAINING_PROPERTIES, harness.layer.known_violations, known_violations):
        check = partial(TRAINING_PROPERTIES[name], harness if name == "round_trip" else trained)
        check_property(check, f"{name}: {harness.label}", num_masks=num_masks)


def checked_properties(
    properties: Mapping[str, object], class_violations: Mapping[str, str], call_violations: Mapping[str, str] | None = None
) -> list[str]:
    """Return the names of the properties to check: those that are not known violations.

    Args:
        properties: The properties, by name.
        class_violations: The known violations of the class, with the reasons.
        call_violations: Those of the call.

    Raises:
        ArgumentError: A known violation is not a property, or has no reason.
    """
    known_violations = {**class_violations, **(call_violations or {})}
    for name, reason in known_violations.items():
        if name not in PROPERTIES:
            raise ArgumentError(unknown_name("property", name, PROPERTIES))
        if not reason or not isinstance(reason, str):
            raise ArgumentError(f"A known violation of the property {name!r} needs a reason in words; got {reason!r}.")
    return [name for name in properties if name not in known_violations]


def check_property(
    check: Callable[..., None],
    label: str,
    num_masks: int = 10,
    num_inputs: int | None = None,
    shrink: bool = True,
) -> None:
    """Run a check of a property on the special masks and on random ones.

    Args:
        check: A function of a mask, or of a list of masks, that raises `PropertyViolation`.
        label: The start of the message where `check` raises another error: the property and the object.
        num_masks: The number of random masks.
        num_inputs: The number of different masks that `check` gets as a list. None: it gets one mask.
        shrink: Whether to look for the smallest mask that violates the property.

    Raises:
        PropertyViolation: With the mask. Any other error of `check` is a violation too.
    """

    def masks_of_inputs(mask: Mask) -> Mask | list[Mask]:
        return mask if num_inputs is None else different_masks(mask, num_inputs)

    def run(mask: Mask) -> None:
        try:
            check(masks_of_inputs(mask))
        except PropertyViolation:
            raise
        except Exception as error:
            raise PropertyViolation(f"{label} fails with {type(error).__name__}: {str(error).removesuffix('.')}.") from error

    for mask in (*special_masks().values(), *random_masks(num_masks)):
        violation = _violation(run, mask)
        if violation is None:
            continue
        if shrink:
            mask, violation = shrink_mask(run, mask, violation)
        masks = masks_of_inputs(mask)
        if isinstance(masks, list):
            example = f"masks: {[mask.astype(int).tolist() for mask in masks]}"
        else:
            example = f"mask: {masks.astype(int).tolist()}"
        raise PropertyViolation(f"{violation} Smallest {example}.") from violation


def shrink_mask(check: Callable[[Mask], None], mask: Mask, violation: PropertyViolation) -> tuple[Mask, PropertyViolation]:
    """Return a smallest mask that violates a property, and its violation.

    Without any one of its rows, columns or masked steps the property holds.
    """
    for smaller in _smaller_masks(mask):
        smaller_violation = _violation(check, smaller)
        if smaller_violation is not None:
            return shrink_mask(check, smaller, smaller_violation)
    return mask, violation


def _smaller_masks(mask: Mask) -> Iterator[Mask]:
    """Yield the mask without one row, without one column, and with one more real step."""
    rows, columns = mask.shape
    if rows > 1:
        yield from (np.delete(mask, row, axis=0) for row in range(rows))
    if columns > 1:
        yield from (np.delete(mask, column, axis=1) for column in range(columns))
    for cell in np.flatnonzero(~mask):
        filled = mask.copy()
        filled.reshape(-1)[cell] = True
        yield filled


def _violation(check: Callable[[Mask], None], mask: Mask) -> PropertyViolation | None:
    """Return the violation that `check` raises for a mask, or None."""
    try:
        check(mask)
    except PropertyViolation as violation:
        return violation
    return None
