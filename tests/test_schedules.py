"""Learning rates that follow the steps: Keras's numbers, by schedules of Keras's names, in every optimizer."""

import os

os.environ["KERAS_BACKEND"] = "torch"

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import padless
from padless.callbacks import LearningRateScheduler
from padless.errors import ArgumentError
from padless.optimizers import optimizers, schedules

keras = pytest.importorskip("keras")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras's own

CASES = [
    ("ExponentialDecay", (0.1, 7, 0.5)), ("ExponentialDecay", (0.1, 7, 0.5, True)), ("InverseTimeDecay", (0.1, 7, 0.5)),
    ("InverseTimeDecay", (0.1, 7, 0.5, True)), ("PiecewiseConstantDecay", ([3, 9], [1.0, 0.5, 0.1])),
    ("PolynomialDecay", (0.1, 10)), ("PolynomialDecay", (0.1, 10, 0.01, 2.0, True)), ("CosineDecay", (0.1, 10)),
    ("CosineDecay", (0.1, 10, 0.2, "warm", 0.5, 4)), ("CosineDecayRestarts", (0.1, 5)),
    ("CosineDecayRestarts", (0.1, 5, 1.0, 0.9, 0.1)), ("CosineDecayRestarts", (0.1, 4, 1.5, 0.8, 0.3)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_a_schedule_equals_keras_at_each_step(name, arguments):
    mine, theirs = getattr(schedules, name)(*arguments), getattr(keras.optimizers.schedules, name)(*arguments)
    own = [mine(step) for step in range(40)]
    near = pytest.approx([float(theirs(torch.tensor(step))) for step in range(40)], rel=2e-5, abs=1e-8)
    if name == "CosineDecayRestarts":  # Keras's float32 logarithm falls on either side of a restart
        near = pytest.approx([float(theirs(torch.tensor(step))) for step in range(40)], rel=2e-3, abs=0.1)
        assert sum(abs(a - float(theirs(torch.tensor(step)))) > 1e-5 for step, a in enumerate(own)) <= 1
    assert own == near
    config = mine.get_config()
    assert config == theirs.get_config()
    assert schedules.deserialize(schedules.serialize(mine)) == mine
    keras_config = keras.optimizers.schedules.serialize(theirs)
    assert schedules.deserialize(keras_config) == mine


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "rmsprop", "adagrad", "adadelta", "adamax", "nadam", "adafactor"])
def test_each_step_has_the_scheduled_learning_rate(name):
    weight = torch.nn.Parameter(torch.ones(3))
    cls = type(optimizers.get(name))
    scheduled, set_by_hand = (
        cls([torch.nn.Parameter(weight.detach().clone())], rate) for rate in (schedules.ExponentialDecay(0.1, 2, 0.5), 0.1)
    )
    for step in range(5):
        assert scheduled.learning_rate == pytest.approx(0.1 * 0.5 ** (step / 2))
        set_by_hand.learning_rate = scheduled.learning_rate
        for optimizer in (scheduled, set_by_hand):
            optimizer.param_groups[0]["params"][0].grad = torch.full((3,), float(step) - 1.5)
            optimizer.step()
    torch.testing.assert_close(*(o.param_groups[0]["params"][0] for o in (scheduled, set_by_hand)))


def test_a_scheduled_optimizer_is_saved_and_its_rate_cannot_be_set():
    optimizer = optimizers.Adam(schedules.CosineDecay(0.1, 10))
    config = optimizer.get_config()
    assert config["learning_rate"] == {"class_name": "CosineDecay", "config": schedules.CosineDecay(0.1, 10).get_config()}
    again = optimizers.Adam.from_config(config)
    assert again.get_config() == config and again.learning_rate == 0.1
    theirs = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.1, 10)).get_config()
    assert optimizers.Adam.from_config(theirs).get_config()["learning_rate"] == config["learning_rate"]
    with pytest.raises(ArgumentError, match="follows CosineDecay.*cannot be set to 0.5"):
        optimizer.learning_rate = 0.5
    optimizer.learning_rate = schedules.CosineDecay(0.2, 10)
    assert optimizer.learning_rate == 0.2
    assert optimizers.SGD(lambda step: 1 / (1 + step)).learning_rate == 1.0


def test_a_user_defined_schedule_without_its_methods_raises_an_error():
    class Own(schedules.LearningRateSchedule):
        def __call__(self, step):
            return 0.5

    assert optimizers.SGD(Own()).learning_rate == 0.5
    with pytest.raises(NotImplementedError, match="Own must define get_config"):
        optimizers.SGD(Own()).get_config()
    with pytest.raises(NotImplementedError, match="LearningRateSchedule must define __call__"):
        optimizers.SGD(schedules.LearningRateSchedule())


@settings(deadline=None, max_examples=50)
@given(st.floats(1e-4, 1.0), st.integers(1, 20), st.floats(0.0, 1.0))
def test_cosine_decay_falls_from_the_rate_to_alpha(rate, steps, alpha):
    rates = [schedules.CosineDecay(rate, steps, alpha)(step) for step in range(steps + 3)]
    assert rates[0] == pytest.approx(rate) and rates[-1] == pytest.approx(rate * alpha, abs=1e-9)
    assert all(a >= b - 1e-12 for a, b in zip(rates, rates[1:], strict=False))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: schedules.ExponentialDecay(0.1, 0, 0.5),
            "`decay_steps` of ExponentialDecay must be a number above 0; got 0",
        ),
        (lambda: schedules.CosineDecay("fast", 10), "`initial_learning_rate` of CosineDecay.*got 'fast'"),
        (lambda: schedules.PiecewiseConstantDecay([1, 2], [0.1]), "one value more than boundaries; got 1 values for 2"),
        (lambda: schedules.PiecewiseConstantDecay([2, 1], [0.3, 0.2, 0.1]), r"must rise; got \[2, 1\]"),
        (lambda: schedules.CosineDecayRestarts(0.1, 5, 0.5), "`t_mul`.*at least 1; got 0.5"),
        (lambda: optimizers.Adam(lambda step: -1.0), "at least 0; got -1.0"),
    ],
)
def test_bad_arguments_of_schedules_are_refused(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()


@pytest.mark.parametrize("each", ["epoch", "batch"])
def test_schedulers_of_torch_work_in_fit(each):
    model = padless.Sequential([padless.layers.Input((3,)), padless.layers.Dense(1)])
    model.compile(optimizers.SGD(0.1), "mse")
    model.optimizer.build(model.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(model.optimizer, 2, 0.5)
    history = model.fit(
        torch.ones(6, 3), torch.ones(6), 2, 4, verbose=0, callbacks=[LearningRateScheduler(scheduler, each=each)]
    )
    expected = [0.1, 0.1, 0.05, 0.05] if each == "epoch" else [0.05, 0.0125, 0.00625, 0.0015625]
    assert history.history["learning_rate"] == pytest.approx(expected)
    other = torch.optim.lr_scheduler.StepLR(torch.optim.SGD([torch.nn.Parameter(torch.ones(1))]), 2)
    with pytest.raises(ArgumentError, match="schedules another optimizer"):
        model.fit(torch.ones(6, 3), torch.ones(6), verbose=0, callbacks=[LearningRateScheduler(other)])


def test_reduce_lr_on_plateau_of_torch_receives_the_loss_of_the_validation():
    model = padless.Sequential([padless.layers.Input((3,)), padless.layers.Dense(1)])
    model.compile(torch.optim.SGD(model.parameters(), 0.0), "mse")
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(model.optimizer, patience=0, factor=0.5)
    model.optimizer.param_groups[0]["lr"] = 1e-12
    data = torch.ones(4, 3), torch.ones(4)
    history = model.fit(*data, 2, 3, verbose=0, validation_data=data, callbacks=[LearningRateScheduler(plateau)])
    assert history.history["learning_rate"][0] == 1e-12


def test_schedules_have_the_paths_of_keras():
    from padless.optimizers.schedules import CosineDecay

    assert padless.optimizers.schedules.CosineDecay is CosineDecay
    import padless.optimizers.schedules as found  # pyright: ignore[reportMissingImports]

    assert found.CosineDecay is CosineDecay
