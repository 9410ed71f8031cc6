"""Context relations between the layers of the target (paper, section 3.4): one recurrent step per layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ContextGRU(nn.Module):
    """The paper's recurrent cell, stacked `layers` times, with the same weights for every layer of the target.

    Per step and layer, with [.,.] for concatenation and * for the elementwise product:

        r = sigmoid(W_r [h, a])
        z = sigmoid(W_z [h, a])
        c = tanh(W_h [r * h, a])
        h' = (1 - z) * h + z * c

    and, after the last layer, a' = sigmoid(W_o h'), without biases, as printed. `torch.nn.GRUCell` differs: it swaps z and
    1 - z and resets after the matrix product. The paper does not say how layers stack; as usual for GRUs, layer k > 1
    takes the new hidden state of layer k - 1 in place of a.
    """

    def __init__(self, dim: int, layers: int = 1) -> None:
        super().__init__()
        self.gates = nn.ModuleList(nn.Linear(2 * dim, 2 * dim, bias=False) for _ in range(layers))  # W_r over W_z
        self.candidates = nn.ModuleList(nn.Linear(2 * dim, dim, bias=False) for _ in range(layers))  # W_h
        self.output = nn.Linear(dim, dim, bias=False)  # W_o

    def forward(self, hidden: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Take one step: `hidden` [layers, dim] and `context` a_{t-1} [dim] -> new hidden [layers, dim] and a_t [dim]."""
        below, states = context, []
        for gates, candidates, h in zip(self.gates, self.candidates, hidden.unbind(0), strict=True):
            reset, update = torch.sigmoid(gates(torch.cat((h, below), -1))).chunk(2, -1)
            candidate = torch.tanh(candidates(torch.cat((reset * h, below), -1)))
            below = (1 - update) * h + update * candidate
            states.append(below)
        return torch.stack(states), torch.sigmoid(self.output(below))
