"""Maps of all tastes: which member serves where, and what is lost there.

Three traits are a triangle and two a line; of any other number no map is honest, so that bars for
each member stand in.
"""

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from palette.reporting import colors
from palette.reporting.members import vertices
from palette.reporting.run import Run
from palette.reporting.theme import CARD, INK, LINE, MUTED, ON_COLOR

if TYPE_CHECKING:
    import altair as alt

HEIGHT = np.sqrt(3) / 2  # of a triangle whose sides are 1
CORNERS = np.array([[0, 0], [1, 0], [0.5, HEIGHT]])
MARGIN = 0.09  # around the triangle, in its sides
PIXELS = 340  # of a side
TILES = 34  # along a side
POINTS = 201  # along a line
UP = "M-1,0.57735L1,0.57735L0,-1.1547Z"
DOWN = "M-1,-0.57735L1,-0.57735L0,1.1547Z"
COLD, NEUTRAL, HOT = "#4a86b5", "#f3ecd9", "#c4472f"  # below, at, and above the loss asked

Pair = tuple["alt.Chart | alt.LayerChart", "alt.Chart | alt.LayerChart"]


def numbers(run: Run) -> dict[str, str]:
    """Short names: members count from 1 in the portfolio's order."""
    return {"base": "base"} | {
        member["id"]: str(place) for place, member in enumerate(run.portfolio["members"], start=1)
    }


def member_colors(run: Run) -> dict[str, str]:
    traits = run.params.trait_names
    return {"base": colors.BASE} | {
        member["id"]: colors.mixed(np.array([member["weights"][trait] for trait in traits]))
        for member in run.portfolio["members"]
    }


def draw(run: Run) -> Pair:
    """The map of members and the map of losses."""
    by_count = {3: (triangle_of_members, triangle_of_losses), 2: (line_of_members, line_of_losses)}
    members, losses = by_count.get(len(run.params.traits), (bars_of_members, bars_of_losses))
    return members(run), losses(run)


def triangle_of_members(run: Run) -> "alt.LayerChart":
    import altair as alt

    dots = alt.Chart(_places(run, run.tastes)).mark_circle(size=13, color=ON_COLOR, opacity=0.6)
    labels = alt.Chart(_labels(run)).mark_text(fontSize=15, fontWeight="bold", color=ON_COLOR)
    layers = [
        _cells(run, filled=True).encode(fill=alt.Fill("color:N", scale=None)),
        dots.encode(**_position()),
        labels.encode(**_position(), text="label:N"),
        *_corners(run),
    ]
    return _plain(alt.layer(*layers))


def triangle_of_losses(run: Run) -> "alt.LayerChart":
    import altair as alt

    counts = {UP: (run.region.counts(TILES - 1), 1 / 3), DOWN: (run.region.counts(TILES - 2), 2 / 3)}
    tiles = []
    for shape, (corner, inside) in counts.items():
        weights = run.region.spread((corner + inside) / TILES)
        frame = _places(run, weights).with_columns(loss=run.losses(weights).round(4))
        shown = alt.Chart(frame.filter(pl.col("loss").is_finite())).mark_point(
            shape=shape, filled=True, opacity=1, size=(PIXELS / TILES) ** 2, strokeWidth=0.6
        )
        color = _loss_color(run)
        tiles.append(shown.encode(**_position(), fill=alt.Fill("loss:Q", **color),
                                  stroke=alt.Stroke("loss:Q", **color | {"legend": None})))  # fmt: skip
    worst = run.portfolio["worst"]
    at_worst = np.array([[worst["weights"][trait] for trait in run.params.traits]])
    ring = alt.Chart(_places(run, at_worst)).encode(**_position())
    layers = [
        *tiles,
        _cells(run, filled=False),
        ring.mark_point(size=190, color=ON_COLOR, strokeWidth=2.5, filled=False, opacity=1),
        *_corners(run),
    ]
    return _plain(alt.layer(*layers))


def line_of_members(run: Run) -> "alt.LayerChart":
    """What every mix of two traits gets: ideal, routed and base, on certify."""
    import altair as alt

    frame, bands = _line(run), _bands(run)
    x = alt.X("x:Q", title=_line_title(run), axis=alt.Axis(format="%", grid=False))
    y = alt.Y("worth:Q", title="value", scale=alt.Scale(zero=False))
    curves = alt.Chart(frame).mark_line(strokeWidth=2).encode(
        x=x, y=y, color=alt.value(INK),
        strokeDash=alt.StrokeDash("what:N", title=None, legend=alt.Legend(orient="bottom"),
                                  sort=["portfolio", "ideal", "base"]),
    )  # fmt: skip
    ground = alt.Chart(bands).encode(x=x, x2="end:Q")
    middle = alt.Chart(bands).mark_text(fontSize=15, fontWeight="bold", color=ON_COLOR)
    users = alt.Chart(_shares(run, run.tastes)).mark_tick(color=INK, opacity=0.5, thickness=1)
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

    from palette.reporting.members import parts_of_region

    traits, cells = run.params.trait_names, run.portfolio["cells"]
    names, shades, losses = numbers(run), member_colors(run), {}
    for cell in cells:
        corners, row = vertices(cell, traits), run.planes.names.index(cell["member"])
        worst = run.short_of_ideal(corners, run.certify.planes.worth(corners)[:, row]).max()
        losses[cell["member"]] = max(worst, losses.get(cell["member"], 0.0))
    parts = parts_of_region(cells, traits)
    rows = [
        {"member": f"{names[m]} · {m}" if m != "base" else m, "place": place, "region": part,
         "loss": losses[m] if np.isfinite(losses[m]) else None, "color": shades[m]}
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
    names, shades, rows = numbers(run), member_colors(run), []
    for cell in run.portfolio["cells"]:
        x = _shares(run, vertices(cell, run.params.trait_names))["x"]
        own = {"label": names[cell["member"]], "color": shades[cell["member"]]}
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


def _places(run: Run, weights: np.ndarray) -> pl.DataFrame:
    """x, y: where weights (P, 3) lie in the triangle whose corners are the region's."""
    floor = np.array(run.region.floor)
    place = (weights - floor) / (1 - floor.sum()) @ CORNERS
    return pl.DataFrame({"x": place[:, 0].round(4), "y": place[:, 1].round(4)})


def _around(run: Run, cell: dict) -> pl.DataFrame:
    """x, y and `turn`: the corners of a cell, in order around it."""
    places = _places(run, vertices(cell, run.params.trait_names))
    x, y = places["x"] - places["x"].mean(), places["y"] - places["y"].mean()
    return places.with_columns(turn=np.arctan2(y, x)).sort("turn")


def _cells(run: Run, filled: bool) -> "alt.Chart":
    import altair as alt

    shades = member_colors(run)
    frames = [
        _around(run, cell).with_columns(cell=pl.lit(place), color=pl.lit(shades[cell["member"]]))
        for place, cell in enumerate(run.portfolio["cells"])
    ]
    look = {"stroke": CARD if filled else ON_COLOR, "strokeWidth": 2.5 if filled else 0.8}
    outline = alt.Chart(pl.concat(frames)).mark_line(
        filled=filled, interpolate="linear-closed", strokeJoin="round", **look
    )
    return outline.encode(**_position(), order="turn:Q", detail="cell:N")


def _labels(run: Run) -> pl.DataFrame:
    """The middle of every cell, and its member's number."""
    names, rows = numbers(run), []
    for cell in run.portfolio["cells"]:
        x, y, _ = _around(run, cell)
        cross = x * y.shift(-1, fill_value=y[0]) - x.shift(-1, fill_value=x[0]) * y
        both = [((c + c.shift(-1, fill_value=c[0])) * cross).sum() / (3 * cross.sum()) for c in (x, y)]
        rows.append({"x": both[0], "y": both[1], "label": names[cell["member"]]})
    return pl.DataFrame(rows)


def _corners(run: Run) -> "list[alt.Chart]":
    import altair as alt

    frame = pl.DataFrame({"x": CORNERS[:, 0], "y": CORNERS[:, 1], "trait": run.params.trait_names})
    text = {"fontSize": 15, "color": INK, "fontWeight": "bold"}
    below = alt.Chart(frame[:2]).mark_text(dy=20, **text)
    above = alt.Chart(frame[2:]).mark_text(dy=-14, **text)
    return [part.encode(**_position(), text="trait:N") for part in (below, above)]


def _position() -> dict:
    import altair as alt

    scale_x = alt.Scale(domain=[-MARGIN, 1 + MARGIN], nice=False)
    scale_y = alt.Scale(domain=[-MARGIN, HEIGHT + MARGIN], nice=False)
    return {"x": alt.X("x:Q", scale=scale_x, axis=None), "y": alt.Y("y:Q", scale=scale_y, axis=None)}


def _plain(chart: "alt.LayerChart") -> "alt.LayerChart":
    return chart.properties(
        width=PIXELS * (1 + 2 * MARGIN), height=float(PIXELS * (HEIGHT + 2 * MARGIN))
    )


def _loss_color(run: Run) -> dict:
    import altair as alt

    asked = run.portfolio["epsilon"]
    top = max(run.portfolio["certificate"]["epsilon_point"] or 0.0, 1.5 * asked)
    legend = alt.Legend(
        orient="bottom", direction="horizontal", gradientLength=PIXELS, gradientStrokeColor=LINE,
        title="loss, as part of the ideal value", titleAnchor="middle", values=[0, asked, top],
        labelExpr=f"datum.value == {asked} ? format({asked}, '.1%') + ' asked' : format(datum.value, '.1%')",
    )  # fmt: skip
    scale = alt.Scale(domain=[0, asked, top], range=[COLD, NEUTRAL, HOT], clamp=True)
    return {"scale": scale, "legend": legend}
