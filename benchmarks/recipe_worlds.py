"""The worlds of `recipes.py`: a sandbox's base and rollouts, and a judge of adapters trained on them."""

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import worlds
import yaml
from adapter_peers import TRAITS, read_world

from palette import arrays, members, tables
from palette.core.ideal import Ideal
from palette.lm import templates
from palette.lm.generation import generate, row_uniforms
from palette.lm.learner import Task
from palette.lm.models import LanguageModel, with_adapters
from palette.lm.scoring import score
from palette.params import Params

Files = Mapping[str, bytes]
"""an ordinary PEFT adapter, by file name"""
SAMPLES, DRAWS = 16, 2000
"""answers per select prompt and weight; bootstrap draws"""
LARGER = {
    "sandbox": {"layers": 4, "hidden": 128, "steps": 2000}, "rollouts": {"max_new_tokens": 64},
}  # fmt: skip
"""Twice the parameters, and room for every answer."""
MADE_OF = {"sandbox", "rollouts", "traits", "objective"}
"""sections of params that make a world; the others may change"""


@dataclass(frozen=True)
class World:
    """The base of a seed, what is trained on, and what judges it."""

    lm: LanguageModel
    task: Task
    asked: list[list[int]]
    """encoded select prompts, SAMPLES times each"""
    questions: list[str]
    uniforms: np.ndarray
    ideal: Ideal

    def shares(
        self, weights: np.ndarray, adapters: Sequence[Files]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Share of the possible improvement that each adapter reaches at its weights.

        Args:
            weights: (adapters, d).

        Returns:
            (DRAWS, adapters) by bootstrap draws of the prompts, and (adapters,) by all prompts.
        """
        own = np.array([self._worth(*pair) for pair in zip(weights, adapters, strict=True)])
        best, base = self.ideal.value(weights), weights @ self.ideal.base().T
        count = own.shape[1]
        drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), DRAWS)
        every = np.concatenate([drawn, np.ones((1, count))])
        shares = (every @ (own - base).T) / (every @ (best - base).T)
        return shares[:-1], shares[-1]

    def _worth(self, weights: np.ndarray, files: Files) -> np.ndarray:
        """(prompts,) J of one adapter at its weights."""
        with TemporaryDirectory() as folder:
            members.write(files, Path(folder))
            policy = with_adapters(self.lm, {Path(folder): 1.0})
        answers = generate(policy, self.asked, self.task.max_new_tokens, self.uniforms)
        scored = score(policy, self.asked, answers.tokens, self.lm)
        rewards = self.task.reward(self.questions, answers.texts) @ weights
        each = rewards - self.task.beta * (scored.logprob - scored.logprob_reference)
        return each.reshape(-1, SAMPLES).mean(1)


def made(seed: int, larger: bool) -> World:
    """A sandbox, of default size or larger: its base, and the rollouts of the train and select prompts."""
    folder = worlds.SCRATCH / f"recipes{seed}{'-larger' if larger else ''}"
    folder.mkdir(parents=True, exist_ok=True)
    changed = LARGER if larger else {"sandbox": {}, "rollouts": {}}
    params = Params.model_validate({
        "sandbox": {"seed": seed} | changed["sandbox"],
        "rollouts": {"samples": {"certify": 2, "test": 2}} | changed["rollouts"],
        "traits": {name: worlds.TRAITS[name] for name in TRAITS},
        "objective": {"beta": worlds.BETA},
    })  # fmt: skip
    settings = yaml.safe_dump(params.model_dump(include=MADE_OF), sort_keys=False)
    base = (worlds.SCRATCH / f"seed{seed}" / tables.DATA / "base").resolve()
    with contextlib.chdir(folder):
        told = Path("params.yaml")
        if tables.DATA.exists() and (not told.exists() or told.read_text() != settings):
            shutil.rmtree(tables.DATA)
        told.write_text(settings)
        if not larger and not (tables.DATA / "base").exists() and base.exists():
            shutil.copytree(base, "base.part", dirs_exist_ok=True)
            tables.DATA.mkdir(exist_ok=True)
            Path("base.part").rename(tables.DATA / "base")
        _make(params)
        return _read()


def _read() -> World:
    lm, params, task = read_world()
    on = arrays.scored(params, ["select"])
    questions = on.prompts["prompt"].to_list()
    asked = [templates.encode(lm.tokenizer, templates.question(text)) for text in questions]
    uniforms = [
        row_uniforms(SAMPLES, task.max_new_tokens, "recipes", prompt)
        for prompt in on.prompts["prompt_id"]
    ]
    return World(
        lm, task, [ids for ids in asked for _ in range(SAMPLES)],
        [text for text in questions for _ in range(SAMPLES)], np.concatenate(uniforms), on.ideal,
    )  # fmt: skip


def _make(params: Params) -> None:
    if not (tables.DATA / "base").exists():
        _stage("base")
    if not tables.path("rollouts").exists():
        _stage("prompts")
        prompts = tables.read("prompts")
        tables.write("prompts", prompts.filter(pl.col("split").is_in(["train", "select"])))
        _stage("rollouts")
    for trait in params.trait_names:
        if not tables.path("rewards", trait).exists():
            _stage("rewards", trait)


def _stage(name: str, *words: str) -> None:
    print(f"{Path.cwd().name}: {' '.join([name, *words])}", file=sys.stderr)
    subprocess.run([sys.executable, "-m", f"palette.{name}", *words], check=True)
