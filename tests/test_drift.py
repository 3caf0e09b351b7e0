"""Drift: evidence that stays small while no taste moves, finds those that do, and what they lose."""

import subprocess
import sys
from contextlib import chdir
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from palette import tables
from palette.core.choices import POINTS, Choices, Chooser
from palette.core.drift import SURE, Drift, changes, losses
from palette.core.envelope import Planes
from palette.core.preference import SCATTER, draw_particles, fit_prior
from palette.drift import NEEDED, measure
from palette.drift import PARAMS as PARAMS_FILE
from palette.errors import PaletteError
from palette.params_file import load

USERS, CHOOSER = 120, Chooser(5.0, 0.0, SCATTER)
CENTERS = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]])
PARTICLES = draw_particles(np.zeros(3), 0, 256)


def chosen(user: np.ndarray, difference: np.ndarray) -> Choices:
    """Pairs of which the first was liked better."""
    ones = np.ones(len(user))
    return Choices(user, difference, ones, ones, ones.astype(bool), np.zeros((1, 3)))


def rows(rng, tastes: np.ndarray, sharpness: np.ndarray, count: int) -> Choices:
    """What users of these tastes choose, by the model of choice."""
    user = np.repeat(np.arange(len(tastes)), count)
    difference = rng.uniform(-1, 1, size=(len(user), 3))
    logit = CHOOSER.scale * sharpness[user] * (difference * tastes[user]).sum(axis=1)
    liked = rng.random(len(user)) < 1 / (1 + np.exp(-logit))
    return chosen(user, np.where(liked[:, None], difference, -difference))


def world(seed: int, moving: float = 0.0, count: int = 8):
    """(tastes then, who has moved, what the rows say): some like what the next cluster likes."""
    rng = np.random.default_rng(seed)
    then = np.array([rng.dirichlet(30 * center) for center in CENTERS[rng.integers(3, size=USERS)]])
    sharpness = rng.choice(np.exp(POINTS * SCATTER), USERS)
    moved = rng.random(USERS) < moving
    now = np.where(moved[:, None], np.roll(then, 1, axis=1), then)
    old, new = rows(rng, then, sharpness, count), rows(rng, now, sharpness, count)
    prior = fit_prior(old, USERS, PARTICLES, CHOOSER)
    return now, moved, changes(prior, CHOOSER, old, new, USERS)


def test_evidence_stays_small_while_no_taste_moves():
    found = [world(seed)[2] for seed in range(12)]
    evidence = np.exp([change.log_evidence for change in found])
    assert evidence.max() < SURE
    assert evidence.mean() < 1.5  # its mean is 1 where the prior is the users' own
    assert np.mean([change.probability.mean() for change in found]) < 0.1


def test_tastes_that_move_are_found_and_so_is_who():
    for seed in range(3):
        now, moved, change = world(seed, moving=0.25, count=12)
        assert change.log_evidence > np.log(SURE)
        assert 0.1 < change.probability.mean() < 0.45
        assert change.probability[moved].mean() > 3 * change.probability[~moved].mean()
        assert np.abs(change.mean - now).mean() < 0.12


@pytest.fixture(scope="module")
def prior():
    """Of a group with users of all three clusters."""
    rng = np.random.default_rng(0)
    tastes = np.repeat(CENTERS, 30, axis=0)
    return fit_prior(rows(rng, tastes, np.ones(90), 10), 90, PARTICLES, CHOOSER)


def test_weights_of_one_who_moved_are_those_of_the_new_rows_alone(prior):
    one = np.zeros(60, dtype=int)
    first = chosen(one, np.tile([0.9, 0.0, 0.0], (60, 1)))
    last = chosen(one, np.tile([-0.3, 0.0, 0.9], (60, 1)))
    change = changes(prior, CHOOSER, first, last, 1)
    assert change.probability[0] > 0.99
    assert change.mean[0, 2] > 0.6 > 0.2 > change.mean[0, 0]
    stays = changes(prior, CHOOSER, first, first, 1)
    assert stays.probability[0] < 0.1
    assert stays.mean[0, 0] > 0.7


def test_a_user_without_new_rows_says_nothing(prior):
    old = rows(np.random.default_rng(0), CENTERS, np.ones(3), 5)
    none = chosen(np.empty(0, dtype=int), np.empty((0, 3)))
    change = changes(prior, CHOOSER, old, none, 3)
    assert change.log_evidence == pytest.approx(0, abs=1e-9)


def test_a_loss_is_what_the_best_offered_would_bring():
    offered = Planes(("base", "a"), np.array([[0.4, 0.4], [0.9, 0.1]]), np.array([0.0, 0.1]))
    served = offered + Planes(("gone",), np.array([[0.0, 0.9]]), np.array([0.0]))
    weights = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert losses(offered, served, np.array([1, 0, 2]), weights) == pytest.approx([0, 0.4, -0.5])


@pytest.mark.parametrize(
    ("evidence", "loss", "drifted"), [(10.0, 0.02, True), (10.0, 0.001, False), (1.0, 0.02, False)]
)
def test_drift_needs_evidence_and_a_loss(evidence, loss, drifted):
    assert Drift(50, 0.3, evidence, loss, loss, 0.005).drifted is drifted


PARAMS = """\
traits:
  brevity: {kind: brevity, best: 4, worst: 12}
  humor: {kind: humor}
preferences: {pairs: 0.0}
"""
PEOPLE = [f"u{k:02}" for k in range(30)]
BRIEF, FUNNY, PLAIN = (
    "Use oil.", "Here is a joke. " * 5 + "Use oil and laugh.", "Use some oil and wait for it " * 2,
)  # fmt: skip
POLICIES = {"base": (0.2, 0.2), "m1": (0.9, 0.2), "m2": (0.2, 0.9)}


def write_run(answers: dict[str, list[str]]) -> None:
    """The tables of a run in which everyone is routed to the brief member."""
    users = pl.Series("user_id", PEOPLE)
    histories = pl.DataFrame([
        {"user_id": user, "row": row, "prompt": f"How, {row}?", "response": answer}
        for user, own in answers.items() for row, answer in enumerate(own)
    ]).with_columns(rating=None, timestamp=None)  # fmt: skip
    contrasts = histories.select("user_id", "row", sample=0).join(
        pl.DataFrame({"response": [BRIEF, FUNNY, PLAIN]}), how="cross"
    )
    frames = {
        "users": pl.DataFrame({"user_id": users}).with_columns(
            cohort=pl.lit("seen"), rows=1, public=True
        ),
        "histories": histories,
        "contrasts": contrasts,
        "pairs": tables.empty("pairs"),
        "routes": pl.DataFrame({"user_id": users}).with_columns(
            member=pl.lit("m1"), edit=pl.lit("everyone"), strength=0.0, layers=pl.lit("all"),
            regret=0.0, worst_regret=0.0, uncertain=False, moved=False, robust=pl.lit("m1"),
        ),
    }  # fmt: skip
    for name, frame in frames.items():
        tables.write(name, frame)
    policies = [
        {"id": name, "values": {"brevity": brief, "humor": funny}, "cost": 0.0}
        for name, (brief, funny) in POLICIES.items()
    ]
    portfolio = {"base": policies[0], "members": policies[1:]}
    tables.write_json(tables.DATA / "portfolio" / "portfolio.json", portfolio)
    Path("params.yaml").write_text(PARAMS)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """(folder of an earlier run, function that writes the run of the working directory)."""
    earlier, now = tmp_path / "then", tmp_path / "now"
    earlier.mkdir()
    now.mkdir()
    with chdir(earlier):
        write_run({user: [BRIEF] * 6 for user in PEOPLE})
        assert all(file.exists() for file in NEEDED)
    monkeypatch.chdir(now)
    return earlier


def test_a_run_with_the_same_histories_has_no_drift(runs):
    write_run({user: [BRIEF] * 6 for user in PEOPLE})
    found = measure(load(), runs)
    assert (found.users, found.drifted) == (0, False)


def test_more_of_the_same_is_no_drift(runs):
    write_run({user: [BRIEF] * 12 for user in PEOPLE})
    found = measure(load(), runs)
    assert found.users == len(PEOPLE)
    assert found.changed < 0.1
    assert not found.drifted


def test_users_who_write_otherwise_have_drifted_from_their_routes(runs):
    other = PEOPLE[:20]
    write_run({user: [BRIEF] * 6 + [FUNNY] * 8 for user in other})
    found = measure(load(), runs)
    assert found.users == len(other)
    assert found.changed > 0.9
    assert found.drifted
    assert 0.1 < found.loss <= found.worst + 1e-9 < 0.7


def test_other_preferences_are_not_compared(runs):
    write_run({user: [BRIEF] * 12 for user in PEOPLE})
    params = runs / "params.yaml"
    params.write_text(params.read_text().replace("0.0}", "0.5}"))
    with pytest.raises(PaletteError, match=r"preferences in params.yaml is another"):
        measure(load(), runs)


@pytest.mark.slow
def test_a_run_is_compared_with_the_files_of_an_earlier_commit(tmp_path, monkeypatch):
    from flows.watch import _tastes

    def dvc(*arguments: str) -> None:
        subprocess.run([sys.executable, "-m", "dvc", *arguments, "--quiet"], check=True)

    def git(*arguments: str) -> None:
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], check=True)

    monkeypatch.chdir(tmp_path)
    write_run({user: [BRIEF] * 6 for user in PEOPLE})
    outs = [str(file) for file in NEEDED if file != PARAMS_FILE]
    stages = {"all": {"cmd": "true", "outs": outs}}
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    git("init", "--quiet")
    dvc("init")
    dvc("commit", "--force")
    git("add", ".")
    git("commit", "--quiet", "-m", "published")
    assert _tastes(tmp_path, "HEAD", load()) == (None, "No user has new rows.")
    write_run({user: [BRIEF] * 6 + [FUNNY] * 8 for user in PEOPLE})
    dvc("commit", "--force")
    found, table = _tastes(tmp_path, "HEAD", load())
    assert "the users' tastes have drifted: of 30 with new rows" in found.words
    assert "| users with new rows, who were routed then | 30 |" in table
