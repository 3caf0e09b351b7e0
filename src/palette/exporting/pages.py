"""What a person reads beside exported files: how to serve them, and a model card for each."""

from importlib import import_module
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from palette import tables
from palette.exporting import certified
from palette.exporting.finished import Finished, Member
from palette.params import Params

HERE = Path(__file__).parent
TAGS = ["lora", "palette", "personalization", "multi-objective"]


def serving(run: Finished, manifest: dict[str, Any], command: str, model: Any) -> str:
    """README.md of a folder for vLLM.

    Args:
        command: as a person types it.
        model: the base.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    return environment.get_template("serving.md.jinja").render(
        run=run, manifest=manifest, command=command,
        architecture=type(model).__name__, precision=str(model.dtype).removeprefix("torch."),
    )  # fmt: skip


def card(run: Finished, member: Member) -> ModelCard:
    """The model card of one member."""
    data = ModelCardData(
        base_model=run.base.hub_id, library_name="peft", pipeline_tag="text-generation", tags=TAGS
    )
    made: ModelCard = ModelCard.from_template(
        data, template_path=str(HERE / "card.md.jinja"), run=run, member=member,
        verdict=certified.verdict(run.portfolio), meanings=meanings(run.params),
        corners=corners(run.portfolio, member), prompts=prompts(),
    )  # fmt: skip
    made.text = made.text.rstrip() + "\n"
    return made


def meanings(params: Params) -> dict[str, str]:
    """Trait → what its module says that it rewards, with the run's parameters."""
    told = {}
    for name, trait in params.trained.items():
        said = (import_module(f"palette.traits.{trait.kind}").__doc__ or trait.kind).split("\n\n")[
            0
        ]
        own = ", ".join(f"{key} = {value}" for key, value in (trait.model_extra or {}).items())
        told[name] = " ".join(said.split()).replace("|", "\\|") + (f" ({own})" if own else "")
    return told


def corners(portfolio: dict[str, Any], member: Member) -> list[list[dict[str, float]]]:
    """The corners of every cell of weights in which a member serves."""
    return [cell["vertices"] for cell in portfolio["cells"] if cell["member"] == member.id]


def prompts() -> dict[str, int]:
    """Split → how many of the shared prompts it has."""
    return dict(tables.read("prompts")["split"].value_counts().sort("split").rows())
