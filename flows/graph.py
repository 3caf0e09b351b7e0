"""The stages as DVC knows them: which there are, what each needs, which flow each belongs to.

The grouping is declared once, as `meta: {flow: NAME}` of every stage in dvc.yaml.
"""

from dataclasses import dataclass
from pathlib import Path

from palette.errors import PaletteError

FLOWS = ("insights", "subspaces", "adapters", "portfolio")
"""The sub-flows, in the order in which the pipeline chains them."""


@dataclass(frozen=True)
class Stage:
    """A stage of dvc.yaml; `needs` are the names of the stages that it reads from directly."""

    name: str
    flow: str
    needs: tuple[str, ...]


def read_stages(root: Path) -> list[Stage]:
    """All stages, each after those that it needs, flow by flow.

    Raises:
        PaletteError: a stage has no flow or an unknown one, or needs a stage of a later flow.
    """
    import networkx as nx
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(root)) as repo:
            graph = repo.index.graph  # edges lead from a stage to what it needs
            order = [node for node in nx.dfs_postorder_nodes(graph) if node.cmd]
            stages = [
                Stage(
                    node.name, _flow(node), tuple(sorted(up.name for up in graph[node] if up.cmd))
                )
                for node in order
            ]
    except DvcException as error:
        raise PaletteError(f"DVC cannot read the pipeline in {root}: {error}") from error
    rank = {stage.name: FLOWS.index(stage.flow) for stage in stages}
    for stage in stages:
        for need in stage.needs:
            if rank[need] > rank[stage.name]:
                raise PaletteError(
                    f"stage '{stage.name}' of flow {stage.flow} needs '{need}' of a later flow: "
                    "mend meta.flow in dvc.yaml"
                )
    return sorted(stages, key=lambda stage: rank[stage.name])


def _flow(node) -> str:
    flow = (node.meta or {}).get("flow")
    if flow not in FLOWS:
        raise PaletteError(
            f"stage '{node.name}' has meta.flow {flow!r} in dvc.yaml: use one of {', '.join(FLOWS)}"
        )
    return flow
