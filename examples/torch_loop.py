"""The same layers in a plain torch loop: an `nn.Module`, a torch optimizer, a loss called as a function.

The task: after each number of a sequence, say whether the sum so far is positive.

    python examples/torch_loop.py
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import padless
from padless import Packed
from padless.layers import LSTM, Dense


class Tagger(nn.Module):
    """Any module may hold padless layers, and others beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.scan = LSTM(16, return_sequences=True)
        self.norm = nn.LayerNorm(16)
        self.tag = Dense(1)

    def forward(self, x: Packed) -> Packed:
        return self.tag(self.norm(self.scan(x)))


def batch(rows: int, longest: int = 12) -> tuple[Packed, Tensor]:
    """Numbers on a padded grid with the real steps marked, and for each the label, on a grid of the same shape."""
    x = torch.randn(rows, longest, 1)
    mask = torch.arange(longest) < torch.randint(1, longest + 1, (rows, 1))
    return padless.pack(x, mask=mask), (x.cumsum(1) > 0).float()


def main(steps: int = 200) -> float:
    """Train, and print the share of right labels at real steps."""
    torch.manual_seed(0)
    model = Tagger()
    model(batch(1)[0])  # layers make their weights at the first call; an optimizer wants them
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    loss_of = padless.losses.BinaryCrossentropy(from_logits=True)
    model.train()
    for step in range(steps):
        x, y = batch(32)
        out = model(x)
        loss = loss_of(y, out)  # the mean over real steps
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0:
            print(f"step {step}: loss {loss.item():.4f}")
    model.eval()
    with torch.no_grad():
        x, y = batch(500)
        out = model(x)
        right = (out.values > 0) == (padless.pack(y, like=out).values > 0)
    share = right.float().mean().item()
    print(f"{share:.1%} of {out.index.num_steps} real steps are labelled right")
    return share


if __name__ == "__main__":
    main()
