"""What the certificate says of members without edits, and what is lost where edits are not applied."""

from typing import Any

import polars as pl


def verdict(portfolio: dict[str, Any]) -> str:
    """The certificate in a sentence that begins with PASS or FAIL."""
    found = portfolio["certificate"]
    upper, more = (
        found["epsilon_upper"],
        f" and {portfolio['delta']:g}" if portfolio["delta"] else "",
    )
    lost = "it is not known how much" if upper is None else f"at most {upper:.2%}{more}"
    return (
        f"{'PASS' if portfolio['passed'] else 'FAIL'}: whatever the weights of "
        f"{', '.join(portfolio['traits'])}, {lost} of the best that any policy could reach is lost, "
        f"at confidence {found['confidence']:.4g}; {portfolio['epsilon']:.2%}{more} was asked for."
    )


def unserved(routes: pl.DataFrame, evaluation: pl.DataFrame) -> dict[str, Any]:
    """The edits that the run serves and that members alone leave out, and what that costs.

    Returns:
        users, edited (users whose route has an edit), gain (mean over these of J on test prompts,
        with the edit less without it) and sentence.
    """
    edited = routes.filter(pl.col("strength") > 0)
    counts = {"users": len(routes), "edited": len(edited)}
    if edited.is_empty():
        said = "No user's route has an edit of hidden states: adapters are all that the run serves."
        return {**counts, "gain": None, "sentence": said}
    with_edit, without = (
        evaluation.filter(method=method)
        .join(edited, on="user_id", how="semi")
        .select(pl.mean("objective"))
        .item()
        for method in ("portfolio_edit", "portfolio")
    )
    said = (
        f"{len(edited):,} of {len(routes):,} users' routes also have an edit of hidden states, which "
        "a server of adapters does not apply: they are served their member alone"
    )
    if with_edit is None or without is None:
        return {**counts, "gain": None, "sentence": f"{said}."}
    gain = with_edit - without
    said += (
        f", for which J on the test prompts is {without:.4f} on average in place of "
        f"{with_edit:.4f} ({-gain:+.4f})."
    )
    return {**counts, "gain": gain, "sentence": said}
