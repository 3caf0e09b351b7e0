"""Fixed prompts, answered by the base and by every member: what the numbers sound like."""

import re
from typing import Any

from palette.reporting.metrics import rounded
from palette.reporting.run import Run

LINE_BREAKS = re.compile(r"\s+")
MARKUP = re.compile(r"([\\`*_\[\]<>|~&$@:])")


def markdown(run: Run) -> str:
    """A table per prompt: who answered, the answer, and its reward for each trait."""
    traits = run.params.trait_names
    lines = [
        "# Samples",
        "",
        f"The first answer of each policy to the first {run.answers['prompt_id'].n_unique()} test "
        "prompts, with its rewards (0 to 1). No prompt is picked by its answers.",
    ]
    for prompts in run.answers.partition_by("prompt_id", maintain_order=True):
        lines += ["", f"## {plain(prompts['prompt'][0])}", ""]
        lines += ["| " + " | ".join(["policy", "answer", *traits]) + " |"]
        lines += ["|---|---|" + "--:|" * len(traits)]
        for row in prompts.iter_rows(named=True):
            rewards = [number(row[f"reward_{trait}"]) for trait in traits]
            lines.append(
                "| " + " | ".join([row["member"], plain(row["response"]), *rewards]) + " |"
            )
    return "\n".join(lines) + "\n"


def as_json(run: Run) -> list[dict[str, Any]]:
    """The same for programs: prompt, and the answers of every member with their rewards."""
    traits = run.params.trait_names
    return [
        {
            "prompt": prompts["prompt"][0],
            "answers": [
                {
                    "member": row["member"],
                    "answer": row["response"],
                    "rewards": {trait: rounded(row[f"reward_{trait}"]) for trait in traits},
                }
                for row in prompts.iter_rows(named=True)
            ],
        }
        for prompts in run.answers.partition_by("prompt_id", maintain_order=True)
    ]


def plain(text: str | None) -> str:
    """A model's text as inert Markdown in one table cell: nothing in it links, styles or breaks."""
    return MARKUP.sub(r"\\\1", LINE_BREAKS.sub(" ", text or "").strip()) or "*(nothing)*"


def number(reward: float | None) -> str:
    return "" if reward is None else f"{reward:.2f}"
