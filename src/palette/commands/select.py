"""`palette select`."""


def select() -> None:
    """To be written."""
    raise NotImplementedError
