"""Optimizers make the steps of Keras's, with parameters given first or later."""

import copy
import inspect
import os
import pickle

os.environ["KERAS_BACKEND"] = "torch"

import numpy as np
import pytest
import torch

from padless.errors import ArgumentError, NotBuilt
from padless.optimizers import optimizers
from padless.optimizers.optimizers import SGD, Adadelta, Adafactor, Adagrad, Adam, Adamax, AdamW, Nadam, RMSprop, get

keras = pytest.importorskip("keras")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras's own

CASES = [
    ("SGD", {}),
    ("SGD", {"momentum": 0.9}),
    ("SGD", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    ("SGD", {"nesterov": True, "clipnorm": 0.5}),
    ("Adam", {}),
    ("Adam", {"beta_1": 0.8, "beta_2": 0.9, "epsilon": 1e-4}),
    ("Adam", {"amsgrad": True, "weight_decay": 0.1}),
    ("Adam", {"clipvalue": 5e-4}),
    ("AdamW", {}),
    ("AdamW", {"weight_decay": 0.1, "global_clipnorm": 1e-3}),
    ("RMSprop", {}),
    ("RMSprop", {"momentum": 0.5, "weight_decay": 0.05}),
    ("RMSprop", {"centered": True, "momentum": 0.9, "rho": 0.7}),
    ("Adagrad", {}),
    ("Adagrad", {"initial_accumulator_value": 0.0, "epsilon": 1e-3, "weight_decay": 0.1}),
    ("Adadelta", {}),
    ("Adadelta", {"rho": 0.5, "epsilon": 1e-4, "weight_decay": 0.1, "clipnorm": 0.5}),
    ("Adamax", {}),
    ("Adamax", {"beta_1": 0.8, "beta_2": 0.9, "epsilon": 1e-3, "weight_decay": 0.1}),
    ("Nadam", {}),
    ("Nadam", {"beta_1": 0.8, "beta_2": 0.9, "epsilon": 1e-3, "weight_decay": 0.1}),
    ("Adafactor", {}),
    ("Adafactor", {"beta_2_decay": -0.5, "clip_threshold": 0.5, "epsilon_2": 0.1, "relative_step": False}),
    ("SGD", {"momentum": 0.5, "use_ema": True, "ema_momentum": 0.8, "ema_overwrite_frequency": 3}),
    ("Adam", {"use_ema": True, "ema_momentum": 0.5, "ema_overwrite_frequency": 1}),
    ("RMSprop", {"loss_scale_factor": 8.0}),
]
RATES = [0.01] * 4 + [0.003] * 4 + [0.0] + [0.02] * 5


def gradients(scale):
    """Gradients of two weights for each step, drifting, with a zero step among them."""
    rng = np.random.default_rng(0)
    drift = [scale * (rng.normal(size=shape) + 0.5).astype("float32") for shape in ((3, 2), (4,))]
    return [
        [np.float32(t != 3) * (d + scale * rng.normal(size=d.shape).astype("float32")) for d in drift]
        for t in range(len(RATES))
    ]


def start():
    return [np.linspace(-1, 1, 6, dtype="float32").reshape(3, 2), np.linspace(0, 2, 4, dtype="float32")]


def in_keras(name, arguments, scale):
    weights = [keras.Variable(w) for w in start()]
    optimizer = getattr(keras.optimizers, name)(learning_rate=RATES[0], **arguments)
    optimizer.build(weights)
    for rate, grads in zip(RATES, gradients(scale), strict=True):
        optimizer.learning_rate = rate
        optimizer.apply([torch.from_numpy(g.copy()) for g in grads], weights)
    return [w.value.detach().numpy() for w in weights]


def moved(optimizer, weights, scale, rates=tuple(RATES)):
    for rate, grads in zip(rates, gradients(scale), strict=False):
        optimizer.learning_rate = rate
        for weight, grad in zip(weights, grads, strict=True):
            weight.grad = torch.from_numpy(grad.copy())
        optimizer.step()
    return [w.detach().numpy() for w in weights]


def parameters():
    return [torch.nn.Parameter(torch.from_numpy(w.copy())) for w in start()]


def ours(name, arguments):
    return getattr(optimizers, name)(learning_rate=RATES[0], **arguments)


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_each_step_equals_keras(name, arguments):
    for scale in (1.0, 1e-3, 1e-6):
        check_steps(name, arguments, scale)


def check_steps(name, arguments, scale):
    weights = parameters()
    got = moved(ours(name, arguments).build(weights), weights, scale)
    for w0, w, k in zip(start(), got, in_keras(name, arguments, scale), strict=True):
        np.testing.assert_allclose(w, k, rtol=1e-5, atol=1e-6)
        # Compare the changes, too: with very small steps the weights hardly differ.
        np.testing.assert_allclose(w - w0, k - w0, rtol=1e-4, atol=2e-6 * min(1, scale * 10) + 5e-7)


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_epsilon_is_added_where_keras_adds_it(name, arguments):
    """Gradients of 1e-6 on weights that begin at zero, so that rounding does not hide the changes."""
    weight, variable = torch.nn.Parameter(torch.zeros(3)), keras.Variable(np.zeros(3, "float32"))
    optimizer, reference = ours(name, arguments).build([weight]), getattr(keras.optimizers, name)(RATES[0], **arguments)
    for t in range(12):
        grad = np.array([1e-6, -3e-7, 1e-8], "float32") * (1 + t % 3)
        weight.grad = torch.from_numpy(grad.copy())
        optimizer.step()
        reference.apply([torch.from_numpy(grad.copy())], [variable])
    np.testing.assert_allclose(weight.detach().numpy(), variable.value.detach().numpy(), rtol=1e-5)


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_a_saved_optimizer_continues_with_the_same_steps(name, arguments):
    for how in ("state_dict", "deepcopy", "pickle"):
        check_continuation(name, arguments, how)


def check_continuation(name, arguments, how):
    weights = parameters()
    whole = moved(ours(name, arguments).build(weights), weights, 1e-3, RATES[:6] * 2)
    first = parameters()
    optimizer = ours(name, arguments).build(first)
    moved(optimizer, first, 1e-3, RATES[:6])
    if how == "state_dict":
        second = [torch.nn.Parameter(w.detach().clone()) for w in first]
        resumed = ours(name, arguments).build(second)
        resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    else:
        both = (first, optimizer)
        second, resumed = copy.deepcopy(both) if how == "deepcopy" else pickle.loads(pickle.dumps(both))
    assert resumed.iterations == 6 and resumed.get_config() == optimizer.get_config()
    # The second half has the gradients of steps 6 to 11 of the whole run.
    grads = gradients(1e-3)
    for rate, step in zip(RATES[:6], grads[6:12], strict=True):
        resumed.learning_rate = rate
        for weight, grad in zip(second, step, strict=True):
            weight.grad = torch.from_numpy(grad.copy())
        resumed.step()
    for a, b in zip(whole, second, strict=True):
        np.testing.assert_array_equal(a, b.detach().numpy())


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop"])
def test_optimizers_work_in_a_torch_loop_with_a_scheduler(name):
    def run(first):
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        cls = getattr(optimizers, name)
        optimizer = cls(model.parameters(), learning_rate=0.1) if first else cls(0.1).build(model.parameters())
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
        x, losses = torch.randn(8, 3), []
        for _ in range(6):
            optimizer.zero_grad()
            loss = (model(x) - x[:, :2]).square().mean()
            loss.backward()
            optimizer.step()
            scheduler.step()
            losses.append(loss.item())
        return optimizer, losses

    optimizer, losses = run(True)
    assert isinstance(optimizer, getattr(torch.optim, name))
    assert losses[-1] < losses[0] and optimizer.learning_rate == pytest.approx(0.1 / 8)
    assert losses == run(False)[1]


def test_hooks_run_once_if_the_class_of_torch_is_in_use():
    torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])  # torch then wraps the step of this class
    optimizer, calls = Adam(parameters(), 1e-3), []
    optimizer.register_step_post_hook(lambda *_: calls.append(1))
    optimizer.step()
    assert calls == [1] and optimizer.param_groups[0]["eps"] == 1e-7


@pytest.mark.parametrize("kernel", ["foreach", "fused"])
def test_kernels_of_torch_give_equal_steps(kernel):
    one, other = parameters(), parameters()
    for a, b in zip(moved(Adam(one, 0.01), one, 1e-3), moved(Adam(other, 0.01, **{kernel: True}), other, 1e-3), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_grad_scaler_unscales_before_clipping_and_skips_infinite_steps():
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for kernel in ({}, {"fused": True}):
        one, other = parameters()[:1], parameters()[:1]
        scaled, plain = Adam(one, 0.1, global_clipnorm=1.0, **kernel), Adam(other, 0.1, global_clipnorm=1.0)
        scaler.scale(one[0].square().sum()).backward()
        scaler.step(scaled)
        scaler.update()
        other[0].square().sum().backward()
        plain.step()
        torch.testing.assert_close(one[0], other[0])
        one[0].grad = torch.full_like(one[0], float("inf"))
        before = one[0].detach().clone()
        scaler.scale(one[0].sum())
        scaler.step(scaled)
        scaler.update(1024.0)
        assert torch.equal(one[0], before) and scaled.iterations == 1


def test_step_calls_a_closure_with_gradients_and_returns_its_loss():
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = SGD([weight], 0.5)

    def closure():
        optimizer.zero_grad()
        loss = weight.sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 2 and weight.tolist() == [0.5, 0.5]


def test_groups_have_separate_weight_decay_and_learning_rate():
    first, second = parameters()
    optimizer = SGD([{"params": [first], "weight_decay": 0.5}, {"params": second, "lr": 1.0}], 0.1)
    before = first.detach().clone()
    first.grad, second.grad = torch.zeros_like(first), torch.ones_like(second)
    optimizer.step()
    torch.testing.assert_close(first.detach(), before * 0.95)
    torch.testing.assert_close(second.detach(), torch.from_numpy(start()[1]) - 1)


def test_the_learning_rate_is_read_and_assigned_before_and_after_building():
    optimizer = Adam()
    assert optimizer.learning_rate == 1e-3 and not optimizer.built
    optimizer.learning_rate = np.float32(0.5)
    assert optimizer.build(parameters()) is optimizer and optimizer.param_groups[0]["lr"] == 0.5
    optimizer.learning_rate = torch.tensor(0.25)
    assert optimizer.param_groups[0]["lr"] == 0.25 and optimizer.get_config()["learning_rate"] == 0.25


def test_a_second_build_keeps_the_state_and_refuses_other_parameters():
    weights = parameters()
    optimizer = Adam(0.1).build(weights)
    moved(optimizer, weights, 1.0, [0.1] * 3)
    optimizer.build(iter(weights))
    assert optimizer.iterations == 3 and len(optimizer.state) == 2
    with pytest.raises(ArgumentError, match="already trains other parameters"):
        optimizer.build(parameters())


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "rmsprop", "adagrad", "adadelta", "adamax", "nadam", "adafactor"])
def test_defaults_and_configs_equal_keras(name):
    mine, theirs = get(name).get_config(), keras.optimizers.get(name).get_config()
    assert {k: theirs[k] for k in mine if k != "name"} == pytest.approx({k: v for k, v in mine.items() if k != "name"})
    again = get({"class_name": type(get(name)).__name__, "config": {**mine, "learning_rate": 0.7}})
    assert type(again) is type(get(name)) and again.get_config() == {**mine, "learning_rate": 0.7}


@pytest.mark.parametrize("cls", [SGD, Adam, AdamW, RMSprop, Adagrad, Adadelta, Adamax, Nadam, Adafactor])
def test_arguments_have_the_names_order_and_defaults_of_keras(cls):
    theirs = list(inspect.signature(getattr(keras.optimizers, cls.__name__)).parameters)[:-1]
    values = getattr(keras.optimizers, cls.__name__)().get_config()
    given = [values[name] if name != "name" else "mine" for name in theirs]
    expected = {**cls().get_config(), "name": "mine"}
    assert cls(*given).get_config() == {**expected, "learning_rate": pytest.approx(expected["learning_rate"])}
    with pytest.raises(ArgumentError, match=f"takes {len(theirs)} arguments"):
        cls(*given, 1)
    with pytest.raises(ArgumentError, match="Unknown argument of .*'clip_norm'.*Did you mean 'clipnorm'"):
        cls(clip_norm=1.0)


def test_averages_equal_keras_and_become_the_weights_at_the_end():
    weights, theirs = parameters(), [keras.Variable(w) for w in start()]
    mine, other = SGD(0.1, use_ema=True, ema_momentum=0.9), keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.9)
    mine.build(weights)
    other.build(theirs)
    for grads in gradients(1.0):
        mine.apply([torch.from_numpy(g.copy()) for g in grads], weights)
        other.apply([torch.from_numpy(g.copy()) for g in grads], theirs)
    trained = [w.detach().clone() for w in weights]
    mine.swap_averages()
    assert mine.averaged
    for w, average in zip(weights, other._model_variables_moving_average, strict=True):
        torch.testing.assert_close(w.detach(), average.value.detach(), rtol=1e-5, atol=1e-6)
    mine.swap_averages()
    assert all(torch.equal(w, t) for w, t in zip(weights, trained, strict=True)) and not mine.averaged
    again = SGD(0.1, use_ema=True).build(weights)
    again.load_state_dict(mine.state_dict())
    again.finalize_variable_values()
    other.finalize_variable_values(theirs)
    for w, t in zip(weights, theirs, strict=True):
        torch.testing.assert_close(w.detach(), t.value.detach(), rtol=1e-5, atol=1e-6)


def test_loss_scale_factor_does_not_change_the_step():
    one, other = parameters()[:1], parameters()[:1]
    scaled, plain = SGD(one, 0.1, loss_scale_factor=1024.0), SGD(other, 0.1)
    for weights, optimizer in ((one, scaled), (other, plain)):
        loss = weights[0].square().sum()
        (optimizer.scale_loss(loss)).backward()
        optimizer.step()
    assert scaled.scale_loss(1.0) == 1024.0 and plain.scale_loss(1.0) == 1.0
    torch.testing.assert_close(one[0], other[0])


def test_apply_and_apply_gradients_of_keras():
    weights = parameters()
    optimizer = SGD(1.0)
    grads = [torch.ones_like(w) for w in weights]
    optimizer.apply(grads, weights)
    optimizer.apply_gradients([(grads[1], weights[1])])
    optimizer.apply([None, grads[1]])
    for w, first, steps in zip(weights, start(), (1, 3), strict=True):
        torch.testing.assert_close(w.detach(), torch.from_numpy(first) - steps)
    with pytest.raises(ArgumentError, match="trains 2 parameters; got 1 gradients for 2"):
        optimizer.apply(grads[:1], weights)


def test_positional_arguments_have_the_order_of_keras():
    assert SGD(0.1, 0.9, True).momentum == 0.9 and RMSprop(0.1, 0.8).rho == 0.8
    assert AdamW(0.1, 0.5).weight_decay == 0.5 and AdamW(parameters(), 0.1, 0.5).param_groups[0]["weight_decay"] == 0.5


def test_get_accepts_names_classes_and_optimizers():
    own, weights = torch.optim.Adam(parameters()), parameters()
    assert get(own) is own and get(own, weights) is own
    assert get("RMSprop", weights).param_groups[0]["params"][0] is weights[0]
    assert isinstance(get(SGD), SGD)
    with pytest.raises(ArgumentError, match="Did you mean 'adam'"):
        get("adm")
    with pytest.raises(ArgumentError, match="7 is not an optimizer"):
        get(7)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Adam(-1), "learning rate must be a number of at least 0; got -1"),
        (lambda: Adam("fast"), "got 'fast'"),
        (lambda: SGD(momentum=1.5), "`momentum` must be between 0 and 1; got 1.5"),
        (lambda: Adam(beta_2=1.0), "`beta_2`"),
        (lambda: AdamW(weight_decay=None), "use Adam"),
        (lambda: Adam(clipnorm=1.0, clipvalue=1.0), "at most one"),
        (lambda: Adam(clipnorm=-1.0), "`clipnorm`.*got -1.0"),
        (lambda: Adam([]), "no parameters"),
        (lambda: Adam(gradient_accumulation_steps=1), "`gradient_accumulation_steps`.*at least 2; got 1"),
        (lambda: Adam(ema_overwrite_frequency=0.5), "`ema_overwrite_frequency`.*at least 1; got 0.5"),
        (lambda: Adam(use_ema=True, ema_momentum=1.5), "`ema_momentum` must be between 0 and 1; got 1.5"),
        (lambda: Adam(loss_scale_factor=0), "`loss_scale_factor`.*above 0; got 0"),
        (lambda: Adagrad(initial_accumulator_value=-1), "`initial_accumulator_value` must be at least 0; got -1"),
    ],
)
def test_bad_arguments_of_optimizers_are_refused(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()


def test_an_optimizer_without_parameters_raises_not_built():
    for act in (lambda o: o.step(), lambda o: o.zero_grad(), lambda o: o.state_dict(), lambda o: o.param_groups):
        with pytest.raises(NotBuilt, match="no parameters yet"):
            act(RMSprop())
    assert repr(RMSprop()) == "RMSprop(learning_rate=0.001)" and copy.deepcopy(RMSprop(0.3)).learning_rate == 0.3
    assert not hasattr(RMSprop(), "lr")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_numbers_of_optimizers_are_finite_and_not_negative(value):
    for cls in (optimizers.Adam, optimizers.AdamW, optimizers.Adadelta, optimizers.Adagrad, optimizers.Nadam):
        for name in ("learning_rate", "epsilon", "clipnorm", "clipvalue", "global_clipnorm", "weight_decay"):
            with pytest.raises(ArgumentError):
                cls(**{name: value})
