"""The schema of every table and artifact: where it lies, its columns, types and meaning.

Reading and writing goes through here, so that a table that does not fit its schema is never
written and never read. Columns that exist once per trait are named PREFIX + trait.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from palette.errors import PaletteError

DATA = Path("data")
SPLITS = ("train", "select", "certify", "test")
S, F, N, B = pl.String, pl.Float64, pl.Int64, pl.Boolean


@dataclass(frozen=True)
class Table:
    """A Parquet table: its file, its columns (name → type and meaning), its per-trait columns."""

    file: str
    columns: dict[str, tuple[pl.DataType | type[pl.DataType], str]]
    per_trait: dict[str, str] = field(default_factory=dict)
    """prefix → meaning; such columns are Float64"""

    @property
    def path(self) -> Path:
        return DATA / self.file


TABLES = {
    "prompts": Table(
        "prompts/prompts.parquet",
        {
            "prompt_id": (S, "stable name"),
            "prompt": (S, "the question"),
            "topic": (S, "prompts of one topic are never split"),
            "split": (S, " | ".join(SPLITS)),
        },
    ),
    "users": Table(
        "users/users.parquet",
        {
            "user_id": (S, "the user"),
            "cohort": (S, "seen | unseen: unseen users take no part in any estimate"),
            "rows": (N, "valid history rows"),
            "public": (B, "may be shown in reports"),
        },
    ),
    "histories": Table(
        "users/histories.parquet",
        {
            "user_id": (S, "the user"),
            "row": (N, "position in the user's history, from 0"),
            "prompt": (S, "what was asked"),
            "response": (S, "what the user wrote or chose"),
            "rating": (F, "0 to 1, or null"),
            "timestamp": (S, "ISO 8601, or null"),
        },
    ),
    "rejected": Table(
        "users/rejected.parquet",
        {
            "source_row": (N, "row of the input, from 0"),
            "reason": (S, "why it was dropped"),
            "content": (S, "the row as JSON"),
        },
    ),
    "hidden": Table(
        "users/hidden.parquet",
        {
            "user_id": (S, "the user"),
            "taste": (S, "component of the mixture"),
        },
        {"w_": "true weight"},
    ),
    "insights": Table(
        "insights/insights.parquet",
        {
            "user_id": (S, "the user"),
            "kind": (S, "personal | neutral"),
            "insight": (S, "the sentence"),
            "items": (pl.List(N), "history rows that it was read from"),
        },
    ),
    "pairs": Table(
        "insights/pairs.parquet",
        {
            "user_id": (S, "the user"),
            "pair": (N, "from 0"),
            "prompt": (S, "the question"),
            "personal": (S, "answer under the personal insight"),
            "neutral": (S, "answer under the neutral one"),
        },
    ),
    "contrasts": Table(
        "insights/contrasts.parquet",
        {
            "user_id": (S, "the user"),
            "row": (N, "history row"),
            "sample": (N, "from 0"),
            "response": (S, "the base's own answer to that row's prompt"),
        },
    ),
    "rollouts": Table(
        "rollouts/base.parquet",
        {
            "prompt_id": (S, "prompt"),
            "sample": (N, "from 0"),
            "response": (S, "text"),
            "tokens": (pl.List(pl.Int32), "generated token ids, eos included when it was reached"),
            "logprob": (F, "log-probability of the tokens under the base, nats"),
        },
    ),
    "rewards": Table(
        "rewards/{trait}.parquet",
        {
            "prompt_id": (S, "prompt"),
            "sample": (N, "rollout"),
            "reward": (F, "in [0, 1]"),
        },
    ),
    "weights": Table(
        "preferences/weights.parquet",
        {
            "user_id": (S, "the user"),
            "trait": (S, "trait"),
            "weight": (F, "posterior mean"),
            "low": (F, "lower end of the interval"),
            "high": (F, "upper end"),
            "evidence": (F, "weighted number of comparisons"),
        },
    ),
    "training": Table(
        "adapters/training.parquet",
        {
            "member": (S, "adapter"),
            "phase": (S, "supervised | rloo"),
            "step": (N, "from 1"),
            "loss": (F, "training loss, or the negative mean reward of an RLOO step"),
        },
    ),
    "values": Table(
        "values/values.parquet",
        {
            "member": (S, "adapter"),
            "prompt_id": (S, "prompt"),
            "split": (S, "select | certify | test"),
            "sample": (N, "from 0"),
            "response": (S, "text"),
            "kl": (F, "full-vocabulary KL to the base summed over the answer, nats"),
            "logprob": (F, "of the answer under the member, nats"),
            "logprob_base": (F, "of the answer under the base, nats"),
        },
        {"reward_": "in [0, 1]"},
    ),
    "routes": Table(
        "routes/routes.parquet",
        {
            "user_id": (S, "the user"),
            "member": (S, "member, or base"),
            "edit": (S, "directions: a group's or user's name"),
            "regret": (F, "f* - J at the estimated weights, on select"),
            "worst_regret": (F, "the largest regret over the corners of the user's interval"),
            "uncertain": (B, "worst_regret is above routes.max_regret"),
        },
    ),
    "baselines": Table(
        "baselines/baselines.parquet",
        {
            "method": (S, "prompt | edit | edit_random | edit_other | soup | per_user"),
            "user_id": (S, "the user"),
            "policy": (S, "users with the same policy share its answers"),
            "prompt_id": (S, "test prompt"),
            "kl": (F, "mean KL to the base, nats"),
        },
        {"reward_": "mean over answers"},
    ),
    "evaluation": Table(
        "evaluation/evaluation.parquet",
        {
            "method": (S, "method"),
            "user_id": (S, "the user"),
            "group": (S, "seen | unseen | no_history"),
            "objective": (F, "J at the judging weights"),
            "reward": (F, "w.r"),
            "kl": (F, "nats"),
            "base": (F, "J of the base at the same weights"),
            "ideal": (F, "f* at the same weights"),
        },
        {"reward_": "mean reward"},
    ),
}


def path(name: str, trait: str | None = None) -> Path:
    """The file of a table; `trait` fills the place of tables that exist once per trait."""
    table = TABLES[name]
    return DATA / table.file.format(trait=trait)


def write(name: str, frame: pl.DataFrame, trait: str | None = None) -> Path:
    """Check a frame against its schema and write it, whole or not at all."""
    table, target = TABLES[name], path(name, trait)
    frame = frame.select(_columns(table, frame, target))
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_suffix(".tmp")
    frame.write_parquet(temporary)
    temporary.replace(target)
    return target


def read(name: str, trait: str | None = None) -> pl.DataFrame:
    """Read a table and check it against its schema.

    Raises:
        PaletteError: the file is missing or does not have the columns of its schema.
    """
    table, source = TABLES[name], path(name, trait)
    if not source.exists():
        raise PaletteError(f"{source} does not exist; run `dvc repro` to make it")
    try:
        frame = pl.read_parquet(source)
    except pl.exceptions.PolarsError:
        raise PaletteError(f"{source} is damaged; delete it and run `dvc repro`") from None
    return frame.select(_columns(table, frame, source))


def read_rewards(traits: list[str]) -> pl.DataFrame:
    """The base's rollouts with one column `reward_TRAIT` per trait."""
    frame = read("rollouts")
    for trait in traits:
        scores = read("rewards", trait).rename({"reward": f"reward_{trait}"})
        frame = frame.join(scores, on=["prompt_id", "sample"], how="left", validate="1:1")
    return frame


def empty(name: str, traits: list[str] = ()) -> pl.DataFrame:
    """A table without rows."""
    table = TABLES[name]
    schema = {key: kind for key, (kind, _) in table.columns.items()}
    schema |= {prefix + trait: F for prefix in table.per_trait for trait in traits}
    return pl.DataFrame(schema=schema)


def write_json(target: Path, content: Any) -> Path:
    """Write JSON that diffs well: indented, one value a line, ending in a newline."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(target)
    return target


def read_json(source: Path) -> Any:
    if not source.exists():
        raise PaletteError(f"{source} does not exist; run `dvc repro` to make it")
    return json.loads(source.read_text(encoding="utf-8"))


def _columns(table: Table, frame: pl.DataFrame, where: Path) -> list[pl.Expr]:
    missing = [name for name in table.columns if name not in frame.columns]
    missing += [p + "*" for p in table.per_trait if not any(c.startswith(p) for c in frame.columns)]
    if missing:
        raise PaletteError(f"{where} lacks the columns {', '.join(missing)}; run `dvc repro` again")
    own = [pl.col(name).cast(kind) for name, (kind, _) in table.columns.items()]
    prefixes = tuple(table.per_trait)
    traits = [
        c for c in frame.columns if prefixes and c.startswith(prefixes) and c not in table.columns
    ]
    return own + [pl.col(name).cast(F) for name in traits]
