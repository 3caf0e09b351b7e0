"""`palette certify`."""


def certify() -> None:
    """To be written."""
    raise NotImplementedError
