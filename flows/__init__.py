"""Prefect flows over DVC's graph: when, where and in what order. They know no mathematics."""

import os

# Nothing of a run is reported to anyone, unless whoever runs it says so in the environment.
for variable, value in {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "true",
}.items():
    os.environ.setdefault(variable, value)
