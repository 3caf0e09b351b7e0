"""The metrics of the LaMP benchmark (arXiv 2304.11406), as its own evaluation defines them.

LaMP-1 and LaMP-2: accuracy, and F1 averaged over the task's labels. LaMP-3: MAE and RMSE. LaMP-4 to
LaMP-7: F-measures of ROUGE-1 and ROUGE-L, without stemming, averaged over questions.
"""

import math
from collections.abc import Sequence

from palette.errors import PaletteError

CITATIONS = ("[1]", "[2]")
MOVIES = (
    "sci-fi", "based on a book", "comedy", "action", "twist ending", "dystopia", "dark comedy",
    "classic", "psychology", "fantasy", "romance", "thought-provoking", "social commentary",
    "violence", "true story",
)  # fmt: skip
NEWS = (
    "food & drink", "sports", "education", "parents", "religion", "travel", "business", "crime",
    "science & technology", "culture & arts", "entertainment", "politics", "women",
    "style & beauty", "healthy living",
)  # fmt: skip
LABELS = {"LaMP_1": (CITATIONS,), "LaMP_2": (MOVIES, NEWS)}
"""Task → the label sets of its editions."""
STARS = (1.0, 5.0)
TASKS = tuple(f"LaMP_{number}" for number in range(1, 8))


def scores(task: str, answers: Sequence[str], golds: Sequence[str]) -> dict[str, float]:
    """Metric → value.

    Args:
        task: one of TASKS.
        answers, golds: texts, one for each question; at least one.

    Raises:
        PaletteError: the golds are not of that task.
    """
    answers, golds = [text.strip() for text in answers], [text.strip() for text in golds]
    if task in LABELS:
        return _labels(task, answers, golds)
    return _stars(answers, golds) if task == "LaMP_3" else _rouge(answers, golds)


def _labels(task: str, answers: list[str], golds: list[str]) -> dict[str, float]:
    """An answer that is no label is wrong, and counts for no label's precision."""
    from sklearn.metrics import accuracy_score, f1_score

    labels = next((known for known in LABELS[task] if set(golds) <= set(known)), None)
    if labels is None:
        raise PaletteError(f"golds of {task} hold what is no label of one edition: mend the file")
    f1 = f1_score(golds, answers, labels=list(labels), average="macro", zero_division=0)
    return {"accuracy": float(accuracy_score(golds, answers)), "F1": float(f1)}


def _stars(answers: list[str], golds: list[str]) -> dict[str, float]:
    """An answer that is no number is as far from the gold as a number of stars can be."""
    from sklearn.metrics import mean_absolute_error, root_mean_squared_error

    truth = [number for gold in golds if (number := _number(gold)) is not None]
    if len(truth) < len(golds):
        raise PaletteError("golds of LaMP_3 hold what is no number of stars: mend the file")
    low, high = STARS
    said = []
    for number, gold in zip(map(_number, answers), truth, strict=True):
        farthest = low if gold - low > high - gold else high
        said.append(farthest if number is None else number)
    return {
        "MAE": float(mean_absolute_error(truth, said)),
        "RMSE": float(root_mean_squared_error(truth, said)),
    }


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _rouge(answers: list[str], golds: list[str]) -> dict[str, float]:
    from torchmetrics.functional.text.rouge import rouge_score

    found = rouge_score(answers, golds, rouge_keys=("rouge1", "rougeL"))
    return {f"ROUGE-{kind}": float(found[f"rouge{kind}_fmeasure"]) for kind in ("1", "L")}
