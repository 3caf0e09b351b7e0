"""What routing by the linear model costs users whose utility is not linear; on the test prompts."""

import numpy as np
import polars as pl

from palette.core.envelope import Planes
from palette.core.utilities import UTILITIES, losses, utility


def compare(
    users: pl.DataFrame, weights: np.ndarray, routed: list[str], planes: Planes
) -> pl.DataFrame:
    """The table `utilities`: the routed member beside the best one, under every utility.

    Args:
        users: user_id and group, one row per user.
        weights: (users, traits), as they judge.
        routed: the member that serves each user.
        planes: the members and the base, on test.
    """
    place = np.array([planes.names.index(member) for member in routed], dtype=int)
    frames = []
    for name in UTILITIES:
        worth = utility(name, weights, planes)
        own, best = worth[np.arange(len(place)), place], worth.max(axis=1)
        columns = {"routed": own, "best": best, "loss": losses(own, best)}
        frames.append(
            users.select("user_id", "group").with_columns(
                pl.lit(name).alias("utility"),
                *(pl.Series(column, values) for column, values in columns.items()),
            )
        )
    return pl.concat(frames)
