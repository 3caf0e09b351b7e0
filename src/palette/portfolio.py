"""Keep the fewest trained members that hold on select, fix their cells there, judge on certify.

python -m palette.portfolio   # values, rewards, plan → data/portfolio/portfolio.json
"""

import hashlib
from pathlib import Path

from palette import arrays, stage, tables
from palette.certificates import Judgement, Portfolio, describe, sealed, trained, unbounded
from palette.core.certificate import confidence_of_look, verdict
from palette.core.envelope import cells, pairs
from palette.core.pruning import Bench, prune
from palette.core.region import Region
from palette.core.repair import Mend, mend
from palette.params import Params

PORTFOLIO = Path("portfolio/portfolio.json")
PLAN = Path("plan/plan.json")


def main(params: Params) -> None:
    plan = tables.read_json(tables.DATA / PLAN)
    select, certify = (read_bench(params, plan, split) for split in ("select", "certify"))
    looks = plan["looks"]
    portfolio = keep(params, select, looks)
    judgement = judge(params, portfolio, certify, looks)
    remedy = None if judgement.verdict.passed else repair(params, plan, portfolio, select)
    content = describe(params, plan, portfolio, judgement, certify, remedy) | provenance(params)
    tables.write_json(tables.DATA / PORTFOLIO, sealed(content))


def read_bench(params: Params, plan: dict, split: str) -> Bench:
    """The base and all trained members on one split's prompts.

    On certify each member is judged by its own mixture of samples.
    """
    rollouts = arrays.scored(params, [split])
    names = [member["id"] for member in plan["members"]]
    worths = arrays.worths(params, rollouts, names)
    mixtures = arrays.mixtures(params, rollouts, names) if split == "certify" else ()
    return Bench(
        worths.names, rollouts.ideal, worths.values, worths.costs, rollouts.topics, mixtures
    )


def keep(params: Params, select: Bench, looks: int) -> Portfolio:
    """Prune, and cut the region into the cells of what is left, by select alone."""
    asked, region = params.portfolio, Region(tuple(params.floor))
    confidence = confidence_of_look(asked.confidence, looks)
    pruned = prune(
        select, region, asked.epsilon, asked.delta, confidence, asked.bootstrap, asked.seed
    )
    bench = select.take((0, *pruned.members))
    return Portfolio(bench, region, cells(bench.planes, region), pruned)


def judge(params: Params, portfolio: Portfolio, certify: Bench, looks: int) -> Judgement:
    """The verdict on certify over the cells that select fixed."""
    asked = params.portfolio
    weights, members = pairs(portfolio.cells)
    kept = certify.take(tuple(certify.names.index(name) for name in portfolio.bench.names))
    evidence = kept.evidence(weights, members)
    confidence = confidence_of_look(asked.confidence, looks)
    found = verdict(evidence, asked.epsilon, asked.delta, confidence, asked.bootstrap, asked.seed)
    return Judgement(
        found,
        weights,
        members,
        kept.thin(weights, members),
        kept.unseen(weights, evidence),
        mixed=bool(kept.mixtures),
        unbounded=unbounded(evidence, found),
        looks=looks,
    )


def repair(params: Params, plan: dict, portfolio: Portfolio, select: Bench) -> Mend:
    """The weights that would mend the portfolio most; certify has no part in it."""
    asked, pruned = params.portfolio, portfolio.pruned
    return mend(
        select, pruned.members, portfolio.region, asked.epsilon, asked.delta, pruned.tightness,
        trained(plan), asked.mend,
    )  # fmt: skip


def provenance(params: Params) -> dict[str, dict[str, str]]:
    """sha256 of every file that the portfolio came from."""
    names = ("prompts", "rollouts", "values", "likelihoods")
    files = [tables.path(name) for name in names if tables.path(name).exists()]
    files += [tables.path("rewards", trait) for trait in params.trait_names]
    files.append(tables.DATA / PLAN)
    digest = {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    return {"provenance": digest}


if __name__ == "__main__":
    stage.run(main)
