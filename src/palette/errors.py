"""The one exception that a user is meant to read."""


class PaletteError(Exception):
    """What is wrong, in one sentence that names the cure. Stages print it and exit with status 1."""
