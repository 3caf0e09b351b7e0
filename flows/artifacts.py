"""What the UI shows of a run: its name, how far it is, the verdict with the methods, and links."""

from pathlib import Path
from typing import cast
from uuid import UUID

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    update_progress_artifact,
)
from prefect.runtime import flow_run
from prefect.settings import PREFECT_UI_URL

from flows import repair
from palette import summary, tables

REPORTS = Path("reports")
METRICS = REPORTS / "metrics.json"
PAGES = {
    "the page": "index.html",
    "what members sound like": "samples.md",
    "members": "portfolio.csv",
    "numbers": "metrics.json",
}
RESULT, PROGRESS, WATCH = "palette-result", "palette-progress", "palette-watch"


def run_name() -> str:
    """The flow; and of a run by itself, when it was to start and what it was told to change."""
    if flow_run.parent_flow_run_id is not None:
        return flow_run.flow_name
    told = {
        name: value
        for name, value in flow_run.parameters.items()
        if name not in ("push", "notify") and value
    }
    words = [f"{flow_run.flow_name} {flow_run.scheduled_start_time:%Y-%m-%d %H:%M}"]
    return ", ".join([*words, *(f"{name} {value}" for name, value in told.items())])


class Progress:
    """How many of a run's stages are done, as a progress artifact of the run that makes it."""

    def __init__(self, total: int) -> None:
        self._done, self._total = 0, total
        made = create_progress_artifact(0.0, key=PROGRESS, description=self._words())
        self._artifact = cast(UUID, made)  # Prefect's functions are coroutines in coroutines alone

    def step(self, stage: str, state: str) -> None:
        """A stage is done, in the state so named."""
        self._done += 1
        share = 100 * self._done / self._total
        words = f"{self._words()}; {stage}: {state}"
        update_progress_artifact(self._artifact, share, description=words)

    def _words(self) -> str:
        return f"{self._done} of {self._total} stages"


def publish(outcomes: dict[str, str], looks: list[repair.Look]) -> None:
    """The verdict, what each method is worth, every look at certify, and what ran."""
    rows = "\n".join(f"| {stage} | {outcome} |" for stage, outcome in outcomes.items())
    parts = [
        summary.markdown(tables.read_json(METRICS)),
        *repair.markdown(looks),
        _links(),
        f"| stage | state |\n|---|---|\n{rows}\n",
    ]
    create_markdown_artifact(
        "\n\n".join(parts), key=RESULT, description="The verdict, and what ran"
    )


def _links() -> str:
    """To the report's files, and to what earlier runs have shown here."""
    files = [
        f"[{words}]({(REPORTS / name).resolve().as_uri()})"
        for words, name in PAGES.items()
        if (REPORTS / name).exists()
    ]
    here = PREFECT_UI_URL.value()
    shown = {"earlier verdicts": RESULT, "what the watch found": WATCH}
    pages = [f"[{words}]({here}/artifacts/key/{key})" for words, key in shown.items() if here]
    return f"Report: {' · '.join([*files, *pages])}"
