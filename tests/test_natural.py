"""Natural steps: the optimum of the objective to second order, linear in w, blind to what it must be."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from palette.core.natural import curvature, natural_steps, trait_gradients

LAYERS, HIDDEN, TRAITS = 2, 3, 2
BETA = 0.1
COUNTS = torch.tensor([40, 25, 15, 10, 7, 3])
"""How often each of six answers comes up: the base's probabilities are these, over their sum."""


def drawn(seed: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


class Toy:
    """Two prompts of six answers each; π_θ(y|x) ∝ counts(y) exp(θ·features(x, y)): all by hand."""

    def __init__(self, seed: int = 0, size: float = 0.02):
        self.base = (COUNTS / COUNTS.sum()).double()
        self.features = drawn(seed, 2, len(COUNTS), LAYERS * HIDDEN)
        self.rewards = size * drawn(seed + 1, 2, len(COUNTS), TRAITS)

    def objective(self, theta: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        scores = self.features @ theta + self.base.log()
        policy = scores.softmax(-1)
        kl = (policy * (scores.log_softmax(-1) - self.base.log())).sum(-1)
        return ((policy * (self.rewards @ w)).sum(-1) - BETA * kl).mean()

    def rollouts(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Scores, rewards and prompts of a sample in which every answer has its exact share."""
        own = self.features - (self.base[:, None] * self.features).sum(1, keepdim=True)
        answers = torch.arange(len(COUNTS)).repeat_interleave(COUNTS)
        scores = own[:, answers].reshape(-1, LAYERS, HIDDEN)
        prompt = torch.arange(2).repeat_interleave(len(answers))
        return scores, self.rewards[:, answers].reshape(-1, TRAITS), prompt


def slope(function, theta: torch.Tensor) -> torch.Tensor:
    theta = theta.clone().requires_grad_()
    return torch.autograd.grad(function(theta), theta)[0]


def exact(toy: Toy) -> torch.Tensor:
    """Steps (traits, layers, hidden) for all but no damping."""
    scores, rewards, prompt = toy.rollouts()
    unbiased = 1 - 1 / int(COUNTS.sum())  # the sample is the population here: its covariance as is
    gradients = trait_gradients(scores, rewards, prompt) * unbiased
    return natural_steps(gradients, curvature(scores), 1e-7, BETA)


def test_gradients_and_curvature_are_the_objectives_own():
    toy, w = Toy(), torch.tensor([0.3, 0.7], dtype=torch.float64)
    scores, rewards, prompt = toy.rollouts()
    zero = torch.zeros(LAYERS * HIDDEN, dtype=torch.float64)
    wanted = slope(lambda theta: toy.objective(theta, w), zero)
    found = trait_gradients(scores, rewards, prompt) * (1 - 1 / int(COUNTS.sum()))
    assert_close(torch.einsum("i,ilh->lh", w, found).flatten(), wanted)
    nothing = torch.zeros(TRAITS, dtype=torch.float64)
    fisher = torch.autograd.functional.hessian(lambda t: toy.objective(t, nothing), zero) / -BETA
    rows = curvature(scores).flatten(1)
    assert len(rows) == LAYERS * HIDDEN
    assert_close(rows.T @ rows, fisher)


def test_the_step_is_the_optimum_to_second_order():
    """Where a first-order method leaves a slope of order ε², a wrong one leaves one of order ε."""
    w = torch.tensor([0.6, 0.4], dtype=torch.float64)
    left = []
    for size in (0.004, 0.002):
        toy = Toy(3, size)
        theta = torch.einsum("i,ilh->lh", w, exact(toy)).flatten()
        start = slope(lambda t, toy=toy: toy.objective(t, w), torch.zeros_like(theta)).norm()
        end = slope(lambda t, toy=toy: toy.objective(t, w), theta).norm()
        left.append(float(end / start))
    assert left[0] < 0.2
    assert left[1] / left[0] == pytest.approx(0.5, abs=0.05)
    best = toy.objective(theta, w)
    for factor in (0.0, 0.5, 1.5):
        assert toy.objective(factor * theta, w) < best


@settings(max_examples=30, deadline=None)
@given(share=st.floats(0, 1), seed=st.integers(0, 1000))
def test_steps_are_linear_in_the_weights(share, seed):
    scores, rewards, prompt = Toy(seed).rollouts()
    w = torch.tensor([share, 1 - share], dtype=torch.float64)
    both = natural_steps(trait_gradients(scores, rewards, prompt), curvature(scores), 1.0, BETA)
    mixed = (rewards @ w)[:, None]
    one = natural_steps(trait_gradients(scores, mixed, prompt), curvature(scores), 1.0, BETA)
    assert_close(torch.einsum("i,ilh->lh", w, both), one[0], rtol=1e-9, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(order=st.permutations(range(24)), offset=st.floats(-5, 5))
def test_neither_order_nor_what_a_prompt_always_gets_matters(order, offset):
    scores, rewards = drawn(1, 24, LAYERS, HIDDEN), drawn(2, 24, TRAITS)
    prompt = torch.arange(24) % 4
    lifted = rewards + offset * prompt[:, None]  # an easy prompt is nobody's merit
    order = list(order)
    once = natural_steps(trait_gradients(scores, rewards, prompt), curvature(scores), 1.0, BETA)
    again = natural_steps(
        trait_gradients(scores[order], lifted[order], prompt[order]),
        curvature(scores[order]), 1.0, BETA,
    )  # fmt: skip
    assert_close(again, once, rtol=1e-8, atol=1e-9)


def test_a_constant_reward_asks_for_nothing():
    scores = drawn(1, 20, LAYERS, HIDDEN)
    rewards = torch.full((20, 1), 0.7)
    found = trait_gradients(scores, rewards, torch.arange(20) // 5)
    assert found.abs().max() < 1e-15


def test_a_prompt_with_one_rollout_says_nothing_of_rewards():
    scores, rewards = drawn(1, 5, LAYERS, HIDDEN), drawn(2, 5, TRAITS)
    prompt = torch.tensor([7, 7, 7, 7, 3])
    alone = trait_gradients(scores[:4], rewards[:4], prompt[:4])
    assert_close(trait_gradients(scores, rewards, prompt), alone * 4 / 5)


def test_gradients_are_unbiased_for_few_rollouts_of_a_prompt():
    """Over many prompts of two rollouts each, the mean is the covariance, not half of it."""
    pairs = 20_000
    scores, noise = drawn(5, 2 * pairs, 1, 1), drawn(6, 2 * pairs, 1)
    rewards = 0.5 * scores[:, :, 0] + noise
    found = trait_gradients(scores, rewards, torch.arange(pairs).repeat_interleave(2))
    assert float(found) == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize("rows", [4, 40])
@pytest.mark.parametrize("damping", [0.01, 1.0, 30.0])
def test_few_rollouts_or_many_solve_the_same_system(rows, damping):
    scores, gradients = drawn(1, rows, LAYERS, HIDDEN), drawn(2, TRAITS, LAYERS, HIDDEN)
    factor = curvature(scores)
    assert len(factor) == min(rows, LAYERS * HIDDEN)
    flat = scores.flatten(1)
    fisher = flat.T @ flat / rows
    fisher.diagonal().add_(damping * float(fisher.diagonal().mean()))
    wanted = torch.linalg.solve(fisher, gradients.flatten(1).T).T / BETA
    found = natural_steps(gradients, factor, damping, BETA)
    assert_close(found.flatten(1), wanted, rtol=1e-8, atol=1e-9)


def test_a_dearer_kl_shortens_the_step_and_damping_too():
    gradients, factor = drawn(2, TRAITS, LAYERS, HIDDEN), curvature(drawn(1, 40, LAYERS, HIDDEN))
    once = natural_steps(gradients, factor, 1.0, BETA)
    assert_close(natural_steps(gradients, factor, 1.0, 2 * BETA), once / 2)
    assert natural_steps(gradients, factor, 3.0, BETA).norm() < once.norm()


def test_without_rollouts_nobody_moves():
    scores = torch.zeros(0, LAYERS, HIDDEN)
    gradients = trait_gradients(scores, torch.zeros(0, TRAITS), torch.zeros(0, dtype=torch.long))
    assert not gradients.any()
    steps = natural_steps(gradients, curvature(scores), 1.0, BETA)
    assert steps.shape == (TRAITS, LAYERS, HIDDEN) and not steps.any()
