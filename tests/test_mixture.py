"""f* from the base's rollouts and a member's answers, against a world whose answers are counted."""

import numpy as np
import pytest

from palette.core.ideal import Ideal
from palette.core.mixture import mixture

BETA = 0.1
REWARDS = np.array([[0.1, 0.2], [0.9, 0.3], [0.3, 0.95], [0.5, 0.5]])
CHANCES = np.array([0.8, 0.06, 0.06, 0.08])  # two good modes, neither frequent under the base
COLLAPSED = np.array([0.01, 0.979999, 1e-6, 0.01])  # a member on one of the two
WEIGHTS = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
DRAWS = 20_000


def truth(rewards: np.ndarray = REWARDS, chances: np.ndarray = CHANCES) -> np.ndarray:
    """(W,): f* of a prompt whose answers have these rewards (A, d) and chances (A,)."""
    return BETA * np.log(np.exp(WEIGHTS @ rewards.T / BETA) @ chances)


def drawn(n0: int, n1: int, member: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the answers drawn from the base (DRAWS, n0) and from the member (DRAWS, n1)."""
    rng = np.random.default_rng(seed)
    return rng.choice(4, (DRAWS, n0), p=CHANCES), rng.choice(4, (DRAWS, n1), p=member)


def joined(rollouts: np.ndarray, answers: np.ndarray, member: np.ndarray) -> Ideal:
    both, base, under = (rollouts, answers), np.log(CHANCES), np.log(member)
    return mixture(
        tuple(REWARDS[part] for part in both),
        tuple(base[part] for part in both),
        tuple(under[part] for part in both),
        BETA,
    )


@pytest.mark.parametrize("member", [COLLAPSED, CHANCES, np.full(4, 0.25)])
def test_a_mixture_errs_upward_on_average_however_poor_the_member(member):
    ideal = joined(*drawn(24, 8, member), member)
    estimates = ideal.upward(WEIGHTS)
    noise = 4 * estimates.std(axis=1) / np.sqrt(DRAWS)
    assert (estimates.mean(axis=1) >= truth() - noise).all()
    assert (ideal.value(WEIGHTS).mean(axis=1) <= truth()).all()
    # The estimate of Z itself, before the log, is unbiased.
    scaled = np.exp(ideal.value(WEIGHTS) / BETA)
    noise = 4 * scaled.std(axis=1) / np.sqrt(DRAWS)
    assert (np.abs(scaled.mean(axis=1) - np.exp(truth() / BETA)) <= noise).all()


def test_weights_by_the_member_alone_would_miss_the_mode_that_it_left():
    rollouts, answers = drawn(24, 8, COLLAPSED)
    away = WEIGHTS[1:2]  # the mode that the member has all but left is the good one here
    log_weights = (np.log(CHANCES) - np.log(COLLAPSED))[answers]
    alone = Ideal(REWARDS[answers], BETA, log_weights).upward(away)[0]
    together = joined(rollouts, answers, COLLAPSED).upward(away)[0]
    assert (alone < truth()[1] - 0.1).mean() > 0.8  # far too low, in most draws
    assert (together < truth()[1] - 0.1).mean() < 0.25
    assert together.mean() >= truth()[1]


def test_answers_that_show_a_rare_mode_sharpen_the_estimate():
    rollouts, answers = drawn(24, 8, COLLAPSED)
    toward = WEIGHTS[:1]
    together = joined(rollouts, answers, COLLAPSED).upward(toward)[0]
    alone = Ideal(REWARDS[rollouts], BETA).upward(toward)[0]
    assert np.abs(together - truth()[0]).mean() < 0.3 * np.abs(alone - truth()[0]).mean()


def test_blocks_hold_the_samples_of_one_index_modulo_their_number():
    rng = np.random.default_rng(1)
    rewards = tuple(rng.uniform(size=(2, n, 3)) for n in (12, 8))
    base = tuple(rng.normal(size=(2, n)) for n in (12, 8))
    member = tuple(rng.normal(size=(2, n)) for n in (12, 8))
    weight = np.array([[0.2, 0.5, 0.3]])
    found = mixture(rewards, base, member, BETA).upward(weight)[0]
    for prompt in range(2):
        terms = []
        for r, at_base, at_member in zip(rewards, base, member, strict=True):
            q = (12 * np.exp(at_base[prompt]) + 8 * np.exp(at_member[prompt])) / 20
            terms.append(np.exp(r[prompt] @ weight[0] / BETA) * np.exp(at_base[prompt]) / q)
        block = [np.concatenate([part[b::4] for part in terms]).mean() for b in range(4)]
        others = [np.mean(block[:b] + block[b + 1 :]) for b in range(4)]
        want = np.mean([b / a - 1 + np.log(a) for b, a in zip(block, others, strict=True)])
        assert found[prompt] == pytest.approx(BETA * want, rel=1e-10)


def test_impossible_answers_weigh_nothing_and_never_give_nan():
    rewards = (np.full((1, 4, 1), 0.5), np.full((1, 4, 1), 0.9))
    inf = np.inf
    base = (np.full((1, 4), -2.0), np.array([[-inf, -3.0, -inf, -3.0]]))
    member = (np.array([[-inf, -inf, -2.0, -2.0]]), np.array([[-1.0, -3.0, -inf, -3.0]]))
    ideal, at = mixture(rewards, base, member, BETA), np.ones((1, 1))
    assert ideal.counts.tolist() == [8]
    found = (ideal.upward(at), ideal.value(at), ideal.concentration(at), *ideal.policy(at))
    assert all(np.isfinite(part).all() for part in found)
    # Two rollouts weigh 2 (the member never gives them) and two 1, as do two of the answers.
    want = BETA * np.log((2 * 2 * np.exp(5) + 2 * np.exp(5) + 2 * np.exp(9)) / 8)
    assert ideal.value(at)[0, 0] == pytest.approx(want)
    small = ideal.condensed()
    assert small.value(at)[0, 0] == pytest.approx(want)


def test_concentration_is_the_kl_to_the_base_where_the_base_was_sampled():
    ideal = Ideal(np.random.default_rng(2).uniform(size=(3, 30, 2)), BETA)
    assert np.allclose(ideal.concentration(WEIGHTS), ideal.policy(WEIGHTS)[1])
    one = Ideal(np.array([[[1.0], [0.0], [0.0], [0.0]]]), 0.001)
    assert one.concentration(np.ones((1, 1)))[0, 0] == pytest.approx(np.log(4))


def test_numbers_of_samples_without_a_common_divisor_are_refused():
    rollouts, answers = drawn(5, 4, COLLAPSED)
    with pytest.raises(ValueError, match="like blocks"):
        joined(rollouts, answers, COLLAPSED)
