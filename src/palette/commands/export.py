"""`palette export`: a user's edit as a GGUF control vector, for llama.cpp and what is built on it.

palette export --user u0007 u0007.gguf
llama-server -m BASE.gguf --control-vector u0007.gguf
"""

from pathlib import Path
from typing import Annotated

import typer

from palette.errors import PaletteError


def export(
    out: Annotated[
        Path, typer.Argument(dir_okay=False, help="the file to write, such as u0007.gguf")
    ],
    user: Annotated[str, typer.Option(help="a user_id, such as u0007")],
) -> None:
    """Write a user's tuned edit of the base as a GGUF control vector."""
    from palette import control_vectors, edits, tuning
    from palette.lm.models import load_base
    from palette.params_file import load

    params = load()
    book, chosen, tuned = edits.read(params), tuning.chosen(), {}
    unit = "edit", book.cluster(user)
    if chosen.get(unit, (0, ""))[1] == "all":
        chosen[unit] = tuning.above_the_first_layer(unit[1])
        print(f"llama.cpp adds nothing after layer 0: the best trial on layers {chosen[unit][1]}")
    policy = tuning.policy(book, user, "edit", chosen, tuned)
    if not policy.edit:
        raise PaletteError(
            f"no strength of an edit helps the cluster of '{user}', so there is nothing to export; "
            "the base alone serves it as well, or try others in tuning.strengths"
        )
    directions = control_vectors.control_vector(tuned[policy.edit])
    lm = load_base(params.runtime.device)
    control_vectors.require_plain_residual(lm.model, list(directions))
    control_vectors.write(out, directions, lm.model.config.get_text_config().model_type)
    layers = ", ".join(map(str, directions))
    print(f"wrote {out}: the edit of {user} on layers {layers}, its strength included")
    print(f"llama-server -m BASE.gguf --control-vector {out}")
