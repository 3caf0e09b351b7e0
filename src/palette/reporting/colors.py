"""A colour for every taste: the traits' own hues, mixed as the weights are, as on a palette."""

import numpy as np

# OKLab (Björn Ottosson, 2020): mixing in it keeps the lightness that dark labels need.
TO_CONE = np.array([
    [1.0, 0.3963377774, 0.2158037573],
    [1.0, -0.1055613458, -0.0638541728],
    [1.0, -0.0894841775, -1.2914855480],
])  # fmt: skip
TO_RGB = np.array([
    [4.0767416621, -3.3077115913, 0.2309699292],
    [-1.2684380046, 2.6097574011, -0.3413193965],
    [-0.0041960863, -0.7034186147, 1.7076147010],
])  # fmt: skip
LIGHT, STRONG = 0.78, 0.14
FIRST_HUE = 250.0  # blue; the others follow around the circle
CONTRAST = 2.0  # above 1, a mix leans to its largest weights, so that neighbours differ more
BASE = "#c3c7cc"


def mixed(weights: np.ndarray) -> str:
    """The colour of a taste (d,), as #rrggbb; light enough for dark text on it."""
    d = len(weights)
    shares = np.asarray(weights, dtype=float) ** CONTRAST
    angles = np.radians(FIRST_HUE - 360 * np.arange(d) / max(d, 3))
    a, b = STRONG * (shares / shares.sum()) @ np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return _hex(np.array([LIGHT, a, b]))


def of_traits(d: int) -> list[str]:
    """The colours of the d traits themselves."""
    return [mixed(corner) for corner in np.eye(d)]


def _hex(lab: np.ndarray) -> str:
    linear = np.clip(TO_RGB @ (TO_CONE @ lab) ** 3, 0, 1)
    bright = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in bright)
