"""`palette extend`."""


def extend() -> None:
    """To be written."""
    raise NotImplementedError
