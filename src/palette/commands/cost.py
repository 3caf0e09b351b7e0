"""`palette cost`."""


def cost() -> None:
    """To be written."""
    raise NotImplementedError
