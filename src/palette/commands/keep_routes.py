"""`palette keep-routes`."""


def keep_routes() -> None:
    """To be written."""
    raise NotImplementedError
