"""Directions of activation space: a personal and a neutral one per group of users and layer.

CHAMELEON (arXiv 2503.01048, section 3.2) finds the personal direction by a singular value
decomposition and the neutral one by a probe without labels (CCS, arXiv 2212.03827). Every search is
batched over leading dimensions (groups, layers): a batch's entries never see one another.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from palette.core.editing import Edits

LEARNING_RATE = 1e-2
WEIGHT_DECAY = 1e-2  # of the paper's predecessor


@dataclass(frozen=True)
class Directions:
    """Directions of named groups."""

    groups: tuple[str, ...]
    personal: Tensor
    """(groups, layers, hidden) unit vectors; zero where a group has none"""
    neutral: Tensor
    """(groups, layers, hidden)"""
    layers: tuple[tuple[int, ...], ...]
    """per group, the decoder layers that its edit acts on"""

    def edits(self, names: Sequence[str | None], strength: float = 1.0) -> Edits:
        """Edits of a batch: `names` holds each row's group, or None for a row left alone."""
        index = {name: i for i, name in enumerate(self.groups)}
        rows = torch.tensor([-1 if n is None else index[n] for n in names], dtype=torch.long)
        chosen = torch.zeros(self.personal.shape[:2], dtype=torch.bool)
        for group, layers in enumerate(self.layers):
            chosen[group, list(layers)] = True
        return Edits(self.personal, self.neutral, chosen, rows, strength)

    def random(self, seed: int) -> "Directions":
        """The control: random directions of equal norm, on the same layers."""
        generator = torch.Generator().manual_seed(seed)
        return replace(
            self,
            personal=_random_like(self.personal, generator),
            neutral=_random_like(self.neutral, generator),
        )


def personal_direction(personal: Tensor) -> Tensor:
    """Top right singular vector of the personal activations, not centred.

    Args:
        personal: (..., pairs, hidden) activations of the personal answers.

    Returns:
        (..., hidden) float32 unit vectors; zero where all activations are.
    """
    _, scales, right = torch.linalg.svd(personal.double(), full_matrices=False)
    return _oriented(right[..., 0, :] * (scales[..., :1] > 0))


def neutral_direction(
    personal: Tensor, neutral: Tensor, restarts: int, epochs: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Weight of a probe g(v) = σ(θ·v + b) that tells neutral from personal answers, unlabelled.

    Minimises the paper's loss, mean of (g(N) − (1 − g(P)))² + min(g(N), g(P)), full batch, from
    `restarts` random starts, and keeps the start with the lowest loss. One positive factor per
    entry scales its activations to unit size first, which leaves the family of probes as it is.

    Args:
        personal, neutral: (..., pairs, hidden) activations of the two answers of each pair.
        restarts, epochs: starts, and steps of AdamW from each.
        seed: of the starts, which are the same for every entry of the batch.

    Returns:
        (..., hidden) float32 unit vectors, and (...) the loss that each reached.
    """
    batch, (pairs, hidden) = personal.shape[:-2], personal.shape[-2:]
    both = torch.cat([personal, neutral], -2).float().reshape(-1, 2 * pairs, hidden)
    size = both.square().mean((1, 2), keepdim=True).sqrt()
    both = both / torch.where(size > 0, size, 1.0)
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(restarts, hidden, generator=generator).T / hidden**0.5
    theta = start.expand(len(both), hidden, restarts).clone().requires_grad_()
    bias = torch.zeros(len(both), 1, restarts, requires_grad=True)
    optimizer = torch.optim.AdamW([theta, bias], LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    for _ in range(epochs):
        optimizer.zero_grad()
        _ccs_loss(both, theta, bias).sum().backward()
        optimizer.step()
    with torch.no_grad():
        loss, best = _ccs_loss(both, theta, bias).min(-1)
        chosen = theta.gather(2, best[:, None, None].expand(-1, hidden, 1)).squeeze(2)
    return _oriented(chosen.double()).reshape(*batch, hidden), loss.reshape(batch)


def choose_layers(loss: Tensor) -> tuple[int, ...]:
    """Layers with the lowest probe loss: sorted, cut where the running mean jumps most.

    Args:
        loss: (layers,) loss of each layer's probe.

    Returns:
        Layer numbers in ascending order; every layer where no loss stands out.
    """
    ordered, rank = loss.double().sort(stable=True)
    means = ordered.cumsum(0) / torch.arange(1, len(loss) + 1)
    jumps = means.diff()
    stands_out = len(jumps) > 0 and float(jumps.max()) > 1e-9
    kept = int(jumps.argmax()) + 1 if stands_out else len(loss)
    return tuple(sorted(rank[:kept].tolist()))


def _ccs_loss(both: Tensor, theta: Tensor, bias: Tensor) -> Tensor:
    """(entries, restarts) loss of probes on activations (entries, 2 × pairs, hidden)."""
    personal, neutral = torch.sigmoid(torch.bmm(both, theta) + bias).chunk(2, dim=1)
    return ((neutral - (1 - personal)).square() + torch.minimum(neutral, personal)).mean(1)


def _oriented(vectors: Tensor) -> Tensor:
    """Float32 unit vectors, the largest entry positive: edits are blind to sign, bytes are not."""
    top = vectors.gather(-1, vectors.abs().argmax(-1, keepdim=True))
    return torch.nn.functional.normalize(vectors * torch.where(top < 0, -1.0, 1.0), dim=-1).float()


def _random_like(directions: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.randn(directions.shape, generator=generator)
    return torch.nn.functional.normalize(drawn, dim=-1) * directions.norm(dim=-1, keepdim=True)
