"""What a shell completes beyond the names of commands and options."""


def users(incomplete: str) -> list[str]:
    """The user_ids that begin so; none where no run has listed any."""
    from palette import tables
    from palette.errors import PaletteError

    try:
        known = tables.read("users")["user_id"]
    except PaletteError:
        return []
    return known.filter(known.str.starts_with(incomplete)).sort().to_list()
