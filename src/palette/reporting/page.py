"""One page that answers the question within a minute, works offline and treats all text as data.

Its templates and scripts lie in `templates/`. The scripts are the only ones that its policy lets run,
and it may fetch nothing.
"""

import base64
import hashlib
from typing import TYPE_CHECKING, cast

import polars as pl

from palette.reporting import colors, edits_page, explorer, formats, sections
from palette.reporting.charts import METHOD_NAMES, Pictures
from palette.reporting.formats import percent
from palette.reporting.metrics import Metrics
from palette.reporting.run import Run
from palette.reporting.theme import embedded
from palette.summary import warning

if TYPE_CHECKING:
    import jinja2

SCRIPTS = ("tastes.js", "explorer.js", "people.js")


def render(run: Run, metrics: Metrics, policies: pl.DataFrame, pictures: Pictures) -> str:
    """The HTML of the page. Texts of models and users are escaped; own pictures and scripts are not."""
    from markupsafe import Markup

    pages = templates()
    scripts = "\n".join(source(pages, name) for name in SCRIPTS)
    drawn = {
        name: Markup(embedded(getattr(pictures, name), name, told))
        for name, told in descriptions(run).items()
    }
    return pages.get_template("page.html.jinja").render(
        m=metrics,
        run=run,
        answer=sections.answer(run, metrics),
        traits=list(
            zip(run.params.trait_names, colors.of_traits(len(run.params.trained)), strict=True)
        ),
        pictures=drawn,
        members=sections.portraits(run, policies),
        methods=sections.compared(metrics),
        confidence=formats.confidence(metrics),
        rival=sections.rival(metrics),
        regrets=sections.regrets(run, metrics),
        utilities=sections.utilities(metrics),
        warning=warning(metrics),
        mend=sections.mended(run),
        prompts=sections.conversations(run),
        skills=sections.skills(run),
        edits=edits_page.section(run, metrics),
        presets=explorer.presets(run),
        middles=explorer.middles(run),
        data=explorer.shown(run)
        | {
            "people": run.people,
            "methods": METHOD_NAMES,
            "truth": run.params.users.file is None,
        },
        scripts=Markup(scripts),
        allowed=fingerprint(scripts),
    )


def templates() -> "jinja2.Environment":
    """What reads the templates: all that they are given is escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("palette", "reporting/templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = ("percent", "decimals", "interval")
    environment.filters |= {name: getattr(formats, name) for name in names}
    # JSON in the page: keys in our order, letters as they are; tojson escapes what could end a script.
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
    return environment


def source(pages: "jinja2.Environment", name: str) -> str:
    """The text of a file beside the templates, as it is."""
    return cast("jinja2.BaseLoader", pages.loader).get_source(pages, name)[0]


def fingerprint(script: str) -> str:
    """What a Content-Security-Policy names a script by, so that no other runs."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"


def descriptions(run: Run) -> dict[str, str]:
    """What each picture shows, for those who do not see it."""
    worst = run.portfolio["worst"]
    place = ", ".join(f"{trait} {percent(w)}" for trait, w in worst["weights"].items())
    before = run.planned.worst()[1]
    return {
        "members": "Map of all tastes, cut into the parts that each member serves. The table of "
        "members below has the same in numbers.",
        "planned": "Loss of every taste against its ideal value as planned, before training, with "
        f"ideal adapters for the planned weights. The largest is {percent(before)}.",
        "losses": f"Loss of every taste against its ideal value. The largest, "
        f"{percent(worst['multiplicative'])}, is at {place}, served by {worst['member']}.",
        "methods": "Objective of every method with its interval, for seen and unseen users and "
        "those with no history. The table beside it has the numbers.",
        "edits": "Share of the possible gain of the edit and of what it must beat, with intervals, "
        "for the same groups of users. The table of methods has the numbers.",
    }
