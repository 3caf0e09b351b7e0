"""What methods are worth to users: policies that many users share are asked more often.

Intervals are over users. They cannot know of the luck of answers that many users share, so there
must be little of it: a policy that serves many has about as many answers as they would have apart.
"""

from collections import Counter
from collections.abc import Mapping

import polars as pl

from palette import policies
from palette.core.editing import Edit
from palette.measuring import Policy, Quotes
from palette.params import Params

TIMES = (1, 4, 16)
"""How often a policy may be asked: as often as the last of these that its users are as many as.

So few, because a policy is measured anew where a user who comes makes it another of them.
"""
OWN = ("per_user", "sft", "dpo")
"""Methods whose adapters are single users' own."""


def times(users: int) -> int:
    """How often a policy is asked that so many users of one method share."""
    return max(number for number in TIMES if number <= max(users, 1))


def worth(
    params: Params,
    chosen: Mapping[str, Mapping[str, Policy]],
    prompts: pl.DataFrame,
    edits: Mapping[str, Edit],
    words: str,
    quotes: Quotes | None = None,
) -> pl.DataFrame:
    """`policies.worth` of every policy that some method gives to some user.

    Args:
        chosen: method → user → policy.
    """
    most: dict[Policy, int] = {}
    whose: dict[Policy, set[str]] = {}
    for method, of_user in chosen.items():
        for policy, users in Counter(of_user.values()).items():
            most[policy] = max(users, most.get(policy, 0))
        for user, policy in of_user.items():
            if policy.personal or (method in OWN and policy != Policy()):
                whose.setdefault(policy, set()).add(user)
    frames = []
    for number in reversed(TIMES):
        asked = {policy for policy, users in most.items() if times(users) == number}
        told = words if number == 1 else f"{words}: what {number} users or more share"
        samples = number * params.baselines.samples
        if asked:
            frames.append(
                policies.worth(params, asked, prompts, edits, told, samples, quotes, whose=whose)
            )
    return pl.concat(frames) if frames else pl.DataFrame(schema={"policy": pl.String})
