"""The flows on a tiny pipeline: which state every stage ends in, and what dies with a run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

import flows  # noqa: F401
from flows.graph import FLOWS, read_stages
from palette.errors import PaletteError

ROOT = Path(__file__).parents[1]
METRICS = {
    "portfolio.size": 2,
    "plan.trainings": 3,
    "plan.lower_bound": 2,
    "certificate.epsilon.requested": 0.05,
    "certificate.delta.requested": 0,
    "certificate.epsilon.point": 0.03,
    "certificate.epsilon.upper": 0.04,
    "certificate.passed": 1,
    "objective.base": 0.4,
    "objective.portfolio": 0.6,
    "objective.portfolio.low": 0.55,
    "objective.portfolio.high": 0.65,
    "share.portfolio": 0.9,
}
SCRIPT = """
import pathlib, sys
source, target = map(pathlib.Path, sys.argv[1:])
text = source.read_text()
if "bad" in text:
    sys.exit("palette: the word is bad; write a good one")
print("wrote", text)
target.write_text(text + target.stem)
"""
SLEEPER = """
import os, pathlib, time
pathlib.Path("pid").write_text(str(os.getpid()))
time.sleep(600)
"""


def append(source: str, target: str, flow: str, **more) -> dict:
    """A stage that appends its output's name to what it reads."""
    command = f"python append.py {source} {target}"
    stage = {
        "cmd": command,
        "deps": [source, "append.py"],
        "outs": [target],
        "meta": {"flow": flow},
    }
    return stage | more


STAGES = {
    "insights": append("word.txt", "insights.txt", "insights"),
    "subspaces": append("insights.txt", "subspaces.txt", "subspaces"),
    "rewards": {
        "foreach": {"brevity": {}, "humor": {}},
        "do": append("word.txt", "${key}.txt", "adapters"),
    },
    "plan": append("brevity.txt", "plan.txt", "adapters"),
    "portfolio": append("plan.txt", "portfolio.txt", "portfolio"),
}
ALL = ["insights", "subspaces", "rewards@brevity", "rewards@humor", "plan", "portfolio"]


@pytest.fixture(scope="session")
def server():
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A git and DVC repository with six trivial stages, and this process in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / ".site"))
    (tmp_path / "append.py").write_text(SCRIPT)
    (tmp_path / "word.txt").write_text("word")
    (tmp_path / "params.yaml").write_text("traits: {brevity: {kind: brevity}}\n")
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports/metrics.json").write_text(json.dumps(METRICS))
    write_stages(STAGES)
    subprocess.run(["git", "init", "--quiet"], check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet"], check=True)
    return tmp_path


def write_stages(stages: dict) -> None:
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))


def run_pipeline():
    from flows.pipeline import pipeline

    return pipeline(return_state=True)


def test_graph_is_dvcs_own(project):
    stages = {stage.name: stage for stage in read_stages(project)}
    assert sorted(stages) == sorted(ALL)
    assert stages["plan"].needs == ("rewards@brevity",)
    assert stages["rewards@humor"].flow == "adapters"
    names = list(stages)
    assert all(names.index(need) < names.index(s.name) for s in stages.values() for need in s.needs)


def test_every_real_stage_belongs_to_a_flow():
    stages = read_stages(ROOT)
    assert {stage.flow for stage in stages} == set(FLOWS)
    assert {"insights", "subspaces", "adapters", "portfolio"} <= {stage.name for stage in stages}


def test_nightly_deployment_runs_the_pipeline(monkeypatch):
    from prefect.flows import load_flow_from_entrypoint
    from prefect.schedules import Cron

    monkeypatch.chdir(ROOT)
    (deployment,) = yaml.safe_load(Path("prefect.yaml").read_text())["deployments"]
    assert load_flow_from_entrypoint(deployment["entrypoint"]).name == "palette"
    (schedule,) = deployment["schedules"]
    Cron(schedule["cron"], timezone=schedule["timezone"])
    with pytest.raises(ValueError):
        Cron("every night")


def test_stage_without_a_flow_is_refused(project):
    write_stages(STAGES | {"subspaces": append("insights.txt", "subspaces.txt", "sideways")})
    with pytest.raises(PaletteError, match=r"'subspaces' has .* 'sideways'"):
        read_stages(project)


def test_need_of_a_later_flow_is_refused(project):
    write_stages(STAGES | {"subspaces": append("plan.txt", "subspaces.txt", "subspaces")})
    with pytest.raises(PaletteError, match="'subspaces' of flow subspaces needs 'plan'"):
        read_stages(project)


@pytest.mark.slow
def test_states_say_what_dvc_did(project, server):
    first = run_pipeline()
    assert first.result() == dict.fromkeys(ALL, "Completed")
    assert Path("portfolio.txt").read_text() == "wordbrevityplanportfolio"

    assert run_pipeline().result() == dict.fromkeys(ALL, "Skipped")

    Path("word.txt").write_text("other")
    subprocess.run([sys.executable, "-m", "dvc", "repro", "--quiet"], check=True)
    assert Path("portfolio.txt").read_text() == "otherbrevityplanportfolio"
    Path("word.txt").write_text("word")
    restored = run_pipeline()
    assert restored.result() == dict.fromkeys(ALL, "Cached")
    assert restored.message == "6 Cached"
    assert Path("portfolio.txt").read_text() == "wordbrevityplanportfolio"
    assert_states_and_artifact_on_the_server()


def assert_states_and_artifact_on_the_server():
    from prefect.artifacts import Artifact
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        runs = client.read_task_runs()
    shown = {(run.name, run.state_name) for run in runs}
    assert shown >= {("plan", state) for state in ("Completed", "Skipped", "Cached")}
    artifact = Artifact.get("palette-result")
    assert "0.04 (point estimate 0.03): PASS" in artifact.data
    assert "| portfolio | 0.600 (0.550 to 0.650) | 0.900 |" in artifact.data
    assert "| rewards@humor | Cached |" in artifact.data


@pytest.mark.slow
def test_failing_stage_leaves_its_upstreams_done_and_says_why(project, server):
    Path("other.txt").write_text("bad")
    plan = append("other.txt", "plan.txt", "adapters")
    plan["deps"].append("brevity.txt")
    write_stages(STAGES | {"plan": plan})
    state = run_pipeline()
    assert state.is_failed()
    assert state.message == "plan: palette: the word is bad; write a good one"
    locked = yaml.safe_load(Path("dvc.lock").read_text())["stages"]
    assert sorted(locked) == ["insights", "rewards@brevity", "rewards@humor", "subspaces"]
    assert not Path("portfolio.txt").exists()


@pytest.mark.slow
def test_invalid_params_are_refused_before_any_stage(project, server):
    Path("params.yaml").write_text("traits: {brevity: {kind: brevty}}\n")
    state = run_pipeline()
    assert "did you mean 'brevity'" in state.message
    assert not Path("dvc.lock").exists()


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_stage_dies_with_the_run(project, how):
    """However the process that runs a stage ends, nothing of the stage is left behind."""
    sleeper = append("word.txt", "insights.txt", "insights")
    Path("sleep.py").write_text(SLEEPER)
    write_stages({"insights": sleeper | {"cmd": "python sleep.py"}})
    code = (
        "from pathlib import Path; from flows.reproduction import Reproducer\n"
        "with Reproducer(Path('.')) as stages: stages.reproduce('insights', say=print)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    pid = int(eventually(lambda: Path("pid").exists() and Path("pid").read_text()))
    run.send_signal(how)
    run.wait(timeout=30)
    assert eventually(lambda: not alive(pid))


def eventually(condition, seconds=30):
    """The first true value of a condition, which must come true in time."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return found


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
