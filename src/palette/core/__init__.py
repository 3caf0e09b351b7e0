"""The mathematics: arrays in, arrays and frozen dataclasses out; no files, no DVC, no Prefect."""
