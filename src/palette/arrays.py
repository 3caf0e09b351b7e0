"""From tables to arrays: the base's scored rollouts and the members' values, prompt by prompt."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd

import numpy as np
import polars as pl

from palette import tables
from palette.core.envelope import Planes
from palette.core.ideal import Ideal
from palette.core.mixture import mixture
from palette.errors import PaletteError
from palette.params import Params


@dataclass(frozen=True)
class Scored:
    """The base's rollouts for some splits' prompts, in the order of prompt_id."""

    prompts: pl.DataFrame
    """prompt_id, prompt, topic, split"""
    ideal: Ideal
    """f* from these rollouts, one row per prompt"""
    logprobs: np.ndarray
    """(prompts, samples): of these rollouts under the base, nats; 0 where there is no sample"""

    @property
    def topics(self) -> np.ndarray:
        return self.prompts["topic"].to_numpy()


def scored(params: Params, splits: Sequence[str]) -> Scored:
    """Read the base's rewards for all prompts of these splits.

    Raises:
        PaletteError: a split has no prompt, or a rollout has no score.
    """
    prompts = tables.read("prompts").filter(pl.col("split").is_in(list(splits))).sort("prompt_id")
    for split in splits:
        if split not in prompts["split"]:
            raise PaletteError(
                f"no prompt is in the split '{split}'; give prompts.file more topics"
            )
    names = [f"reward_{trait}" for trait in params.trait_names]
    rewards = tables.read_rewards(params.trait_names)
    rewards = rewards.join(prompts, on="prompt_id", how="semi").sort("prompt_id", "sample")
    if rewards.select(pl.any_horizontal(pl.col(names).is_null().any())).item():
        raise PaletteError("data/rewards does not score every rollout; run `dvc repro` again")
    parts = {key[0]: part for key, part in rewards.group_by("prompt_id", maintain_order=True)}
    lacking = [key for key in prompts["prompt_id"] if key not in parts or len(parts[key]) < 2]
    if lacking:
        raise PaletteError(
            f"prompt '{lacking[0]}' has fewer than two rollouts; raise rollouts.samples"
        )
    longest = max(len(part) for part in parts.values())
    values = np.zeros((len(prompts), longest, len(names)))
    log_weights = np.full((len(prompts), longest), -np.inf)
    logprobs = np.zeros((len(prompts), longest))
    for row, key in enumerate(prompts["prompt_id"]):
        part = parts[key]
        values[row, : len(part)] = part.select(names).to_numpy()
        log_weights[row, : len(part)] = 0
        logprobs[row, : len(part)] = part["logprob"]
    return Scored(prompts, Ideal(values, params.objective.beta, log_weights), logprobs)


@dataclass(frozen=True)
class Worths:
    """Mean rewards and costs of policies on each prompt, in the units of a reward."""

    names: tuple[str, ...]
    values: np.ndarray
    """(K, prompts, d)"""
    costs: np.ndarray
    """(K, prompts): β·KL"""

    @property
    def planes(self) -> Planes:
        """Means over the prompts."""
        return Planes(self.names, self.values.mean(axis=1), self.costs.mean(axis=1))


def worths(params: Params, on: Scored, members: Sequence[str]) -> Worths:
    """The base, then each member, on the prompts of `on`.

    The cost is β times the mean log-ratio of a member to the base over its answers. Of the cost alone
    the full-vocabulary KL is the better estimate; but near π*_w, where a member is routed, the log-ratio
    errs with the rewards, and `w·v − c` is known as well as from four times the answers.

    Raises:
        PaletteError: data/values lacks a member or a prompt.
    """
    names = [f"reward_{trait}" for trait in params.trait_names]
    answers = tables.read("values").with_columns(kl=pl.col("logprob") - pl.col("logprob_base"))
    place = on.prompts.select("prompt_id").with_row_index("place")
    answers = answers.join(place, on="prompt_id").sort("member", "place", "sample")
    values, costs = [on.ideal.base()], [np.zeros(len(on.prompts))]
    for member in members:
        own = answers.filter(member=member)
        counts = np.bincount(own["place"], minlength=len(on.prompts))
        if not counts.all():
            raise PaletteError(
                f"data/values lacks member '{member}' on some prompts; run `dvc repro` again"
            )
        # Polars' threads would add up parts of a group as they come: other bits each time.
        sums = np.add.reduceat(own.select(*names, "kl").to_numpy(), counts.cumsum() - counts)
        means = sums / counts[:, None]
        values.append(means[:, :-1])
        costs.append(params.objective.beta * means[:, -1])
    return Worths(("base", *members), np.array(values), np.array(costs))


def mixtures(params: Params, on: Scored, members: Sequence[str]) -> tuple[Ideal, ...]:
    """What to judge the base, then each member by: f* from the base's rollouts and its answers.

    Empty, so that the base's rollouts alone serve, where data/values/likelihoods.parquet does not
    exist, and where the numbers of rollouts and answers have no common divisor (`core/mixture.py`
    needs like blocks).

    Raises:
        PaletteError: the tables lack rows, or do not belong together.
    """
    path, count = tables.path("likelihoods"), len(on.prompts)
    if not members or not path.exists():
        return ()
    names = [f"reward_{trait}" for trait in params.trait_names]
    order = on.prompts.select("prompt_id").with_row_index()
    likelihoods, answers = (
        table.join(order, on="prompt_id").sort("index", "sample")
        for table in (tables.read("likelihoods"), tables.read("values"))
    )
    rollouts = on.ideal.rewards.shape[1]
    made = [on.ideal]
    for member in members:
        scored, own = likelihoods.filter(member=member), answers.filter(member=member)
        sizes = own.group_by("index").len()["len"].unique()
        if len(sizes) != 1:
            raise PaletteError(
                f"data/values has not as many answers of '{member}' to every prompt; run `dvc repro` "
                "again"
            )
        whole = len(scored) == on.ideal.counts.sum() == count * rollouts
        if not whole or scored["logprob"].is_null().any() or scored["logprob"].is_nan().any():
            raise PaletteError(
                f"{path} does not score every rollout under '{member}'; run `dvc repro` again"
            )
        if gcd(rollouts, sizes.item()) < 2:
            return ()
        rewards = own.select(names).to_numpy().reshape(count, -1, len(names))
        likely, at_base, at_member = (
            column.to_numpy().reshape(count, -1)
            for column in (scored["logprob"], own["logprob_base"], own["logprob"])
        )
        under_base, under_member = (on.logprobs, at_base), (likely, at_member)
        both = (on.ideal.rewards, rewards)
        made.append(mixture(both, under_base, under_member, on.ideal.beta))
    return tuple(made)
