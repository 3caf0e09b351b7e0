"""Stage `report`: what people review, as text and pictures; nothing in it tells the time of day.

python -m palette.report      # a finished run → reports/
"""

from pathlib import Path

from palette import stage, tables
from palette.params import Params
from palette.reporting import charts, members, page, samples, users
from palette.reporting.metrics import measure
from palette.reporting.run import read

REPORTS = Path("reports")


def main(params: Params) -> None:
    run = read(params)
    metrics, policies = measure(run), members.table(run)
    pictures = charts.draw(run, metrics)
    tables.write_json(REPORTS / "metrics.json", metrics)
    tables.write_json(REPORTS / "samples.json", samples.as_json(run))
    texts = {
        "portfolio.csv": members.as_csv(policies),
        "routes.csv": users.served(run).write_csv(),
        "samples.md": samples.markdown(run),
        "simplex.svg": pictures.maps,
        "methods.svg": pictures.methods,
        "index.html": page.render(run, metrics, policies, pictures),
    }
    for name, text in texts.items():
        (REPORTS / name).write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    stage.run(main)
