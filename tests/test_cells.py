"""User-defined cells, torch's cells, stacks of cells, and all of these in both directions."""

import inspect

import numpy as np
import pytest
import torch
from cases import Leaky
from cases.torch_module import Halving
from keras_parity import KINDS, keras, mask_of, numbers
from torch import nn

import padless
from padless import layers as L
from padless import pack
from padless.errors import ArgumentError, PadlessError, ShapeError
from padless.graph.symbolic import leaves

MASKS = np.concatenate([mask_of(kind) for kind in KINDS])
X = torch.from_numpy(numbers(*MASKS.shape, 3))
BOTH = {"return_sequences": True, "return_state": True}
CELLS = {
    "LSTMCell": lambda: nn.LSTMCell(3, 4),
    "LSTMCell plain": lambda: nn.LSTMCell(3, 4, bias=False),
    "GRUCell": lambda: nn.GRUCell(3, 4),
    "RNNCell": lambda: nn.RNNCell(3, 4, nonlinearity="relu"),
}


def alone(cell, row, states):
    """Run a torch cell over one sequence by a loop in torch: return the outputs and the last states."""
    outputs = []
    for x in row:
        new = cell(x[None], states if isinstance(cell, nn.LSTMCell) else states[0])
        states = new if isinstance(new, tuple) else (new,)
        outputs.append(states[0][0])
    return outputs, states


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("name", CELLS)
def test_a_torch_cell_gives_the_numbers_of_a_loop_in_torch(name, backwards):
    cell = CELLS[name]()
    layer = L.RNN(cell, go_backwards=backwards, **BOTH)
    count = 2 if name.startswith("LSTM") else 1
    given = [torch.randn(len(MASKS), 4) for _ in range(count)]
    for first in (None, given):
        out, *states = layer(pack(X, MASKS), initial_state=first)
        last = L.RNN(cell, go_backwards=backwards)(pack(X, MASKS), initial_state=first)
        begin = first or [torch.zeros(len(MASKS), 4)] * count
        for row, mask in enumerate(MASKS):
            steps = X[row][torch.from_numpy(mask)]
            outputs, ended = alone(cell, steps.flip(0) if backwards else steps, tuple(s[[row]] for s in begin))
            for mine, torchs in zip(out.sequences()[row], outputs, strict=True):
                torch.testing.assert_close(mine, torchs)
            for mine, torchs in zip(states, ended, strict=True):
                torch.testing.assert_close(mine[row], torchs[0])
            torch.testing.assert_close(last[row], outputs[-1] if outputs else torch.zeros(4))


@pytest.mark.parametrize("name", CELLS)
def test_a_torch_cell_has_the_gradients_of_a_loop_in_torch(name):
    cell = CELLS[name]()
    L.RNN(cell, return_sequences=True)(pack(X, MASKS)).values.square().sum().backward()
    mine = [p.grad.clone() for p in cell.parameters()]
    cell.zero_grad()
    count = 2 if name.startswith("LSTM") else 1
    total = torch.zeros(())
    for row, mask in enumerate(MASKS):
        outputs, _ = alone(cell, X[row][torch.from_numpy(mask)], (torch.zeros(1, 4),) * count)
        total = total + sum(o.square().sum() for o in outputs)
    total.backward()
    for a, b in zip(mine, cell.parameters(), strict=True):
        torch.testing.assert_close(a, b.grad, rtol=1e-4, atol=1e-4)


def test_a_torch_cell_in_a_model():
    x = L.Input((None, 3), masked=True)
    cell = nn.LSTMCell(3, 4)
    out, h, c = L.RNN(cell, **BOTH)(x)
    assert out.shape == (None, None, 4) and out.masked and h.shape == c.shape == (None, 4)
    model = padless.Model(x, L.Dense(1)(out))
    assert sum(any(p is q for q in model.parameters()) for p in cell.parameters()) == 4
    before = [p.detach().clone() for p in cell.parameters()]
    model.compile("adam", "mse")
    model.fit(pack(X, MASKS), numbers(len(MASKS), 5, 1), epochs=1, verbose=0)
    assert all(not torch.equal(p, b) for p, b in zip(cell.parameters(), before, strict=True))


def test_the_last_output_of_a_cell_that_changes_its_output_is_the_changed_output():
    class Doubled(L.LSTMCell):
        def run_packed(self, values, index, states, reverse, training):
            outputs, last = super().run_packed(values, index, states, reverse, training)
            return 2 * outputs, last

    class Negated(L.GRUCell):
        def call(self, inputs, states, training=False):
            output, new = super().call(inputs, states, training)
            return -output, new

    for cell in (Doubled(4), Negated(4)):
        last, all_steps = L.RNN(cell), L.RNN(cell, return_sequences=True)
        rows = [row[-1] if len(row) else torch.zeros(4) for row in all_steps(pack(X, MASKS)).sequences()]
        torch.testing.assert_close(last(pack(X, MASKS)), torch.stack(rows))


class Noisy(nn.Module):
    """A cell with dropout that records its training mode."""

    state_size = 3

    def __init__(self):
        super().__init__()
        self.drop, self.seen = nn.Dropout(0.5), set()

    def forward(self, inputs, states):
        self.seen.add(self.training)
        state = self.drop(inputs) + states[0]
        return state, [state]


def test_a_torch_cell_trains_when_its_layer_does_and_keeps_its_mode_afterwards():
    cell = Noisy()
    cell.drop.eval()
    layer = L.RNN(cell)
    x = pack(torch.ones(2, 5, 3), lengths=[5, 2])
    assert layer(x).tolist() == [[5.0] * 3, [2.0] * 3] and cell.seen == {False}
    assert layer(x, training=True).tolist() != [[5.0] * 3, [2.0] * 3] and cell.seen == {False, True}
    assert cell.training and not cell.drop.training
    cell.forward = lambda inputs, states: 1 / 0
    with pytest.raises(ZeroDivisionError):
        layer(x)
    assert cell.training and not cell.drop.training


def test_a_stack_of_cells_equals_a_stack_of_layers():
    cells = [L.GRUCell(4), nn.LSTMCell(4, 5), Halving(5, 2), Leaky(3), L.LSTMCell(2), nn.RNNCell(2, 3)]
    for backwards in (False, True):
        out, *states = L.RNN(cells, go_backwards=backwards, **BOTH)(pack(X, MASKS))
        h, ended = pack(X, MASKS), []
        for cell in cells:
            h, *last = L.RNN(cell, return_sequences=True, return_state=True, go_backwards=backwards)(h)
            if backwards:  # a backward layer returns its steps in reverse order
                h = pack(h.unpack().flip(1), h.mask.flip(1))
            ended.append(last)
        h = pack(h.unpack().flip(1), h.mask.flip(1)) if backwards else h
        torch.testing.assert_close(out.values, h.values)
        for mine, theirs in zip(states, ended, strict=True):
            torch.testing.assert_close(leaves(mine), theirs)
    stack = L.StackedRNNCells(cells)
    assert stack.state_size == [4, [5, 5], [2, 1], 3, [2, 2], 3] and stack.output_size == 3


def bidirectional(layer, **options):
    return L.Bidirectional(layer, **options)


@pytest.mark.parametrize("make", [*CELLS.values(), lambda: Halving(3, 4), lambda: [L.GRUCell(2), nn.LSTMCell(2, 4)]])
def test_bidirectional_is_a_forward_layer_and_a_layer_on_the_reversed_sequence(make):
    layer = bidirectional(L.RNN(make(), **BOTH))
    out, *states = layer(pack(X, MASKS))
    one, other = layer.forward_layer, layer.backward_layer
    a, *first = one(pack(X, MASKS))
    b, *second = L.RNN(other.cell, **BOTH)(pack(X.flip(1), MASKS[:, ::-1]))
    width = a.shape[-1]
    torch.testing.assert_close(out.unpack()[..., :width], a.unpack(0) * a.mask[..., None])
    torch.testing.assert_close(out.unpack()[..., width:], (b.unpack(0) * b.mask[..., None]).flip(1))
    torch.testing.assert_close(leaves(states), [*leaves(first), *leaves(second)])


def test_the_backward_layer_has_separate_weights():
    cell = nn.LSTMCell(3, 4)
    layer = bidirectional(L.RNN(cell))
    back = layer.backward_layer.cell
    assert layer.forward_layer.cell is cell and back is not cell  # the forward layer keeps the weights
    assert all(
        p.shape == q.shape and not torch.equal(p, q) and q.requires_grad
        for p, q in zip(cell.parameters(), back.parameters(), strict=True)
    )
    assert layer(X).shape == (len(X), 8) and len(list(layer.parameters())) == 8
    mixed = bidirectional(L.RNN([L.GRUCell(2), nn.GRUCell(2, 4)]))
    assert len({id(c) for way in (mixed.forward_layer, mixed.backward_layer) for c in way.cell.cells}) == 4
    mixed(X)
    weights = list(mixed.parameters())
    assert len(weights) == 14 and len({id(w) for w in weights}) == 14
    given = nn.GRUCell(3, 5)
    own = bidirectional(L.RNN(cell), backward_layer=L.RNN(given, go_backwards=True))
    assert own.forward_layer.cell is cell and own.backward_layer.cell is given
    assert own(X).shape == (len(X), 9)


def test_bidirectional_with_states():
    for make in (lambda: nn.LSTMCell(3, 4), lambda: L.LSTMCell(4), lambda: [nn.LSTMCell(3, 4), nn.LSTMCell(4, 2)]):
        layer = bidirectional(L.RNN(make(), stateful=True, return_state=True, return_sequences=True))
        out, *states = layer(pack(X, MASKS))
        again, *later = layer(pack(X, MASKS))
        assert not torch.equal(out.values, again.values)
        layer.reset_state()
        fresh = layer(pack(X, MASKS), initial_state=states)
        assert torch.equal(fresh[0].values, again.values)
        for a, b in zip(leaves(fresh[1:]), leaves(later), strict=True):
            assert torch.equal(a, b)


# ------------------------------------------------------------------------------------------------ errors


class Stateless(nn.Module):
    def forward(self, inputs, states):
        return inputs, states


class OneArgument(Stateless):
    state_size = 3

    def forward(self, inputs):
        return inputs


class NoStates(Stateless):
    state_size = 3

    def forward(self, inputs, states):
        return inputs


class Growing(Stateless):
    state_size = 3

    def forward(self, inputs, states):
        return inputs, [states[0], states[0]]


class Drawn(nn.Module):
    """A cell without `reset_parameters`, so that its weight cannot be initialized again."""

    state_size = 3

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, inputs, states):
        return inputs * self.weight, states


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        (lambda: nn.LSTM(3, 4), r"torch.nn.LSTM runs over whole sequences.*padless.layers.LSTM.*torch.nn.LSTMCell"),
        (lambda: nn.RNN(3, 4), r"padless.layers.SimpleRNN.*torch.nn.RNNCell"),
        (lambda: nn.Linear(3, 4), r"called with \(inputs, states\).*Linear cannot be"),
        (Stateless, "needs `state_size`.*Stateless has none"),
        (OneArgument, "OneArgument cannot be"),
        (lambda: L.Dense(3), "Dense cannot be"),
        (lambda: torch.tanh, "Expected a padless layer"),
    ],
)
def test_a_value_that_is_not_a_cell_is_refused_by_the_constructor(cell, says):
    for wrap in (L.RNN, lambda c: L.RNN([L.GRUCell(3), c]), lambda c: L.StackedRNNCells([c])):
        with pytest.raises(ArgumentError, match=says):
            wrap(cell())


def test_a_cell_with_a_wrong_result_is_refused():
    with pytest.raises(ArgumentError, match=r"gives \(output, new states\); NoStates gave Tensor"):
        L.RNN(NoStates())(X)
    with pytest.raises(ShapeError, match=r"Growing got states of shapes \[\(\d+, 3\)\] and gave \[\(\d+, 3\), \(\d+, 3\)\]"):
        L.RNN(Growing())(X)
    with pytest.raises(PadlessError, match="NoStates"):
        L.RNN(NoStates())(L.Input((None, 3)))
    layer = L.RNN(nn.GRUCell(5, 4), stateful=True)
    for x in (X, pack(X, MASKS), L.Input((None, 3))):
        with pytest.raises(ShapeError, match=r"made for steps of 5 features; got steps of shape \(3,\)"):
            layer(x)
    assert layer.states is None and not layer.built and layer(torch.ones(2, 4, 5)).shape == (2, 4)


def test_cells_that_cannot_be_copied_or_saved_are_refused(tmp_path):
    with pytest.raises(ArgumentError, match=r"a second Drawn.*reset_parameters.*backward_layer="):
        bidirectional(L.RNN(Drawn()))
    assert bidirectional(L.RNN(Drawn()), backward_layer=L.RNN(Drawn(), go_backwards=True))(X).shape == (len(X), 6)
    x = L.Input((None, 3), masked=True)
    model = padless.Model(x, bidirectional(L.RNN([L.GRUCell(2), nn.LSTMCell(2, 4)]))(x))
    with pytest.raises(ArgumentError, match="torch module LSTMCell has no config.*save_weights"):
        model.save(tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())
    model.save_weights(tmp_path / "weights.safetensors")
    again = padless.Model(x, bidirectional(L.RNN([L.GRUCell(2), nn.LSTMCell(2, 4)]))(x))
    for layer, name in zip(again.layers[1:], [layer.name for layer in model.layers[1:]], strict=True):
        layer.name = name
    again.load_weights(tmp_path / "weights.safetensors")
    assert torch.equal(again(pack(X, MASKS)), model(pack(X, MASKS)))


@pytest.mark.parametrize("cell", [L.SimpleRNNCell, L.GRUCell, L.LSTMCell])
def test_dropout_of_inputs_has_one_pattern_for_each_sequence_and_none_at_inference(cell):
    layer = L.RNN(cell(8, dropout=0.5), return_sequences=True)
    x = pack(torch.ones(3, 5, 8), lengths=[5, 1, 3])
    seen = []
    layer.cell.run_kernel = lambda values, index, states, *others: (seen.append(values), (values, states))[1]
    layer(x)
    assert torch.equal(seen.pop(), x.values)
    layer(x, training=True)
    patterns = [steps != 0 for steps in x.with_values(seen.pop()).sequences()]
    assert all((steps == steps[0]).all() for steps in patterns)
    assert not torch.equal(patterns[0][0], patterns[2][0])


def test_plain_batches_of_one_size_may_have_different_lengths():
    layer = L.GRU(4, return_sequences=True)
    for steps in (3, 5, 2, 3):
        x = torch.from_numpy(numbers(7, steps, 3))
        torch.testing.assert_close(layer(x), layer(pack(x)).unpack())


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras's own
@pytest.mark.parametrize("options", [{}, {"return_sequences": True}, {"return_state": True}, BOTH], ids=str)
@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_activity_losses_of_bidirectional_are_those_of_both_layers(name, options):
    mine, theirs = (
        lib.layers.Bidirectional(getattr(lib.layers, name)(2, activity_regularizer="l2", **options))
        for lib in (padless, keras)
    )
    theirs(X), mine(X)
    mine.set_weights(theirs.get_weights())
    theirs(X), mine(X)
    torch.testing.assert_close(torch.stack([*mine.losses]), torch.stack([*theirs.losses]), rtol=1e-4, atol=1e-6)
    mine(pack(X, MASKS))
    losses = [*mine.losses]
    wider = torch.nn.functional.pad(X, (0, 0, 1, 2))
    mine(pack(wider, np.pad(MASKS, ((0, 0), (1, 2)))))
    assert len(losses) == len(mine.losses) and all(torch.equal(a, b) for a, b in zip(losses, mine.losses, strict=True))


def test_activity_of_simple_rnn_both_ways():
    """Keras's SimpleRNN leaves the regularizer out of its config, of which Bidirectional makes both layers."""
    for name, count in (("SimpleRNN", 0), ("GRU", 2)):
        mine, theirs = (
            lib.layers.Bidirectional(getattr(lib.layers, name)(2, activity_regularizer="l2")) for lib in (padless, keras)
        )
        mine(X), theirs(X)
        assert len(mine.losses) == 2 and len(theirs.losses) == count


def test_a_layer_with_a_user_defined_call_is_refused_by_bidirectional():
    class Own(L.LSTM):
        def call(self, sequences, initial_state=None, mask=None, training=False):
            return super().call(2 * sequences, initial_state, mask, training)

    for wrap in (lambda: bidirectional(Own(2)), lambda: bidirectional(L.LSTM(2), backward_layer=Own(2, go_backwards=True))):
        with pytest.raises(ArgumentError, match="`call` that Own defines"):
            wrap()


@pytest.mark.parametrize("name", ["SimpleRNNCell", "GRUCell", "LSTMCell", "ConvLSTM1DCell", "StackedRNNCells"])
def test_a_cell_is_called_as_in_keras(name):
    theirs = {"ConvLSTM1DCell": "ConvLSTMCell"}.get(name, name)
    own = getattr(keras.layers, theirs, None) or keras.src.layers.rnn.conv_lstm.ConvLSTMCell
    mine, wanted = (list(inspect.signature(cls.call).parameters) for cls in (getattr(L, name), own))
    assert mine == [n for n in wanted if n != "kwargs"]


def test_a_cell_with_a_user_defined_call_is_run_by_that_call():
    class Still(L.SimpleRNNCell):
        def call(self, sequence, states, training=False):
            return states[0] + 1, [states[0] + 1]

    assert L.RNN(Still(2))(pack(X, MASKS)).unique().tolist() == sorted({float(n) for n in MASKS.sum(1)})
