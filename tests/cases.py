"""What the laws are tried on: every public layer, loss and metric, with its constructor arguments varied.

Sizes differ from one another: inputs have 3 features (or 6, to be reshaped), layers 2 or 4 or 5 units.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from padless import layers as L
from padless import losses, metrics
from padless.layers.layer import get
from padless.model import Model, Sequential
from padless.registry import entries, register
from padless.saving.config import register_keras_serializable
from padless.testing import Subject, binary, ids, labels, normal, one_hot, probabilities


@dataclass(frozen=True)
class Case:
    """A way to make a layer, what to give it, and the laws that it does not keep, with the reason."""

    name: str
    make: Callable[[], Any]
    inputs: Any = (3,)
    breaks: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def layer(self) -> str:
        """The class that this case is about."""
        return self.name.split("-")[0]

    def subject(self) -> Subject:
        """Made anew."""
        return Subject.of(self.make, self.inputs, **self.options)


# ------------------------------------------------------------------------------------------------ cells of one's own


@register_keras_serializable("tests")
class Leaky(L.Layer):
    """A cell of one's own with one state: it keeps a part of the state before."""

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = self.state_size = units
        self.output_size = 2 * units

    def build(self, input_shape: Any) -> None:
        self.add_weight((input_shape[-1], self.units), name="kernel")

    def call(self, inputs: Any, states: Any) -> Any:
        state = 0.5 * states[0] + torch.sin(inputs @ self.kernel)
        return torch.cat([state, state.cos()], dim=-1), [state]


@register_keras_serializable("tests")
class Residual(L.LSTMCell):
    """A built-in cell with a `call` of one's own, whose output is not its state."""

    def call(self, inputs: Any, states: Any, training: bool = False) -> Any:
        output, new = super().call(inputs, states, training)
        return output + 1, new


@register_keras_serializable("tests")
class Attending(L.Layer):
    """A layer of queries and values, on a list of them or on one input that is both."""

    relation = "attend"

    def __init__(self, layer: Any, causal: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.layer = get(layer)
        self.causal = causal

    def call(self, inputs: Any, training: bool = False) -> Any:
        given = inputs if isinstance(inputs, list) else [inputs, inputs]
        return self.layer(*given, **({"use_causal_mask": True} if self.causal else {}))

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        return mask[0] if isinstance(inputs, list) else mask

    def compute_output_shape(self, input_shape: Any) -> Any:
        several = isinstance(input_shape, list)
        return self.layer.compute_output_shape(*(input_shape if several else [input_shape, input_shape]))


# ------------------------------------------------------------------------------------------------ layers

NOISE = {"presence": "noise is drawn for the steps of a batch together",
         "independence": "noise is drawn for the steps of a batch together"}
GRID = {"presence": "it ends the mask: from here on padding counts as data",
        "absence": "it ends the mask: from here on padding counts as data"}
IDS = ids(7)


def _rnns() -> list[Case]:
    found = []
    variants: dict[str, dict[str, Any]] = {
        "last": {},
        "sequences": {"return_sequences": True},
        "states": {"return_sequences": True, "return_state": True},
        "last-state": {"return_state": True},
        "backwards": {"go_backwards": True},
        "backwards-sequences": {"go_backwards": True, "return_sequences": True, "return_state": True},
        "zeros": {"return_sequences": True, "zero_output_for_mask": True},
        "no-bias": {"return_sequences": True, "use_bias": False},
        "relu": {"return_sequences": True, "activation": "relu"},
        "softsign": {"return_sequences": True, "activation": "softsign"},
        "regularized": {"kernel_regularizer": "l2", "recurrent_regularizer": "l1", "bias_regularizer": "l2"},
        "activity": {"activity_regularizer": "l2", "return_sequences": True},
        "stateful": {"stateful": True, "return_sequences": True},
    }
    for cls, states in ((L.SimpleRNN, 1), (L.GRU, 1), (L.LSTM, 2)):
        for name, arguments in variants.items():
            found.append(Case(f"{cls.__name__}-{name}", lambda c=cls, a=arguments: c(4, **a)))
        given = {"rows": {"initial_state": ((4,),) * states}}
        for name in ("last", "states", "backwards-sequences"):
            found.append(Case(f"{cls.__name__}-given-{name}", lambda c=cls, a=variants[name]: c(4, **a), options=given))
        found.append(Case(f"{cls.__name__}-dropout", lambda c=cls: c(4, dropout=0.5, recurrent_dropout=0.5),
                          breaks=NOISE, options={"training": True}))
    for cls in (L.GRU, L.LSTM):
        found.append(Case(f"{cls.__name__}-gates", lambda c=cls: c(4, recurrent_activation="hard_sigmoid",
                                                                   return_sequences=True)))
    found += [
        Case("GRU-reset-before", lambda: L.GRU(4, reset_after=False, return_sequences=True)),
        Case("GRU-reset-before-backwards", lambda: L.GRU(4, reset_after=False, go_backwards=True, return_state=True)),
        Case("GRU-reset-before-no-bias", lambda: L.GRU(4, reset_after=False, use_bias=False)),
        Case("LSTM-forget", lambda: L.LSTM(4, unit_forget_bias=False)),
    ]
    return found


def _wrapped() -> list[Case]:
    found = [
        Case("RNN-own-cell", lambda: L.RNN(Leaky(4), return_sequences=True, return_state=True)),
        Case("RNN-own-cell-last", lambda: L.RNN(Leaky(4))),
        Case("RNN-own-cell-backwards", lambda: L.RNN(Leaky(4), go_backwards=True, return_sequences=True)),
        Case("RNN-changed-cell", lambda: L.RNN(Residual(4))),
        Case("RNN-changed-cell-sequences", lambda: L.RNN(Residual(4), return_sequences=True)),
        Case("SimpleRNNCell", lambda: L.RNN(L.SimpleRNNCell(4), return_sequences=True)),
        Case("GRUCell", lambda: L.RNN(L.GRUCell(4), go_backwards=True)),
        Case("LSTMCell", lambda: L.RNN(L.LSTMCell(4), return_state=True)),
        Case("StackedRNNCells", lambda: L.RNN(L.StackedRNNCells([L.GRUCell(4), L.LSTMCell(5)]), return_sequences=True,
                                              return_state=True)),
        Case("StackedRNNCells-list", lambda: L.RNN([L.LSTMCell(4), Leaky(5)])),
        Case("StackedRNNCells-backwards", lambda: L.RNN([L.LSTMCell(4), L.SimpleRNNCell(5)], go_backwards=True,
                                                        return_sequences=True)),
        Case("Bidirectional-states", lambda: L.Bidirectional(L.LSTM(4, return_state=True, return_sequences=True))),
        Case("Bidirectional-given", lambda: L.Bidirectional(L.LSTM(4)),
             options={"rows": {"initial_state": ((4,),) * 4}}),
        Case("Bidirectional-two", lambda: L.Bidirectional(
            L.GRU(4, return_sequences=True), backward_layer=L.LSTM(5, return_sequences=True, go_backwards=True))),
        Case("Bidirectional-backwards-first", lambda: L.Bidirectional(L.GRU(4, go_backwards=True))),
        Case("Bidirectional-own-cell", lambda: L.Bidirectional(L.RNN(Leaky(4)))),
        Case("TimeDistributed-Dense", lambda: L.TimeDistributed(L.Dense(2))),
        Case("TimeDistributed-LSTM", lambda: L.TimeDistributed(L.LSTM(4)), inputs=(2, 3)),
        Case("TimeDistributed-LSTM-sequences", lambda: L.TimeDistributed(L.LSTM(4, return_sequences=True)), inputs=(2, 3)),
        Case("TimeDistributed-Flatten", lambda: L.TimeDistributed(L.Flatten()), inputs=(2, 3)),
    ]
    for mode in ("concat", "sum", "mul", "ave", None):
        for sequences in (False, True):
            found.append(Case(f"Bidirectional-{mode}-{'sequences' if sequences else 'last'}", lambda m=mode, s=sequences:
                              L.Bidirectional(L.GRU(4, return_sequences=s), merge_mode=m)))
    return found


def _stepwise() -> list[Case]:
    found = [
        Case("Dense", lambda: L.Dense(2)),
        Case("Dense-no-bias", lambda: L.Dense(2, activation="relu", use_bias=False)),
        Case("Dense-softmax", lambda: L.Dense(5, activation="softmax", kernel_regularizer="l2")),
        Case("Dense-activity", lambda: L.Dense(2, activity_regularizer="l1")),
        Case("Dense-4D", lambda: L.Dense(2), inputs=(5, 3)),
        Case("Dropout", lambda: L.Dropout(0.5)),
        Case("Dropout-seed", lambda: L.Dropout(0.5, seed=3)),
        Case("Dropout-training", lambda: L.Dropout(0.5), breaks=NOISE, options={"training": True}),
        Case("Dropout-sequences", lambda: L.Dropout(0.5, noise_shape=(None, 1, None)), breaks=NOISE,
             options={"training": True}),
        Case("LayerNormalization", lambda: L.LayerNormalization()),
        Case("LayerNormalization-plain", lambda: L.LayerNormalization(center=False, scale=False, epsilon=1e-5)),
        Case("LayerNormalization-axes", lambda: L.LayerNormalization(axis=[2, 3]), inputs=(5, 3)),
        Case("LayerNormalization-inner", lambda: L.LayerNormalization(axis=2), inputs=(5, 3)),
        Case("Reshape", lambda: L.Reshape((-1, 2, 3)), inputs=(6,)),
        Case("InputLayer", lambda: L.InputLayer((None, 3))),
        Case("Embedding", lambda: L.Embedding(7, 3), inputs=IDS),
        Case("Embedding-zero", lambda: L.Embedding(7, 3, mask_zero=True), inputs=IDS, options={"born": True}),
        Case("Embedding-narrowed", lambda: L.Embedding(7, 3, mask_zero=True), inputs=IDS),
        Case("Embedding-floats", lambda: L.Embedding(7, 3, mask_zero=True, embeddings_regularizer="l2"),
             inputs=lambda generator, grid: IDS(generator, grid).int()),
        Case("Masking", lambda: L.Masking(), options={"born": True}),
        Case("Masking-narrowed", lambda: L.Masking(mask_value=9.0)),
        Case("DropMask", lambda: L.DropMask(), breaks=GRID),
        Case("Flatten", lambda: L.Flatten(), breaks=GRID),
    ]
    for name in sorted({function.__name__ for function in entries("activation").values()}):
        if name not in ("glu", "threshold"):  # one halves the features, the other has arguments without a default
            found.append(Case(f"Activation-{name}", lambda n=name: L.Activation(n)))
    return [*found, Case("Activation-glu", lambda: L.Activation("glu"), inputs=(6,))]


def _combining() -> list[Case]:
    two, three = [(3,), (3,)], [(3,), (3,), (3,)]
    found = [Case(f"{cls.__name__}", cls, inputs=two if cls is L.Subtract else three)
             for cls in (L.Add, L.Subtract, L.Multiply, L.Average, L.Maximum, L.Minimum)]
    return [
        *found,
        Case("Concatenate", lambda: L.Concatenate(), inputs=[(3,), (5,)]),
        Case("Concatenate-time", lambda: L.Concatenate(axis=1), inputs=two),
        Case("Concatenate-inner", lambda: L.Concatenate(axis=2), inputs=[(2, 3), (4, 3)]),
        Case("Add-broadcast", lambda: L.Add(), inputs=[(3,), (1,)]),
    ]


def _segments() -> list[Case]:
    return [Case(f"{cls.__name__}-{shape}D", cls, inputs=features)
            for cls in (L.GlobalAveragePooling1D, L.FirstStep, L.LastStep)
            for shape, features in ((3, (3,)), (4, (5, 3)))] + [
        Case("GlobalAveragePooling1D-keepdims", lambda: L.GlobalAveragePooling1D(keepdims=True))]


def _windows() -> list[Case]:
    filters = {"Conv1D": {"filters": 6}, "Conv1DTranspose": {"filters": 4}, "SeparableConv1D": {"filters": 4}}
    variants: dict[str, dict[str, Any]] = {
        "Conv1D-valid": {},
        "Conv1D-same": {"padding": "same", "activation": "tanh"},
        "Conv1D-strides": {"strides": 2, "use_bias": False},
        "Conv1D-same-strides": {"padding": "same", "strides": 3, "activity_regularizer": "l2"},
        "Conv1D-dilation": {"dilation_rate": 2, "padding": "same"},
        "Conv1D-causal-strides": {"padding": "causal", "strides": 2},
        "Conv1D-groups": {"groups": 3, "padding": "causal", "kernel_regularizer": "l2"},
        "Conv1D-apart": {"kernel_size": 1, "strides": 2},
        "Conv1DTranspose-valid": {},
        "Conv1DTranspose-same": {"padding": "same", "activation": "tanh"},
        "Conv1DTranspose-strides": {"padding": "same", "strides": 2, "use_bias": False},
        "Conv1DTranspose-apart": {"kernel_size": 1, "strides": 3, "output_padding": 1},
        "DepthwiseConv1D-strides": {"padding": "same", "strides": 2},
        "DepthwiseConv1D-more": {"depth_multiplier": 2, "depthwise_regularizer": "l2"},
        "SeparableConv1D-strides": {"strides": 2},
        "SeparableConv1D-more": {"depth_multiplier": 2, "padding": "same", "pointwise_regularizer": "l1"},
    }
    pooled: dict[str, tuple[Any, ...]] = {"pairs": (2,), "same": (3, 1, "same"), "same-strides": (2, 3, "same")}
    found = []
    for name, given in variants.items():
        cls = name.split("-")[0]
        arguments = {"kernel_size": 3, **filters.get(cls, {}), **given}
        found.append(Case(name, lambda c=cls, a=arguments: getattr(L, c)(**a)))
    found += [Case(f"{cls.__name__}-{name}", lambda c=cls, a=given: c(*a))
              for cls in (L.MaxPooling1D, L.AveragePooling1D) for name, given in pooled.items()]
    return [
        *found,
        Case("Cropping1D", lambda: L.Cropping1D((2, 1))),
        Case("ZeroPadding1D", lambda: L.ZeroPadding1D((2, 1))),
        Case("UpSampling1D", lambda: L.UpSampling1D(3)),
    ]


def _attending() -> list[Case]:
    def heads(**more: Any) -> Any:
        return L.MultiHeadAttention(2, 4, **more)

    def groups(**more: Any) -> Any:
        return L.GroupQueryAttention(5, 4, 2, **more)

    columns = {"presence": "its window counts columns, holes among them"}
    two, three = [(3,), (5,)], [(3,), (5,), (3,)]
    found = [
        Case("Attention", lambda: L.Attention(), inputs=three),
        Case("Attention-scale", lambda: L.Attention(use_scale=True, dropout=0.5), inputs=three),
        Case("Attention-concat", lambda: L.Attention(use_scale=True, score_mode="concat"), inputs=three),
        Case("Attention-two", lambda: L.Attention(score_mode="concat"), inputs=[(3,), (3,)]),
        Case("AdditiveAttention", lambda: L.AdditiveAttention(), inputs=three),
        Case("AdditiveAttention-plain", lambda: L.AdditiveAttention(use_scale=False), inputs=three),
        Case("MultiHeadAttention-self", lambda: Attending(heads())),
        Case("MultiHeadAttention-causal", lambda: Attending(heads(value_dim=5, use_bias=False), causal=True)),
        Case("MultiHeadAttention-cross", lambda: Attending(heads(output_shape=7, use_gate=True)), inputs=two),
        Case("MultiHeadAttention-key", lambda: Attending(heads(kernel_regularizer="l2")), inputs=three),
        Case("MultiHeadAttention-activity", lambda: Attending(heads(activity_regularizer="l2"))),
        Case("MultiHeadAttention-window", lambda: Attending(heads(sliding_window=2)), breaks=columns),
        Case("MultiHeadAttention-dropout", lambda: Attending(heads(dropout=0.5)), breaks=NOISE,
             options={"training": True}),
        Case("GroupQueryAttention-self", lambda: Attending(groups())),
        Case("GroupQueryAttention-causal", lambda: Attending(groups(use_gate=True), causal=True)),
        Case("GroupQueryAttention-cross", lambda: Attending(groups(use_bias=False)), inputs=two),
        Case("PositionEmbedding", lambda: L.PositionEmbedding(9)),
        Case("PositionEmbedding-4D", lambda: L.PositionEmbedding(9), inputs=(5, 3)),
        Case("SinePositionEncoding", lambda: L.SinePositionEncoding(50)),
        Case("RotaryEmbedding", lambda: L.RotaryEmbedding(50), inputs=(4,)),
        Case("RotaryEmbedding-heads", lambda: L.RotaryEmbedding(50, 2.0, "yarn"), inputs=(3, 4)),
        Case("TokenAndPositionEmbedding", lambda: L.TokenAndPositionEmbedding(7, 9, 3, mask_zero=True), inputs=IDS,
             options={"born": True}),
        Case("TokenAndPositionEmbedding-narrowed", lambda: L.TokenAndPositionEmbedding(7, 9, 3), inputs=IDS),
    ]
    for first in (False, True):
        when = "pre" if first else "post"
        found += [
            Case(f"TransformerEncoder-{when}", lambda f=first: L.TransformerEncoder(8, 2, normalize_first=f), inputs=(4,)),
            Case(f"TransformerDecoder-{when}", lambda f=first: L.TransformerDecoder(8, 2, activation="gelu",
                                                                                    normalize_first=f), inputs=(4,)),
            Case(f"TransformerDecoder-{when}-cross",
                 lambda f=first: Attending(L.TransformerDecoder(8, 2, normalize_first=f)), inputs=[(4,), (6,)]),
        ]
    return [*found, Case("TransformerEncoder-dropout", lambda: L.TransformerEncoder(8, 2, dropout=0.5), inputs=(4,),
                         breaks=NOISE, options={"training": True})]


def _model(masked: bool) -> Model:
    x = L.Input((None, 3), masked=masked, name="x")
    h = L.LSTM(4, return_sequences=True, name="lstm")(L.Masking(name="masking")(x))
    h = L.Add(name="add")([h, L.Dense(4, activation="tanh", name="dense")(h)])
    return Model(x, [L.Dense(2, name="steps")(h), L.GlobalAveragePooling1D(name="whole")(h)], name="tagger")


def _tagger() -> Sequential:
    return Sequential([L.Embedding(7, 3, mask_zero=True), L.Bidirectional(L.GRU(4, return_sequences=True)), L.Dense(2)])


MODELS = [
    Case("Model-born", lambda: _model(False), options={"born": True}),
    Case("Model-given", lambda: _model(True)),
    Case("Sequential", _tagger, inputs=IDS, options={"born": True}),
]
LAYERS = [*_stepwise(), *_rnns(), *_wrapped(), *_combining(), *_segments(), *_windows(), *_attending()]
ABSTRACT = {"Layer"}  # nothing to run


# ------------------------------------------------------------------------------------------------ losses, metrics


@dataclass(frozen=True)
class Measure:
    """A way to make a loss or metric, and how its outputs and targets are drawn."""

    name: str
    make: Callable[[], Any]
    outputs: Any
    targets: Any

    @property
    def layer(self) -> str:
        """The class that this case is about."""
        return self.name.split("-")[0]


@register("loss_function")
def squares(y_true: Any, y_pred: Any) -> Any:
    """A loss function of rows."""
    return (y_true - y_pred).square().mean(-1)


@register("loss_function")
def spread_of(y_true: Any, y_pred: Any, mask: Any) -> Any:
    """A loss function of whole sequences."""
    return torch.where(mask[..., None], (y_true - y_pred).abs(), 0).amax((1, 2))


def _losses() -> list[Measure]:
    made: dict[str, tuple[Callable[..., Any], Any, Any]] = {
        "MeanSquaredError": (losses.MeanSquaredError, normal(3), normal(3)),
        "MeanSquaredError-flat": (losses.MeanSquaredError, normal(1), normal()),
        "MeanAbsoluteError": (losses.MeanAbsoluteError, normal(3), normal(3)),
        "BinaryCrossentropy": (losses.BinaryCrossentropy, probabilities(1), binary(1)),
        "BinaryCrossentropy-logits": (lambda **k: losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.2, **k),
                                      normal(3), binary(3)),
        "CategoricalCrossentropy": (losses.CategoricalCrossentropy, probabilities(4), one_hot(4)),
        "CategoricalCrossentropy-logits": (
            lambda **k: losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.2, **k), normal(4), one_hot(4)),
        "SparseCategoricalCrossentropy": (losses.SparseCategoricalCrossentropy, probabilities(4), labels(4)),
        "SparseCategoricalCrossentropy-logits": (
            lambda **k: losses.SparseCategoricalCrossentropy(from_logits=True, **k), normal(4), labels(4)),
        "SparseCategoricalCrossentropy-ignore": (
            lambda **k: losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=1, **k), normal(4), labels(4)),
        "LossFunctionWrapper": (lambda **k: losses.LossFunctionWrapper(squares, **k), normal(3), normal(3)),
        "LossFunctionWrapper-sequences": (lambda **k: losses.LossFunctionWrapper(spread_of, **k), normal(3), normal(3)),
        "TorchLoss": (lambda **k: losses.TorchLoss(torch.nn.CrossEntropyLoss(reduction="none", ignore_index=1), **k),
                      normal(4), labels(4)),
    }
    return [Measure(f"{name}-{reduction}", lambda m=make, r=reduction: m(reduction=r), outputs, targets)
            for name, (make, outputs, targets) in made.items()
            for reduction in ("sum_over_batch_size", "mean_with_sample_weight", "sum", "none")]


LOSSES = _losses()
METRICS = [
    Measure("Accuracy", metrics.Accuracy, labels(2), labels(2)),
    Measure("BinaryAccuracy", metrics.BinaryAccuracy, probabilities(1), binary()),
    Measure("BinaryCrossentropy", metrics.BinaryCrossentropy, probabilities(3), binary(3)),
    Measure("CategoricalAccuracy", metrics.CategoricalAccuracy, probabilities(4), one_hot(4)),
    Measure("CategoricalCrossentropy", metrics.CategoricalCrossentropy, probabilities(4), one_hot(4)),
    Measure("F1Score", lambda: metrics.F1Score(average="macro"), probabilities(4), one_hot(4)),
    Measure("F1Score-each", lambda: metrics.F1Score(threshold=0.3), probabilities(4), binary(4)),
    Measure("MeanAbsoluteError", metrics.MeanAbsoluteError, normal(3), normal(3)),
    Measure("MeanMetricWrapper", lambda: metrics.MeanMetricWrapper(squares), normal(3), normal(3)),
    Measure("MeanSquaredError", metrics.MeanSquaredError, normal(3), normal(3)),
    Measure("SparseCategoricalAccuracy", metrics.SparseCategoricalAccuracy, probabilities(4), labels(4)),
    Measure("SparseCategoricalCrossentropy", metrics.SparseCategoricalCrossentropy, probabilities(4), labels(4)),
]
NO_PAIRS = {"Mean"}  # it takes values alone
