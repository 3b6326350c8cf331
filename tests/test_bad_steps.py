"""Wrong arguments and wrong user-defined steps are refused before any bit has changed."""

import numpy as np
import pytest
import torch

import padless
from padless import Input, Model
from padless.errors import ArgumentError, DataError, NotBuilt
from padless.layers import GRU, Dense, Dropout, Embedding, Layer

GOOD = [[1, 2], [3], [4, 4, 1], [2, 2]]
CLASSES = [[0, 1], [2], [0, 0, 1], [2, 1]]
KIND = "sparse_categorical_crossentropy"


class Own(Model):
    """A model with a user-defined `call`, and steps that a test may break."""

    broken = None

    def __init__(self):
        super().__init__()
        self.embed, self.scan = Embedding(5, 3, mask_zero=True), GRU(4, return_sequences=True)
        self.drop, self.tag = Dropout(0.5), Dense(3, activation="softmax")

    def call(self, inputs):
        outputs = self.tag(self.drop(self.scan(self.embed(inputs))))
        if self.broken == "add_loss":
            self.add_loss("much")
        return (outputs, outputs) if self.broken == "two outputs" else outputs


class Loss(Own):
    def compute_loss(self, x, y, y_pred, sample_weight, training=True):
        wrong = {"vector": y_pred.values.sum(-1), "packed": y_pred, "number": 3.5, "nothing": None, "text": "low"}
        return wrong[self.broken] if self.broken else super().compute_loss(x, y, y_pred, sample_weight, training)


class Step(Own):
    def train_step(self, data):
        return self.broken if self.broken else super().train_step(data)

    def test_step(self, data):
        return self.broken if self.broken else super().test_step(data)

    def predict_step(self, data):
        return self.broken if self.broken else super().predict_step(data)


def graph():
    x = Input((None,), name="ids")
    h = Dropout(0.5)(GRU(4, return_sequences=True)(Embedding(5, 3, mask_zero=True)(x)))
    return Model(x, Dense(3, activation="softmax", name="tag")(h))


def trained(make):
    model = make()
    model.compile(padless.optimizers.Adam(0.1), KIND, metrics=["accuracy"])
    model.fit(GOOD, CLASSES, verbose=0)
    return model


def snapshot(model):
    state = model.optimizer.state_dict()
    return [
        *model.get_weights(),
        *(np.asarray(v) for s in state["state"].values() for v in s.values()),
        np.asarray([group["lr"] for group in state["param_groups"]]),
        torch.get_rng_state().numpy(),
    ]


def refused(model, act, kind, message):
    before, compiled = snapshot(model), model._compiled
    with pytest.raises(kind, match=message):
        act(model)
    assert all(np.array_equal(a, b) for a, b in zip(before, snapshot(model), strict=True))
    assert model._compiled is compiled and not model.training and model._accumulation_group is None


FIT = {
    "no batches for a step": ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps.*got 0"),
    "half a batch for a step": ({"gradient_accumulation_steps": 1.5}, "gradient_accumulation_steps.*got 1.5"),
    "a word for a number of batches": ({"gradient_accumulation_steps": "all"}, "gradient_accumulation_steps.*'all'"),
    "a first epoch before the first": ({"initial_epoch": -1}, "initial_epoch.*got -1"),
    "half an epoch to begin at": ({"initial_epoch": 0.5}, "initial_epoch.*got 0.5"),
    "validation every 0 epochs": ({"validation_freq": 0}, "validation_freq.*got 0"),
    "validation in epoch 0, which is counted from 1": ({"validation_freq": [0, 2]}, "validation_freq.*got 0"),
    "validation often": ({"validation_freq": "often"}, "validation_freq.*'often'"),
}


@pytest.mark.parametrize("make", [graph, Own])
@pytest.mark.parametrize("what", FIT)
def test_wrong_arguments_of_fit_change_nothing(make, what):
    arguments, message = FIT[what]
    refused(
        trained(make),
        lambda m: m.fit(GOOD, CLASSES, verbose=0, validation_data=(GOOD, CLASSES), **arguments),
        ArgumentError,
        message,
    )


COMPILE = {
    "a dtype that is none": ({"autocast": "bfloat17"}, "autocast 'bfloat17'.*bfloat16"),
    "a dtype of integers": ({"autocast": torch.int8}, "autocast torch.int8"),
    "compile sometimes": ({"jit_compile": "sometimes"}, "jit_compile.*'sometimes'"),
    "eagerly, perhaps": ({"run_eagerly": "perhaps"}, "run_eagerly.*'perhaps'"),
    "no step in an execution": ({"steps_per_execution": 0}, "steps_per_execution.*got 0"),
    "half a step in an execution": ({"steps_per_execution": 0.5}, "steps_per_execution.*got 0.5"),
    "a scale in the place of a flag": ({"auto_scale_loss": 1024}, "auto_scale_loss.*1024"),
    "no optimizer": ({"optimizer": None}, "None is not an optimizer"),
    "a coefficient that is no number": ({"loss_weights": [float("nan")]}, "loss_weights.*nan"),
    "an infinite coefficient": ({"loss_weights": [float("inf")]}, "loss_weights.*inf"),
}


@pytest.mark.parametrize("what", COMPILE)
def test_wrong_arguments_of_compile_change_nothing(what):
    arguments, message = COMPILE[what]
    refused(trained(graph), lambda m: m.compile(**{"optimizer": "sgd", "loss": "mse", **arguments}), ArgumentError, message)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("vector", r"compute_loss.*scalar.*shape \(8,\)"),
        ("packed", "compute_loss.*scalar.*Packed"),
        ("number", "compute_loss.*scalar.*3.5"),
        ("nothing", "compute_loss.*scalar.*None"),
        ("text", "compute_loss.*'low'"),
    ],
)
def test_compute_loss_must_return_a_scalar_tensor(broken, message):
    model = trained(Loss)
    model.broken = broken
    refused(model, lambda m: m.fit(GOOD, CLASSES, verbose=0, shuffle=False), ArgumentError, message)
    refused(model, lambda m: m.evaluate(GOOD, CLASSES, verbose=0), ArgumentError, message)


@pytest.mark.parametrize("broken", ["loss: 3", 3.5, [1.0]])
def test_train_step_and_test_step_must_return_a_dictionary(broken):
    model = trained(Step)
    model.broken = broken
    message = "dictionary of logs.*" + str(broken).replace("[", r"\[").replace("]", r"\]")
    refused(model, lambda m: m.fit(GOOD, CLASSES, verbose=0, shuffle=False), ArgumentError, message)
    refused(model, lambda m: m.evaluate(GOOD, CLASSES, verbose=0), ArgumentError, message)
    refused(model, lambda m: m.train_on_batch(GOOD, CLASSES), ArgumentError, message)


@pytest.mark.parametrize("broken", ["one", 2.5, {"tag": "one"}])
def test_predict_step_must_return_tensors(broken):
    model = trained(Step)
    model.broken = broken
    value = broken["tag"] if isinstance(broken, dict) else broken
    refused(model, lambda m: m.predict(GOOD, verbose=0), ArgumentError, f"predict_step.*{value!r}")


def test_add_loss_refuses_text():
    model = trained(Own)
    model.broken = "add_loss"
    refused(model, lambda m: m.fit(GOOD, CLASSES, verbose=0, shuffle=False), ArgumentError, "add_loss.*'much'")


def test_a_model_without_any_loss_is_refused():
    for make in (graph, Own):
        model = trained(make)
        for layer in model.layers:
            layer.rate = 0.0  # only the first step can tell, and it would have drawn from the random numbers
        model.compile(model.optimizer)
        refused(model, lambda m: m.fit(GOOD, CLASSES, verbose=0, shuffle=False), ArgumentError, "nothing to train for")


def test_another_number_of_outputs_is_refused():
    model = trained(Own)
    model.broken = "two outputs"
    refused(model, lambda m: m.evaluate(GOOD, CLASSES, verbose=0), DataError, "2 outputs; got 1 targets")


def test_two_values_for_gradient_accumulation_are_refused():
    model = trained(graph)
    model.optimizer.gradient_accumulation_steps = 4
    refused(model, lambda m: m.fit(GOOD, CLASSES, verbose=0, gradient_accumulation_steps=2), ArgumentError, "2 in fit and 4")
    own = trained(Step)
    refused(
        own,
        lambda m: m.fit(GOOD, CLASSES, verbose=0, gradient_accumulation_steps=3),
        ArgumentError,
        "train_step.*gradient_accumulation_steps=3",
    )
    own.optimizer.gradient_accumulation_steps = 5
    refused(own, lambda m: m.fit(GOOD, CLASSES, verbose=0), ArgumentError, "train_step.*gradient_accumulation_steps=5")


def test_a_user_defined_train_step_refuses_float16():
    refused(trained(Step), lambda m: m.compile("sgd", autocast="float16"), ArgumentError, "train_step.*'float16'")


def test_an_optimizer_of_another_model_is_refused():
    model, other = trained(graph), trained(graph)
    foreign = torch.optim.SGD(other.parameters(), 0.1)
    model.compile(foreign, KIND)
    refused(model, lambda m: m.fit(GOOD, CLASSES, verbose=0, shuffle=False), ArgumentError, "SGD has no weight of model")


def test_compute_loss_before_compile_and_wrong_sample_weights_are_refused():
    with pytest.raises(NotBuilt, match=r"compile\(.*before compute_loss"):
        graph().compute_loss(None, CLASSES, None)
    model = trained(graph)
    refused(
        model,
        lambda m: m.fit(GOOD, CLASSES, verbose=0, sample_weight=np.ones(3), gradient_accumulation_steps=2),
        DataError,
        "3",
    )


def test_add_loss_refuses_text_when_the_graph_is_built():
    class Adding(Layer):
        def call(self, inputs):
            self.add_loss({"price": None})
            return inputs

    x = Input((3,))
    with pytest.raises(ArgumentError, match="add_loss of 'adding'.*None"):
        Adding(name="adding")(x)


def test_a_loss_without_a_gradient_is_refused():
    x = Input((2,))
    for steps in (1, 2):
        model = Model(x, Dense(1)(x))
        model.compile("sgd", lambda y_true, y_pred: (y_true - y_pred.detach()).square())
        before = model.get_weights()
        with pytest.raises(ArgumentError, match="no gradient"):
            model.fit(np.ones((4, 2)), np.ones((4, 1)), batch_size=2, gradient_accumulation_steps=steps, verbose=0)
        assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
