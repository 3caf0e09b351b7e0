"""Routes: corners of intervals against brute force, and the table that the stage writes."""

import numpy as np
import polars as pl
import pytest

from palette import routes, tables
from palette.core.envelope import Planes
from palette.core.routing import interval_corners, route
from palette.params import Params


def ideal(weights: np.ndarray) -> np.ndarray:
    """A convex f* above every plane below: the norm, and a bit."""
    return np.linalg.norm(weights, axis=-1) + 0.2


def planes(d: int) -> Planes:
    values = np.vstack([np.full(d, 0.3), 0.3 + 0.5 * np.eye(d)])
    return Planes(tuple("base" if k == 0 else f"m{k}" for k in range(d + 1)), values,
                  np.array([0.0] + [0.1] * d))  # fmt: skip


def intervals(d: int, users: int, rng: np.random.Generator):
    mean = rng.dirichlet(np.ones(d), users)
    low = mean * rng.random((users, d))
    return mean, low, mean + (1 - mean) * rng.random((users, d)) * 0.6


@pytest.mark.parametrize("d", [2, 3, 4])
def test_worst_regret_matches_brute_force(d):
    rng = np.random.default_rng(d)
    mean, low, high = intervals(d, 8, rng)
    found = route(planes(d), mean, low, high, ideal)
    many = np.concatenate([rng.dirichlet(np.full(d, a), 100_000) for a in (0.4, 1, 5)])
    for i in range(8):
        inside = many[((many >= low[i]) & (many <= high[i])).all(1)]
        regret = ideal(inside) - planes(d).worth(inside)[:, found.member[i]]
        assert regret.max() <= found.worst[i] + 1e-9
        if len(inside) > 3000:
            assert regret.max() == pytest.approx(found.worst[i], abs=0.06)


@pytest.mark.parametrize("d", [1, 2, 3, 5, 8])
def test_corners_lie_in_their_own_box_and_on_the_simplex(d):
    _, low, high = intervals(d, 6, np.random.default_rng(d))
    user, points = interval_corners(low, high)
    assert set(user) == set(range(6))
    np.testing.assert_allclose(points.sum(1), 1)
    assert (points >= low[user] - 1e-8).all() and (points <= high[user] + 1e-8).all()
    at_an_end = np.isclose(points, low[user]) | np.isclose(points, high[user])
    assert (at_an_end.sum(1) >= d - 1).all()


def test_the_whole_simplex_has_its_vertices_as_corners():
    _, points = interval_corners(np.zeros((1, 3)), np.ones((1, 3)))
    assert {tuple(p) for p in points.round(9).tolist()} == {(1, 0, 0), (0, 1, 0), (0, 0, 1)}


def test_a_sure_user_loses_no_more_at_worst_than_at_the_estimate():
    mean = np.random.default_rng(0).dirichlet(np.ones(3), 5)
    found = route(planes(3), mean, mean, mean, ideal)
    np.testing.assert_allclose(found.worst, found.regret)
    best = planes(3).worth(mean).max(1)
    np.testing.assert_allclose(found.regret, ideal(mean) - best)


def test_equals_go_to_the_base_and_wider_intervals_never_lose_less():
    same = Planes(("base", "copy"), np.full((2, 3), 0.4), np.zeros(2))
    mean, low, high = intervals(3, 20, np.random.default_rng(4))
    assert not route(same, mean, low, high, ideal).member.any()
    narrow = route(planes(3), mean, low, high, ideal)
    wide = route(planes(3), mean, low * 0.5, np.minimum(high * 1.5, 1), ideal)
    assert (wide.worst >= narrow.worst - 1e-12).all()
    assert (narrow.worst >= narrow.regret).all()


def test_users_with_one_interval_and_blocks_change_nothing(monkeypatch):
    mean, low, high = (np.repeat(x, 5, 0) for x in intervals(3, 4, np.random.default_rng(6)))
    whole = route(planes(3), mean, low, high, ideal)
    monkeypatch.setattr("palette.core.routing.USERS_AT_ONCE", 3)
    np.testing.assert_allclose(route(planes(3), mean, low, high, ideal).worst, whole.worst)


def test_stage_routes_each_user_by_the_select_split(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    params = Params.model_validate({
        "traits": {"brevity": {"kind": "brevity"}, "humor": {"kind": "humor"}},
        "routes": {"max_regret": 0.3},
    })  # fmt: skip
    splits = ["select", "select", "train"]
    prompts = [f"p{i}" for i in range(3)]
    tables.write("prompts", pl.DataFrame({
        "prompt_id": prompts, "prompt": prompts, "topic": prompts, "split": splits,
    }))  # fmt: skip
    rollouts = pl.DataFrame({
        "prompt_id": np.repeat(prompts, 40), "sample": np.tile(np.arange(40), 3),
        "response": ["x"] * 120, "tokens": [[1]] * 120, "logprob": [-1.0] * 120,
    })  # fmt: skip
    tables.write("rollouts", rollouts)
    rewards = {trait: rng.random(120) for trait in params.trait_names}
    for trait, values in rewards.items():
        scored = rollouts.select("prompt_id", "sample").with_columns(reward=pl.Series(values))
        tables.write("rewards", scored, trait)
    members = [
        {"id": "brief", "values": {"brevity": 0.9, "humor": 0.2}, "cost": 0.05},
        {"id": "funny", "values": {"brevity": 0.2, "humor": 0.9}, "cost": 0.05},
    ]
    base = {"values": {"brevity": 0.5, "humor": 0.5}}
    tables.write_json(
        tables.DATA / "portfolio" / "portfolio.json", {"members": members, "base": base}
    )
    tables.write_json(tables.DATA / "subspaces" / "layers.json", {"groups": ["everyone", "ann"]})
    weights = [
        ("ann", "brevity", 0.95, 0.9, 1.0), ("ann", "humor", 0.05, 0.0, 0.1),
        ("bob", "humor", 0.9, 0.0, 1.0), ("bob", "brevity", 0.1, 0.0, 1.0),
        ("cy", "brevity", 0.5, 0.45, 0.55), ("cy", "humor", 0.5, 0.45, 0.55),
    ]  # fmt: skip
    schema = ["user_id", "trait", "weight", "low", "high"]
    frame = pl.DataFrame(weights, schema=schema, orient="row").with_columns(evidence=1.0)
    tables.write("weights", frame)

    routes.main(params)

    found = tables.read("routes")
    assert found["user_id"].to_list() == ["ann", "bob", "cy"]
    assert found["member"].to_list() == ["brief", "funny", "base"]
    assert found["edit"].to_list() == ["ann", "everyone", "everyone"]
    assert found["uncertain"].to_list() == [False, True, False]
    select = np.column_stack([values[:80] for values in rewards.values()]).reshape(2, 40, 2)
    w = np.array([0.95, 0.05])
    best = 0.1 * np.log(np.exp(select @ w / 0.1).mean(1)).mean()
    assert found["regret"][0] == pytest.approx(best - (w @ [0.9, 0.2] - 0.05))
