"""Worlds to plan in: the sandbox's rollouts, scored by four traits, and rewards made of numbers alone."""

import contextlib
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import yaml

from palette import arrays, tables
from palette.core.ideal import Ideal
from palette.core.moving import Setting
from palette.core.region import Region
from palette.params import Params

SCRATCH = Path(".palette/benchmarks")  # of the project; git-ignored, safe to delete
PROMPTS, SAMPLES, BETA = 40, 256, 0.1
TRAITS = {
    "brevity": {"kind": "brevity", "best": 8, "worst": 34},
    "humor": {"kind": "humor"},
    "safety": {"kind": "safety"},
    "fewwords": {"kind": "brevity", "best": 20, "worst": 48},
}


def synthetic(d: int, seed: int, prompts: int = PROMPTS) -> Setting:
    """Rewards that pull against each other: normal, less most of their mean, squashed to [0, 1]."""
    z = np.random.default_rng(seed).normal(size=(prompts, SAMPLES, d))
    z -= 0.8 * z.mean(axis=2, keepdims=True)
    return Setting(Ideal(1 / (1 + np.exp(-2 * z)), BETA), Region((0.0,) * d))


def sandbox(d: int, seed: int) -> Setting:
    """The sandbox's own rollouts by the first d of TRAITS, made by the stages where they are not yet."""
    folder = SCRATCH / f"seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    params = _params(seed)
    with contextlib.chdir(folder):
        _make(params)
        ideal = arrays.scored(params, ["train", "select"]).ideal
    rewards = Ideal(ideal.rewards[:, :, :d], ideal.beta, ideal.log_weights)
    return Setting(rewards.condensed(), Region((0.0,) * d))


def personal(seed: int, users: int, folder: Path) -> Params:
    """Everything that edits are made of, by the real stages, in `folder`; its params.

    The base of the same seed is taken from `sandbox`, where that has made one. Tables that other
    params made are made anew.
    """
    folder.mkdir(parents=True, exist_ok=True)
    params = Params.model_validate({
        "sandbox": {"seed": seed, "users": users},
        "rollouts": {"samples": {"train": 40, "select": 2, "certify": 2, "test": SAMPLES}},
        "traits": {name: TRAITS[name] for name in ("brevity", "humor", "safety")},
        "objective": {"beta": BETA},
        "baselines": {"per_user": 4, "samples": 2},
    })  # fmt: skip
    made = (SCRATCH / f"seed{seed}" / tables.DATA / "base").resolve()
    with contextlib.chdir(folder):
        told, settings = Path("params.yaml"), yaml.safe_dump(params.model_dump(), sort_keys=False)
        if tables.DATA.exists() and (not told.exists() or told.read_text() != settings):
            shutil.rmtree(tables.DATA)
        told.write_text(settings)
        if not (tables.DATA / "base").exists() and made.exists():
            shutil.copytree(made, "base.part", dirs_exist_ok=True)
            tables.DATA.mkdir(exist_ok=True)
            Path("base.part").rename(tables.DATA / "base")
        for name, table in {
            "base": None, "prompts": "prompts", "users": "users", "insights": "insights",
            "rollouts": "rollouts", "preferences": "weights",
        }.items():  # fmt: skip
            path = tables.path(table) if table else tables.DATA / "base"
            if not path.exists():
                _stage(name)
        for trait in params.trait_names:
            if not tables.path("rewards", trait).exists():
                _stage("rewards", trait)
    return params


def stored_at(params: Params, store: Path) -> Params:
    runtime = params.runtime.model_copy(update={"store": str(store)})
    return params.model_copy(update={"runtime": runtime})


def _params(seed: int) -> Params:
    samples = {"train": SAMPLES, "select": SAMPLES, "certify": 2, "test": 2}
    return Params.model_validate({
        "sandbox": {"seed": seed},
        "rollouts": {"samples": samples},
        "traits": TRAITS,
        "objective": {"beta": BETA},
    })  # fmt: skip


def _make(params: Params) -> None:
    """The stages base, prompts, rollouts and rewards, in the working directory, each once."""
    Path("params.yaml").write_text(yaml.safe_dump(params.model_dump(), sort_keys=False))
    if not (tables.DATA / "base").exists():
        _stage("base")
    if not tables.path("rollouts").exists():
        _stage("prompts")
        prompts = tables.read("prompts")
        few = [prompts.filter(split=split).head(PROMPTS // 2) for split in ("train", "select")]
        tables.write("prompts", pl.concat(few))
        _stage("rollouts")
    for trait in TRAITS:
        if not tables.path("rewards", trait).exists():
            _stage("rewards", trait)


def _stage(name: str, *words: str) -> None:
    print(f"{Path.cwd().name}: {' '.join([name, *words])}", file=sys.stderr)
    subprocess.run([sys.executable, "-m", f"palette.{name}", *words], check=True)
