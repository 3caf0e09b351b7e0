"""What methods are worth to users: policies that many users share are asked more often.

Intervals are over users. They cannot know of the luck of answers that many users share, so there
must be little of it: a policy that serves many has as many answers as many users have apart.
"""

from collections import Counter
from collections.abc import Mapping

import polars as pl

from palette import policies
from palette.core.editing import Edit
from palette.params import Params
from palette.policies import Policy, Quotes

MANY = 4
"""Users of one method from which on a policy is asked more often."""
OWN = ("per_user", "sft", "dpo")
"""Methods whose adapters are single users' own."""
TIMES = 16
"""How much more often."""


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
    often = {policy for policy, users in most.items() if users >= MANY}
    samples = params.baselines.samples
    frames = [
        policies.worth(params, asked, prompts, edits, told, times * samples, quotes, whose=whose)
        for asked, told, times in (
            (often, f"{words}: those that many share", TIMES),
            (set(most) - often, words, 1),
        )
        if asked
    ]
    return pl.concat(frames) if frames else pl.DataFrame(schema={"policy": pl.String})
