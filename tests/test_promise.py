"""The promise of recomputation (docs, DESIGN: "change one trait → ..."), on the real stages.

A copy of the project runs the real `dvc repro` on a tiny configuration; every test changes one
thing, asserts which stages ran, and takes the change back, which DVC restores from its run-cache.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl
import pytest
import yaml
from warm import Warm

ROOT = Path(__file__).parents[1]
TINY = {
    "sandbox": {"users": 12, "layers": 1, "hidden": 32, "steps": 20},
    "prompts": {"file": "inputs/prompts/prompts.csv"},
    "users": {"file": "inputs/users/users.csv"},
    "insights": {"items": 2, "candidates": 3, "pairs": 2, "contrasts": 1},
    "subspaces": {"restarts": 1, "epochs": 5},
    "tuning": {"strengths": [0.5], "layers": ["all"], "users": 1, "samples": 1},
    "rollouts": {
        "max_new_tokens": 16,
        "samples": {"train": 64, "select": 32, "certify": 32, "test": 32},
    },
    "traits": {"brevity": {"best": 1, "worst": 16}},
    "plan": {"epsilon": 0.2, "lattice": 4, "pinned": "inputs/plan/pinned.csv"},
    "adapters": {"rank": 2, "batch": 8, "steps": 2, "rloo_batch": 8, "rloo_steps": 1},
    "values": {"samples": {"select": 4, "certify": 4, "test": 4}},
    "portfolio": {"epsilon": 0.3, "bootstrap": 100},
    "baselines": {"samples": 1, "per_user": 1, "steps": 2, "training": 2},
    "evaluation": {"bootstrap": 100},
    "runtime": {"engine": "sequential", "workers": 1},
}
PROMPTS = "prompt,topic,split\n" + "".join(
    f"how do i start {split} {number}?,{split}{number},{split}\n"
    for split in ("train", "select", "certify", "test")
    for number in range(3)
)
USERS = "user_id,prompt,response,public\n" + "".join(
    f"{user},how do i {verb} a {thing}?,{answer},true\n"
    for user in ("ann", "bob", "cid", "dot")
    for verb in ("clean", "mend")
    for thing, answer in {"pan": "use hot water", "bike": "never rush and oil it"}.items()
)
NEW_USER = "eve,how do i boil an egg?,wait eight minutes,true\n"
PINNED = "brevity,humor,safety\n0.8,0.1,0.1\n0.1,0.1,0.8\n"
INPUTS = {
    "inputs/prompts/prompts.csv": PROMPTS,
    "inputs/users/users.csv": USERS,
    "inputs/plan/pinned.csv": PINNED,
    "inputs/routes/README.md": "",
    "inputs/traits/README.md": "",
}

GATE = {"check"}  # looks at every change of params.yaml, and makes nothing stale
BEFORE_TRAITS = {"base", "prompts", "users", "insights", "rollouts"}
TRAINING = {"plan", "adapters"}
VERDICT = {"portfolio", "tuning_members", "routes", "evaluation", "report"}


@dataclass(frozen=True)
class Repro:
    """What `dvc repro` did: the stages that it ran and those restored from the run-cache."""

    ran: set[str]
    restored: set[str]
    status: int
    output: str


@dataclass(frozen=True)
class Project:
    """A copy of the project in a folder of its own."""

    root: Path
    warm: Warm | None
    """what runs every process; None: each imports all by itself, as outside of tests"""

    def repro(self, *arguments: str) -> Repro:
        """Run the real `dvc repro` to its end; arguments are its own: options, or target stages."""
        python = str(self.warm.python) if self.warm else sys.executable
        self.link(self.warm.prefix if self.warm else Path(sys.prefix))
        dvc = [python, "-P", "-m", "dvc", "repro", *arguments]
        environment = os.environ | {"PYTHONPATH": str(self.root / "src"), "OMP_NUM_THREADS": "1"}
        environment |= {"DVC_SITE_CACHE_DIR": str(self.root / ".site"), "DVC_NO_ANALYTICS": "1"}
        done = subprocess.run(
            dvc,
            cwd=self.root,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return Repro(
            set(re.findall(r"^Running stage '(.+)':$", done.stdout, re.M)) - GATE,
            set(re.findall(r"^Stage '(.+)' is cached", done.stdout, re.M)),
            done.returncode,
            done.stdout,
        )

    def link(self, prefix: Path) -> None:
        """Say where the commands of dvc.yaml find their interpreter."""
        (self.root / ".venv").unlink(missing_ok=True)
        (self.root / ".venv").symlink_to(prefix)

    def with_params(self, section: str, change: dict) -> str:
        """The text of params.yaml with some keys of a section changed."""
        params = yaml.safe_load((self.root / "params.yaml").read_text())
        for key, value in change.items():
            known = params[section].get(key)
            params[section][key] = known | value if isinstance(known, dict) else value
        return yaml.safe_dump(params, sort_keys=False)

    def changed(self, section: str, change: dict):
        """What a change of params.yaml makes run; as `edited`."""
        return self.edited("params.yaml", self.with_params(section, change))

    @contextmanager
    def edited(self, file: str, text: str, *targets: str) -> Iterator[Repro]:
        """What a file's new text makes run; afterwards all is as before, and nothing had to run."""
        path, artifacts = self.root / file, self.artifacts()
        before = path.read_text()
        path.write_text(text)
        try:
            yield self.repro(*targets)
        finally:
            path.write_text(before)
            back = self.repro(*targets)
        assert back.ran <= {"report"}, "a reverted change is restored, not run again"
        assert self.artifacts() == artifacts

    def artifacts(self) -> dict[str, str]:
        """file → hash of everything under data/."""
        files = [path for path in (self.root / "data").rglob("*") if path.is_file()]
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    def stored(self, file: str) -> dict[Path, int]:
        """Bundles of the store that hold a file of this name, with the time of writing."""
        found = {}
        for path in (self.root / ".palette/store").rglob("*"):
            if path.is_file():
                content = path.read_bytes()
                index = json.loads(content[8 : 8 + int.from_bytes(content[:8], "big")])
                if any(name.endswith(file) for name in index):
                    found[path] = path.stat().st_mtime_ns
        return found

    def stages(self) -> set[str]:
        return set(yaml.safe_load((self.root / "dvc.lock").read_text())["stages"])


@pytest.fixture(scope="module")
def project(tmp_path_factory, warm) -> Project:
    """The whole chain, run once."""
    root = tmp_path_factory.mktemp("palette")
    shutil.copytree(ROOT / "src", root / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "params.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, root / name)
    for file, text in INPUTS.items():
        (root / file).parent.mkdir(parents=True)
        (root / file).write_text(text)
    subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet"], cwd=root, check=True)
    project = Project(root, warm)
    for section, change in TINY.items():
        (root / "params.yaml").write_text(project.with_params(section, change))
    first = project.repro()
    assert first.status == 0, first.output[-3000:]
    assert first.ran == project.stages() - GATE
    return project


pytestmark = pytest.mark.slow


def test_change_nothing_and_nothing_runs(project):
    again = project.repro()
    assert (again.ran, again.restored, again.status) == (set(), set(), 0)


def test_portfolio_epsilon_trains_nothing(project):
    with project.changed("portfolio", {"epsilon": 0.35}) as repro:
        assert repro.status == 0, repro.output[-3000:]
        assert {"portfolio"} <= repro.ran <= VERDICT


def test_plan_epsilon_trains_no_adapter_that_exists(project):
    before = project.stored("adapter_model.safetensors")
    assert before
    with project.changed("plan", {"epsilon": 0.05}) as repro:
        assert repro.status == 0, repro.output[-3000:]
        assert {"plan", "adapters"} <= repro.ran
        assert repro.ran <= TRAINING | VERDICT | {"values", "baselines"}
        after = project.stored("adapter_model.safetensors")
        assert {path: after[path] for path in before} == before
        plan = json.loads((project.root / "data/plan/plan.json").read_text())
        assert plan["epsilon"] == 0.05


def test_one_trait_scores_no_other(project):
    with project.changed("traits", {"brevity": {"best": 2}}) as repro:
        assert repro.status == 0, repro.output[-3000:]
        assert {"rewards@brevity", "preferences", "plan"} <= repro.ran
        others = {"rewards@humor", "rewards@safety"}
        assert not repro.ran & (BEFORE_TRAITS | others)


def test_one_traits_code_scores_no_other(project):
    """A comment in its module: scored again with the same result, so no plan is made anew."""
    module = "src/palette/traits/humor.py"
    text = (project.root / module).read_text() + "# changed\n"
    with project.edited(module, text, "preferences", "plan") as repro:
        assert repro.status == 0, repro.output[-3000:]
        assert repro.ran == {"rewards@humor", "preferences"}


def test_one_more_user_is_the_only_one_generated(project):
    before = project.stored("result.json")
    assert len(before) == 4
    with project.edited("inputs/users/users.csv", USERS + NEW_USER) as repro:
        assert repro.status == 0, repro.output[-3000:]
        assert {"users", "insights", "preferences", "routes"} <= repro.ran
        assert not repro.ran & TRAINING
        after = project.stored("result.json")
        assert len(after) == 5
        assert {path: after[path] for path in before} == before
        insights = pl.read_parquet(project.root / "data/insights/insights.parquet")
        assert set(insights["user_id"]) == {"ann", "bob", "cid", "dot", "eve"}


def test_how_to_compute_is_no_stages_parameter(project):
    with project.changed("runtime", {"threads": 2, "engine": "threading"}) as repro:
        assert repro.ran == repro.restored == set()


def test_invalid_params_touch_no_artifact(project):
    lock = (project.root / "dvc.lock").read_bytes()
    artifacts = project.artifacts()
    with project.changed("plan", {"epsilon": 0.9}) as repro:
        assert repro.status != 0
        assert "palette: params.yaml: plan.epsilon is 0.9, but must be at most" in repro.output
        assert project.artifacts() == artifacts
        assert (project.root / "dvc.lock").read_bytes() == lock


def test_same_seed_gives_the_same_bytes(project, tmp_path):
    """Everything made again, from nothing but params, inputs and seeds, with another seed of hashes."""
    before, other = project.artifacts(), Warm(tmp_path)
    shutil.rmtree(project.root / ".palette/store")
    try:
        assert replace(project, warm=other).repro("--force", "--no-run-cache").status == 0
    finally:
        other.close()
    assert project.artifacts() == before
    cold = replace(project, warm=None).repro(
        "--force", "--no-run-cache", "--single-item", "rollouts"
    )
    assert cold.ran == {"rollouts"}
    assert project.artifacts() == before
