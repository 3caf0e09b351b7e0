"""The report's pictures, by Vega-Altair: maps of all tastes, and the methods side by side."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from palette.reporting import maps
from palette.reporting.metrics import GROUPS, Metrics
from palette.reporting.run import Run
from palette.reporting.theme import TINT, svg
from palette.summary import FEW, METHODS

if TYPE_CHECKING:
    import altair as alt

METHOD_NAMES = {
    "base": "base, unchanged",
    "prompt": "insight in the prompt",
    "retrieval": "own history in the prompt",
    "edit": "edit of hidden states",
    "edit_other": "another user's edit (control)",
    "edit_mean": "edit along the mean (control)",
    "edit_random": "random edit (control)",
    "chameleon": "CHAMELEON as published",
    "chameleon_tuned": "CHAMELEON, tuned",
    "single": "one adapter for all",
    "soup": "soup of one per trait",
    "family": "each user's point of the family",
    "sft": "SFT on a user's pairs",
    "dpo": "DPO on a user's pairs",
    "per_user": "one adapter per user",
    "portfolio": "portfolio",
    "portfolio_robust": "portfolio, robust routes",
    "portfolio_edit": "portfolio with edits",
    "ideal": "ideal (upper limit)",
}
TITLES = (
    "Who serves which taste",
    "What each loses as planned, before training",
    "What each loses after training",
)
EDITS = (
    "prompt", "retrieval", "edit", "edit_other", "edit_mean", "edit_random", "chameleon",
    "chameleon_tuned", "sft", "dpo",
)  # fmt: skip
"""The edit and what it must beat, beside the base, whose share is nothing."""
AXES = {
    "objective": ("objective J (higher is better)", ""),
    "share": ("share of the possible gain over the base", "%"),
}
GROUP_NAMES = {"seen": "seen", "unseen": "unseen", "no_history": "no history"}
GROUP_COLORS = ["#3f7fd0", "#d9822b", "#8f7a9e"]  # readable on white and on near-black


@dataclass(frozen=True)
class Pictures:
    """SVG texts."""

    members: str
    planned: str
    """losses of the plan's ideal members"""
    losses: str
    maps: str
    """these three side by side, each with its title"""
    methods: str
    edits: str
    """shares of the edit and of its controls"""


def draw(run: Run, metrics: Metrics) -> Pictures:
    import altair as alt

    drawn = maps.draw(run)
    titled = [chart.properties(title=title) for chart, title in zip(drawn, TITLES, strict=True)]
    beside = alt.hconcat(*titled, spacing=48).resolve_scale(
        color="independent", fill="independent", stroke="independent"
    )
    shares = compare(metrics, EDITS, "share", "edit")
    return Pictures(*map(svg, (*drawn, beside, compare(metrics), shares)))


def compare(
    metrics: Metrics,
    methods: Iterable[str] = METHODS,
    measure: str = "objective",
    ours: str = "portfolio",
) -> "alt.LayerChart":
    """A measure of some methods with its interval, for the three groups of users; `ours` stands out."""
    import altair as alt

    frame, own = measured(metrics, methods, measure), f"datum.method == '{name_of(ours, metrics)}'"
    order = frame["method"].unique(maintain_order=True).to_list()
    bold = {"condition": {"test": "datum.value == 'portfolio'", "value": "bold"}, "value": "normal"}
    axis = alt.Axis(labelLimit=260, labelFontWeight=bold, ticks=False, domain=False, labelPadding=8)
    y = alt.Y("method:N", sort=order, title=None, axis=axis, scale=alt.Scale(paddingInner=0.15))
    title, form = AXES[measure]
    scale = alt.Scale(zero=False, domainMin=least(metrics, measure, frame), clamp=True)
    ticks = alt.Axis(format=form, tickCount=5) if form else alt.Undefined
    x = alt.X("low:Q", title=title, scale=scale, axis=ticks)
    groups = list(GROUP_NAMES.values())
    offset = alt.YOffset("group:N", sort=groups, scale=alt.Scale(paddingOuter=0.3))
    legend = alt.Legend(title="users", orient="top", symbolOpacity=1)
    color = alt.Color("group:N", scale=alt.Scale(domain=groups, range=GROUP_COLORS), legend=legend)
    shapes = alt.Scale(domain=groups, range=["circle", "diamond", "square"])
    shape = alt.Shape("group:N", legend=legend, scale=shapes)
    rows = alt.Chart(frame)
    band = rows.transform_filter(own).mark_rect(color=TINT)
    spans = rows.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=2.5, opacity=0.55)
    points = rows.mark_point(filled=True, size=62, opacity=1)
    layers = [
        band.encode(y=y),
        spans.encode(x=x, x2="high:Q"),
        points.encode(x="value:Q", shape=shape),
    ]
    layers[1:] = [layer.encode(y=y, yOffset=offset, color=color) for layer in layers[1:]]
    return alt.layer(*layers).properties(width=260, height={"step": 40, "for": "position"})


def least(metrics: Metrics, measure: str, frame: pl.DataFrame) -> float:
    """Where the axis begins: as far below the base as the ideal is above it, where one is lower.

    One method that fails altogether would else press all others into a corner.
    """
    base, ideal = (metrics.get(f"{measure}.{name}") for name in ("base", "ideal"))
    lowest = frame.select(pl.min_horizontal("low", "value").min()).item() or 0.0
    return lowest if base is None or ideal is None else max(lowest, 2 * base - ideal)


def name_of(method: str, metrics: Metrics) -> str:
    """A method in plain words; how few users it was tried on, where that is so."""
    tried = f" ({metrics['users.per_user']} tried)" if method in FEW else ""
    return METHOD_NAMES[method] + tried


def measured(
    metrics: Metrics, methods: Iterable[str] = METHODS, measure: str = "objective"
) -> pl.DataFrame:
    """One row per method and group: method, group, value, low, high."""
    rows: list[dict[str, Any]] = []
    for method in methods:
        for group, prefix in GROUPS.items():
            key = f"{prefix}{measure}.{method}"
            if metrics.get(key) is not None:
                ends = {end: metrics[f"{key}.{end}"] for end in ("low", "high")}
                named: dict[str, Any] = {
                    "method": name_of(method, metrics),
                    "group": GROUP_NAMES[group],
                }
                rows.append(named | {"value": metrics[key]} | ends)
    schema: dict[str, type[pl.DataType]] = {"method": pl.String, "group": pl.String}
    schema |= dict.fromkeys(("value", "low", "high"), pl.Float64)
    return pl.DataFrame(rows, schema=schema)
