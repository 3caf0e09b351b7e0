"""The shift that the objective itself asks for: a natural step from the base, linear in w.

A shift θ of the MLP outputs makes a policy π_θ of the base π_0 = π_ref. To second order at θ = 0

    J_w(π_θ) − J_w(π_0) = θ·Σ_i w_i g_i − (β/2) θᵀFθ,
    g_i = E_x Cov_{y~π_ref}(r_i, s),   F = E_x E_{y~π_ref}[s sᵀ],   s = ∇_θ log π_θ(y|x) at 0:

g_i is the policy gradient of trait i, with the prompt's mean as baseline, and F, the Fisher information
(Amari, Natural gradient works efficiently in learning, 1998), is the Hessian of KL(π_θ ‖ π_ref),
whose own gradient is zero there. The maximum is θ(w) = F⁻¹ Σ_i w_i g_i / β, the natural policy
gradient (Kakade, 2001) with the step length that the price of KL sets. Damping, F + λI, holds the step
back where few rollouts say little: directions of small curvature. θ(w) = Σ_i w_i θ_i, so one step for
each trait serves every user, and from a member of weights w' to a user of weights w leads θ(w − w').
"""

import torch
from torch import Tensor


def trait_gradients(scores: Tensor, rewards: Tensor, prompt: Tensor) -> Tensor:
    """Gradient of every trait's mean reward at shift 0: the covariance of reward and score.

    The unbiased covariance within each prompt (the reward against the mean of the prompt's other
    rollouts), averaged over rollouts. A prompt with a single rollout says nothing.

    Args:
        scores: (rows, layers, hidden) gradients of the rollouts' log-probabilities.
        rewards: (rows, traits).
        prompt: (rows,) number of each row's prompt, in any order.

    Returns:
        (traits, layers, hidden) float64, in units of a reward per unit of the shift.
    """
    rewards = rewards.double()
    _, place, count = prompt.unique(return_inverse=True, return_counts=True)
    total = rewards.new_zeros(len(count), rewards.shape[1]).index_add(0, place, rewards)
    others = (count - 1).clamp(min=1)[place][:, None]
    ahead = (rewards * count[place][:, None] - total[place]) / others  # of the prompt's others
    step = ahead.T @ scores.flatten(1).double() / max(len(scores), 1)
    return step.unflatten(1, scores.shape[1:])


def curvature(scores: Tensor) -> Tensor:
    """The Fisher information F of the shift, as rows a with F = Σ aaᵀ.

    F has (layers × hidden)² entries; of its rows there are never more than rollouts, so that a
    large model needs no matrix of that size.

    Args:
        scores: (rows, layers, hidden).

    Returns:
        (rank, layers, hidden) float64, rank the smaller of rows and layers × hidden.
    """
    rows = scores.flatten(1).double() / max(len(scores), 1) ** 0.5
    if len(rows) > rows.shape[1]:
        rows = torch.linalg.qr(rows, mode="r").R
    return rows.unflatten(1, scores.shape[1:])


def natural_steps(gradients: Tensor, curvature: Tensor, damping: float, beta: float) -> Tensor:
    """θ_i = (F + λI)⁻¹ g_i / β for every trait, λ = damping × the mean of F's diagonal.

    Args:
        gradients: (traits, layers, hidden) of `trait_gradients`.
        curvature: (rank, layers, hidden) of `curvature`.
        damping: above 0, in units of the mean curvature of a coordinate.
        beta: price of one nat of KL, in units of a reward.

    Returns:
        (traits, layers, hidden) float64; zeros where there is no curvature. A user of weights w
        has the shift `einsum("i,ilh->lh", w, steps)`.
    """
    rows, wanted = curvature.flatten(1).double(), gradients.flatten(1).double()
    ridge = damping * float(rows.square().sum()) / rows.shape[1]
    if ridge == 0.0:
        return torch.zeros_like(wanted).unflatten(1, gradients.shape[1:])
    # Woodbury: (AᵀA + λI)⁻¹ = (I − Aᵀ(AAᵀ + λI)⁻¹A)/λ, a system of the size of A's rows.
    gram = rows @ rows.T
    gram.diagonal().add_(ridge)
    seen = torch.linalg.solve(gram, rows @ wanted.T)  # (rank, traits)
    return ((wanted - seen.T @ rows) / (ridge * beta)).unflatten(1, gradients.shape[1:])
