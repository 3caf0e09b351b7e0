"""`palette keep-routes`: the present routes become those that the next run keeps where it can."""

from pathlib import Path

KEPT = Path("inputs/routes/routes.csv")
PARAMS = Path("params.yaml")


def keep_routes() -> None:
    """Keep the present routes: later runs move fewer users.

    They are written to the file of routes.previous; from then on a user moves
    only for more than routes.hysteresis.

    Example: palette keep-routes && git add inputs/routes params.yaml
    """
    from palette import tables
    from palette.params_edit import set_value
    from palette.params_file import load

    params = load(PARAMS)
    routes = tables.read("routes").select("user_id", "member").sort("user_id")
    target = Path(params.routes.previous or KEPT)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_suffix(".tmp")
    routes.write_csv(temporary)
    temporary.replace(target)
    if params.routes.previous is None:
        set_value(PARAMS, "routes.previous", str(KEPT))
    print(f"kept the routes of {len(routes):,} users in {target}; commit it with params.yaml")
