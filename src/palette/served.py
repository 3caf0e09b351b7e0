"""What every user is served in the end: the routed member together with the user's edit."""

from palette import edits, tables, tuning
from palette.core.editing import Edit
from palette.measuring import Policy
from palette.params import Params


def policies(params: Params) -> tuple[dict[str, Policy], dict[str, Edit]]:
    """User → policy, as the table `routes` has it, and the edits by the names in the policies.

    Users of one group who share a member share a policy. Nothing is left of an edit of strength 0.
    """
    book = edits.read(params)
    portfolio = tables.read_json(tables.DATA / "portfolio" / "portfolio.json")
    weights = {member["id"]: member["weights"] for member in portfolio["members"]}
    columns = "user_id", "member", "strength", "layers"
    needed: dict[str, Edit] = {}
    chosen = {
        user: tuning.edited(
            book, user, "edit", (strength, layers), needed, member, weights.get(member)
        )
        for user, member, strength, layers in tables.read("routes").select(columns).iter_rows()
    }
    return chosen, needed
