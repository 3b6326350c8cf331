"""Recurrent layers, cells, and wrappers around them."""

from typing import Any

from cases.case import NOISE, Case, Leaky, Residual
from cases.torch_module import GRUCell, Halving, LSTMCell, RNNCell
from padless import layers as L


def _rnns() -> list[Case]:
    cases = []
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
            cases.append(Case(f"{cls.__name__}-{name}", lambda c=cls, a=arguments: c(4, **a)))
        initial_state = {"sequence_arguments": {"initial_state": ((4,),) * states}}
        for name in ("last", "states", "backwards-sequences"):
            cases.append(
                Case(
                    f"{cls.__name__}-initial-state-{name}", lambda c=cls, a=variants[name]: c(4, **a), options=initial_state
                )
            )
        cases.append(
            Case(
                f"{cls.__name__}-dropout",
                lambda c=cls: c(4, dropout=0.5, recurrent_dropout=0.5),
                known_violations=NOISE,
                options={"training": True},
            )
        )
    for cls in (L.GRU, L.LSTM):
        cases.append(
            Case(f"{cls.__name__}-gates", lambda c=cls: c(4, recurrent_activation="hard_sigmoid", return_sequences=True))
        )
    cases += [
        Case("GRU-reset-before", lambda: L.GRU(4, reset_after=False, return_sequences=True)),
        Case("GRU-reset-before-backwards", lambda: L.GRU(4, reset_after=False, go_backwards=True, return_state=True)),
        Case("GRU-reset-before-no-bias", lambda: L.GRU(4, reset_after=False, use_bias=False)),
        Case("LSTM-forget", lambda: L.LSTM(4, unit_forget_bias=False)),
    ]
    return cases


def _wrapped() -> list[Case]:
    cases = [
        Case("RNN-user-cell", lambda: L.RNN(Leaky(4), return_sequences=True, return_state=True)),
        Case("RNN-user-cell-last", lambda: L.RNN(Leaky(4))),
        Case("RNN-user-cell-backwards", lambda: L.RNN(Leaky(4), go_backwards=True, return_sequences=True)),
        Case("RNN-changed-cell", lambda: L.RNN(Residual(4))),
        Case("RNN-changed-cell-sequences", lambda: L.RNN(Residual(4), return_sequences=True)),
        Case("SimpleRNNCell", lambda: L.RNN(L.SimpleRNNCell(4), return_sequences=True)),
        Case("GRUCell", lambda: L.RNN(L.GRUCell(4), go_backwards=True)),
        Case("LSTMCell", lambda: L.RNN(L.LSTMCell(4), return_state=True)),
        Case(
            "StackedRNNCells",
            lambda: L.RNN(L.StackedRNNCells([L.GRUCell(4), L.LSTMCell(5)]), return_sequences=True, return_state=True),
        ),
        Case("StackedRNNCells-list", lambda: L.RNN([L.LSTMCell(4), Leaky(5)])),
        Case(
            "StackedRNNCells-backwards",
            lambda: L.RNN([L.LSTMCell(4), L.SimpleRNNCell(5)], go_backwards=True, return_sequences=True),
        ),
        Case("Bidirectional-states", lambda: L.Bidirectional(L.LSTM(4, return_state=True, return_sequences=True))),
        Case(
            "Bidirectional-initial-state",
            lambda: L.Bidirectional(L.LSTM(4)),
            options={"sequence_arguments": {"initial_state": ((4,),) * 4}},
        ),
        Case(
            "Bidirectional-two",
            lambda: L.Bidirectional(
                L.GRU(4, return_sequences=True), backward_layer=L.LSTM(5, return_sequences=True, go_backwards=True)
            ),
        ),
        Case("Bidirectional-backwards-first", lambda: L.Bidirectional(L.GRU(4, go_backwards=True))),
        Case("Bidirectional-user-cell", lambda: L.Bidirectional(L.RNN(Leaky(4)))),
        Case("TimeDistributed-Dense", lambda: L.TimeDistributed(L.Dense(2))),
        Case("TimeDistributed-LSTM", lambda: L.TimeDistributed(L.LSTM(4)), inputs=(2, 3)),
        Case("TimeDistributed-LSTM-sequences", lambda: L.TimeDistributed(L.LSTM(4, return_sequences=True)), inputs=(2, 3)),
        Case("TimeDistributed-Flatten", lambda: L.TimeDistributed(L.Flatten()), inputs=(2, 3)),
    ]
    for mode in ("concat", "sum", "mul", "ave", None):
        for sequences in (False, True):
            cases.append(
                Case(
                    f"Bidirectional-{mode}-{'sequences' if sequences else 'last'}",
                    lambda m=mode, s=sequences: L.Bidirectional(L.GRU(4, return_sequences=s), merge_mode=m),
                )
            )
    return cases


def _convolved() -> list[Case]:
    variants: dict[str, dict[str, Any]] = {
        "last": {},
        "states": {"return_sequences": True, "return_state": True},
        "backwards": {"go_backwards": True, "return_sequences": True, "return_state": True},
        "same": {"padding": "same", "strides": 2, "return_sequences": True, "use_bias": False},
        "dilated": {
            "dilation_rate": 2,
            "activation": "relu",
            "recurrent_activation": "hard_sigmoid",
            "kernel_regularizer": "l2",
            "recurrent_regularizer": "l1",
        },
        "channels-first": {
            "data_format": "channels_first",
            "padding": "same",
            "return_sequences": True,
            "return_state": True,
            "unit_forget_bias": False,
        },
        "stateful": {"stateful": True, "zero_output_for_mask": True, "return_sequences": True},
    }
    cases = [
        Case(f"ConvLSTM1D-{name}", lambda a=arguments: L.ConvLSTM1D(4, 3, **a), inputs=(6, 2))
        for name, arguments in variants.items()
    ]
    initial_state = {"sequence_arguments": {"initial_state": ((4, 4),) * 2}}
    return [
        *cases,
        Case(
            "ConvLSTM1D-initial-state", lambda: L.ConvLSTM1D(4, 3, return_state=True), inputs=(6, 2), options=initial_state
        ),
        Case(
            "ConvLSTM1D-dropout",
            lambda: L.ConvLSTM1D(4, 3, dropout=0.5, recurrent_dropout=0.5),
            inputs=(6, 2),
            known_violations=NOISE,
            options={"training": True},
        ),
        Case("ConvLSTM1DCell", lambda: L.RNN(L.ConvLSTM1DCell(4, 3), return_sequences=True), inputs=(6, 2)),
        Case(
            "ConvLSTM1DCell-stacked",
            lambda: L.RNN([L.ConvLSTM1DCell(4, 3), L.ConvLSTM1DCell(2, 2, padding="same")], return_state=True),
            inputs=(6, 2),
        ),
        Case(
            "Bidirectional-ConvLSTM1D",
            lambda: L.Bidirectional(L.ConvLSTM1D(4, 3, return_sequences=True, return_state=True)),
            inputs=(6, 2),
        ),
        Case(
            "Bidirectional-ConvLSTM1D-initial-state",
            lambda: L.Bidirectional(L.ConvLSTM1D(4, 3, stateful=True), "sum"),
            inputs=(6, 2),
            options={"sequence_arguments": {"initial_state": ((4, 4),) * 4}},
        ),
    ]


def _of_torch() -> list[Case]:
    both = {"return_sequences": True, "return_state": True}
    return [
        Case("RNN-torch-LSTM", lambda: L.RNN(LSTMCell(3, 4), **both)),
        Case("RNN-torch-GRU", lambda: L.RNN(GRUCell(3, 4), go_backwards=True, **both)),
        Case("RNN-torch-RNN", lambda: L.RNN(RNNCell(3, 4))),
        Case(
            "RNN-torch-LSTM-initial-state",
            lambda: L.RNN(LSTMCell(3, 4), **both),
            options={"sequence_arguments": {"initial_state": ((4,), (4,))}},
        ),
        Case("RNN-torch-user", lambda: L.RNN(Halving(3, 4), **both)),
        Case("RNN-torch-user-last", lambda: L.RNN(Halving(3, 4), go_backwards=True)),
        Case("StackedRNNCells-torch", lambda: L.RNN([L.GRUCell(4), LSTMCell(4, 5), Halving(5, 2), Leaky(3)], **both)),
        Case("Bidirectional-stacked", lambda: L.Bidirectional(L.RNN([L.GRUCell(4), L.LSTMCell(5)], **both))),
        Case("Bidirectional-torch", lambda: L.Bidirectional(L.RNN(LSTMCell(3, 4), **both))),
        Case(
            "Bidirectional-torch-initial-state",
            lambda: L.Bidirectional(L.RNN(GRUCell(3, 4), stateful=True)),
            options={"sequence_arguments": {"initial_state": ((4,), (4,))}},
        ),
        Case("Bidirectional-torch-user", lambda: L.Bidirectional(L.RNN([Halving(3, 4), GRUCell(8, 2)], **both), None)),
    ]


CASES = [*_rnns(), *_wrapped(), *_convolved(), *_of_torch()]
