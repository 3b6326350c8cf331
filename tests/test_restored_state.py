"""States of other objects are refused, before anything is restored."""

import numpy as np
import pytest
import torch
import torchmetrics

import padless
from padless import Input, Model, losses, metrics, optimizers
from padless.callbacks import BackupAndRestore, Callback, EarlyStopping, ReduceLROnPlateau
from padless.errors import ArgumentError, DataError
from padless.layers import LSTM, Dense, Embedding

IDS = [[1, 2], [3], [4, 4, 1], [2, 2], [1], [3, 1, 2]]
TAGS = [[0, 1], [2], [1, 1, 0], [2, 0], [1], [0, 2, 2]]


class Cut(Callback):
    """Interrupt `fit` in the middle of the second epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == (1, 1):
            raise KeyboardInterrupt


class Kept(metrics.Metric):
    """A metric of a user."""

    def __init__(self, name="kept", size=2):
        super().__init__(name=name)
        self.total = self.add_variable((size,))

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.total.assign_add(torch.ones_like(self.total.data))

    def result(self):
        return self.total.sum()


class KeptToo(Kept):
    pass


def fit(folder, metric=None, loss="sparse_categorical_crossentropy", tags=TAGS, callbacks=(), cut=False):
    padless.utils.set_random_seed(0)
    x = Input((None,))
    model = Model(x, Dense(3, activation="softmax", name="tag")(LSTM(4, return_sequences=True)(Embedding(5, 3)(x))))
    model.compile("adam", loss, metrics=[] if metric is None else metric)
    before = model.get_weights()
    backups = [] if folder is None else [BackupAndRestore(folder, save_freq=1)]
    callbacks = [*callbacks, *backups, *([Cut()] if cut else [])]
    try:
        model.fit(IDS, tags, batch_size=2, epochs=2, callbacks=callbacks, verbose=0)
    except DataError:
        assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
        assert not model.optimizer.state
        raise
    return model


def interrupted(folder, **arguments):
    with pytest.raises(KeyboardInterrupt):
        fit(folder, cut=True, **arguments)


METRICS = [  # each is refused in place of the one before it
    lambda: ["accuracy"],
    lambda: [metrics.SparseCategoricalCrossentropy()],
    lambda: [metrics.SparseCategoricalCrossentropy(from_logits=True)],
    lambda: [metrics.SparseTopKCategoricalAccuracy(np.int64(2))],
    lambda: [metrics.SparseTopKCategoricalAccuracy(1)],
    lambda: ["accuracy", metrics.SparseTopKCategoricalAccuracy(2)],
    lambda: [metrics.SparseTopKCategoricalAccuracy(2), "accuracy"],
    lambda: [metrics.F1Score("macro")],
    lambda: [metrics.F1Score("micro")],
    lambda: [Kept()],
    lambda: [KeptToo()],
    lambda: [Kept(size=3)],
    lambda: [Kept(name="other")],
    lambda: [torchmetrics.classification.MulticlassAccuracy(3)],
    lambda: [torchmetrics.classification.MulticlassPrecision(3)],
]


@pytest.mark.parametrize("number", range(len(METRICS)))
def test_sums_are_restored_into_the_same_metrics_only(number, tmp_path):
    interrupted(tmp_path, metric=METRICS[number]())
    with pytest.raises(DataError, match="The backup has"):
        fit(tmp_path, METRICS[(number + 1) % len(METRICS)]())
    resumed = fit(tmp_path, METRICS[number]())
    if number % 4 == 0:
        assert resumed.history.history == fit(None, METRICS[number]()).history.history


def test_sums_are_restored_into_the_same_losses_only(tmp_path):
    interrupted(tmp_path, loss=losses.SparseCategoricalCrossentropy())
    for loss in (
        losses.SparseCategoricalCrossentropy(from_logits=True),
        losses.SparseCategoricalCrossentropy(ignore_class=1),
        losses.SparseCategoricalCrossentropy(reduction="sum"),
        losses.CategoricalGeneralizedCrossEntropy(np.float32(0.5)),
    ):
        with pytest.raises(DataError, match="The backup has the sums of"):
            fit(tmp_path, loss=loss)
    fit(tmp_path, loss=losses.SparseCategoricalCrossentropy())


def test_arrays_in_the_config_of_a_loss_are_compared(tmp_path):
    one_hot = [np.eye(3)[tags] for tags in TAGS]
    interrupted(tmp_path, loss=losses.CategoricalFocalCrossentropy(np.array([0.1, 0.2, 0.3])), tags=one_hot)
    with pytest.raises(DataError, match=r"\[0.1, 0.2, 0.3\]"):
        fit(tmp_path, loss=losses.CategoricalFocalCrossentropy([0.1, 0.2, 0.4]), tags=one_hot)
    fit(tmp_path, loss=losses.CategoricalFocalCrossentropy([0.1, 0.2, 0.3]), tags=one_hot)


def test_states_of_callbacks_are_restored_into_the_same_callbacks_only(tmp_path):
    def both(monitor, other, mode="min"):
        return [EarlyStopping(monitor, mode=mode, patience=5), ReduceLROnPlateau(other, mode=mode)]

    interrupted(tmp_path, metric=["accuracy"], callbacks=both("loss", "loss"))
    for callbacks in (both("accuracy", "loss"), both("loss", "accuracy"), both("loss", "loss", "max")):
        with pytest.raises(DataError, match="The backup has the state of a"):
            fit(tmp_path, ["accuracy"], callbacks=callbacks)
    fit(tmp_path, ["accuracy"], callbacks=both("loss", "loss"))


def test_two_callbacks_of_one_class_are_found_by_what_they_monitor(tmp_path):
    def two(*monitors):
        return [EarlyStopping(monitor, mode="min", patience=9) for monitor in monitors]

    interrupted(tmp_path, metric=["accuracy"], callbacks=two("loss", "accuracy"))
    swapped = two("accuracy", "loss")
    history = fit(tmp_path, ["accuracy"], callbacks=swapped).history.history
    assert [callback.best for callback in swapped] == [min(history["accuracy"]), min(history["loss"])]


CLASSES = [optimizers.SGD, optimizers.Adam, optimizers.AdamW, optimizers.Nadam, optimizers.Adamax, optimizers.RMSprop]


def stepped(cls, shape=(2, 3)):
    weight = torch.nn.Parameter(torch.ones(shape))
    optimizer = cls().build([weight])
    weight.grad = torch.ones(shape)
    optimizer.step()
    return optimizer


@pytest.mark.parametrize("cls", CLASSES)
def test_the_state_of_another_optimizer_is_refused(cls):
    state = stepped(cls).state_dict()
    for other in CLASSES:
        if other is not cls:
            target = stepped(other)
            before = str(target.state_dict())
            with pytest.raises(ArgumentError, match=f"that of {cls.__name__}"):
                target.load_state_dict(state)
            assert str(target.state_dict()) == before
    stepped(cls).load_state_dict(state)
    if cls is not optimizers.SGD:
        with pytest.raises(ArgumentError, match=r"has shape \(2, 3\), but the parameter"):
            stepped(cls, (3, 2)).load_state_dict(state)


def test_the_state_of_torchs_optimizer_of_that_name_is_accepted():
    weight = torch.nn.Parameter(torch.ones(2))
    torch_optimizer = torch.optim.Adam([weight])
    weight.grad = torch.ones(2)
    torch_optimizer.step()
    target = stepped(optimizers.Adam, (2,))
    target.load_state_dict(torch_optimizer.state_dict())
    with pytest.raises(ArgumentError, match="Expected that of SGD"):
        stepped(optimizers.SGD, (2,)).load_state_dict(torch_optimizer.state_dict())
