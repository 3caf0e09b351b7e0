"""What the chain will ask of the base, counted from params.yaml and the inputs before anything runs.

Numbers of answers follow from the parameters. Their tokens are at most as many as counted: an answer
counts as if it were cut off. Where the work hangs on what only a run can tell (members of the plan,
clusters, users who come to share a policy), it is counted at its most. No stage may depend on this.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, comb

from palette import baselines, insights, shared
from palette.core.compute import Tokens
from palette.lm import generation
from palette.params import Adapters, Params
from palette.passes import reckon
from palette.schema import SPLITS

ROWS = generation.ROWS
USERS_AT_ONCE = insights.USERS_AT_ONCE
METHODS = 3
"""The tuned methods that have an edit for every user: the edit and its two controls."""
TENTHS = baselines.TENTHS
RUBRIC = 24
"""Tokens that a rubric puts around a question and an answer, about."""


@dataclass(frozen=True)
class Facts:
    """What is known, or supposed, of the inputs. Tokens are the base's own."""

    prompts: Mapping[str, int]
    """split → prompts"""
    users: int
    told: int
    """users with at least one row that they liked"""
    rows: int
    """rows of all histories"""
    question: float
    """tokens of a question as it is asked, on average"""
    row: float
    """tokens of a row of a history, on average: what was asked and what was said"""
    members: int
    """of the plan"""
    kept: int
    """of the portfolio"""
    clusters: int
    most: int | None = None
    """users whom the base is asked about at most; None: all"""

    @property
    def asked(self) -> int:
        """Users whom the base is asked about."""
        return self.told if self.most is None else min(self.told, self.most)

    @property
    def asked_rows(self) -> float:
        """Rows of their histories."""
        return self.rows * self.asked / max(self.told, 1)

    def of(self, users: int) -> "Facts":
        """The same for another number of users, whose histories are as long."""
        times = users / max(self.users, 1)
        return replace(
            self, users=users, told=round(times * self.told), rows=round(times * self.rows)
        )


def stages(params: Params, facts: Facts) -> dict[str, Tokens]:
    """Stage → what passes through the base; stages that ask nothing of it are left out."""
    found = {
        "insights": _insights(params, facts),
        "rollouts": _rollouts(params, facts),
        "rewards": Tokens(read=_judged(params, facts, sum(_sampled(params, facts).values()))),
        "preferences": Tokens(read=_judged(params, facts, _compared(params, facts))),
        "subspaces": _subspaces(params, facts),
        "tuning base": _trials(params, facts, _edits(params, facts)),
        "family": training(params.adapters, facts.question, _limit(params), len(params.trained)),
        "adapters": training(
            params.adapters, facts.question, _limit(params), len(params.trained), facts.members
        ),
        "values": _values(params, facts),
        "tuning members": _trials(params, facts, facts.kept * (1 + _tried(params, facts))),
        "baselines": _baselines(params, facts),
        "evaluation": _asked(params, facts, [(1, _served(params, facts))]),
    }
    unused = "adapters" if params.adapters.kind == "family" else "family"
    return {name: own for name, own in found.items() if name != unused and own != Tokens()}


def training(
    settings: Adapters, question: float, answer: float, traits: int, members: int = 1
) -> Tokens:
    """A training of both phases, its rehearsal included: of a family, or of so many members.

    Args:
        question, answer: tokens of each, on average.
    """
    own = reckon(settings, question, answer, traits, members)
    together = min(ROWS, settings.rloo_batch * members)
    return Tokens(own.answers, own.generated, own.read, 0.0, own.trained, together)


def _insights(params: Params, facts: Facts) -> Tokens:
    settings, a, q = params.insights, _limit(params), facts.question
    users, rows = facts.asked, facts.asked_rows
    tried = 2 * users * min(settings.candidates, facts.prompts["train"])
    contrasts = settings.contrasts * rows
    answers = 2 * users + tried + contrasts
    shown = min(settings.items * users, rows)
    read = 2 * (shown * facts.row + users * q) + tried * (q + a) + rows * q
    read += tried * (q + 2 * a)  # each answer under the other insight
    if settings.embedder == "base":
        read += rows * facts.row
    together = min(ROWS, USERS_AT_ONCE * max(1.0, tried / max(users, 1)))
    return Tokens(answers, answers * a, read, together=together)


def _rollouts(params: Params, facts: Facts) -> Tokens:
    answers, batches = sum(_sampled(params, facts).values()), 0
    samples = params.rollouts.samples.model_dump()
    for split, prompts in facts.prompts.items():
        batches += prompts * ceil(samples[split] / ROWS)
    read = batches * facts.question  # each batch of one prompt reads it once
    return Tokens(answers, answers * _limit(params), read, together=answers / max(batches, 1))


def _subspaces(params: Params, facts: Facts) -> Tokens:
    settings, whole = params.subspaces, facts.question + _limit(params)
    sides = 4 if settings.method.startswith("contrast") else 2
    read = facts.asked * (_limit(params) + sides * params.insights.pairs * whole)
    if settings.method == "style-vector":
        read += (facts.rows + params.insights.contrasts * facts.asked_rows) * whole
    rollouts = facts.prompts["train"] * settings.samples * whole
    return Tokens(read=read + rollouts, traced=rollouts if settings.method == "gradient" else 0.0)


def _values(params: Params, facts: Facts) -> Tokens:
    samples, a = params.values.samples.model_dump(), _limit(params)
    prompts = {split: facts.prompts[split] for split in SPLITS if split != "train"}
    answers = facts.members * sum(n * samples[split] for split, n in prompts.items())
    asked = facts.members * sum(prompts.values()) * facts.question
    again = facts.members * facts.prompts["certify"]  # the base's rollouts under every member
    read = 2 * asked + answers * a
    read += again * (facts.question + params.rollouts.samples.certify * a)
    return Tokens(answers, answers * a, read + _judged(params, facts, answers), together=ROWS)


def _edits(params: Params, facts: Facts) -> int:
    """Policies that are tried on the base, the identity among them."""
    units = METHODS * (1 if params.subspaces.groups == "everyone" else facts.clusters)
    return 1 + _strengths(params) + units * _tried(params, facts)


def _tried(params: Params, facts: Facts) -> int:
    """Edits that are tried of one method, for one cluster or member."""
    alone = params.subspaces.groups == "users"
    return _strengths(params) * (min(params.tuning.users, facts.users) if alone else 1)


def _trials(params: Params, facts: Facts, policies: int) -> Tokens:
    """Policies on the select prompts; all trials of an edit are asked together."""
    prompts, together = facts.prompts["select"], _strengths(params) * facts.prompts["select"]
    return _measured(params, facts, policies * prompts, params.tuning.samples, together)


def _strengths(params: Params) -> int:
    """Trials of one edit, or as many of an adapter of a user's own."""
    return len(params.tuning.strengths) * len(params.tuning.layers)


def _baselines(params: Params, facts: Facts) -> Tokens:
    """What each user would be given instead, and the adapters that some of it takes."""
    settings, whole = params.baselines, facts.question + _limit(params)
    traits, few = len(params.trained), min(params.baselines.per_user, facts.users)
    mixtures = min(facts.users, comb(TENTHS + traits - 1, traits - 1))
    mixed = 2 if params.adapters.kind == "family" else 1  # the soup, and the family itself
    apart = [
        (1, facts.asked), (1, facts.told),  # the insight, or a row of the history, in the prompt
        (METHODS, _groups(params, facts)), (mixed, mixtures), (3, few), (2, 1), (1, facts.clusters),
    ]  # fmt: skip
    own = _asked(params, facts, apart)
    tried = _trials(params, facts, 2 * few * (1 + _strengths(params)))
    phases = params.adapters.model_copy(
        update={"kind": "members", "steps": settings.training, "rloo_steps": 0}
    )
    corners = 0 if params.adapters.kind == "family" else traits  # the soup's
    made = training(phases, facts.question, _limit(params), traits, corners + few)
    pairs = few * settings.steps * params.insights.pairs
    return Tokens(
        own.answers + tried.answers, own.generated + tried.generated,
        own.read + tried.read + 2 * pairs * whole + facts.rows * facts.row, 0.0,
        made.trained + 3 * pairs * whole, own.together,
    )  # fmt: skip


def _served(params: Params, facts: Facts) -> int:
    """Policies of users' members with their edits."""
    return min(facts.users, _groups(params, facts) * max(1, facts.kept))


def _groups(params: Params, facts: Facts) -> int:
    """Groups that have an edit of their own."""
    return {"users": facts.users, "clusters": min(facts.clusters, facts.users), "everyone": 1}[
        params.subspaces.groups
    ]


def _asked(params: Params, facts: Facts, policies: Sequence[tuple[int, int]]) -> Tokens:
    """Policies on the test prompts, each as often as the users who come to share it make it be asked.

    Args:
        policies: methods, and policies of each, that all users share evenly.
    """
    prompts, every = facts.prompts["test"], []
    for methods, own in policies:
        samples = params.baselines.samples * shared.times(facts.users // max(own, 1))
        every.append(_measured(params, facts, methods * own * prompts, samples, prompts))
    return Tokens(
        sum(one.answers for one in every), sum(one.generated for one in every),
        sum(one.read for one in every), together=min(one.together for one in every),
    )  # fmt: skip


def _measured(params: Params, facts: Facts, asked: float, samples: int, prompts: int) -> Tokens:
    """Answers of policies, scored under the policy and under the base.

    Args:
        asked: prompts, over all policies.
        prompts: of the policies that are asked together.
    """
    answers, a = asked * samples, _limit(params)
    read = 3 * asked * facts.question + 2 * answers * a + _judged(params, facts, answers)
    return Tokens(answers, answers * a, read, together=min(ROWS, prompts * samples))


def _sampled(params: Params, facts: Facts) -> dict[str, int]:
    """Split → rollouts of the base."""
    samples = params.rollouts.samples.model_dump()
    return {split: n * samples[split] for split, n in facts.prompts.items()}


def _compared(params: Params, facts: Facts) -> float:
    """Answers that preferences scores: users' own, the base's beside them, pairs."""
    settings = params.insights
    return facts.rows + settings.contrasts * facts.asked_rows + 2 * settings.pairs * facts.asked


def _judged(params: Params, facts: Facts, answers: float) -> float:
    """Tokens that rubrics read of so many answers, in both orders."""
    rubrics = sum(trait.kind == "rubric" for trait in params.traits.values())
    return 2 * rubrics * answers * (facts.question + _limit(params) + RUBRIC)


def _limit(params: Params) -> int:
    return params.rollouts.max_new_tokens
