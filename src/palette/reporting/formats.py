"""Numbers as the page prints them."""

from palette.reporting.metrics import Metrics


def percent(number: float | None, places: int = 1) -> str:
    """12.3%, with a real minus sign; a dash for what is absent."""
    return "–" if number is None else f"{decimals(100 * number, places)}%"


def decimals(number: float | None, places: int = 2) -> str:
    return "–" if number is None else f"{number:z.{places}f}".replace("-", "−")


def interval(ends: tuple[float | None, ...], as_percent: bool = False) -> str:
    """`low to high`; nothing where there is no interval, or only a point."""
    if ends[1] is None or ends[2] is None:
        return ""
    low, high = (percent(end, 0) if as_percent else decimals(end, 3) for end in ends[1:])
    return f"{low} to {high}" if low != high else ""


def confidence(metrics: Metrics) -> str:
    """Every digit: 97.5% must not become 98%."""
    return f"{100 * metrics['certificate.confidence']:.6g}%"
