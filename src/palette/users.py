"""Stage users: a histories file, or the sandbox's own rows → validated tables.

    python -m palette.users

Writes users, histories and rejected (each bad row and why); hidden (the true weights) has rows in
the sandbox only.
"""

import polars as pl

from palette import forgotten, stage, tables
from palette.errors import PaletteError
from palette.histories import read_histories, validate, without
from palette.params import Params


def main(params: Params) -> None:
    rows, hidden = read(params)
    gone = forgotten.read()
    valid = validate(without(rows, gone), params.users.unseen)
    if valid.users.is_empty():
        raise PaletteError(
            f"no row of {params.users.file} can be used, the first since {valid.rejected['reason'][0]}: "
            "`palette users check` says more"
        )
    for name in ("users", "histories", "rejected"):
        tables.write(name, getattr(valid, name))
    tables.write("hidden", without(hidden, gone))
    print(
        f"users: {len(valid.users)} users, {len(valid.histories)} rows kept, "
        f"{len(valid.rejected)} rejected"
    )


def read(params: Params) -> tuple[pl.DataFrame, pl.DataFrame]:
    """History rows as text, and the hidden weights of their users where they are known."""
    from palette.sandbox import people, world

    if params.users.file:
        return read_histories(params.users.file), tables.empty("hidden", world.TRAITS)
    return people.histories(params.sandbox)


if __name__ == "__main__":
    stage.run(main)
