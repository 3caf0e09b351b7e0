"""CHAMELEON's tables in shape, on the sandbox: what of the published edit helps whom, beside ours.

    .venv/bin/python benchmarks/chameleon.py             # what results/chameleon.csv lacks; three seeds
    .venv/bin/python benchmarks/chameleon.py --seeds 0   # one
    .venv/bin/python benchmarks/chameleon.py --fresh     # all anew

Worth is a share: the mean gain of J over the base on test prompts, under the users' true weights,
divided by the mean gain that is possible. Intervals are over users. Whatever is tuned is tuned on
select prompts, for seen users' estimated weights, with the same trials for everyone.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import typer
import worlds
from rich.console import Console
from rich.table import Table

from palette import arrays, edits, insights, own_adapters, policies, shared, subspaces, tables
from palette import tuning as stage_tuning
from palette.core.editing import Edit
from palette.params import Params
from palette.policies import Policy

RESULTS = Path(__file__).parent / "results" / "chameleon.csv"
SEEDS = (0, 1, 2)
USERS, DRAWS, CONFIDENCE = 160, 2000, 0.95
GROUP_SIZES, ITEMS = (1, 3, 10, 30, 100), (1, 2, 4, 7, 10)
SCHEMA = {
    "seed": pl.Int64, "table": pl.String, "row": pl.String, "users": pl.String,
    "share": pl.Float64, "low": pl.Float64, "high": pl.Float64, "seconds": pl.Float64,
}  # fmt: skip


def main(
    seeds: list[int] = typer.Option(SEEDS, help="of the sandbox; each trains a base once"),  # noqa: B008
    fresh: bool = typer.Option(False, help="measure again what the table has"),
) -> None:
    table = pl.DataFrame(schema=SCHEMA)
    if RESULTS.exists() and not fresh:
        table = pl.read_csv(RESULTS, schema=SCHEMA)
    for seed in seeds:
        done = set(table.filter(seed=seed)["table"])
        for name, rows in World(seed).tables(done):
            frame = pl.DataFrame([{"seed": seed, "table": name, **row} for row in rows], SCHEMA)
            table = pl.concat([table, frame])
            table.write_csv(RESULTS, float_precision=4)  # at once: the rest may be cut short
    show(table)


class World:
    """One seed's world with everything that edits are made of; its folder is the working directory."""

    def __init__(self, seed: int):
        self.folder = worlds.SCRATCH.resolve() / f"chameleon{seed}"
        self.params = worlds.personal(seed, USERS, self.folder)

    def tables(self, done: set[str]) -> Iterator[tuple[str, list[dict]]]:
        """Yield the name and the rows of every table that is not done."""
        made: dict[str, Callable[[], Iterator[dict]]] = {
            "parts": self.parts, "methods": self.methods, "group size": self.group_sizes,
            "history items": self.items, "equal time": self.equal_time,
        }  # fmt: skip
        for name, rows in made.items():
            if name not in done:
                print(f"{self.folder.name}: {name}", file=sys.stderr)
                with contextlib.chdir(self.folder):
                    yield name, list(rows())

    def parts(self) -> Iterator[dict]:
        """The published rule, whole and in parts, as it is and with a tuned strength."""
        subspaces.main(self.params)
        book = edits.read(self.params)
        personal = Edit.project(book.tensors["published.personal"])
        neutral = -Edit.project(book.tensors["published.neutral"])
        layers = book.layers[subspaces.EVERYONE]
        for name, edit in {
            "only personal": personal, "only neutral": neutral, "both": personal.then(neutral)
        }.items():  # fmt: skip
            yield from self.rows(name, dict.fromkeys(self.users, edit.on(layers)))
        yield from self.rows("both, tuned", *self.tuned(book, "chameleon_tuned"))
        yield from self.rows("random directions, tuned", *self.tuned(book, "edit_random"))

    def methods(self) -> Iterator[dict]:
        """Every way to find directions, for everyone, for clusters, and for each user."""
        for method in ("chameleon", "contrast", "contrast-svd", "style-vector", "gradient"):
            for groups in ("everyone", "clusters", "users"):
                started = time.perf_counter()
                params = self.changed(method=method, groups=groups)
                subspaces.main(params)
                chosen = self.tuned(edits.read(params), "edit", params)
                seconds = time.perf_counter() - started
                yield from self.rows(f"{method}, {groups}", *chosen, seconds=seconds)

    def group_sizes(self) -> Iterator[dict]:
        """How many users' data the group's directions need; judged on users of no group."""
        users = tables.read("users")
        seen = users.filter((pl.col("cohort") == "seen") & (pl.col("rows") > 0))["user_id"]
        drawn = seen.sample(fraction=1, shuffle=True, seed=0)
        for count in GROUP_SIZES:
            few = pl.col("user_id").is_in(drawn.head(count).implode())
            cohort = pl.when(few).then(pl.lit("seen")).otherwise(pl.lit("unseen"))
            tables.write("users", users.with_columns(cohort=cohort))
            try:
                for method in ("chameleon", "gradient"):
                    params = self.changed(method=method, groups="everyone")
                    subspaces.main(params)
                    book = edits.read(params)
                    if method == "chameleon":
                        edit = book.edit(self.users[0], "chameleon")
                        chosen = (dict.fromkeys(self.users, edit),)
                    else:
                        chosen = self.tuned(book, "edit", params)
                    rows = self.rows(f"{method}, {count} users", *chosen)
                    yield from (row for row in rows if row["users"] == "unseen")
            finally:
                tables.write("users", users)

    def items(self) -> Iterator[dict]:
        """How many history rows an insight should be read from."""
        kept = {name: tables.read(name) for name in ("insights", "pairs", "contrasts", "dropped")}
        try:
            for items in ITEMS:
                changed = self.params.insights.model_copy(update={"items": items})
                params = self.params.model_copy(update={"insights": changed})
                insights.main(params)
                told = tables.read("insights").filter(kind="personal")
                prompted = dict(told.select("user_id", "insight").rows())
                chosen = {user: Policy(insight=prompted.get(user, "")) for user in self.users}
                yield from self.rows(f"prompt, {items} items", chosen)
                for method, tune in (("chameleon", False), ("contrast", True)):
                    params = self.changed(method=method, groups="everyone")
                    subspaces.main(params)
                    book = edits.read(params)
                    edit = dict.fromkeys(self.users, book.edit(self.users[0], "chameleon"))
                    tuned = self.tuned(book, "edit", params) if tune else (edit,)
                    yield from self.rows(f"{method}, {items} items", *tuned)
        finally:
            for name, frame in kept.items():
                tables.write(name, frame)

    def equal_time(self) -> Iterator[dict]:
        """DPO and SFT on a user's own pairs, for as long as all users' edits take together."""
        started = time.perf_counter()
        subspaces.main(self.params)
        book = edits.read(self.params)
        chosen, made = self.tuned(book, "edit")
        budget = time.perf_counter() - started
        users = own_adapters.few(self.params)
        steps, took = self.params.baselines.steps, budget
        for _ in range(2):  # as the pipeline has it, and then for as long as all edits took
            steps = max(steps, int(steps * budget / took))
            params = self.params.model_copy(
                update={"baselines": self.params.baselines.model_copy(update={"steps": steps})}
            )
            started = time.perf_counter()
            own_adapters.train(params, own_adapters.read_pairs(users))
            took = (time.perf_counter() - started) / (2 * len(users))  # of one adapter
            for kind, of_user in own_adapters.preferred(params, users).items():
                yield from self.rows(f"{kind}, {steps} steps", of_user, seconds=took)
        own = {user: chosen[user] for user in users}
        yield from self.rows("edit, the same users", own, made, seconds=budget)

    def changed(self, **settings: str) -> Params:
        subspaces_ = self.params.subspaces.model_copy(update=settings)
        return self.params.model_copy(update={"subspaces": subspaces_})

    @property
    def users(self) -> list[str]:
        return tables.read("users")["user_id"].sort().to_list()

    def tuned(
        self, book: edits.Book, method: str, params: Params | None = None
    ) -> tuple[dict[str, Policy], dict[str, Edit]]:
        """User → tuned policy, and the edits that they name."""
        params = params or self.params
        units = [u for u in stage_tuning.clusters(params, book) if u.method == method]
        chosen = {}
        for trials in stage_tuning.tune(params, book, units):
            row = trials.filter("chosen").row(0, named=True)
            chosen[method, row["cluster"]] = (row["strength"], row["layers"])
        made: dict[str, Edit] = {}
        return {u: stage_tuning.policy(book, u, method, chosen, made) for u in self.users}, made

    def rows(
        self,
        name: str,
        chosen: dict,
        made: dict[str, Edit] | None = None,
        seconds: float | None = None,
    ) -> Iterator[dict]:
        """One row for seen users, and one for unseen ones."""
        if any(isinstance(policy, Edit) for policy in chosen.values()):
            made = {name: next(iter(chosen.values()))}  # one edit for all
            chosen = dict.fromkeys(chosen, Policy(edit=name))
        gains, room, cohort = self.gains(chosen, made or {})
        for group in ("seen", "unseen"):
            own = cohort == group
            if own.any():
                share, low, high = interval(gains[own], room[own])
                yield {"row": name, "users": group, "share": share, "low": low, "high": high,
                       "seconds": seconds}  # fmt: skip

    def gains(self, chosen: dict[str, Policy], made: dict[str, Edit]) -> tuple[np.ndarray, ...]:
        """Gain over the base and room above it, per user with history; and the users' cohorts."""
        params = self.params
        test = arrays.scored(params, ["test"])
        values = shared.worth(params, {"measured": chosen}, test.prompts, made, "test prompts")
        told = policies.assign(chosen, values, "measured")
        names = [f"reward_{name}" for name in params.trait_names]
        people = (
            tables.read("users").filter(pl.col("rows") > 0).join(tables.read("hidden"), on="user_id")
            .join(told.group_by("user_id").agg(pl.col("kl", *names).mean()), on="user_id")
            .sort("user_id")
        )  # fmt: skip
        weights = people.select(f"w_{name}" for name in params.trait_names).to_numpy()
        base = weights @ test.ideal.base().mean(axis=0)
        rewards = (people.select(names).to_numpy() * weights).sum(axis=1)
        gain = rewards - params.objective.beta * people["kl"].to_numpy() - base
        unedited = np.array([chosen[user] == Policy() for user in people["user_id"]])
        gain[unedited] = 0.0  # the noise of a few more answers of the base is no gain
        room = test.ideal.value(weights).mean(axis=1) - base
        return gain, room, people["cohort"].to_numpy()


def interval(gain: np.ndarray, room: np.ndarray) -> tuple[float, float, float]:
    """Share, and its percentile interval over users."""
    users = len(gain)
    drawn = np.random.default_rng(0).multinomial(users, np.full(users, 1 / users), size=DRAWS)
    ends = np.array([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    low, high = np.quantile((drawn @ gain) / (drawn @ room), ends) if users > 1 else (None, None)
    return float(gain.sum() / room.sum()), low, high


def show(table: pl.DataFrame) -> None:
    for name in table["table"].unique(maintain_order=True):
        shown = Table("row", "users", *map(str, table["seed"].unique().sort()), title=name)
        rows = table.filter(pl.col("table") == name)
        for (row, users), frame in rows.group_by("row", "users", maintain_order=True):
            shown.add_row(row, users, *(
                f"{r['share']:.2f}" + (f" ({r['low']:.2f}–{r['high']:.2f})" if r["low"] is not None else "")
                for r in frame.sort("seed").iter_rows(named=True)
            ))  # fmt: skip
        Console(width=120).print(shown)


if __name__ == "__main__":
    typer.run(main)
