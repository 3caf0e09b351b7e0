"""`palette export`: what a run made, in the formats of those who serve or publish it.

palette export vllm served
palette export hub cards
palette export gguf --user u0007 u0007.gguf
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from palette.commands import completing, screen
from palette.errors import PaletteError

if TYPE_CHECKING:
    from palette.core.editing import Edit

Folder = Annotated[Path, typer.Argument(help="the folder to write")]
Force = Annotated[bool, typer.Option("--force", help="replace an earlier export there")]

export = typer.Typer(
    help='Write adapters for vLLM, model cards, or an edit for llama.cpp.\n\n'
    'Example: palette export vllm served',
    no_args_is_help=True,
)  # fmt: skip


@export.command()
def vllm(folder: Folder, force: Force = False) -> None:
    """Write the members as `vllm serve` takes them, with everyone's route.

    Edits are left out, as vLLM applies none: what that costs is said. PEFT
    must find in the written files the policies that were certified.
    routes.csv names users: it is for your own server.

    Example: palette export vllm served && served/serve.sh
    """
    from palette import stage
    from palette.exporting import finished
    from palette.exporting import vllm as exporting
    from palette.exporting.folder import whole
    from palette.lm.models import load_base
    from palette.params_file import load

    params = load()
    stage.prepare(params.runtime.threads)
    with whole(folder, force) as part:
        run = finished.read(params)
        manifest = exporting.write(run, load_base(params.runtime.device), part)
    same = manifest["checked"]
    print(
        f"wrote {folder}: {len(run.members)} adapters and the routes of {len(run.routes):,} users"
    )
    print(
        f"PEFT finds in them the policies that were certified: the log-probabilities of "
        f"{same['answers']} answers of each differ by {same['largest']:.1g} nats at most"
    )
    screen.say(manifest["certificate"])
    print(manifest["edits"]["sentence"])
    print(f"serve them with {folder / exporting.SERVE}")


@export.command()
def hub(folder: Folder, force: Force = False) -> None:
    """Write each member with a model card, as a model hub takes it.

    Nothing is uploaded, and nothing in it tells of a user.

    Example: palette export hub cards
    """
    from palette.exporting import finished
    from palette.exporting import hub as exporting
    from palette.exporting.folder import whole
    from palette.params_file import load

    with whole(folder, force) as part:
        run = finished.read(load())
        manifest = exporting.write(run, part)
    print(f"wrote {folder}: {len(run.members)} adapters, each with its model card")
    screen.say(manifest["certificate"])
    print("add a license and the language to the cards before you publish them")


@export.command()
def gguf(
    out: Annotated[
        Path, typer.Argument(dir_okay=False, help="the file to write, such as u0007.gguf")
    ],
    user: Annotated[
        str, typer.Option(help="a user_id, such as u0007", autocompletion=completing.users)
    ],
) -> None:
    """Write a user's tuned edit of the base as a GGUF control vector.

    It is for llama.cpp, which applies it by --control-vector.

    Example: palette export gguf --user u0007 u0007.gguf
    """
    from palette import control_vectors, edits, tuning
    from palette.lm.models import load_base
    from palette.params_file import load

    params = load()
    book, chosen = edits.read(params), tuning.chosen()
    tuned: dict[str, Edit] = {}
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
