"""Stage `subspaces`: personal and neutral directions per group and layer, from the pairs.

python -m palette.subspaces
"""

from pathlib import Path

import polars as pl
import torch
from torch import Tensor

from palette import stage, tables
from palette.core import directions as search
from palette.core.directions import Directions
from palette.lm import templates
from palette.lm.activations import mlp_outputs
from palette.lm.models import LanguageModel, load_base
from palette.params import Params, Subspaces

FOLDER = tables.DATA / "subspaces"
EVERYONE = "everyone"


def main(params: Params) -> None:
    pairs = tables.read("pairs")
    personal, neutral = activations(load_base(params.runtime.device), pairs)
    groups = members(pairs, tables.read("users"), params.subspaces.history)
    found, loss = find(personal, neutral, groups, params.subspaces)
    write(found, loss)


def activations(lm: LanguageModel, pairs: pl.DataFrame) -> tuple[Tensor, Tensor]:
    """MLP outputs at the last token of each question with its personal, and its neutral, answer.

    The paper puts the history in front of both answers; here the question alone is, as when the
    edit is used.

    Returns:
        Two tensors (layers, pairs, hidden), float32.
    """
    asked = [templates.encode(lm.tokenizer, templates.question(p)) for p in pairs["prompt"]]
    answers = pairs["personal"].to_list() + pairs["neutral"].to_list()
    written = [lm.tokenizer(text, add_special_tokens=False)["input_ids"] for text in answers]
    states = mlp_outputs(lm, [a + b for a, b in zip(asked * 2, written, strict=True)])
    return states[:, : len(pairs)], states[:, len(pairs) :]


def members(pairs: pl.DataFrame, users: pl.DataFrame, history: int) -> dict[str, list[int]]:
    """Rows of `pairs` by group: everyone seen, then each user with at least `history` rows."""
    rows = pairs.select("user_id").with_row_index("place").join(users, on="user_id", how="left")
    groups = {EVERYONE: rows.filter(pl.col("cohort") == "seen")["place"].to_list()}
    # A user who goes by the group's own name has the group's directions.
    own = rows.filter(pl.col("rows") >= history, pl.col("user_id") != EVERYONE)
    for (user,), places in own.sort("user_id", "place").group_by("user_id", maintain_order=True):
        groups[user] = places["place"].to_list()
    return groups


def find(
    personal: Tensor, neutral: Tensor, groups: dict[str, list[int]], settings: Subspaces
) -> tuple[Directions, Tensor]:
    """Directions of every group, and the probe's loss per group and layer.

    Groups of one size are searched together. A group without pairs has zero directions, which
    change nothing, and no layers.

    Args:
        personal, neutral: (layers, pairs, hidden).
        groups: name → rows of the pairs.
    """
    names = list(groups)
    depth, _, hidden = personal.shape
    theta_p, theta_n = (torch.zeros(len(names), depth, hidden) for _ in range(2))
    loss = torch.zeros(len(names), depth)
    for size in sorted({len(rows) for rows in groups.values()} - {0}):
        places = [place for place, name in enumerate(names) if len(groups[name]) == size]
        rows = torch.tensor([groups[names[place]] for place in places])  # (groups, size)
        p, n = personal[:, rows].transpose(0, 1), neutral[:, rows].transpose(0, 1)
        theta_p[places] = search.personal_direction(p)
        theta_n[places], loss[places] = search.neutral_direction(
            p, n, settings.restarts, settings.epochs, settings.seed
        )
    layers = tuple(
        search.choose_layers(own) if groups[name] else ()
        for name, own in zip(names, loss, strict=True)
    )
    return Directions(tuple(names), theta_p, theta_n, layers), loss


def write(found: Directions, loss: Tensor, folder: Path = FOLDER) -> None:
    """Write directions.safetensors and layers.json."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {"personal": found.personal.contiguous(), "neutral": found.neutral.contiguous()}
    save_file(tensors, folder / "directions.safetensors")
    rounded = [[round(value, 6) for value in row] for row in loss.tolist()]
    tables.write_json(folder / "layers.json", {
        "groups": list(found.groups),
        "layers": {g: list(layers) for g, layers in zip(found.groups, found.layers, strict=True)},
        "ccs_loss": dict(zip(found.groups, rounded, strict=True)),
    })  # fmt: skip


def read(folder: Path = FOLDER) -> Directions:
    """The directions that the stage wrote.

    Raises:
        PaletteError: they are missing.
    """
    from safetensors.torch import load_file

    index = tables.read_json(folder / "layers.json")
    tensors = load_file(folder / "directions.safetensors")
    layers = tuple(tuple(index["layers"][group]) for group in index["groups"])
    return Directions(tuple(index["groups"]), tensors["personal"], tensors["neutral"], layers)


if __name__ == "__main__":
    stage.run(main)
