"""Where there is no triangle: a line for two traits, and bars for any other number of them."""

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from palette.reporting.members import numbers, parts_of_region, shades, vertices
from palette.reporting.run import Run
from palette.reporting.theme import HOT, INK, MUTED, ON_COLOR, PIXELS

if TYPE_CHECKING:
    import altair as alt

POINTS = 201  # along a line


def line_of_members(run: Run) -> "alt.LayerChart":
    """What every mix of two traits gets: ideal, routed and base, on certify."""
    import altair as alt

    frame, bands = _line(run), _bands(run)
    x = alt.X("x:Q", title=_line_title(run), axis=alt.Axis(format="%", grid=False))
    y = alt.Y("worth:Q", title="value", scale=alt.Scale(zero=False))
    legend = alt.Legend(orient="bottom", symbolStrokeColor=INK)
    curves = alt.Chart(frame).mark_line(strokeWidth=2).encode(
        x=x, y=y, color=alt.value(ON_COLOR),
        strokeDash=alt.StrokeDash("what:N", title=None, legend=legend,
                                  sort=["portfolio", "ideal", "base"]),
    )  # fmt: skip
    ground = alt.Chart(bands).encode(x=x, x2="end:Q")
    middle = alt.Chart(bands).mark_text(fontSize=15, fontWeight="bold", color=ON_COLOR)
    users = alt.Chart(_shares(run, run.tastes)).mark_tick(color=ON_COLOR, opacity=0.5, thickness=1)
    layers = [
        ground.mark_rect().encode(color=alt.Color("color:N", scale=None)),
        curves,
        middle.encode(x="middle:Q", y=alt.value(14), text="label:N"),
        users.encode(x="x:Q", y=alt.value(292)),
    ]
    return alt.layer(*layers).properties(width=PIXELS, height=300)


def line_of_losses(run: Run) -> "alt.LayerChart":
    import altair as alt

    weights = run.region.spread(_ends(POINTS))
    frame = _shares(run, weights).with_columns(loss=run.losses(weights))
    losses = alt.Chart(frame.filter(pl.col("loss").is_finite())).mark_line(color=HOT)
    x = alt.X("x:Q", title=_line_title(run), axis=alt.Axis(format="%", grid=False))
    y = alt.Y("loss:Q", title="loss, as part of the ideal value", axis=alt.Axis(format="%"))
    asked = _asked(run).encode(y="loss:Q")
    return alt.layer(losses.encode(x=x, y=y), asked).properties(width=PIXELS, height=300)


def bars_of_members(run: Run) -> "alt.Chart":
    """How much of all tastes each member serves."""
    import altair as alt

    x = alt.X("region:Q", title="part of all tastes that it serves", axis=alt.Axis(format="%"))
    color = alt.Color("color:N", scale=None)
    return _bars(run).mark_bar().encode(x=x, y=_member_axis(), color=color)


def bars_of_losses(run: Run) -> "alt.LayerChart":
    """The largest loss of each member's cells, which is at one of their corners."""
    import altair as alt

    x = alt.X("loss:Q", title="largest loss where it serves", axis=alt.Axis(format="%"))
    bars = _bars(run).mark_bar(color=HOT).encode(x=x, y=_member_axis())
    return alt.layer(bars, _asked(run).encode(x="loss:Q"))


def _bars(run: Run) -> "alt.Chart":
    import altair as alt

    traits, cells = run.params.trait_names, run.portfolio["cells"]
    names, colors, losses = numbers(run), shades(run), {}
    for cell in cells:
        corners, row = vertices(cell, traits), run.planes.names.index(cell["member"])
        worst = run.short_of_ideal(corners, run.certify.planes.worth(corners)[:, row]).max()
        losses[cell["member"]] = max(worst, losses.get(cell["member"], 0.0))
    parts = parts_of_region(cells, traits)
    rows = [
        {"member": f"{names[m]} · {m}" if m != "base" else m, "place": place, "region": part,
         "loss": losses[m] if np.isfinite(losses[m]) else None, "color": colors[m]}
        for place, (m, part) in enumerate(parts.items())
    ]  # fmt: skip
    return alt.Chart(pl.DataFrame(rows)).properties(width=PIXELS - 80, height={"step": 24})


def _member_axis() -> "alt.Y":
    import altair as alt

    order = alt.EncodingSortField("place", order="ascending")
    return alt.Y("member:N", title=None, sort=order, axis=alt.Axis(labelLimit=230))


def _asked(run: Run) -> "alt.Chart":
    import altair as alt

    frame = pl.DataFrame({"loss": [run.portfolio["epsilon"]]})
    return alt.Chart(frame).mark_rule(strokeDash=[5, 4], strokeWidth=1.5, color=MUTED)


def _line(run: Run) -> pl.DataFrame:
    weights = run.region.spread(_ends(POINTS))
    every = run.certify.planes.worth(weights)
    worth = {
        "portfolio": every[np.arange(len(weights)), run.planes.best(weights)],
        "ideal": run.certify.ideal.upward(weights).mean(axis=1),
        "base": every[:, 0],
    }
    shares = _shares(run, weights)
    frames = [shares.with_columns(what=pl.lit(what), worth=own) for what, own in worth.items()]
    return pl.concat(frames).filter(pl.col("worth").is_finite())


def _bands(run: Run) -> pl.DataFrame:
    names, colors, rows = numbers(run), shades(run), []
    for cell in run.portfolio["cells"]:
        x = _shares(run, vertices(cell, run.params.trait_names))["x"]
        own = {"label": names[cell["member"]], "color": colors[cell["member"]]}
        rows.append({"x": x.min(), "end": x.max(), "middle": (x.min() + x.max()) / 2} | own)
    return pl.DataFrame(rows)


def _line_title(run: Run) -> str:
    first, second = run.params.trait_names
    return f"weight of {second} (the rest is {first})"


def _ends(count: int) -> np.ndarray:
    """(count, 2): shares of the two ends, evenly from the first to the second."""
    second = np.linspace(0, 1, count)
    return np.stack([1 - second, second], axis=1)


def _shares(run: Run, weights: np.ndarray) -> pl.DataFrame:
    """x: weight of the second of two traits."""
    return pl.DataFrame({"x": weights[:, 1].round(5)})
