"""What every user is served: the routed member with the edit that routes name."""

from dataclasses import dataclass

import polars as pl
import pytest
import torch

from palette import served, tables
from palette.core.editing import Edit
from palette.core.tuning import layer_set
from palette.measuring import Policy
from palette.params import Params

PARAMS = Params.model_validate({"traits": {"brevity": {"kind": "brevity"}}})
GROUPS = {"ann": "c0", "bob": "c0", "cy": "cy", "dot": "c1", "eve": "c1"}
FUN = (("data/adapters/fun", 1.0),)


@dataclass
class Book:
    """What `palette.edits` promises; an edit shifts by its group's length less the member's weight."""

    depth: int = 3

    def group(self, user: str) -> str:
        return GROUPS[user]

    def edit(self, user, method="edit", reference=None, layers="all") -> Edit:
        assert method == "edit"
        away = sum((reference or {}).values())
        shift = Edit.add(torch.full((3, 4), len(self.group(user)) * 10.0 - away))
        return shift.on(layer_set(layers, 3))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(served.edits, "read", lambda params: Book())
    members = [{"id": "fun", "weights": {"brevity": 0.25, "humor": 0.5}}, {"id": "brief",
               "weights": {"brevity": 1.0}}]  # fmt: skip
    tables.write_json(tables.DATA / "portfolio" / "portfolio.json", {"members": members})


def write_routes(rows: dict[str, tuple[str, float, str]]) -> None:
    frame = pl.DataFrame(
        [
            {"user_id": user, "member": m, "edit": GROUPS[user], "strength": s, "layers": layers}
            for user, (m, s, layers) in rows.items()
        ]
    )
    rest = {"regret": 0.0, "worst_regret": 0.0, "uncertain": False, "moved": False, "robust": "fun"}
    tables.write("routes", frame.with_columns(**{k: pl.lit(v) for k, v in rest.items()}))


def test_who_has_one_group_member_and_strength_shares_a_policy(folder):
    write_routes({
        "ann": ("fun", 0.5, "all"), "bob": ("fun", 0.5, "all"), "cy": ("fun", 0.5, "all"),
        "dot": ("base", 0.5, "all"), "eve": ("base", 0.25, "last"),
    })  # fmt: skip
    chosen, needed = served.policies(PARAMS)
    assert chosen["ann"] == chosen["bob"] == Policy(FUN, "edit|c0|fun|all|0.5")
    assert chosen["dot"] == Policy(edit="edit|c1|base|all|0.5")
    assert len(set(chosen.values())) == 4
    assert {policy.edit for policy in chosen.values()} == set(needed)


def test_an_edit_on_a_member_goes_from_its_weights_and_on_the_base_from_nothing(folder):
    write_routes({
        "ann": ("fun", 0.5, "all"), "bob": ("brief", 2.0, "last"), "dot": ("base", 1.0, "upper"),
    })  # fmt: skip
    chosen, needed = served.policies(PARAMS)
    shifts = {user: needed[policy.edit].shift[:, 0].tolist() for user, policy in chosen.items()}
    assert shifts["ann"] == [(20 - 0.75) * 0.5] * 3
    assert shifts["bob"] == [0, 0, (20 - 1) * 2]
    assert shifts["dot"] == [0, 20, 20]


def test_strength_zero_leaves_the_member_or_the_base_as_it_is(folder):
    write_routes({"ann": ("fun", 0.0, "all"), "cy": ("base", 0.0, "all")})
    chosen, needed = served.policies(PARAMS)
    assert chosen == {"ann": Policy(FUN), "cy": Policy()} and not needed
