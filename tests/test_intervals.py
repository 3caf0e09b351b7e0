"""On the sandbox's users, whose weights are known: intervals hold at every length of history, and more
rows leave less regret; also where rows are rated, are by someone else, or are of a taste that drifts.

A user chooses among a few answers, which is not what the estimate takes for granted.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest

from palette.core.choices import Choices, Chooser, recency
from palette.core.ideal import Ideal
from palette.core.preference import (
    COARSE,
    SCATTER,
    Posterior,
    draw_particles,
    fit_chooser,
    fit_prior,
    posterior,
)
from palette.core.said import learn_said
from palette.sandbox import people, world

LEVEL, LEAST = 0.9, 0.85
GROUP, USERS, ROWS, CONTRASTS = 150, 120, people.LONGEST, 2
FLOOR = np.zeros(len(world.TRAITS))


@cache
def pool() -> np.ndarray:
    """(answers, d) what answers of the world are worth."""
    rng, topics = np.random.default_rng(0), world.topics(0)["train"]
    texts = [world.answer(topics[i % len(topics)], world.draw_style(rng), rng) for i in range(3000)]
    return world.worth(texts)


@dataclass(frozen=True)
class Logs:
    """Users of the sandbox's tastes, the group first, with ROWS rows each."""

    weights: np.ndarray
    said: np.ndarray
    """(users, ROWS, d)"""
    liking: np.ndarray
    """(users, ROWS)"""
    base: np.ndarray
    """(users, ROWS, CONTRASTS, d)"""

    def choices(self, lengths: np.ndarray, half_life: float | None = None) -> Choices:
        """The latest rows of all users, a day apart; the group's alone teach."""
        age = np.arange(ROWS - 1.0, -1.0, -1.0)
        user, row = np.nonzero(age < lengths[:, None])
        answers = self.base[user, row].reshape(-1, len(FLOOR))
        number = np.arange(len(user)).repeat(CONTRASTS)
        base = learn_said(answers, number, user[number] < GROUP)
        mean = base.expected(answers, number, len(user))
        return Choices(
            user, self.said[user, row] - mean, self.liking[user, row],
            recency(age[row], half_life), np.zeros(len(user), bool), base.base,
        )  # fmt: skip

    def group(self, half_life: float | None = None) -> Choices:
        """Of the group, every tenth of whom has no history."""
        lengths = np.random.default_rng(9).integers(1, ROWS + 1, GROUP)
        lengths[::10] = 0
        own = self.choices(np.r_[lengths, np.zeros(USERS)], half_life)
        return own.of(np.arange(GROUP))

    def others(self, rows: int, half_life: float | None = None) -> Choices:
        lengths = np.r_[np.full(GROUP, ROWS), np.full(USERS, rows)]
        return self.choices(lengths, half_life).of(np.arange(GROUP, GROUP + USERS))

    @property
    def truth(self) -> np.ndarray:
        return self.weights[GROUP:]


def draw(seed: int, by_others: float = 0.0, rated: bool = False, drifts: bool = False) -> Logs:
    rng = np.random.default_rng(seed)
    first, last, other = (
        np.array([people.draw_taste(rng)[1] for _ in range(count)])
        for count in (GROUP + USERS, GROUP + USERS, (GROUP + USERS) * ROWS)
    )
    part = np.linspace(0, 1, ROWS)[:, None] if drifts else np.ones((ROWS, 1))
    taste = (1 - part) * first[:, None] + part * last[:, None]  # (users, ROWS, d)
    strange = rng.random(taste.shape[:2]) < by_others
    taste[strange] = other.reshape(taste.shape)[strange]
    shown = pool()[
        rng.integers(len(pool()), size=(*taste.shape[:2], people.CANDIDATES + CONTRASTS))
    ]
    worth = people.SHARPNESS * np.einsum("urcd,urd->urc", shown[:, :, CONTRASTS:], taste)
    said = (worth + rng.gumbel(size=worth.shape)).argmax(2)  # a softmax, as people.choose has it
    liking = np.ones(said.shape)
    if rated:  # whatever was shown, by thumbs
        better = worth[:, :, 0] - people.SHARPNESS * taste @ pool().mean(0)
        said[:], liking = 0, np.sign(better + rng.logistic(size=better.shape))
    chosen = np.take_along_axis(shown[:, :, CONTRASTS:], said[:, :, None, None], 2)[:, :, 0]
    return Logs(last, chosen, liking, shown[:, :, :CONTRASTS])


def learn(logs: Logs, half_life: float | None = None, **given: float):
    taught = logs.group(half_life)
    chooser = fit_chooser(taught, GROUP, draw_particles(FLOOR, 0, COARSE), **given)
    return chooser, fit_prior(taught, GROUP, draw_particles(FLOOR, 0), chooser)


def estimate(logs: Logs, learnt, rows: int, half_life: float | None = None) -> Posterior:
    chooser, prior = learnt
    return posterior(logs.others(rows, half_life), USERS, prior, chooser, LEVEL)


def covered(logs: Logs, found: Posterior) -> float:
    return ((found.low - 1e-9 <= logs.truth) & (logs.truth <= found.high + 1e-9)).mean()


def regret(logs: Logs, found: Posterior) -> float:
    """Mean of f*(w) − J_w of the policy that is best at the estimate."""
    ideal = Ideal(pool()[None], 0.1).condensed()
    means, kl = ideal.policy(found.mean)
    worth = (logs.truth * means[:, 0]).sum(1) - ideal.beta * kl[:, 0]
    return float((ideal.value(logs.truth)[:, 0] - worth).mean())


@pytest.fixture(scope="module")
def chosen():
    logs = draw(0)
    return logs, learn(logs)


def test_intervals_hold_at_every_length_of_history(chosen):
    logs, learnt = chosen
    held = [covered(logs, estimate(logs, learnt, rows)) for rows in range(ROWS + 1)]
    assert min(held) >= LEAST, held


def test_more_history_leaves_less_regret_and_five_rows_recover_most(chosen):
    logs, learnt = chosen
    left = {n: regret(logs, estimate(logs, learnt, n)) for n in (0, 1, 2, 5, 10, 20)}
    assert list(left.values()) == sorted(left.values(), reverse=True)
    assert left[0] - left[5] >= 0.8 * (left[0] - left[20]) > 0


def test_rows_by_someone_else_are_noticed_and_told_apart():
    logs = draw(1, by_others=0.3)
    estimated, told, trusting = learn(logs), learn(logs, strangers=0.3), learn(logs, strangers=0.0)
    assert 0.1 < estimated[0].strangers < 0.4
    found = [estimate(logs, learnt, ROWS) for learnt in (told, estimated, trusting)]
    left, held = zip(*((regret(logs, one), covered(logs, one)) for one in found), strict=True)
    assert left[0] < left[1] < left[2] and left[0] < 0.75 * left[2]
    assert held[0] > held[1] > held[2] and held[0] >= LEAST


def test_ratings_alone_tell_weights():
    logs = draw(2, rated=True)
    learnt = learn(logs)
    none, some, many = (estimate(logs, learnt, rows) for rows in (0, 5, ROWS))
    assert regret(logs, none) > 2 * regret(logs, some) > 4 * regret(logs, many)
    assert min(covered(logs, found) for found in (none, some, many)) >= LEAST


def test_old_rows_mislead_where_tastes_drift_unless_they_fade():
    logs, given = draw(3, drifts=True), {"scale": 5.0, "strangers": 0.0}
    held = estimate(logs, learn(logs, **given), ROWS)
    fading = estimate(logs, learn(logs, 5.0, **given), ROWS, 5.0)
    assert regret(logs, fading) < 0.8 * regret(logs, held)
    assert covered(logs, fading) > covered(logs, held) + 0.05


def test_where_nothing_is_known_the_chooser_is_what_is_thought_beforehand():
    nothing = draw(0).choices(np.zeros(GROUP + USERS))
    found = fit_chooser(nothing, GROUP, draw_particles(FLOOR, 0, COARSE))
    assert found.scale == pytest.approx(5.0, rel=0.05) and found.strangers < 0.02
    assert fit_chooser(nothing, 1, draw_particles(FLOOR, 0, 8), 7.0, 0.2) == Chooser(
        7.0, 0.2, SCATTER
    )
