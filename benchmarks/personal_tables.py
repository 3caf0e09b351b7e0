"""The tables of `chameleon.py`, measured in one seed's world."""

import contextlib
import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import worlds

from palette import arrays, edits, insights, own_adapters, policies, shared, subspaces, tables
from palette import tuning as stage_tuning
from palette.core.editing import Edit
from palette.fanout import fan_out
from palette.lm.models import cached_base
from palette.measuring import Policy
from palette.params import Params

METHODS = ("chameleon", "contrast", "contrast-svd", "style-vector", "gradient")
USERS, DRAWS, CONFIDENCE = 160, 2000, 0.95
CALIBRATING = 5  # times the steps of a first training
GROUP_SIZES, ITEMS = (1, 3, 10, 30, 100), (1, 3, 10)

Chosen = tuple[Mapping[str, Policy], Mapping[str, Edit]]
"""User → policy, and the edits that these name."""


@dataclass(frozen=True)
class World:
    """One seed's world with everything that edits are made of."""

    folder: Path
    """the working directory must be a copy of it while tables are measured"""
    params: Params

    @classmethod
    def make(cls, seed: int) -> "World":
        folder = worlds.SCRATCH.resolve() / f"chameleon{seed}"
        params = worlds.personal(seed, USERS, folder)
        return cls(folder, worlds.stored_at(params, folder / params.runtime.store))

    def tables(self, done: Collection[str]) -> Iterator[tuple[str, list[dict]]]:
        """Yield the name and the rows of every table that is not done."""
        made: dict[str, Callable[[], Iterator[dict]]] = {
            "parts": self.parts, "methods": self.methods, "group size": self.group_sizes,
            "history items": self.items, "equal time": self.equal_time,
        }  # fmt: skip
        for name, rows in made.items():
            if name not in done:
                print(f"{self.folder.name}: {name}", file=sys.stderr)
                with self.copied():
                    found = list(rows())
                yield name, found

    @contextlib.contextmanager
    def copied(self) -> Iterator[None]:
        """Work in a copy: tables that are changed on the way, and a kill, leave the folder as it is.

        Workers are let go: they stay in the folder where they began, with the base that lies there.
        """
        from joblib.externals.loky import get_reusable_executor

        with TemporaryDirectory(dir=self.folder.parent) as place:
            shutil.copytree(self.folder / tables.DATA, Path(place) / tables.DATA)
            with contextlib.chdir(place):
                try:
                    yield
                finally:
                    get_reusable_executor().shutdown(wait=True)

    def parts(self) -> Iterator[dict]:
        """The published rule, whole and in parts, as it is and with a tuned strength."""
        params = self.changed(method="chameleon", groups="everyone")
        subspaces.main(params)
        book = edits.read(params)
        personal = Edit.project(book.tensors["published.personal"])
        neutral = -Edit.project(book.tensors["published.neutral"])
        layers = book.layers[subspaces.EVERYONE]
        for name, edit in {
            "only personal": personal, "only neutral": neutral, "both": personal.then(neutral)
        }.items():  # fmt: skip
            yield from self.rows(name, self.shared(edit.on(layers)))
        yield from self.rows("both, tuned", self.tuned(params, book, "edit"))
        yield from self.rows("random directions, tuned", self.tuned(params, book, "edit_random"))

    def methods(self) -> Iterator[dict]:
        """Every way to find directions, for everyone and for each user."""
        for method, groups in product(METHODS, ("everyone", "users")):
            with self.timed(self.changed(method=method, groups=groups)) as (params, took):
                subspaces.main(params)
                chosen = self.tuned(params, edits.read(params), "edit")
                seconds = took()
            yield from self.rows(f"{method}, {groups}", chosen, seconds=seconds)

    def group_sizes(self) -> Iterator[dict]:
        """How many users' data the group's directions need; judged on users of no group of any size."""
        users = tables.read("users")
        seen = users.filter((pl.col("cohort") == "seen") & (pl.col("rows") > 0))["user_id"]
        drawn = seen.sort().sample(fraction=1, shuffle=True, seed=0)
        outside = set(self.users) - set(drawn.head(max(GROUP_SIZES)))
        for count in GROUP_SIZES:
            few = pl.col("user_id").is_in(drawn.head(count).implode())
            cohort = pl.when(few).then(pl.lit("seen")).otherwise(pl.lit("unseen"))
            tables.write("users", users.with_columns(cohort=cohort))
            for method in ("chameleon", "gradient"):
                params = self.changed(method=method, groups="everyone")
                subspaces.main(params)
                book = edits.read(params)
                if method == "chameleon":
                    chosen = self.shared(book.edit(self.users[0], "chameleon"))
                else:
                    chosen = self.tuned(params, book, "edit")
                yield from self.rows(f"{method}, {count} users", chosen, outside)

    def items(self) -> Iterator[dict]:
        """How many history rows an insight should be read from."""
        for items in ITEMS:
            changed = self.params.insights.model_copy(update={"items": items})
            params = self.params.model_copy(update={"insights": changed})
            insights.main(params)
            told = tables.read("insights").filter(kind="personal")
            prompted = dict(told.select("user_id", "insight").rows())
            prompts = {user: Policy(insight=prompted.get(user, "")) for user in self.users}
            yield from self.rows(f"prompt, {items} items", (prompts, {}))
            for method in ("chameleon", "contrast"):
                params = self.changed(method=method, groups="everyone")
                subspaces.main(params)
                book = edits.read(params)
                if method == "chameleon":
                    chosen = self.shared(book.edit(self.users[0], "chameleon"))
                else:
                    chosen = self.tuned(params, book, "edit")
                yield from self.rows(f"{method}, {items} items", chosen)

    def equal_time(self) -> Iterator[dict]:
        """DPO and SFT on a user's own pairs, for as long as all users' edits take together."""
        with self.timed(self.params) as (params, took):
            subspaces.main(params)
            chosen, made = self.tuned(params, edits.read(params), "edit")
            budget = took()
        users = own_adapters.few(self.params)
        own = {user: chosen[user] for user in users}
        yield from self.rows("edit, the same users", (own, made), seconds=budget)
        pairs, few = own_adapters.read_pairs(users), self.params.baselines.steps
        spent: dict[int, float] = {}
        # As the pipeline has it; more, which tells what a step takes; and in equal time.
        for steps in (few, CALIBRATING * few, None):
            steps = steps or within(budget, spent)
            baselines = self.params.baselines.model_copy(update={"steps": steps})
            changed = self.params.model_copy(update={"baselines": baselines})
            with self.timed(changed) as (params, took):
                own_adapters.train(params, pairs)
                spent[steps] = took() / (len(own_adapters.METHODS) * len(pairs))  # of one adapter
                preferred = own_adapters.preferred(params, users)
            for kind, of_user in preferred.items():
                yield from self.rows(f"{kind}, {steps} steps", (of_user, {}), seconds=spent[steps])

    def changed(self, **settings: str) -> Params:
        subspaces_ = self.params.subspaces.model_copy(update=settings)
        return self.params.model_copy(update={"subspaces": subspaces_})

    @property
    def users(self) -> list[str]:
        return tables.read("users")["user_id"].sort().to_list()

    def shared(self, edit: Edit) -> Chosen:
        """One edit for all users."""
        return dict.fromkeys(self.users, Policy(edit="shared")), {"shared": edit}

    def tuned(self, params: Params, book: edits.Book, method: str) -> Chosen:
        """Every user's policy, as strong and on such layers as is best for the user's cluster."""
        units = [u for u in stage_tuning.clusters(params, book) if u.method == method]
        chosen = {}
        for trials in stage_tuning.tune(params, book, units):
            row = trials.filter("chosen").row(0, named=True)
            chosen[method, row["cluster"]] = (row["strength"], row["layers"])
        made: dict[str, Edit] = {}
        return {u: stage_tuning.policy(book, u, method, chosen, made) for u in self.users}, made

    @contextlib.contextmanager
    def timed(self, params: Params) -> Iterator[tuple[Params, Callable[[], float]]]:
        """Params whose store is empty, and a clock; what workers need to begin is not counted."""
        items = [params.runtime.device] * params.runtime.workers
        list(fan_out(_begin, items, params.runtime, "waking workers"))
        with TemporaryDirectory() as store:
            started = time.perf_counter()
            yield worlds.stored_at(params, Path(store)), lambda: time.perf_counter() - started

    def rows(
        self, name: str, chosen: Chosen, among: Collection[str] | None = None,
        seconds: float | None = None,
    ) -> Iterator[dict]:  # fmt: skip
        """One row for seen users, and one for unseen ones; of those `among` whom to judge."""
        gains, room, cohort = self.gains(*chosen, among)
        for group in ("seen", "unseen"):
            own = cohort == group
            if own.any():
                share, low, high = interval(gains[own], room[own])
                yield {"row": name, "users": group, "count": int(own.sum()), "share": share,
                       "low": low, "high": high, "seconds": seconds}  # fmt: skip

    def gains(
        self, chosen: Mapping[str, Policy], made: Mapping[str, Edit], among: Collection[str] | None
    ) -> tuple[np.ndarray, ...]:
        """Gain over the base and room above it, per user with history; and the users' cohorts."""
        params = self.params
        if among is not None:
            chosen = {user: policy for user, policy in chosen.items() if user in among}
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


def interval(gain: np.ndarray, room: np.ndarray) -> tuple[float, float | None, float | None]:
    """Share, and its percentile interval over users."""
    users = len(gain)
    drawn = np.random.default_rng(0).multinomial(users, np.full(users, 1 / users), size=DRAWS)
    ends = np.array([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    low, high = np.quantile((drawn @ gain) / (drawn @ room), ends) if users > 1 else (None, None)
    return float(gain.sum() / room.sum()), low, high


def within(budget: float, spent: Mapping[int, float]) -> int:
    """Steps that take `budget` seconds, by what fewer took: to begin takes time of its own."""
    (few, begin), (more, later) = spent.items()
    return max(few, round(few + (budget - begin) * (more - few) / (later - begin)))


def _begin(device: str) -> None:
    cached_base(device)
