"""Directions of activation space, and the edits that are made of them.

Every search is batched over leading dimensions (groups, layers): a batch's entries never see one
another. Activations are (..., texts, hidden); where there are no texts, directions are zeros, which
change nothing. The step along the objective's own gradient is in `core/natural.py`.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from palette.core.editing import Edit

LEARNING_RATE = 1e-2
WEIGHT_DECAY = 1e-2  # of the paper's predecessor
NUMERICAL = 1e-6  # singular values below this share of the largest are rounding


def personal_subspace(personal: Tensor, rank: int) -> Tensor:
    """Top right singular vectors of the personal activations, not centred.

    CHAMELEON (arXiv 2503.01048, section 3.2), where the rank is 1.

    Args:
        personal: (..., pairs, hidden) activations of the personal answers.

    Returns:
        (..., rank, hidden) float32 orthonormal rows; zero rows past the rank of the activations.
    """
    pairs, hidden = personal.shape[-2:]
    found = personal.new_zeros(*personal.shape[:-2], rank, hidden, dtype=torch.float32)
    if pairs:
        _, scales, right = torch.linalg.svd(personal.double(), full_matrices=False)
        kept = min(rank, scales.shape[-1])
        real = scales > scales[..., :1] * NUMERICAL
        found[..., :kept, :] = _oriented((right * real[..., None])[..., :kept, :])
    return found


def neutral_direction(
    personal: Tensor, neutral: Tensor, restarts: int, epochs: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Weight of a probe g(v) = σ(θ·v + b) that tells neutral from personal answers, unlabelled.

    Minimises the paper's loss (CCS, arXiv 2212.03827), mean of (g(N) − (1 − g(P)))² +
    min(g(N), g(P)), full batch, from `restarts` random starts, and keeps the start with the lowest
    loss. One positive factor per entry scales its activations to unit size first, which leaves the
    family of probes as it is.

    Args:
        personal, neutral: (..., pairs, hidden) activations of the two answers of each pair.
        restarts, epochs: starts, and steps of AdamW from each.
        seed: of the starts, which are the same for every entry of the batch.

    Returns:
        (..., hidden) float32 unit vectors, and (...) the loss that each reached; zeros both where
        there are no pairs.
    """
    batch, (pairs, hidden) = personal.shape[:-2], personal.shape[-2:]
    if not pairs:
        return personal.new_zeros(*batch, hidden).float(), personal.new_zeros(batch).float()
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


def published(personal: Tensor, neutral: Tensor, layers: Iterable[int] | None = None) -> Edit:
    """CHAMELEON's edit (section 3.3): strengthen the personal part, then remove the neutral one.

    Args:
        personal, neutral: (layers, rank, hidden) directions, of any length and sign.
        layers: those that it changes; None: all.
    """
    edit = Edit.project(personal).then(-Edit.project(neutral))
    return edit if layers is None else edit.on(layers)


def contrast(personal: Tensor, neutral: Tensor) -> Tensor:
    """Difference of means (..., hidden), float32, of (..., texts, hidden), whose counts may differ."""
    if not (personal.shape[-2] and neutral.shape[-2]):
        return torch.zeros(*personal.shape[:-2], personal.shape[-1])
    return (personal.double().mean(-2) - neutral.double().mean(-2)).float()


def contrast_svd(personal: Tensor, neutral: Tensor, rank: int) -> Tensor:
    """Mean paired difference within the span of the differences' top right singular vectors.

    As ALIGNEZ reads directions off paired differences, uncentred: the mean of their best
    approximation of that rank, and their own mean where they have no higher one.

    Args:
        personal, neutral: (..., pairs, hidden) activations of the two answers of each pair.

    Returns:
        (..., hidden) float32.
    """
    basis = personal_subspace(personal.double() - neutral.double(), rank).double()
    mean = contrast(personal, neutral).double()[..., None, :]
    return (mean @ basis.transpose(-1, -2) @ basis).squeeze(-2).float()


def style_vector(own: Tensor, model: Tensor) -> Tensor:
    """The mean of a user's real texts minus that of the model's own on the same prompts.

    Args:
        own, model: (..., texts, hidden); the model may have answered a prompt more than once.

    Returns:
        (..., hidden) float32.
    """
    return contrast(own, model)


def shrink(own: Tensor, group: Tensor, rows: float, weight: float) -> Tensor:
    """(rows·own + weight·group)/(rows + weight): a direction drawn toward its group's.

    The posterior mean under a normal prior around the group that is worth `weight` rows. Without any
    rows it is the group's.

    Args:
        own, group: of one shape.
        rows: that the own direction was read from.
    """
    return (rows * own + weight * group) / (rows + weight) if rows else group.clone()


def random_like(edit: Edit, seed: int) -> Edit:
    """The control: an edit in random directions with the norms, ranks and angles of the given one.

    In each layer the span of all that the edit reads, writes and adds is carried by an isometry to a
    uniformly random one.
    """
    given = torch.cat([edit.reads, edit.writes, edit.shift[:, None]], 1).double()
    within = torch.linalg.qr(given.transpose(1, 2)).R  # (layers, k, vectors)
    depth, k, hidden = within.shape[0], within.shape[1], given.shape[2]
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(depth, hidden, k, generator=generator, dtype=torch.float64)
    span, upper = torch.linalg.qr(drawn)
    span = span * upper.diagonal(dim1=1, dim2=2).sign()[:, None]  # else it is not uniform
    turned = (span @ within).transpose(1, 2).float()
    rank = edit.reads.shape[1]
    return Edit(turned[:, :rank], turned[:, rank : 2 * rank], turned[:, -1])


def along(direction: Tensor, like: Edit) -> Edit:
    """The control: the given direction with the norm, in each layer, of the given edit's shift.

    Of an edit that projects, what projects on the direction instead, on the same layers.

    Args:
        direction: (layers, hidden), of any length.
    """
    size = like.shift.norm(dim=-1, keepdim=True)
    edit = Edit.add(torch.nn.functional.normalize(direction.float(), dim=-1) * size)
    if like.reads.shape[1]:
        edit = edit + Edit.project(direction[:, None]).on(like.layers)
    return edit


def _ccs_loss(both: Tensor, theta: Tensor, bias: Tensor) -> Tensor:
    """(entries, restarts) loss of probes on activations (entries, 2 × pairs, hidden)."""
    personal, neutral = torch.sigmoid(torch.bmm(both, theta) + bias).chunk(2, dim=1)
    return ((neutral - (1 - personal)).square() + torch.minimum(neutral, personal)).mean(1)


def _oriented(vectors: Tensor) -> Tensor:
    """Float32 unit vectors, the largest entry positive: edits are blind to sign, bytes are not."""
    top = vectors.gather(-1, vectors.abs().argmax(-1, keepdim=True))
    return torch.nn.functional.normalize(vectors * torch.where(top < 0, -1.0, 1.0), dim=-1).float()
