"""The schema of every table: where it lies, its columns, their types and meaning.

Columns that exist once per trait are named PREFIX + trait.
"""

from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

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
    "dropped": Table(
        "insights/dropped.parquet",
        {
            "user_id": (S, "the user"),
            "prompt": (S, "the question"),
            "reason": (S, "identical | empty | echo: an answer that only repeats the prompt"),
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
    "groups": Table(
        "subspaces/groups.parquet",
        {
            "user_id": (S, "the user"),
            "cluster": (S, "everyone alike in taste: edits are tuned for each"),
            "group": (S, "whose directions serve the user: everyone, a cluster's or a user's"),
        },
    ),
    "trials": Table(
        "tuning/trials.parquet",
        {
            "method": (S, "edit | edit_random | edit_mean | chameleon_tuned"),
            "cluster": (S, "cluster of users"),
            "layers": (S, "all | upper | last"),
            "strength": (F, "factor of the edit; 0 is the identity"),
            "objective": (F, "mean over users of J at their estimated weights, on select"),
            "kl": (F, "mean KL to the base, nats"),
            "broken": (F, "share of broken answers"),
            "chosen": (B, "one row of each method and cluster"),
        },
    ),
    "member_trials": Table(
        "tuning/members.parquet",
        {
            "member": (S, "member"),
            "layers": (S, "all | upper | last"),
            "strength": (F, "factor of the edit; 0 leaves the member as it is"),
            "objective": (F, "mean over users of J at their estimated weights, on select"),
            "kl": (F, "mean KL to the base, nats"),
            "broken": (F, "share of broken answers"),
            "chosen": (B, "one row of each member"),
        },
    ),
    "family_training": Table(
        "family/training.parquet",
        {
            "phase": (
                S,
                "supervised | rloo, or reached: where the training reached adapters.share",
            ),
            "step": (N, "from 1"),
            "loss": (F, "training loss, negative mean reward of an RLOO step, or 1 - share"),
        },
    ),
    "training": Table(
        "adapters/training.parquet",
        {
            "member": (S, "adapter"),
            "phase": (
                S,
                "supervised | rloo, or reached: where the training reached adapters.share",
            ),
            "step": (N, "from 1"),
            "loss": (F, "training loss, negative mean reward of an RLOO step, or 1 - share"),
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
            "logprob": (F, "of the answer under the member, nats"),
            "logprob_base": (F, "of the answer under the base, nats"),
        },
        {"reward_": "in [0, 1]"},
    ),
    "likelihoods": Table(
        "values/likelihoods.parquet",
        {
            "member": (S, "adapter"),
            "prompt_id": (S, "certify prompt"),
            "sample": (N, "rollout of the base"),
            "logprob": (F, "of that rollout under the member, nats"),
        },
    ),
    "routes": Table(
        "routes/routes.parquet",
        {
            "user_id": (S, "the user"),
            "member": (S, "member, or base"),
            "edit": (S, "directions: everyone's, a cluster's or a user's"),
            "strength": (F, "of the edit on this member, tuned on select; 0: none"),
            "layers": (S, "all | upper | last: the layers that the edit acts on"),
            "regret": (F, "f* - J at the estimated weights, on select"),
            "worst_regret": (F, "the largest regret over the corners of the user's interval"),
            "uncertain": (B, "worst_regret is above routes.max_regret"),
            "moved": (B, "routes.previous names another member for this user"),
            "robust": (S, "member whose worst regret within the user's interval is least"),
        },
    ),
    "baselines": Table(
        "baselines/baselines.parquet",
        {
            "method": (S, "prompt | retrieval | edit | ... | soup | per_user | dpo | sft"),
            "user_id": (S, "the user"),
            "policy": (S, "users with the same policy share its answers"),
            "prompt_id": (S, "test prompt"),
            "kl": (F, "mean KL to the base, nats"),
            "surprise": (F, "mean of an answer's nats per token under the base"),
            "broken": (F, "share of answers that are empty, cut off, an echo or a loop"),
        },
        {"reward_": "mean over answers"},
    ),
    "baseline_answers": Table(
        "baselines/answers.parquet",
        {
            "method": (S, "as in baselines.parquet"),
            "user_id": (S, "a public user"),
            "prompt_id": (S, "one of the first test prompts"),
            "response": (S, "the first answer"),
        },
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
            "surprise": (F, "nats per token under the base; null where it was not measured"),
            "broken": (F, "share of broken answers; null where it was not measured"),
        },
        {"reward_": "mean reward", "w_": "weight that judges"},
    ),
    "judged": Table(
        "evaluation/judged.parquet",
        {
            "judge": (S, "trait of the role judge"),
            "member": (S, "member"),
            "prompt_id": (S, "test prompt"),
            "reward": (F, "the judge's, mean over the member's answers"),
            "base": (F, "the same of the base's rollouts"),
            "own": (F, "w.r of the member's answers at the weights that it was trained for"),
            "own_base": (F, "the same of the base's rollouts"),
        },
    ),
    "revealed": Table(
        "evaluation/revealed.parquet",
        {
            "source": (S, "insight | pairs | history | estimate"),
            "trait": (S, "trait"),
            "r2": (F, "share of the true weight's variance told, cross-validated over users"),
            "users": (N, "users measured"),
        },
    ),
    "answers": Table(
        "evaluation/answers.parquet",
        {
            "method": (S, "base | single | portfolio | portfolio_robust | portfolio_edit"),
            "user_id": (S, "a public user"),
            "prompt_id": (S, "one of the first test prompts"),
            "response": (S, "the first answer"),
        },
    ),
    "utilities": Table(
        "evaluation/utilities.parquet",
        {
            "utility": (S, "linear | p0.5 | p0 | p-1 | worst"),
            "user_id": (S, "the user"),
            "group": (S, "seen | unseen | no_history"),
            "routed": (F, "utility of the member routed by the linear model"),
            "best": (F, "utility of the member that is best under this utility"),
            "loss": (F, "1 - routed / best"),
        },
    ),
}
