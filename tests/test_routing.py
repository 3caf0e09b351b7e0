"""Routes: corners of intervals against brute force, and the table that the stage writes."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from palette import routes, tables
from palette.core.envelope import Planes
from palette.core.routing import Regrets, choose, interval_corners, regrets
from palette.errors import PaletteError
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


def regrets_of(d: int, mean, low, high) -> Regrets:
    return regrets(planes(d), mean, low, high, ideal)


@pytest.mark.parametrize("d", [2, 3, 4])
def test_worst_regrets_match_brute_force_for_every_member(d):
    rng = np.random.default_rng(d)
    mean, low, high = intervals(d, 8, rng)
    found = regrets_of(d, mean, low, high)
    many = np.concatenate([rng.dirichlet(np.full(d, a), 100_000) for a in (0.4, 1, 5)])
    compared = 0
    for i in range(8):
        inside = many[((many >= low[i]) & (many <= high[i])).all(1)]
        lost = (ideal(inside)[:, None] - planes(d).worth(inside)).max(0, initial=-np.inf)
        assert (lost <= found.worst[i] + 1e-9).all()
        if len(inside) > 3000:
            compared += 1
            np.testing.assert_allclose(lost, found.worst[i], atol=0.06)
    assert compared > 1


@pytest.mark.parametrize("d", [1, 2, 3, 4])
def test_robust_routes_minimise_the_worst_regret_and_mean_routes_the_one_at_the_estimate(d):
    mean, low, high = intervals(d, 40, np.random.default_rng(10 + d))
    found, rows = regrets_of(d, mean, low, high), np.arange(40)
    robust, plain = choose(found, "robust"), choose(found, "mean")
    for k in range(d + 1):
        assert (found.worst[rows, robust] <= found.worst[:, k] + 1e-9).all()
        assert (found.at_mean[rows, plain] <= found.at_mean[:, k] + 1e-9).all()
    np.testing.assert_array_equal(plain, planes(d).best(mean))
    if d == 3:
        assert (robust != plain).any()  # the two rules are not the same thing


def test_robust_ties_go_to_the_best_at_the_mean_then_to_the_first():
    worst = np.array([[0.3, 0.2, 0.2 + 1e-12, 0.2]] * 2)
    at_mean = np.array([[0.0, 0.2, 0.1, 0.1], [0.0, 0.1, 0.1 + 1e-12, 0.2]])
    assert choose(Regrets(at_mean, worst), "robust").tolist() == [2, 1]
    assert choose(Regrets(at_mean, worst), "mean").tolist() == [0, 0]


def test_nobody_is_moved_for_less_than_the_hysteresis():
    worst = np.array([[0.30, 0.20, 0.25]] * 5)
    found = Regrets(np.array([[0.1, 0.2, 0.0]] * 5), worst)
    previous = np.array([0, 1, 2, -1, 2])
    assert choose(found, "robust", previous, 0.06).tolist() == [1, 1, 2, 1, 2]
    assert choose(found, "robust", previous, 0.04).tolist() == [1, 1, 1, 1, 1]
    assert choose(found, "mean", previous, 0.15).tolist() == [0, 2, 2, 2, 2]
    again = choose(found, "robust", choose(found, "robust", previous, 0.06), 0.06)
    assert again.tolist() == [1, 1, 2, 1, 2]  # kept routes stay: nothing drifts


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
    found = regrets_of(3, mean, mean, mean)
    np.testing.assert_allclose(found.worst, found.at_mean)
    np.testing.assert_array_equal(choose(found, "robust"), planes(3).best(mean))


def test_equals_go_to_the_base_and_wider_intervals_never_lose_less():
    same = Planes(("base", "copy"), np.full((2, 3), 0.4), np.zeros(2))
    mean, low, high = intervals(3, 20, np.random.default_rng(4))
    for rule in ("robust", "mean"):
        assert not choose(regrets(same, mean, low, high, ideal), rule).any()
    narrow = regrets_of(3, mean, low, high)
    wide = regrets_of(3, mean, low * 0.5, np.minimum(high * 1.5, 1))
    assert (wide.worst >= narrow.worst - 1e-12).all()
    assert (narrow.worst >= narrow.at_mean).all()


@pytest.mark.parametrize("at_once", [1, 3 * 4 * 4 * 3])  # a user at a time, and a few
def test_users_with_one_interval_and_batches_change_nothing(at_once, monkeypatch):
    mean, low, high = (np.repeat(x, 5, 0) for x in intervals(3, 4, np.random.default_rng(6)))
    whole = regrets_of(3, mean, low, high)
    monkeypatch.setattr("palette.core.routing.NUMBERS_AT_ONCE", at_once)
    np.testing.assert_allclose(regrets_of(3, mean, low, high).worst, whole.worst)


def test_eight_traits_are_routed():
    mean, low, high = intervals(8, 30, np.random.default_rng(8))
    found = regrets_of(8, mean, low, high)
    user, points = interval_corners(low, high)
    lost = ideal(points) - planes(8).worth(points)[:, 3]
    assert found.worst[7, 3] == pytest.approx(lost[user == 7].max())


def test_a_box_beside_the_simplex_by_a_float_still_has_its_mean():
    mean = np.array([[0.3, 0.3, 0.4]])
    found = regrets_of(3, mean, mean + 1e-7, mean + 2e-7)  # no corner: adds up to more than 1
    np.testing.assert_allclose(found.worst, found.at_mean)


def params_with(**routes) -> Params:
    kinds = {"brevity": {"kind": "brevity"}, "humor": {"kind": "humor"}}
    return Params.model_validate({"traits": kinds, "routes": {"max_regret": 0.3} | routes})


def write_trials(clusters: list[tuple], members: list[tuple]) -> None:
    """What was chosen for clusters and members, beside trials and methods that were not."""
    told = {"objective": 0.5, "kl": 0.1, "broken": 0.0}
    for name, key, rows in (
        ("trials", ["method", "cluster"], [*clusters, ("edit_mean", "c1", 0.125, "upper")]),
        ("member_trials", ["member"], members),
    ):
        schema = {column: pl.String for column in key} | {
            "strength": pl.Float64,
            "layers": pl.String,
        }
        chosen = pl.DataFrame(rows, schema, orient="row").with_columns(chosen=True)
        others = chosen.with_columns(pl.col("strength") + 1, chosen=False)
        frame = pl.concat([others, chosen]).with_columns(
            **{column: pl.lit(value) for column, value in told.items()}
        )
        tables.write(name, frame)


@pytest.fixture
def select(tmp_path, monkeypatch) -> np.ndarray:
    """Three users and a portfolio of two; hands back the rewards of select (2, 40, 2)."""
    monkeypatch.chdir(tmp_path)
    rng, params = np.random.default_rng(0), params_with()
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
    tables.write("groups", pl.DataFrame({
        "user_id": ["ann", "bob", "cy"], "cluster": ["c0", "c1", "c1"],
        "group": ["ann", "c1", "c1"],
    }))  # fmt: skip
    write_trials([("edit", "c0", 0.5, "all"), ("edit", "c1", 0.25, "last")],
                 [("brief", 0.0, "all"), ("funny", 1.0, "upper")])  # fmt: skip
    weights = [
        ("ann", "brevity", 0.95, 0.9, 1.0), ("ann", "humor", 0.05, 0.0, 0.1),
        ("bob", "humor", 0.9, 0.0, 1.0), ("bob", "brevity", 0.1, 0.0, 1.0),
        ("cy", "brevity", 0.5, 0.45, 0.55), ("cy", "humor", 0.5, 0.45, 0.55),
    ]  # fmt: skip
    schema = ["user_id", "trait", "weight", "low", "high"]
    frame = pl.DataFrame(weights, schema=schema, orient="row").with_columns(evidence=1.0)
    tables.write("weights", frame)
    return np.column_stack([values[:80] for values in rewards.values()]).reshape(2, 40, 2)


def test_stage_routes_each_user_by_the_select_split(select):
    routes.main(params_with(rule="mean"))
    found = tables.read("routes")
    assert found["user_id"].to_list() == ["ann", "bob", "cy"]
    assert found["member"].to_list() == ["brief", "funny", "base"]
    assert found["edit"].to_list() == ["ann", "c1", "c1"]
    assert found["strength"].to_list() == [0.0, 1.0, 0.25]  # cy's, on the base, is the cluster's
    assert found["layers"].to_list() == ["all", "upper", "last"]
    assert found["uncertain"].to_list() == [False, True, False]
    assert not found["moved"].any()
    w = np.array([0.95, 0.05])
    best = 0.1 * np.log(np.exp(select @ w / 0.1).mean(1)).mean()
    assert found["regret"][0] == pytest.approx(best - (w @ [0.9, 0.2] - 0.05))


@pytest.mark.parametrize("rule", ["mean", "robust"])
def test_groups_of_users_have_the_routes_of_all_at_once(select, monkeypatch, rule):
    routes.main(params_with(rule=rule))
    whole = tables.read("routes")
    monkeypatch.setattr(routes, "USERS_AT_ONCE", 2)
    routes.main(params_with(rule=rule))
    assert tables.read("routes").equals(whole)


def test_an_edit_that_was_not_tuned_is_said_and_not_guessed(select):
    write_trials([("edit", "c0", 0.5, "all")], [("brief", 0.0, "all"), ("funny", 1.0, "upper")])
    with pytest.raises(PaletteError, match="no edit was tuned for user 'cy' on 'base'"):
        routes.main(params_with(rule="mean"))
    write_trials([("edit", "c1", 0.5, "all")], [("brief", 0.0, "all")])
    with pytest.raises(PaletteError, match="no edit was tuned for user 'bob' on 'funny'"):
        routes.main(params_with(rule="mean"))


def test_who_is_uncertain_has_the_member_that_loses_least_at_worst(select):
    routes.main(params_with(rule="mean"))
    assert tables.read("routes")["robust"].to_list() == ["brief", "base", "base"]
    routes.main(params_with(rule="robust"))
    found = tables.read("routes")
    assert found["member"].to_list() == found["robust"].to_list() == ["brief", "base", "base"]
    bob = found.row(by_predicate=pl.col("user_id") == "bob", named=True)
    corners = np.eye(2)
    best = 0.1 * np.log(np.exp(select @ corners.T / 0.1).mean(1)).mean(0)
    assert bob["worst_regret"] == pytest.approx((best - 0.5).max())
    brief, funny = best - corners @ [0.9, 0.2] + 0.05, best - corners @ [0.2, 0.9] + 0.05
    assert bob["worst_regret"] < min(brief.max(), funny.max())


def keep(text: str) -> str:
    source = Path("inputs/routes/routes.csv")
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text(text)
    return str(source)


def test_previous_members_stay_unless_another_is_better_by_more_than_the_hysteresis(select):
    file = keep("user_id,member\nann,brief\nbob,funny\ncy,gone\nleft,brief\n")
    routes.main(params_with(rule="robust", previous=file, hysteresis=10))
    found = tables.read("routes")
    assert found["member"].to_list() == ["brief", "funny", "base"]
    assert found["moved"].to_list() == [False, False, True]  # cy's member is gone
    routes.main(params_with(rule="robust", previous=file, hysteresis=0))
    found = tables.read("routes")
    assert found["member"].to_list() == ["brief", "base", "base"]
    assert found["moved"].to_list() == [False, True, True]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "does not exist; `palette keep-routes`"),
        ("user,member\nann,m\n", "is not a CSV with the columns user_id, member"),
        ("user_id,member\nann,\n", "has an empty cell"),
        ("user_id,member\nann,m\nann,m\n", "has user 'ann' twice"),
        ("", "is not a CSV"),
    ],
)
def test_a_bad_file_of_previous_routes_is_refused_in_one_sentence(
    text, said, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    file = "inputs/routes/routes.csv" if text is None else keep(text)
    with pytest.raises(PaletteError, match=said):
        routes.read_previous(file)


def test_numbers_as_user_ids_stay_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert routes.read_previous(keep("user_id,member\n007,m0\n")) == {"007": "m0"}
    assert routes.read_previous(None) == {}
