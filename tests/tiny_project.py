"""A git and DVC project of five trivial stages with a report of palette's form; and programs in it.

Every stage's command leaves its name in the file that $RAN names, so a test can say what ran.
"""

import os
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path

import pytest
import yaml

from palette import cli

SOURCE = Path(__file__).parents[1]
SCRIPT = """
import json, os, sys
from pathlib import Path

import yaml

params = yaml.safe_load(Path("params.yaml").read_text())
name, *more = sys.argv[1:]
with open(os.environ["RAN"], "a") as log:
    log.write(" ".join([name, *more]) + "\\n")

def write(path, content):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content, indent=1) + "\\n"
    Path(path).write_text(text)

def portfolio():
    return json.loads(Path("data/portfolio/portfolio.json").read_text())

if name == "prompts":
    write("data/prompts.txt", f"seed {params['prompts']['seed']}")
elif name == "rewards":
    write(f"data/rewards/{more[0]}.txt", f"{more[0]} {params['traits'][more[0]]}")
elif name == "portfolio":
    weights = params["plan"]["weights"]
    found = {"members": {f"m{int(100 * w)}": [w, round(1 - w, 2)] for w in weights},
             "epsilon": params["portfolio"]["epsilon"]}
    write("data/portfolio/portfolio.json", found)
    write("data/portfolio/note.txt", "a folder")
elif name == "routes":
    import polars as pl
    users = [f"secret-user-{i}" for i in range(12)]
    groups = ["seen" if i < 9 else "unseen" for i in range(12)]
    members = list(portfolio()["members"])
    served = [members[i * len(members) // 12] for i in range(12)]
    for stage, column in (("routes", {"member": served}), ("evaluation", {"group": groups})):
        Path(f"data/{stage}").mkdir(parents=True, exist_ok=True)
        pl.DataFrame({"user_id": users, **column}).write_parquet(f"data/{stage}/{stage}.parquet")
elif name == "report":
    import polars as pl
    found = portfolio()
    upper = round(0.4 / len(found["members"]), 3)
    metrics = {"certificate.epsilon.requested": found["epsilon"], "certificate.epsilon.upper": upper,
               "certificate.passed": int(upper <= found["epsilon"]),
               "portfolio.size": len(found["members"]), "objective.portfolio": 0.7 - upper,
               "objective.portfolio.low": 0.69 - upper, "objective.portfolio.high": 0.71 - upper,
               "trait.humor.portfolio": 0.5, "trait.humor.portfolio.low": 0.4,
               "trait.humor.portfolio.high": 0.6}
    write("reports/metrics.json", metrics)
    routed = pl.read_parquet("data/routes/routes.parquet").join(
        pl.read_parquet("data/evaluation/evaluation.parquet"), on="user_id")
    counts = routed.group_by("group", "member").agg(users=pl.len()).sort("group", "member")
    write("reports/routes.csv", counts.write_csv())
    rows = [f"{m},{a},{b},{a},{b},1.0,0.9,3" for m, (a, b) in found["members"].items()]
    header = "id,weight_brevity,weight_humor,value_brevity,value_humor,kl,share,users"
    write("reports/portfolio.csv", "\\n".join([header, "base,,,0.5,0.5,0.0,0.0,0", *rows]) + "\\n")
    answers = [{"member": m, "answer": f"{m} says <b>no</b> | @you at {upper}"}
               for m in ["base", *found["members"]]]
    write("reports/samples.json", [{"prompt": "How do I mend a pan?", "answers": answers}])
    write("reports/simplex.svg", f"<svg><text>{upper}</text></svg>")
"""
PARAMS = {
    "prompts": {"seed": 0},
    "traits": {"brevity": 1, "humor": 2},
    "plan": {"weights": [0.1, 0.3, 0.5, 0.9]},
    "portfolio": {"epsilon": 0.15},
}


def stage(name: str, deps: list[str], outs: list, params: list[str]) -> dict:
    command = f"python stages.py {name}"
    return {"cmd": command, "deps": ["stages.py", *deps], "params": params, "outs": outs}


ROUTES, GROUPS = "data/routes/routes.parquet", "data/evaluation/evaluation.parquet"
FILE = "data/portfolio/portfolio.json"
STAGES = {
    "prompts": stage("prompts", ["inputs"], ["data/prompts.txt"], ["prompts"]),
    "rewards": {
        "foreach": ["brevity", "humor"],
        "do": stage(
            "rewards ${item}",
            ["data/prompts.txt"],
            ["data/rewards/${item}.txt"],
            ["traits.${item}"],
        ),
    },
    "portfolio": stage(
        "portfolio", ["data/rewards"], ["data/portfolio"], ["plan", "portfolio.epsilon"]
    ),
    "routes": stage("routes", [FILE], [ROUTES, GROUPS], []),
    "report": stage("report", [FILE, ROUTES, GROUPS], [{"reports": {"cache": False}}], []),
}
ALL = ["prompts", "rewards brevity", "rewards humor", "portfolio", "routes", "report"]


@dataclass(frozen=True)
class Done:
    """How a program ended."""

    status: int
    out: str
    err: str


@dataclass(frozen=True)
class Project:
    root: Path
    home: Path
    """what its clones share: compiled modules and DVC's notes"""
    python: Path = Path(sys.executable)
    """what runs DVC, and the stages"""

    def run(self, *command: str, **environment: str) -> Done:
        """Run a program in the project, with this tree's palette."""
        done = subprocess.run(
            command,
            cwd=self.root,
            env=os.environ | self.environment | environment,
            capture_output=True,
            text=True,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    @property
    def environment(self) -> dict[str, str]:
        """No user's or machine's settings count; and every module is compiled but once."""
        return {
            "PATH": os.pathsep.join(
                [str(self.python.parent), str(Path(sys.executable).parent), os.environ["PATH"]]
            ),
            "PYTHONPATH": str(SOURCE / "src"), "RAN": str(self.log),
            "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(self.home / ".pyc"),
            "DVC_SITE_CACHE_DIR": str(self.home / ".site"), "DVC_NO_ANALYTICS": "1",
            "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull,
            "GIT_CEILING_DIRECTORIES": str(self.root.parent),
            "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b.c", "GIT_COMMITTER_NAME": "a",
            "GIT_COMMITTER_EMAIL": "a@b.c",
        }  # fmt: skip

    def must(self, *command: str, **environment: str) -> str:
        """The output of a program that has to succeed."""
        done = self.run(*command, **environment)
        assert done.status == 0, f"{command}: {done.out[-2000:]}{done.err[-2000:]}"
        return done.out

    def dvc(self, *arguments: str, **environment: str) -> str:
        return self.must(str(self.python), "-P", "-m", "dvc", *arguments, **environment)

    def palette(self, *arguments: str) -> Done:
        """The program `palette` in the project, but in this process: importing takes longest."""
        out, err = StringIO(), StringIO()
        with (
            pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err),
            pytest.raises(SystemExit) as exit,
        ):  # fmt: skip
            patch.chdir(self.root)
            patch.setattr(sys, "argv", ["palette", *arguments])
            for name, value in self.environment.items():
                patch.setenv(name, value)
            cli.app()
        code = exit.value.code
        if isinstance(code, str):  # the interpreter prints it and exits with status 1
            return Done(1, out.getvalue(), f"{err.getvalue()}{code}\n")
        return Done(code or 0, out.getvalue(), err.getvalue())

    def commit(self, message: str) -> str:
        """Commit everything; the new commit's hash."""
        self.must("git", "add", "--all")
        self.must("git", "commit", "--quiet", "--message", message)
        return self.must("git", "rev-parse", "HEAD").strip()

    def set(self, section: str, **values) -> None:
        file = self.root / "params.yaml"
        params = yaml.safe_load(file.read_text())
        params[section] |= values
        file.write_text(yaml.safe_dump(params, sort_keys=False))

    def ran(self) -> list[str]:
        """The stages that ran since this was last asked."""
        names = self.log.read_text().split("\n")[:-1] if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return names

    @property
    def log(self) -> Path:
        return self.root.parent / f"{self.root.name}.ran"

    def clone(self, to: Path) -> "Project":
        """What git alone carries over: no data, no cache."""
        self.must("git", "clone", "--quiet", str(self.root), str(to))
        return replace(self, root=to)

    def copy(self, to: Path) -> "Project":
        """Everything, the cache too."""
        shutil.copytree(self.root, to, symlinks=True)
        return replace(self, root=to)


def build(root: Path, python: Path) -> Project:
    """A project whose first run is committed on its branch main."""
    project = Project(root, root.parent, python)
    (root / "inputs").mkdir(parents=True)
    (root / "inputs/README.md").write_text("questions\n")
    (root / "stages.py").write_text(SCRIPT)
    (root / "params.yaml").write_text(yaml.safe_dump(PARAMS, sort_keys=False))
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}, sort_keys=False))
    (root / ".gitignore").write_text("/data/\n/.venv\n/.palette/\n")
    shutil.copy(SOURCE / "Makefile", root / "Makefile")
    project.must("git", "init", "--quiet", "--initial-branch", "main")
    project.dvc("init", "--quiet")
    project.dvc("repro", "--quiet")
    assert sorted(project.ran()) == sorted(ALL)
    project.commit("first run")
    return project
