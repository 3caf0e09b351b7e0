"""Stage users: a histories file, or the sandbox's own rows → validated tables.

    python -m palette.users

Writes users, histories and rejected (each bad row and why); hidden (the true weights) has rows in
the sandbox only. Rows pass part by part, each of whole users, so that a file may be larger than memory.
"""

from collections.abc import Iterable

import polars as pl

from palette import forgotten, stage, tables
from palette.by_user import parts
from palette.errors import PaletteError
from palette.histories import read_histories_in_batches, validate, without
from palette.params import Params


def main(params: Params) -> None:
    batches, hidden = read(params)
    gone = forgotten.read()
    users = rows = 0
    bad = [tables.empty("rejected")]
    with tables.writing("users") as add_users, tables.writing("histories") as add_rows:
        for part in parts(without(batch, gone) for batch in batches):
            valid = validate(part, params.users.unseen)
            add_users(valid.users)
            add_rows(valid.histories)
            bad.append(valid.rejected)
            users, rows = users + len(valid.users), rows + len(valid.histories)
        rejected = pl.concat(bad).sort("source_row", maintain_order=True)
        if not users:
            why = f", the first since {rejected['reason'][0]}" if len(rejected) else ""
            raise PaletteError(
                f"no row of {params.users.file} can be used{why}: `palette users check` says more"
            )
    tables.write("rejected", rejected)
    tables.write("hidden", without(hidden, gone))
    print(f"users: {users} users, {rows} rows kept, {len(rejected)} rejected")


def read(params: Params) -> tuple[Iterable[pl.DataFrame], pl.DataFrame]:
    """History rows as text, and the hidden weights of their users where they are known."""
    from palette.sandbox import people, world

    if params.users.file:
        empty = tables.empty("hidden", world.TRAITS)
        return read_histories_in_batches(params.users.file), empty
    rows, hidden = people.histories(params.sandbox)
    return [rows.with_columns(source_row=pl.int_range(pl.len(), dtype=pl.Int64))], hidden


if __name__ == "__main__":
    stage.run(main)
