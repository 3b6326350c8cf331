"""Random models against the properties: each case draws a model and data from its seed.

`run_case(seed)` raises `Failure` with the smallest program and data that still fail. Run many of them with
`scripts/fuzz random_models --cases 10000`.
"""

import copy
import json
import tempfile
import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import padless
from fuzz._model_programs import PACKED_FORMS, Data, Program, build, draw_data, draw_program
from padless.kernels.native import library as native_library
from padless.models import Model, load_model
from padless.ragged.packed import Packed, pack


class Violation(AssertionError):
    """A property does not hold for a program and its data."""


class Failure(AssertionError):
    """A case failed. The message has the smallest program and data."""


@dataclass
class Result:
    """What a run of a model gives.

    Attributes:
        outputs: For each output one tensor for each sequence.
        input_gradients: For each input of numbers one gradient for each sequence.
        weight_gradients: The gradients of the weights.
        added_loss: The losses that the layers added, times the number of sequences.
        raw: The outputs as the model returned them.
    """

    outputs: list[list[Tensor]]
    input_gradients: list[list[Tensor]]
    weight_gradients: list[Tensor]
    added_loss: Tensor
    raw: list[Tensor | Packed]

    def named(self):
        """Yield all tensors with a description of each."""
        for kind, tensors in (("output", self.outputs), ("gradient of input", self.input_gradients)):
            for number, rows in enumerate(tensors):
                for row, tensor in enumerate(rows):
                    yield f"{kind} {number}, row {row}", tensor
        for number, gradient in enumerate(self.weight_gradients):
            yield f"gradient of weight {number}", gradient
        yield "added loss", self.added_loss


# ------------------------------------------------------------------------------------------------ running


def model_of(program: Program, seed: int) -> Model:
    """Return the model of a program with random weights, all away from 0."""
    torch.manual_seed(seed)
    model = build(program)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.weights:
            if weight.is_floating_point():
                weight.add_(0.3 * torch.rand(weight.shape, generator=generator))
    return model


def leaf_inputs(program: Program, data: Data, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the grids of the inputs as tensors, with gradients for those of numbers."""
    leaves = {}
    for x in program.inputs:
        grid = torch.from_numpy(np.ascontiguousarray(data.grids[x.name]))
        leaves[x.name] = grid.to(dtype).requires_grad_() if grid.is_floating_point() else grid
    return leaves


def constant_inputs(program: Program, data: Data) -> dict[str, Tensor]:
    """Return the grids of the inputs as `fit` reads them: numbers as float32, without gradients."""
    return {name: leaf.detach() for name, leaf in leaf_inputs(program, data, torch.float32).items()}


def model_inputs(program: Program, data: Data, leaves: dict[str, Tensor], without_masks: bool = False):
    """Return the argument of a call of the model; with `without_masks` plain tensors, if no step is masked."""
    inputs = []
    without_masks = without_masks and all(mask is None or mask.all() for mask in data.masks.values())
    for x in program.inputs:
        is_packed = x.form in PACKED_FORMS and not without_masks
        inputs.append(pack(leaves[x.name], data.masks[x.name]) if is_packed else leaves[x.name])
    return inputs[0] if len(inputs) == 1 else inputs


def as_list(outputs) -> list:
    """Return the outputs of a model as a list."""
    return list(outputs) if isinstance(outputs, list | tuple) else [outputs]


def run(
    program: Program,
    model: Model,
    data: Data,
    dtype: torch.dtype,
    output_weights: list[list[Tensor]] | None = None,
    without_masks: bool = False,
) -> Result:
    """Call the model, and compute the gradients of a weighted sum of its outputs and its added losses."""
    leaves = leaf_inputs(program, data, dtype)
    torch.manual_seed(0)
    raw = as_list(model(model_inputs(program, data, leaves, without_masks)))
    by_name = dict(zip(program.outputs, raw, strict=True))
    for grid_name, source_name in program.grids:
        source, grid = by_name[source_name], by_name[grid_name]
        if isinstance(source, Packed):
            by_name[grid_name] = pack(grid.reshape(source.shape), source.mask)
        else:
            by_name[grid_name] = grid.reshape(source.shape)
    outputs = [rows_of(by_name[name], data.batch) for name in program.outputs]
    weights = weights_for(outputs) if output_weights is None else output_weights
    added = sum((loss.reshape(()) for loss in model.call_losses), torch.zeros((), dtype=dtype)) * data.batch
    total = added
    for rows, row_weights in zip(outputs, weights, strict=True):
        for row, weight in zip(rows, row_weights, strict=True):
            if row.shape != weight.shape:
                raise Violation(f"an output has the shape {tuple(row.shape)} instead of {tuple(weight.shape)}")
            total = total + (row * weight.to(dtype)).sum()
    sources = [leaf for leaf in leaves.values() if leaf.requires_grad]
    parameters = list(model.parameters())
    gradients = [torch.zeros_like(source) for source in (*sources, *parameters)]
    if total.requires_grad:
        found = torch.autograd.grad(total, [*sources, *parameters], allow_unused=True)
        gradients = [zero if g is None else g for zero, g in zip(gradients, found, strict=True)]
    input_gradients = []
    names = [name for name, leaf in leaves.items() if leaf.requires_grad]
    for name, gradient in zip(names, gradients, strict=False):
        mask = data.masks[name]
        if mask is None:
            input_gradients.append(list(gradient))
            continue
        real = torch.from_numpy(mask)
        if bool((gradient[~real] != 0).any()):
            raise Violation(f"masked steps of input {name} have a gradient")
        input_gradients.append([row[steps] for row, steps in zip(gradient, real, strict=True)])
    result = [[row.detach() for row in rows] for rows in outputs]
    return Result(result, input_gradients, gradients[len(sources) :], added.detach(), raw)


def rows_of(output: Tensor | Packed, batch: int) -> list[Tensor]:
    """Return the real steps of each sequence."""
    if not isinstance(output, Packed):
        return list(output)
    lengths = output.index.lengths.reshape(batch, -1).sum(1)
    return list(torch.split(output.values, lengths.tolist()))


def weights_for(outputs: list[list[Tensor]]) -> list[list[Tensor]]:
    """Return random weights in the shapes of the outputs."""
    generator = torch.Generator().manual_seed(3)
    return [[torch.randn(row.shape, generator=generator, dtype=torch.float64) for row in rows] for rows in outputs]


def join(results: Sequence[Result]) -> Result:
    """Return the result of runs on parts of a batch: sequences in order, sums of gradients and losses."""
    return Result(
        [sum((r.outputs[k] for r in results), []) for k in range(len(results[0].outputs))],
        [sum((r.input_gradients[k] for r in results), []) for k in range(len(results[0].input_gradients))],
        [sum(gradients) for gradients in zip(*(r.weight_gradients for r in results), strict=True)],
        sum(r.added_loss for r in results),
        [],
    )


def compare(expected: Result, actual: Result, tolerance: float) -> None:
    """Raise `Violation` where two results differ: to the bit if the tolerance is 0."""
    pairs = list(zip(expected.named(), actual.named(), strict=True))
    scale = {"output": 1.0, "gradient": 1.0, "added": 1.0}
    for (name, tensor), _ in pairs:
        if tensor.numel() and bool(torch.isfinite(tensor).all()):
            kind = name.split()[0]
            scale[kind] = max(scale[kind], float(tensor.detach().abs().max()))
    for (name, one), (_, other) in pairs:
        if one.shape != other.shape:
            raise Violation(f"{name} has the shape {tuple(other.shape)} instead of {tuple(one.shape)}")
        if not bool(torch.isfinite(one).all()):
            raise Violation(f"{name} is not finite: {one.flatten()[:8].tolist()}")
        one, other = one.detach(), other.detach()
        if not tolerance:
            equal = one.contiguous().numpy().tobytes() == other.contiguous().numpy().tobytes()
        else:
            difference = (one.double() - other.double()).abs()
            equal = bool((difference <= tolerance * scale[name.split()[0]]).all())
        if not equal:
            worst = float((one.double() - other.double()).abs().max())
            raise Violation(f"{name} differs by {worst:.3g}: {_text(other)} instead of {_text(one)}")


def _text(tensor: Tensor) -> str:
    return np.array2string(tensor.numpy().reshape(-1)[:8], precision=5)


# ------------------------------------------------------------------------------------------------ changes of the data


def without_padding(program: Program, data: Data, row: int) -> Data:
    """Return one sequence without the columns that are masked in all inputs of a group.

    Where a layer sees gaps, only columns before the first and after the last real step are removed.
    """
    single = data.select([row])
    keep: dict[int, np.ndarray] = {}
    for x in program.inputs:
        mask = single.masks[x.name]
        if mask is None:
            continue
        for axis, group in enumerate(x.groups):
            others = tuple(k for k in range(mask.ndim) if k != axis + 1)
            real = mask.any(axis=others)
            keep[group] = keep[group] | real if group in keep else real
    for group, real in keep.items():
        if program.sees_time:
            first = np.zeros_like(real) if not program.uses_columns else np.ones_like(real)
            span = np.logical_or.accumulate(real) | first
            keep[group] = span & np.logical_or.accumulate(real[::-1])[::-1]

    def cut(array: np.ndarray | None, groups: tuple[int, ...]) -> np.ndarray | None:
        if array is None:
            return None
        for axis, group in enumerate(groups):
            if group in keep:
                array = np.compress(keep[group], array, axis=axis + 1)
        return array

    return Data(
        {x.name: cut(single.grids[x.name], x.groups) for x in program.inputs},
        {x.name: cut(single.masks[x.name], x.groups) for x in program.inputs},
    )


def with_other_padding(program: Program, data: Data, number: float, integer: int, seed: int, columns: bool) -> Data:
    """Return data with other content at masked steps and, with `columns`, more padding on either side of each group."""
    r = np.random.default_rng(seed)
    more: dict[int, tuple[int, int]] = {}
    for x in program.inputs:
        for group in x.groups:
            left, right = (int(n) for n in r.integers(0, 4, 2)) if columns else (0, 0)
            more.setdefault(group, (0 if program.uses_columns else left, right))
    grids, masks = {}, {}
    for x in program.inputs:
        grid, mask = data.grids[x.name], data.masks[x.name]
        padding = [(0, 0), *(more[group] for group in x.groups)]
        masks[x.name] = mask = None if mask is None else np.pad(mask, padding)
        if x.form == "pair_mask":
            real = np.pad(np.ones(grid.shape, dtype=bool), padding)
            content = r.random(real.shape) < 0.5
            grids[x.name] = np.where(real, np.pad(grid, padding), content)
            continue
        grids[x.name] = grid = np.pad(grid, padding + [(0, 0)] * (grid.ndim - len(padding)))
        if x.form in PACKED_FORMS:
            content = integer if x.form == "packed_ids" else number
            grids[x.name] = np.where(mask.reshape(*mask.shape, *(1,) * (grid.ndim - mask.ndim)), grid, content)
    return Data(grids, masks)


@contextmanager
def without_native_kernels():
    """Compute with torch only."""
    get_library = native_library.get_library
    native_library.get_library = lambda: None
    try:
        yield
    finally:
        native_library.get_library = get_library


# ------------------------------------------------------------------------------------------------ properties


@dataclass
class Case:
    """A program with its data. The model and its result are computed once for all checks."""

    program: Program
    data: Data
    seed: int = 0
    built: Model | None = field(default=None, init=False)
    results: dict[torch.dtype, Result] = field(default_factory=dict, init=False)

    def model(self, dtype: torch.dtype) -> Model:
        """Return the model of the program in a dtype. A check must not change its weights."""
        if self.built is None:
            self.built = model_of(self.program, self.seed)
        return self.built.to(dtype)  # float32 to float64 and back changes no bit

    def result(self, dtype: torch.dtype) -> Result:
        """Return the result of the model on the data."""
        if dtype not in self.results:
            self.results[dtype] = run(self.program, self.model(dtype), self.data, dtype)
        return self.results[dtype]


def equals_single_sequences(case: Case) -> None:
    """Check that a batch gives what each sequence gives alone and without padding."""
    program, data, dtype = case.program, case.data, torch.float64
    model = case.model(dtype)
    batched = case.result(dtype)
    weights = weights_for(batched.outputs)
    singles = []
    for row in range(data.batch):
        single = without_padding(program, data, row)
        plain = not program.sees_time or all(mask is None or mask.size for mask in single.masks.values())
        row_weights = [[rows[row]] for rows in weights]
        singles.append(run(program, model, single, dtype, row_weights, without_masks=plain))
    compare(join(singles), batched, 1e-9)


def independent_of_batch(case: Case) -> None:
    """Check that the order of the sequences and the split of the batch do not matter."""
    program, data, dtype = case.program, case.data, torch.float64
    model = case.model(dtype)
    batched = case.result(dtype)
    weights = weights_for(batched.outputs)
    order = np.random.default_rng(case.seed).permutation(data.batch).tolist()
    whole = Result(
        [[rows[row] for row in order] for rows in batched.outputs],
        [[rows[row] for row in order] for rows in batched.input_gradients],
        batched.weight_gradients,
        batched.added_loss,
        [],
    )

    def run_rows(rows: list[int]) -> Result:
        chosen = [[by_row[row] for row in rows] for by_row in weights]
        return run(program, model, data.select(rows), dtype, chosen)

    compare(whole, run_rows(order), 1e-9)
    half = data.batch // 2
    if half:
        compare(whole, join([run_rows(order[:half]), run_rows(order[half:])]), 1e-9)


PADDINGS = ((float("nan"), 10**9), (float("inf"), -7), (-1e30, 1))


def ignores_padding(case: Case) -> None:
    """Check that content and amount of padding change no bit; to rounding where a layer computes on the grid."""
    program, data, dtype = case.program, case.data, torch.float32
    model = case.model(dtype)
    base = case.result(dtype)
    weights = weights_for(base.outputs)
    for number, (content, integer) in enumerate(PADDINGS):
        changed = with_other_padding(program, data, content, integer, case.seed + number, columns=number > 0)
        on_grid = number > 0 and program.has("masked_sums", "DropMask", "Flatten")
        compare(base, run(program, model, changed, dtype, weights), 1e-5 if on_grid else 0)


def equals_its_files(case: Case) -> None:
    """Check that a saved and loaded model, and one of the config and the weights, give the same bits."""
    program, data, dtype = case.program, case.data, torch.float32
    model = case.model(dtype)
    base = case.result(dtype)
    weights = weights_for(base.outputs)
    config = json.loads(json.dumps(model.get_config()))
    again = type(model).from_config(config)
    if json.loads(json.dumps(again.get_config())) != config:
        raise Violation("the config of a model from its config is another one")
    again.set_weights(model.get_weights())
    compare(base, run(program, again, data, dtype, weights), 0)
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model.safetensors")
        loaded = load_model(Path(folder) / "model.safetensors")
    compare(base, run(program, loaded, data, dtype, weights), 0)


def paths_agree(case: Case) -> None:
    """Check the compiled kernels against torch, both in single precision, and against double precision."""
    program, data = case.program, case.data
    model = case.model(torch.float32)
    native = case.result(torch.float32)
    weights = weights_for(native.outputs)
    with without_native_kernels():
        compare(run(program, model, data, torch.float32, weights), native, 3e-4)
    compare(case.result(torch.float64), native, 1e-3)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": lambda y, out: (y - out).square().mean(-1),
    "mae": lambda y, out: (y - out).abs().mean(-1),
    "huber": lambda y, out: nn.functional.huber_loss(out, y, reduction="none").mean(-1),
    "categorical_crossentropy": lambda y, out: -(y * (out.softmax(-1) + 1e-12).log()).sum(-1),
}


def fit_equals_loop(case: Case) -> None:
    """Check an epoch of `fit`, with losses and metrics, against a loop written by hand."""
    program, data, dtype = case.program, case.data, torch.float64
    if program.grids or program.is_noisy or not case.model(dtype).trainable_weights:
        return
    model, other = copy.deepcopy(case.model(dtype)), copy.deepcopy(case.model(dtype))
    names = [("mse", "mae", "huber")[(case.seed + k) % 3] for k in range(len(program.outputs))]
    generator = torch.Generator().manual_seed(case.seed)
    outputs = as_list(model(model_inputs(program, data, constant_inputs(program, data))))

    def random_like(tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, generator=generator).to(dtype)

    if not any((y.values if isinstance(y, Packed) else y).requires_grad for y in outputs):
        return  # such as position encodings, which do not depend on a weight
    targets = [y.with_values(random_like(y.values)) if isinstance(y, Packed) else random_like(y) for y in outputs]
    single = len(targets) == 1
    model.compile(
        padless.optimizers.SGD(0.05),
        loss=names[0] if single else names,
        metrics=["mae"] if single else [["mae"] for _ in names],
    )
    arguments = {"batch_size": 2, "shuffle": False, "verbose": 0, "epochs": 1}
    x = model_inputs(program, data, constant_inputs(program, data))
    logs = model.fit(x, targets[0] if single else targets, **arguments).history

    optimizer = torch.optim.SGD(other.parameters(), 0.05) if list(other.parameters()) else None
    sums, counts, errors = [0.0] * len(names), [0] * len(names), [0.0] * len(names)
    added_anything = False
    for start in range(0, data.batch, 2):
        batch = data.select(range(start, min(start + 2, data.batch)))
        outputs = as_list(other(model_inputs(program, batch, constant_inputs(program, batch)), training=True))
        total = sum((loss.reshape(()) for loss in other.losses), torch.zeros((), dtype=dtype))
        added_anything |= bool(len(other.losses))
        for k, (target, out) in enumerate(zip(targets, outputs, strict=True)):
            y = target[start : start + 2]
            if isinstance(out, Packed):
                if not torch.equal(out.mask, y.mask):
                    raise Violation("an output of training has another mask than one of inference")
                y, out = y.values, out.values
            values = LOSSES[names[k]](y.to(out.dtype), out)
            total = total + values.sum() / max(values.numel(), 1)
            sums[k] += float(values.detach().sum())
            errors[k] += float((y - out).detach().abs().mean(-1).sum())
            counts[k] += values.numel()
        if optimizer is not None and total.requires_grad:
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
    for number, (one, two) in enumerate(zip(other.get_weights(), model.get_weights(), strict=True)):
        if not np.allclose(one, two, rtol=0, atol=1e-6 * (1 + np.abs(one).max(initial=0))):
            raise Violation(f"weight {number} after a step of `fit` differs by {np.abs(one - two).max():.3g}")
    loss = sum(s / max(n, 1) for s, n in zip(sums, counts, strict=True))
    if not added_anything and not np.isclose(logs["loss"][0], loss, rtol=1e-5, atol=1e-6):
        raise Violation(f"the loss of `fit` is {logs['loss'][0]} instead of {loss}")
    named_before: dict[str, int] = {}
    for number, (error, count) in enumerate(zip(errors, counts, strict=True)):
        output_name = model.output_names[number]
        repetition = named_before.get(output_name, 0)  # two outputs of one layer: the second gets a number
        named_before[output_name] = repetition + 1
        output_name += f"_{repetition}" if repetition else ""
        value = logs["mae" if single else f"{output_name}_mae"][0]
        if not np.isclose(value, error / max(count, 1), rtol=1e-5, atol=1e-6):
            raise Violation(f"the metric of output {number} in `fit` is {value} instead of {error / max(count, 1)}")


def equals_keras(case: Case) -> None:
    """Check the values at real steps against Keras with the same weights."""
    import keras

    program, data = case.program, case.data
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = build(program, keras)
        model = case.model(torch.float32)
        theirs.set_weights(model.get_weights())
        inputs = [data.grids[x.name].astype("float32" if x.form == "masking" else "int64") for x in program.inputs]
        expected = as_list(theirs(inputs[0] if len(inputs) == 1 else inputs))
    outputs = case.result(torch.float32).raw
    for number, (one, other) in enumerate(zip(expected, outputs, strict=True)):
        one = one.detach()
        if isinstance(other, Packed):
            one, other = one[other.mask], other.unpack()[other.mask]
        other = other.detach()
        if one.shape != other.shape:
            raise Violation(f"output {number} has the shape {tuple(other.shape)} instead of {tuple(one.shape)}")
        if not torch.allclose(one, other, rtol=1e-4, atol=1e-4):
            raise Violation(f"output {number} differs from Keras by {float((one - other).abs().max()):.3g}")


PROPERTIES = {
    check.__name__: check
    for check in (
        equals_single_sequences,
        independent_of_batch,
        ignores_padding,
        equals_its_files,
        paths_agree,
        fit_equals_loop,
    )
}


# ------------------------------------------------------------------------------------------------ cases


def failure_of(case: Case, check: Callable[[Case], None]) -> str | None:
    """Return how a check fails, or None. The first word is the kind of the failure."""
    try:
        check(case)
    except Violation as violation:
        return f"violation: {violation}"
    except Exception as error:  # whatever a model raises on valid data is a fault; the caller reports it
        return f"{type(error).__name__}: {error}"
    return None


def kind_of(failure: str) -> str:
    """Return the kind of a failure: the class of the error, and of a violation the first word, too."""
    return " ".join(failure.split()[:2]) if failure.startswith("violation") else failure.split(":")[0]


def shrink(case: Case, check: Callable[[Case], None], failure: str, max_tries: int = 100) -> tuple[Case, str]:
    """Return the smallest case found that fails in the same way, and its failure."""
    tries, changed = 0, True
    while changed:
        changed = False
        for smaller in _smaller_cases(case):
            tries += 1
            if tries > max_tries:
                return case, failure
            other = failure_of(smaller, check)
            if other is not None and kind_of(other) == kind_of(failure):
                case, failure, changed = smaller, other, True
                break
    return case, failure


def _smaller_cases(case: Case):
    for program in case.program.smaller():
        names = {x.name for x in program.inputs}
        data = Data(*({k: v for k, v in part.items() if k in names} for part in (case.data.grids, case.data.masks)))
        if names:
            yield replace(case, program=program, data=data)
    if case.data.batch > 1:
        for row in range(case.data.batch):
            yield replace(case, data=case.data.select([k for k in range(case.data.batch) if k != row]))
    groups = {group for x in case.program.inputs for group in x.groups}
    for group in sorted(groups):
        axes = {x.name: x.groups.index(group) + 1 for x in case.program.inputs if group in x.groups}
        name = next(iter(axes))
        for column in range(case.data.grids[name].shape[axes[name]]):
            yield replace(case, data=_without_column(case.program, case.data, group, column))


def _without_column(program: Program, data: Data, group: int, column: int) -> Data:
    grids, masks = dict(data.grids), dict(data.masks)
    for x in program.inputs:
        for axis, other in enumerate(x.groups):
            if other == group:
                grids[x.name] = np.delete(grids[x.name], column, axis + 1)
                if masks[x.name] is not None:
                    masks[x.name] = np.delete(masks[x.name], column, axis + 1)
    return Data(grids, masks)


def describe(case: Case) -> str:
    """Return the program and the data as text."""
    lines = [case.program.source]
    for x in case.program.inputs:
        mask = case.data.masks[x.name]
        what = (
            f"mask {mask.astype(int).tolist()}" if mask is not None else f"{case.data.grids[x.name].astype(float).tolist()}"
        )
        lines.append(f"{x.name}: {x.form}, {what}")
    return "\n".join(lines)


def check_case(case: Case, name: str, check: Callable[[Case], None], rounding: bool) -> None:
    """Raise `Failure` if a check fails, with the smallest case.

    A check to rounding may fail by a kink, such as two equal numbers in a maximum. A fault also fails on other data.
    """
    failure = failure_of(case, check)
    if failure is None:
        return
    if rounding and failure.startswith("violation"):
        for number in range(1, 4):
            other = replace(case, data=draw_data(case.program, 1000 * number + case.seed), seed=case.seed + number)
            if failure_of(other, check) is not None:
                break
        else:
            return
    first = failure
    case, failure = shrink(case, check, failure)
    raise Failure(f"{name} fails.\n{describe(case)}\n{failure}\nIn the whole program: {first}")


def run_case(seed: int) -> str:
    """Draw a model and data, and check all properties that hold for them.

    Every fifth case is a model of layers that Keras handles as padless does. It is compared with Keras, too.

    Raises:
        Failure: A property does not hold.
    """
    for_keras = seed % 5 == 4
    case = Case(draw_program(seed, for_keras), Data({}, {}), seed)
    case.data = draw_data(case.program, seed, for_keras)
    for name, check in PROPERTIES.items():
        check_case(case, name, check, rounding=check in (paths_agree,))
    if for_keras:
        check_case(case, "equals_keras", equals_keras, rounding=True)
        return "keeps the properties and equals Keras"
    return "keeps the properties"
