"""padless layers in a plain torch loop: an `nn.Module`, an optimizer of torch, a loss called as a function.

The model predicts after each number of a sequence whether the sum so far is positive.

    python examples/torch_loop.py
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import padless
from padless import Packed
from padless.layers import LSTM, Dense


class Tagger(nn.Module):
    """A torch module with layers of padless and of torch."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent = LSTM(16, return_sequences=True)
        self.norm = nn.LayerNorm(16)
        self.tag = Dense(1)

    def forward(self, x: Packed) -> Packed:
        """Return a logit for each step."""
        return self.tag(self.norm(self.recurrent(x)))


def make_batch(rows: int, longest: int = 12) -> tuple[Packed, Tensor]:
    """Return packed numbers and their labels on a padded grid `(rows, longest, 1)`."""
    x = torch.randn(rows, longest, 1)
    mask = torch.arange(longest) < torch.randint(1, longest + 1, (rows, 1))
    return padless.pack(x, mask=mask), (x.cumsum(1) > 0).float()


def main(steps: int = 200) -> float:
    """Train, and return the accuracy at real steps."""
    torch.manual_seed(0)
    model = Tagger()
    model(make_batch(1)[0])  # the first call makes the weights, which the optimizer needs
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    loss_of = padless.losses.BinaryCrossentropy(from_logits=True)
    model.train()
    for step in range(steps):
        x, y = make_batch(32)
        out = model(x)
        loss = loss_of(y, out)  # mean over the real steps
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0:
            print(f"step {step}: loss {loss.item():.4f}")
    model.eval()
    with torch.no_grad():
        x, y = make_batch(500)
        out = model(x)
        right = (out.values > 0) == (padless.pack(y, like=out).values > 0)
    accuracy = right.float().mean().item()
    print(f"accuracy at {out.index.num_steps} real steps: {accuracy:.1%}")
    return accuracy


if __name__ == "__main__":
    main()
