"""One look for all pictures, and their way into files and into the page, light or dark."""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import altair as alt

FONT = "Liberation Sans, Arial, Helvetica, sans-serif"  # the renderer brings the first along
INK, MUTED, LINE, CARD, TINT = "#1c2127", "#5b646e", "#dedbd3", "#fffffe", "#f1eee6"
ON_COLOR = "#14171b"  # for text and dots on coloured ground, light and dark alike
COLD, NEUTRAL, HOT = "#4a86b5", "#f3ecd9", "#c4472f"  # below, at, and above the loss asked
PIXELS = 340  # of a map's side
PADDING = 12  # around a picture
FOLLOWS_PAGE = {
    INK: "currentColor",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    CARD: "var(--card)",
    TINT: "var(--tint)",
}


def svg(chart: "alt.TopLevelMixin") -> str:
    """A chart as SVG text: the same bytes for the same chart, no script, no link, no font file."""
    import vl_convert

    picture = vl_convert.vegalite_to_svg(themed(chart).to_dict())
    # The renderer numbers ids through the life of a process: count afresh in every picture.
    for place, own in enumerate(dict.fromkeys(re.findall(r'\bid="([^"]+)"', picture))):
        picture = picture.replace(f'id="{own}"', f'id="i{place}"').replace(
            f"url(#{own})", f"url(#i{place})"
        )
    return picture


def themed(chart: "alt.TopLevelMixin") -> "alt.TopLevelMixin":
    text = {"labelColor": MUTED, "titleColor": INK, "titleFontWeight": "normal"}
    sizes = {"labelFontSize": 13, "titleFontSize": 13}
    return (
        chart.configure(aria=False, background=CARD, font=FONT, padding=PADDING)
        .configure_view(stroke=None)
        .configure_axis(
            **text, **sizes, gridColor=LINE, domainColor=LINE, tickColor=LINE, titlePadding=10
        )
        .configure_legend(**text, **sizes, labelLimit=0, titleLimit=0)
        .configure_title(color=INK, fontSize=16, fontWeight="bold", anchor="middle", offset=8)
    )


def embedded(picture: str, name: str, description: str) -> str:
    """An SVG for the page: named for screen readers, its own ids, colours that follow the theme.

    Args:
        name: prefix of its ids, unique in the page.
        description: plain text, escaped here.
    """
    from markupsafe import escape

    for color, follows in FOLLOWS_PAGE.items():
        picture = picture.replace(f'"{color}"', f'"{follows}"')
    picture = re.sub(r'\bid="', f'id="{name}-', picture)
    # To a screen reader the picture is one thing; what it is made of has no names.
    picture = re.sub(r' (role|aria-roledescription)="[^"]*"', "", picture)
    picture = picture.replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-')
    return picture.replace("<svg ", f'<svg role="img" aria-label="{escape(description)}" ', 1)
