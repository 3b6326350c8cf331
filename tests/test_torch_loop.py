"""padless layers and losses in a plain torch loop."""

import pytest
import torch
from torch import nn

import padless
from examples import torch_loop as example
from padless import Packed
from padless.layers import GRU, Dense, Embedding, GlobalAveragePooling1D, LastStep

IDS = torch.tensor([[1, 2, 0, 3], [4, 0, 0, 0], [0, 0, 0, 0]])
LABELS = torch.tensor([[1, 0, 9, 1], [1, 9, 9, 9], [9, 9, 9, 9]])


class Net(nn.Module):
    """A tagger with two outputs: one for each step and one for each sequence."""

    def __init__(self):
        super().__init__()
        self.embed = Embedding(5, 4, mask_zero=True)
        self.scan = GRU(6, return_sequences=True)
        self.heads = nn.ModuleDict({"step": Dense(2), "row": Dense(1)})

    def forward(self, ids):
        h = self.scan(self.embed(ids))
        return self.heads["step"](h), self.heads["row"](LastStep()(h))


def test_a_module_of_layers_trains_in_a_torch_loop():
    net = Net()
    net(IDS)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    loss_of = padless.losses.SparseCategoricalCrossentropy(from_logits=True)
    losses = []
    net.train()
    for _ in range(30):
        steps, rows = net(IDS)
        loss = loss_of(padless.pack(LABELS, like=steps), steps) + rows.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert isinstance(steps, Packed) and losses[-1] < 0.1 * losses[0]
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("y", [LABELS, LABELS.numpy(), [[1, 0, 1], [1], []], padless.pack(LABELS, mask=IDS != 0)])
def test_a_loss_accepts_targets_in_any_container(y):
    steps, _ = Net()(IDS)
    truth = torch.tensor([1, 0, 1, 1])
    expected = nn.functional.cross_entropy(steps.values, truth)
    assert torch.allclose(padless.losses.SparseCategoricalCrossentropy(from_logits=True)(y, steps), expected)


def test_torch_losses_run_on_the_values():
    steps, _ = Net()(IDS)
    y = padless.pack(LABELS, like=steps)
    assert y.index is steps.index
    loss = nn.functional.cross_entropy(steps.values, y.values)
    loss.backward()
    with pytest.raises(padless.errors.MaskLost):
        nn.functional.mse_loss(steps, steps)


def test_gradients_are_those_of_one_sequence_at_a_time():
    net, loss_of = Net(), padless.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")
    net(IDS)
    loss_of(LABELS, net(IDS)[0]).backward()
    packed = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    net.zero_grad()
    for ids, labels in (([[1, 2, 3]], [[1, 0, 1]]), ([[4]], [[1]])):
        loss_of(labels, net(torch.tensor(ids))[0]).backward()
    alone = [p.grad for p in net.parameters() if p.grad is not None]
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(packed, alone, strict=True))


def test_layers_follow_train_eval_double_and_load_state_dict():
    net = Net()
    net(IDS)
    net.train()
    assert net.embed.training and net.heads["row"].training
    net.eval().double()
    steps, rows = net(IDS)
    assert steps.dtype == rows.dtype == torch.float64
    twin = Net()
    twin(IDS)
    twin.double().load_state_dict(net.state_dict())
    assert torch.equal(twin(IDS)[0].values, steps.values)
    assert sorted(net.state_dict())[:2] == ["embed.embeddings", "heads.row.bias"]


def test_an_optimizer_of_weights_that_do_not_exist_yet_is_refused():
    with pytest.raises(padless.errors.NotBuilt, match="would miss them"):
        torch.optim.Adam(Net().parameters())


def test_torch_modules_between_layers_keep_the_mask():
    model = nn.Sequential(
        Embedding(5, 4, mask_zero=True),
        nn.Linear(4, 3),
        nn.LayerNorm(3),
        nn.GELU(),
        nn.Dropout(0.5),
        GlobalAveragePooling1D(),
    )
    out = model(IDS)
    assert out.shape == (3, 3) and torch.equal(out[2], torch.zeros(3))
    out.sum().backward()


def test_hooks_and_accumulated_gradients():
    net, step_counts = Net(), []
    net(IDS)
    net.scan.register_forward_hook(lambda module, args, output: step_counts.append(output.index.num_steps))
    loss_of = padless.losses.SparseCategoricalCrossentropy(from_logits=True)
    loss_of(LABELS, net(IDS)[0]).backward()
    whole = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    net.zero_grad()
    terms = [loss_of.weighted_sum(LABELS[rows], net(IDS[rows])[0]) for rows in (slice(0, 1), slice(1, 3))]
    sum(terms).value.backward()
    split = [p.grad for p in net.parameters() if p.grad is not None]
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(whole, split, strict=True)) and step_counts == [4, 3, 1]


@pytest.mark.slow
def test_the_example_learns(capsys):
    assert example.main(steps=120) > 0.9
    assert "accuracy at" in capsys.readouterr().out
