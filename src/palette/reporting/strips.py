"""Where there is no triangle: a line for two traits, and bars for any other number of them."""

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from palette.reporting.losses import Losses
from palette.reporting.members import numbers, parts_of_region, shades
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


def line_of_losses(run: Run, losses: Losses) -> "alt.LayerChart":
    import altair as alt

    weights = run.region.spread(_ends(POINTS))
    frame = _shares(run, weights).with_columns(loss=losses.at(weights))
    curve = alt.Chart(frame.filter(pl.col("loss").is_finite())).mark_line(color=HOT)
    x = alt.X("x:Q", title=_line_title(run), axis=alt.Axis(format="%", grid=False))
    y = alt.Y("loss:Q", title="loss, as part of the ideal value", **_loss_axis(run))
    asked = _asked(run).encode(y="loss:Q")
    return alt.layer(curve.encode(x=x, y=y), asked).properties(width=PIXELS, height=300)


def bars_of_members(run: Run) -> "alt.Chart":
    """How much of all tastes each member serves."""
    import altair as alt

    x = alt.X("region:Q", title="part of all tastes that it serves", axis=alt.Axis(format="%"))
    color = alt.Color("color:N", scale=None)
    parts = parts_of_region(run.portfolio["cells"], run.params.trait_names)
    return _bars(run, "region", parts).mark_bar().encode(x=x, y=_member_axis(), color=color)


def bars_of_losses(run: Run, losses: Losses) -> "alt.LayerChart":
    """The largest loss of each member's cells, which is at one of their corners."""
    import altair as alt

    x = alt.X("loss:Q", title="largest loss where it serves", **_loss_axis(run))
    bars = _bars(run, "loss", losses.by_member()).mark_bar(color=HOT).encode(x=x, y=_member_axis())
    return alt.layer(bars, _asked(run).encode(x="loss:Q"))


def _bars(run: Run, column: str, numbers_of: dict[str, float]) -> "alt.Chart":
    """A bar for each member; those that the portfolio does not keep have no number of their own."""
    import altair as alt

    names, colors = numbers(run), shades(run)
    rows = [
        {
            "member": f"{names[member]} · {member}"
            if names.get(member, member) != member
            else member,
            "place": place,
            column: number if np.isfinite(number) else None,
            "color": colors.get(member, MUTED),
        }
        for place, (member, number) in enumerate(numbers_of.items())
    ]
    return alt.Chart(pl.DataFrame(rows)).properties(width=PIXELS - 80, height={"step": 24})


def _loss_axis(run: Run) -> dict:
    """The same on both pictures of losses."""
    import altair as alt

    scale = alt.Scale(domain=[0, run.largest_loss], nice=False)
    return {"axis": alt.Axis(format="%"), "scale": scale}


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
    routed, every = run.planes.best(weights), run.losses.judged.worth(weights)
    worth = {
        "portfolio": every[np.arange(len(weights)), routed],
        "ideal": run.losses.ideal(weights, routed),
        "base": every[:, 0],
    }
    shares = _shares(run, weights)
    frames = [shares.with_columns(what=pl.lit(what), worth=own) for what, own in worth.items()]
    return pl.concat(frames).filter(pl.col("worth").is_finite())


def _bands(run: Run) -> pl.DataFrame:
    names, colors, rows = numbers(run), shades(run), []
    for cell in run.losses.cells:
        x, member = _shares(run, cell.vertices)["x"].to_numpy(), run.planes.names[cell.member]
        own = {"label": names[member], "color": colors[member]}
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
