"""`palette lamp`: the LaMP benchmark's questions answered as users are served, and answers scored.

palette lamp answer inputs/users/dev_questions.json predictions.json
palette lamp score predictions.json dev_outputs.json
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from palette.errors import PaletteError

if TYPE_CHECKING:
    from palette.core.editing import Edit
    from palette.measuring import Policy
    from palette.params import Params

TOGETHER = 64
"""Questions in a batch; the file of predictions is written after each."""

lamp = typer.Typer(
    help="The LaMP benchmark: answer its questions, score answers.\n\n"
    "Example: palette lamp score predictions.json outputs.json",
    no_args_is_help=True,
)


@lamp.command()
def answer(
    questions: Annotated[Path, typer.Argument(help="LaMP's questions, as users.file named them")],
    predictions: Annotated[Path, typer.Argument(help="the file to write, as LaMP scores it")],
    base: Annotated[
        bool, typer.Option("--base", help="as a yardstick: the base answers, whoever asks")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="another seed draws other answers")] = 0,
) -> None:
    """Answer every question as its user is served.

    By the routed member, with the user's edit. Answers that PREDICTIONS has
    already are kept, so that what was interrupted goes on; delete the file to
    start anew.

    Example: palette lamp answer questions.json predictions.json
    """
    from palette import stage
    from palette.params_file import load
    from palette.progress import progress

    params = load()
    stage.prepare(params.runtime.threads)
    task, asked = _questions(questions)
    done = _outputs(predictions, task)[1] if predictions.exists() else {}
    if done:
        print(f"palette: keeps the {len(done):,} answers in {predictions}", file=sys.stderr)
    rest = [one for one in asked if one["id"] not in done]
    with progress("LaMP questions", total=len(rest)) as advance:
        for made in _answers(params, rest, base, seed) if rest else ():
            done |= made
            _write(predictions, task, done)
            advance(len(made))
    print(f"{predictions}: {len(done):,} answers of {task}")


@lamp.command()
def score(
    predictions: Annotated[Path, typer.Argument(help="as `palette lamp answer` writes them")],
    outputs: Annotated[Path, typer.Argument(help="LaMP's own answers to the same questions")],
) -> None:
    """Print a task's metrics by its golds.

    Accuracy and F1, MAE and RMSE, or ROUGE-1 and ROUGE-L.

    Example: palette lamp score predictions.json outputs.json
    """
    from palette.core.lamp_scores import scores

    task, golds = _outputs(outputs)
    _, said = _outputs(predictions, task)
    for one, other, lacks in ((golds, said, predictions), (said, golds, outputs)):
        missing = [name for name in one if name not in other]
        if missing:
            raise PaletteError(
                f"{lacks} lacks {len(missing):,} questions, such as '{missing[0]}': use predictions "
                "and outputs of the same questions"
            )
    print(f"{'task':10} {task}\n{'questions':10} {len(golds):,}")
    for name, value in scores(task, [said[name] for name in golds], list(golds.values())).items():
        print(f"{name:10} {value:.4f}")


def _answers(
    params: "Params", asked: list[dict[str, Any]], base: bool, seed: int
) -> Iterator[dict[str, str]]:
    """Yield the answers of a batch, question id → text; each depends on its question and seed alone."""
    import numpy as np

    from palette.asking import fitting
    from palette.commands.ask import respond
    from palette.lm import templates
    from palette.lm.generation import row_uniforms
    from palette.lm.models import load_base

    limit, cut = params.rollouts.max_new_tokens, 0
    policies, edits = _policies(params, asked, base)
    lm = load_base(params.runtime.device)
    # Few adapters in a batch: users of one policy ask together.
    asked = sorted(asked, key=lambda one: (policies[one["id"]], one["id"]))
    for start in range(0, len(asked), TOGETHER):
        batch = asked[start : start + TOGETHER]
        messages = [templates.question(one["input"]) for one in batch]
        prompts = [fitting(lm, one, limit) for one in messages]
        whole = [templates.encode(lm.tokenizer, one) for one in messages]
        cut += sum(len(a) < len(b) for a, b in zip(prompts, whole, strict=True))
        numbers = [row_uniforms(1, limit, "lamp", seed, one["id"]) for one in batch]
        own = [policies[one["id"]] for one in batch]
        made = respond(lm, limit, prompts, own, edits, np.concatenate(numbers))
        yield dict(zip((one["id"] for one in batch), made.texts, strict=True))
    if cut:
        print(f"palette: {cut:,} questions were too long and lost their middle", file=sys.stderr)


def _policies(
    params: "Params", asked: list[dict[str, Any]], base: bool
) -> tuple[dict[str, "Policy"], dict[str, "Edit"]]:
    """Question id → who answers it, and the edits by the names in the policies."""
    from palette import lamp as shapes
    from palette import served
    from palette.measuring import Policy

    if base:
        return {one["id"]: Policy() for one in asked}, {}
    of_users, edits = served.policies(params)
    users = {one["id"]: str(shapes.user(one)) for one in asked}
    unknown = [user for user in users.values() if user not in of_users]
    if unknown:
        raise PaletteError(
            f"{len(unknown):,} users of these questions have no route, such as '{unknown[0]}': "
            "name the file in users.file and run `dvc repro`"
        )
    return {name: of_users[user] for name, user in users.items()}, edits


def _questions(path: Path) -> tuple[str, list[dict[str, Any]]]:
    """The task, and its questions with ids as text."""
    from palette import lamp as shapes

    found = _read(path)
    found = found.get("golds") if isinstance(found, dict) else found
    if not isinstance(found, list) or not all(
        isinstance(one, dict) and {"id", "input", "profile"} <= set(one) for one in found
    ):
        raise PaletteError(f"{path} is no list of LaMP questions: id, input and profile each")
    task, *others = {shapes.task(one["input"]) for one in found} or {None}
    if task is None or others:
        raise PaletteError(f"{path} does not hold the questions of one task of LaMP-1 to LaMP-7")
    return task[: len("LaMP_1")], [one | {"id": str(one["id"])} for one in found]


def _outputs(path: Path, task: str | None = None) -> tuple[str, dict[str, str]]:
    """The task, and question id → output; of the task asked for, if one is."""
    from palette.core.lamp_scores import TASKS

    found = _read(path)
    if not isinstance(found, dict) or not {"task", "golds"} <= set(found):
        raise PaletteError(f"{path} holds no LaMP outputs: an object with task and golds")
    name = re.sub(r"^LaMP[-_]?(\d).*$", r"LaMP_\1", str(found["task"]))
    if name not in TASKS:
        raise PaletteError(f"{path} names the task '{found['task']}': use {', '.join(TASKS)}")
    if task not in (None, name):
        raise PaletteError(f"{path} is of {name}, not of {task}: use files of one task")
    try:
        return name, {str(one["id"]): str(one["output"]) for one in found["golds"]}
    except (TypeError, KeyError):
        raise PaletteError(f"{path}: each of golds needs an id and an output") from None


def _read(path: Path) -> Any:
    if not path.is_file():
        raise PaletteError(f"{path} does not exist: name an existing file")
    try:
        return json.loads(path.read_bytes())
    except ValueError:
        raise PaletteError(f"{path} is not valid JSON: take the file as LaMP has it") from None


def _write(path: Path, task: str, done: dict[str, str]) -> None:
    from palette.tables import write_json

    golds = [{"id": name, "output": text} for name, text in done.items()]
    write_json(path, {"task": task, "golds": golds})
