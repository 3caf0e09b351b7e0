"""Maps of all tastes: which member serves where, and what is lost there.

Three traits make a triangle and two a line; no flat map of more is honest, so bars stand in.
Losses are drawn twice: as planned, before anything was trained, and with the trained members.
"""

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from palette.core.envelope import Cell
from palette.reporting import strips
from palette.reporting.losses import Losses
from palette.reporting.members import numbers, shades
from palette.reporting.run import Run
from palette.reporting.theme import CARD, COLD, HOT, INK, LINE, NEUTRAL, ON_COLOR, PADDING, PIXELS

if TYPE_CHECKING:
    import altair as alt

HEIGHT = np.sqrt(3) / 2  # of a triangle whose sides are 1
CORNERS = np.array([[0, 0], [1, 0], [0.5, HEIGHT]])
MARGIN = 0.09  # around the triangle, in its sides
LETTERS = 18  # of names: three maps stand side by side and are shown small
TILES = 34  # along a side
OVERLAP = 1.05  # of neighbouring tiles, so that no seam shows
UP = "M-1,0.57735L1,0.57735L0,-1.1547Z"
DOWN = "M-1,-0.57735L1,-0.57735L0,1.1547Z"


def corners() -> list[list[float]]:
    """Where the region's corners lie in a drawn triangle, in the units of its viewBox."""
    x, y = (CORNERS + MARGIN).T * PIXELS
    height = PIXELS * (HEIGHT + 2 * MARGIN)
    return np.column_stack([x + PADDING, height - y + PADDING]).round(3).tolist()


def draw(run: Run) -> "list[alt.Chart | alt.LayerChart]":
    """The map of members, the losses as planned, and the losses after training."""
    by_count = {
        2: (strips.line_of_members, strips.line_of_losses),
        3: (triangle_of_members, triangle_of_losses),
    }
    bars = (strips.bars_of_members, strips.bars_of_losses)
    members, losses = by_count.get(len(run.params.trained), bars)
    return [members(run), losses(run, run.planned), losses(run, run.losses)]


def triangle_of_members(run: Run) -> "alt.LayerChart":
    import altair as alt

    dots = alt.Chart(_places(run, run.tastes)).mark_circle(size=13, color=ON_COLOR, opacity=0.6)
    labels = alt.Chart(_labels(run)).encode(**_position(), text="label:N")
    text = {"fontSize": LETTERS, "fontWeight": "bold"}
    layers = [
        _cells(run, run.losses.cells).encode(fill=alt.Fill("color:N", scale=None)),
        dots.encode(**_position()),
        labels.mark_text(stroke="white", strokeWidth=4, strokeJoin="round", opacity=0.8, **text),
        labels.mark_text(color=ON_COLOR, **text),
        *_corners(run),
    ]
    return _plain(alt.layer(*layers))


def triangle_of_losses(run: Run, losses: Losses) -> "alt.LayerChart":
    import altair as alt

    tiles = [
        _tiles(run, losses, UP, run.region.counts(TILES - 1) + 1 / 3),
        _tiles(run, losses, DOWN, run.region.counts(TILES - 2) + 2 / 3),
    ]
    ring = alt.Chart(_places(run, losses.worst()[0][None])).encode(**_position())
    look = {"filled": False, "opacity": 1, "size": 190}
    layers = [
        _ground(),
        *tiles,
        _cells(run, losses.cells, filled=False),
        ring.mark_point(color="white", strokeWidth=6, **look),
        ring.mark_point(color=ON_COLOR, strokeWidth=2.5, **look),
        *_corners(run),
    ]
    return _plain(alt.layer(*layers))


def _ground() -> "alt.Chart":
    """The whole triangle under its tiles: no dark page shines through between them."""
    import altair as alt

    frame = pl.DataFrame({"x": CORNERS[:, 0], "y": CORNERS[:, 1], "turn": [0, 1, 2]})
    whole = alt.Chart(frame).mark_line(filled=True, interpolate="linear-closed", color=NEUTRAL)
    return whole.encode(**_position(), order="turn:Q")


def _tiles(run: Run, losses: Losses, shape: str, middles: np.ndarray) -> "alt.Chart":
    """Small triangles, coloured by the loss in their middles (P, 3), in tiles from each corner."""
    import altair as alt

    weights = run.region.spread(middles / TILES)
    frame = _places(run, weights).with_columns(loss=losses.at(weights).round(4))
    marks = alt.Chart(frame.filter(pl.col("loss").is_finite())).mark_point(
        shape=shape, filled=True, opacity=1, strokeWidth=0, size=(OVERLAP * PIXELS / TILES) ** 2
    )
    return marks.encode(**_position(), fill=alt.Fill("loss:Q", **_loss_color(run)))


def _places(run: Run, weights: np.ndarray) -> pl.DataFrame:
    """x, y: where weights (P, 3) lie in the triangle whose corners are the region's."""
    place = run.region.shares(weights) @ CORNERS
    return pl.DataFrame({"x": place[:, 0].round(4), "y": place[:, 1].round(4)})


def _around(run: Run, cell: Cell) -> pl.DataFrame:
    """x, y and `turn`: the corners of a cell, in order around it."""
    places = _places(run, cell.vertices)
    x, y = places["x"] - places["x"].mean(), places["y"] - places["y"].mean()
    return places.with_columns(turn=np.arctan2(y, x)).sort("turn")


def _cells(run: Run, parts: list[Cell], filled: bool = True) -> "alt.Chart":
    """Outlines of cells; filled, those of the portfolio, each in its member's colour."""
    import altair as alt

    color_of = shades(run)
    frames = [
        _around(run, cell).with_columns(
            cell=pl.lit(place),
            color=pl.lit(color_of[run.planes.names[cell.member]] if filled else ON_COLOR),
        )
        for place, cell in enumerate(parts)
    ]
    look = {"stroke": CARD if filled else ON_COLOR, "strokeWidth": 2.5 if filled else 0.8}
    outline = alt.Chart(pl.concat(frames)).mark_line(
        filled=filled, interpolate="linear-closed", strokeJoin="round", **look
    )
    return outline.encode(**_position(), order="turn:Q", detail="cell:N")


def _labels(run: Run) -> pl.DataFrame:
    """The middle of every cell, and its member's number."""
    names, rows = numbers(run), []
    for cell in run.losses.cells:
        x, y, _ = _around(run, cell)
        next_x, next_y = (c.shift(-1, fill_value=c[0]) for c in (x, y))
        cross = x * next_y - next_x * y
        area = 3 * cross.to_numpy().sum()
        middle = [(side * cross).to_numpy().sum() / area for side in (x + next_x, y + next_y)]
        rows.append({"x": middle[0], "y": middle[1], "label": names[run.planes.names[cell.member]]})
    return pl.DataFrame(rows)


def _corners(run: Run) -> "list[alt.Chart]":
    import altair as alt

    frame = pl.DataFrame({"x": CORNERS[:, 0], "y": CORNERS[:, 1], "trait": run.params.trait_names})
    text = {"fontSize": LETTERS, "color": INK, "fontWeight": "bold"}
    below = alt.Chart(frame[:2]).mark_text(dy=22, **text)
    above = alt.Chart(frame[2:]).mark_text(dy=-14, **text)
    return [part.encode(**_position(), text="trait:N") for part in (below, above)]


def _position() -> dict:
    import altair as alt

    scale_x = alt.Scale(domain=[-MARGIN, 1 + MARGIN], nice=False)
    scale_y = alt.Scale(domain=[-MARGIN, HEIGHT + MARGIN], nice=False)
    x, y = alt.X("x:Q", scale=scale_x, axis=None), alt.Y("y:Q", scale=scale_y, axis=None)
    return {"x": x, "y": y}


def _plain(chart: "alt.LayerChart") -> "alt.LayerChart":
    return chart.properties(
        width=PIXELS * (1 + 2 * MARGIN), height=float(PIXELS * (HEIGHT + 2 * MARGIN))
    )


def _loss_color(run: Run) -> dict:
    """Scale and legend, the same on every map, whose turning point is the loss that was asked."""
    import altair as alt

    asked, top = run.portfolio["epsilon"], run.largest_loss
    told = f"format(datum.value, '.1%') + (datum.value == {asked} ? ' asked' : '')"
    legend = alt.Legend(
        type="gradient",
        orient="bottom",
        direction="horizontal",
        gradientLength=PIXELS,
        gradientStrokeColor=LINE,
        title="loss, as part of the ideal value",
        titleAnchor="middle",
        titleFontSize=LETTERS - 2,
        labelFontSize=LETTERS - 2,
        values=[0, asked, top],
        labelExpr=told,
    )
    shades = [COLD, NEUTRAL, HOT]
    scale = alt.Scale(domain=[0, asked, top], range=shades, interpolate="lab", clamp=True)
    return {"scale": scale, "legend": legend}
