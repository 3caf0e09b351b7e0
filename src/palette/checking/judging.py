"""The verdict again, from certify: the point estimate, the upper bound, and what follows from them."""

import numpy as np

from palette.checking.branching import least_epsilon
from palette.checking.mixtures import Mixture
from palette.checking.resampling import Resampled, Upper, our_draws, stray, their_draws
from palette.checking.sources import Planes, Split
from palette.checking.stated import Ledger, Stated

SOLVED = 1e-5  # of ε: two ways of solving for it by the same draws differ by less
HOLDS = 1e-6  # of w·r: a bound that is no larger counts as 0 at the ε that was solved for


def judge(
    ledger: Ledger,
    stated: Stated,
    plan: dict,
    certify: Split,
    judging: Planes,
    judged_by: dict[str, Mixture],
) -> Upper:
    """Compare what `certificate`, `worst`, `passed`, `thin` and `mend` say; our own upper bound."""
    content, looks = stated.content, plan["looks"]
    confidence = 1 - (1 - content["confidence"]) / 2 ** (looks - 1)
    ledger.same(("certificate", "looks"), looks)
    ledger.close(("certificate", "confidence"), confidence)
    ledger.same(("certificate", "prompts"), len(certify.topics))
    ledger.same(("certificate", "topics"), len(set(certify.topics)))

    weights, members = stated.pairs
    at_worst = stated.weights(content["worst"]["weights"])
    weights, members = np.vstack([weights, at_worst]), [*members, content["worst"]["member"]]
    ideal, worth = (np.empty((len(weights), len(certify.topics))) for _ in range(2))
    thin = 0.0
    for name in sorted(set(members)):
        own = np.array([member == name for member in members])
        ideal[own] = judged_by[name].upward(weights[own])
        worth[own] = judging.of_prompts(name, weights[own])
        own[-1] = False  # the worst is one of the pairs again
        if own.any():
            thin = max(thin, float(judged_by[name].thin(weights[own]).max()))
    best, reached, delta = ideal.mean(axis=1), worth.mean(axis=1), content["delta"]
    points = least_epsilon(best - reached - delta, best)
    ledger.close(("certificate", "epsilon_point"), points[:-1].max())
    listed = np.abs(weights[:-1] - at_worst).max(axis=1) <= 1e-9
    listed &= np.array(members[:-1]) == members[-1]
    ledger.differ("worst.weights", "the worst corner", "no corner of its cell", not listed.any())
    ledger.differ(
        "worst.weights",
        f"epsilon {points[-1]:.7g}",
        f"{points[:-1].max():.7g} elsewhere",
        points[-1] < points[:-1].max() - 1e-6,
    )
    ledger.close(("worst", "additive"), best[-1] - reached[-1])
    ledger.close(("worst", "multiplicative"), 1 - reached[-1] / best[-1] if best[-1] > 0 else None)
    ledger.close(("thin",), thin)

    told, topics = content["certificate"], certify.topics
    theirs = Resampled(topics, confidence, their_draws(topics, told["draws"], told["seed"]))
    ours, noise = Resampled(topics, confidence, our_draws(topics)), stray(confidence, told["draws"])
    uppers = []
    for key, pairs in (
        (("certificate", "epsilon_upper"), slice(None, -1)),
        (("worst", "upper"), slice(-1, None)),
    ):
        redone = theirs.upper(ideal[pairs], worth[pairs], delta).middle
        ledger.close(key, redone, SOLVED)
        uppers.append(ours.upper(ideal[pairs], worth[pairs], delta, noise))
        ledger.between(key, uppers[-1].low, uppers[-1].high)
    upper, epsilon = told["epsilon_upper"], content["epsilon"]
    passed = upper is not None and upper <= epsilon
    # bounds need not fall with ε at every step
    passed = passed and theirs.bound(ideal[:-1], worth[:-1], delta, epsilon) <= HOLDS
    ledger.same(("passed",), passed)
    _mend(ledger, stated, passed)
    return uppers[0]


def _mend(ledger: Ledger, stated: Stated, passed: bool) -> None:
    """Weights to train for next lie in W, and are named for a failure alone.

    What they are expected to bring is a forecast: the digest alone speaks for it.
    """
    named = stated.content["mend"]["weights"]
    ledger.differ("mend.weights", f"{len(named)} named", "none: it passed", passed and named != [])
    for place, weights in enumerate(named):
        at = stated.weights(weights)
        outside = abs(at.sum() - 1) > 1e-6 or (at < stated.floor - 1e-6).any()
        ledger.differ(f"mend.weights.{place}", str(at.tolist()), "lies outside W", bool(outside))
