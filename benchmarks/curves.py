"""The picture: ε reached against the number of members, for each strategy."""

import numpy as np
import ols
import polars as pl
from contenders import DELTA, DRAWN

from palette.core import palm, planning, strategies
from palette.core.moving import Setting, hundredths
from palette.core.strategies import Asked
from palette.reporting.theme import svg

SIZES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 26, 32, 40)
COLORS = {
    "minimal": "#c4472f",
    "lazy": "#d9822b",
    "optimistic linear support": "#3f7fd0",
    "uniform": "#4f8a5b",
    "random": "#8f7a9e",
    "palm-grid": "#7d7367",
}


def points(setting: Setting, sizes: tuple[int, ...] = SIZES) -> pl.DataFrame:
    """strategy, members, epsilon: the ε that portfolios of each size reach over all of W."""
    region, most = setting.region, max(sizes)
    none = np.empty((0, region.d))
    asked = Asked("", 0.001, none, most)  # so fine that no sequence stops before
    rows = [("minimal", k, planning.budgeted(setting, k, none, 20).reached) for k in sizes]
    sequences = {"lazy": strategies.worst_first(setting, asked)}
    calls, _ = ols.support(setting, 0.0, most)
    sequences["optimistic linear support"] = calls
    for name, sequence in sequences.items():
        rows += [(name, k, _reached(setting, sequence[:k])) for k in sizes if k <= len(sequence)]
    draws = [
        strategies.random(setting, Asked("", 0.001, none, most, seed=seed)) for seed in range(DRAWN)
    ]
    rows += [
        ("random", k, float(np.mean([_reached(setting, sequence[:k]) for sequence in draws])))
        for k in sizes
    ]
    for name, grids in (
        ("uniform", (region.lattice(steps) for steps in range(1, most))),
        ("palm-grid", (palm.grid(region, DELTA, steps) for steps in range(1, most))),
    ):
        for grid in grids:
            weights = planning.distinct(none, hundredths(grid))
            if len(weights) > most:
                break
            rows.append((name, len(weights), _reached(setting, weights)))
    return pl.DataFrame(rows, schema=["strategy", "members", "epsilon"], orient="row")


def draw(frame: pl.DataFrame, title: str) -> str:
    """SVG text."""
    import altair as alt

    names = list(COLORS)
    color = alt.Color(
        "strategy:N",
        scale=alt.Scale(domain=names, range=list(COLORS.values())),
        sort=names,
        title="strategy",
    )
    x = alt.X("members:Q", title="members (trainings)", scale=alt.Scale(type="log", nice=False),
              axis=alt.Axis(values=[1, 2, 3, 5, 10, 20, 40], format="d"))  # fmt: skip
    ticks = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5]
    y = alt.Y("epsilon:Q", title="ε reached over all of W", scale=alt.Scale(type="log"),
              axis=alt.Axis(values=ticks, format="~%"))  # fmt: skip
    lines = alt.Chart(frame).mark_line(point=alt.OverlayMarkDef(size=36), strokeWidth=2)
    chart = lines.encode(x=x, y=y, color=color)
    return svg(chart.properties(width=460, height=340, title=title))


def _reached(setting: Setting, weights: np.ndarray) -> float:
    return float(setting.shortfall(weights).epsilon().max())
