"""The flows on a tiny pipeline: which state every stage ends in, and what dies with a run."""

import inspect
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml

import flows  # noqa: F401
from flows.graph import FLOWS, read_stages
from palette.errors import PaletteError

ROOT = Path(__file__).parents[1]
SOURCES = os.pathsep.join([str(ROOT), str(ROOT / "src")])
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
MEET = """
import pathlib, sys, time
own, other = map(pathlib.Path, sys.argv[1:])
pathlib.Path(f".{own}").touch()
while not pathlib.Path(f".{other}").exists():
    time.sleep(0.05)
own.touch()
"""
TRIES = """
import pathlib, sys
tried = pathlib.Path("tried")
count = int(tried.read_text()) + 1 if tried.exists() else 1
tried.write_text(str(count))
if count == 1:
    raise OSError("palette: not yet")
pathlib.Path("done.txt").touch()
"""

WORLD = """
import numpy as np
from pathlib import Path
from palette import pinned, tables
from palette.core.certificate import confidence_of_look
from palette.core.covering import shortfall
from palette.core.ideal import Ideal
from palette.core.pruning import Bench
from palette.core.region import Region
from palette.core.repair import mend
from palette.params_file import load

params, traits, region = load(), ["brevity", "humor"], Region((0.0, 0.0))
rewards = np.random.default_rng(0).beta(0.5, 0.5, size=(5, 60, 1))
ideal = Ideal(np.concatenate([rewards, 1 - rewards], axis=2), 0.1)
"""
PLANNER = """
from world import *
weights, rounds = np.eye(2), [0, 0]
if params.plan.pinned:
    weights, rounds = pinned.read(Path(params.plan.pinned), traits)
members = [{"id": str(w), "weights": dict(zip(traits, w.tolist())), "round": int(r)}
           for w, r in zip(weights, rounds)]
tables.write_json(Path("data/plan/plan.json"),
                  {"traits": traits, "looks": 1 + int(max(rounds)), "members": members})
"""
JUDGE = """
from world import *
plan = tables.read_json(Path("data/plan/plan.json"))
weights = np.array([[m["weights"][t] for t in traits] for m in plan["members"]])
means, kl = ideal.policy(weights)
values = np.concatenate([ideal.base()[None], means - LACK])
costs = np.concatenate([np.zeros((1, 5)), 0.1 * kl])
bench = Bench(("base", *map(str, weights)), ideal, values, costs, np.arange(5))
def value(points):
    return ideal.upward(points).mean(axis=1)
point = float(shortfall(bench.planes, region, value).epsilon().max())
asked, kept = params.portfolio, tuple(range(1, len(values)))
found = mend(bench, kept, region, asked.epsilon, 0.0, 0.9, weights, asked.mend)
certificate = {"epsilon_point": point, "epsilon_upper": point + 0.002, "looks": plan["looks"],
               "confidence": confidence_of_look(asked.confidence, plan["looks"])}
remedy = {"weights": [dict(zip(traits, w.tolist())) for w in found.weights],
          "expected": found.expected, "advice": found.advice}
tables.write_json(Path("data/portfolio/portfolio.json"), {
    "passed": point + 0.002 <= asked.epsilon, "traits": traits, "certificate": certificate,
    "members": plan["members"], "mend": remedy})
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


def test_every_deployment_can_run_and_none_overlaps(monkeypatch):
    from prefect.deployments.steps.core import _get_function_for_step
    from prefect.flows import load_flow_from_entrypoint
    from prefect.schedules import Cron

    monkeypatch.chdir(ROOT)
    content = yaml.safe_load(Path("prefect.yaml").read_text())
    assert [name for name in FLOWS if name not in {d["name"] for d in content["deployments"]}] == []
    for deployment in content["deployments"]:
        flow = load_flow_from_entrypoint(deployment["entrypoint"])
        assert set(flow.parameters.properties) == set(deployment["parameters"])
        flow.validate_parameters(deployment["parameters"])
        limit = deployment["concurrency_limit"]
        assert limit == {"limit": 1, "collision_strategy": "CANCEL_NEW"}
    assert flow.name == FLOWS[-1]
    ((step, inputs),) = [pair for step in content["pull"] for pair in step.items()]
    inspect.signature(_get_function_for_step(step)).bind(**inputs)
    (schedule,) = content["deployments"][0]["schedules"]
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
def test_stages_that_do_not_need_each_other_run_side_by_side(project, server):
    meet = {"deps": [], "meta": {"flow": "insights"}}
    Path("meet.py").write_text(MEET)
    write_stages({
        name: meet | {"cmd": f"python meet.py {name} {other}", "outs": [name]}
        for name, other in (("one", "two"), ("two", "one"))
    })  # fmt: skip
    assert run_pipeline().result() == dict.fromkeys(["one", "two"], "Completed")
    progress = shown("palette-progress")
    assert progress.data == 100
    assert progress.description.startswith("2 of 2 stages; ")


@pytest.mark.slow
def test_a_stage_that_breaks_is_tried_again_and_one_that_refuses_is_not(
    project, server, monkeypatch
):
    from flows import stages

    monkeypatch.setattr(stages, "reproduce", stages.reproduce.with_options(retry_delay_seconds=0))
    Path("tries.py").write_text(TRIES)
    stage = {"cmd": "python tries.py", "outs": ["done.txt"], "meta": {"flow": "insights"}}
    write_stages({"insights": stage})
    assert run_pipeline().result() == {"insights": "Completed"}
    assert Path("tried").read_text() == "2"
    Path("done.txt").unlink()
    Path("tries.py").write_text(TRIES.replace("raise OSError", "sys.exit"))
    write_stages({"insights": stage | {"deps": ["tries.py"]}})
    Path("tried").write_text("0")
    assert run_pipeline().message == "insights: palette: not yet"
    assert Path("tried").read_text() == "1"


@pytest.mark.slow
def test_a_lost_promise_is_told_to_the_block_that_was_named(project, server):
    from prefect import flow
    from prefect.blocks.notifications import CustomWebhookNotificationBlock

    from flows.watch import find_block, watch
    from palette.params_file import load

    git("add", ".")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", "passed")
    told = []
    with listening(told) as url:
        block = CustomWebhookNotificationBlock(
            name="ops", url=url, json_data={"text": "{{subject}}: {{body}}"}
        )
        block.save("ops")

        @flow
        def look(block: str) -> list[str]:
            return watch(Path.cwd(), "HEAD", load(), find_block(block))

        assert look("custom-webhook/ops") == []
        Path("reports/metrics.json").write_text(json.dumps(METRICS | {"certificate.passed": 0}))
        (words,) = look("custom-webhook/ops")
    assert words.startswith("the certificate stopped passing: ε certified 0.04")
    assert [message["text"].splitlines()[0] for message in told] == [f"palette: {words}"]
    assert f"**Now {words}.**" in shown("palette-watch").data
    with pytest.raises(PaletteError, match="the server has no such block"):
        look("slack-webhook/nobody")


@contextmanager
def listening(told: list):
    """A web server that keeps what it is told."""

    class Listener(BaseHTTPRequestHandler):
        def do_POST(self):
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Listener) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{web.server_port}"
        web.shutdown()


def git(*arguments: str) -> None:
    subprocess.run(["git", *arguments], check=True)


def shown(key: str):
    """The newest artifact of this key."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

    with get_client(sync_client=True) as client:
        where = ArtifactFilter(key=ArtifactFilterKey(any_=[key]))
        return max(client.read_artifacts(artifact_filter=where), key=lambda found: found.created)


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


def failing_project(epsilon: float, lack: float, budget: str = "null", plan: str = "") -> None:
    """Plan and portfolio in numbers alone: members as ideal, but for `lack` of each reward.

    `plan` is what the plan's stage does before all else.
    """
    Path("inputs/plan").mkdir(parents=True)
    Path("inputs/plan/README.md").write_text("weights to pin")
    Path("params.yaml").write_text(
        "traits: {brevity: {kind: brevity}, humor: {kind: humor}}\n"
        f"plan:\n  pinned: null  # none\n  max_members: {budget}\n"
        f"portfolio: {{epsilon: {epsilon}, mend: 2}}\n"
    )
    Path("world.py").write_text(WORLD)
    Path("plan.py").write_text(PLANNER.replace("weights, rounds", plan + "\nweights, rounds", 1))
    Path("portfolio.py").write_text(JUDGE.replace("LACK", str(lack)))
    write_stages({
        "insights": STAGES["insights"],
        "plan": {
            "cmd": "python plan.py", "deps": ["inputs/plan"], "params": ["plan"],
            "outs": ["data/plan/plan.json"], "meta": {"flow": "adapters"},
        },
        "portfolio": {
            "cmd": "python portfolio.py", "deps": ["data/plan/plan.json"],
            "params": ["portfolio"], "outs": ["data/portfolio/portfolio.json"],
            "meta": {"flow": "portfolio"},
        },
    })  # fmt: skip


def run_repair(rounds: int):
    from flows.pipeline import pipeline

    return pipeline(repair_rounds=rounds, return_state=True)


def verdict() -> dict:
    return json.loads(Path("data/portfolio/portfolio.json").read_text())


@pytest.mark.slow
def test_a_failed_verdict_is_mended_by_rounds_of_repair(project, server):
    from prefect.artifacts import Artifact

    failing_project(epsilon=0.03, lack=0.002)
    assert run_repair(0).is_completed()
    first = verdict()
    assert (first["passed"], first["certificate"]["looks"]) == (False, 1)
    assert first["mend"]["weights"]

    state = run_repair(9)
    last = verdict()
    assert state.result() == {
        "insights": "Skipped", "plan": "Completed", "portfolio": "Completed",
    }  # fmt: skip
    assert last["passed"]
    looks = last["certificate"]["looks"]
    assert 2 <= looks < 9
    assert last["certificate"]["confidence"] == pytest.approx(1 - 0.05 / 2 ** (looks - 1))
    pinned = Path("inputs/plan/pinned.csv").read_text().splitlines()
    assert pinned[:3] == ["brevity,humor,round", "1.00,0.00,0", "0.00,1.00,0"]
    assert {line.split(",")[2] for line in pinned[3:]} == {str(k) for k in range(1, looks)}
    assert [m["weights"] for m in last["members"]][:2] == [m["weights"] for m in first["members"]]

    shown = Artifact.get("palette-result").data
    point, upper = first["certificate"]["epsilon_point"], first["certificate"]["epsilon_upper"]
    assert f"| 1 | 0.95 | 2 | 2 | {point:.2%} | {upper:.2%} | FAIL |" in shown
    (final,) = [line for line in shown.splitlines() if line.startswith(f"| {looks} | 0.9")]
    assert final.endswith("PASS |")

    assert run_repair(9).result() == dict.fromkeys(["insights", "plan", "portfolio"], "Skipped")
    assert verdict() == last


@pytest.mark.slow
def test_repair_stops_where_no_training_would_help(project, server):
    from prefect.artifacts import Artifact

    failing_project(epsilon=0.03, lack=0.2)
    assert run_repair(5).is_completed()
    assert not verdict()["passed"]
    assert verdict()["certificate"]["looks"] < 5
    assert verdict()["mend"]["weights"] == []
    assert "train longer (adapters.steps)" in Artifact.get("palette-result").data


def artifact_of(state) -> str:
    """The verdict as this very run published it last."""
    from prefect.artifacts import Artifact

    artifact = Artifact.get("palette-result")
    assert artifact.flow_run_id == state.state_details.flow_run_id
    return artifact.data


@pytest.mark.slow
def test_a_repair_beyond_the_budget_ends_with_the_first_verdict(project, server):
    failing_project(epsilon=0.03, lack=0.002, budget="2")
    state = run_repair(3)
    assert state.is_completed()
    assert "look 1 at certify: FAIL" in state.message
    assert "plan.max_members is 2" in state.message and "raise it to 4" in state.message
    assert (verdict()["passed"], verdict()["certificate"]["looks"]) == (False, 1)
    assert not Path("inputs/plan/pinned.csv").exists()
    shown = artifact_of(state)
    assert "| 1 | 0.95 | 2 | 2 |" in shown
    assert "No repair was begun: plan.max_members is 2" in shown


@pytest.mark.slow
def test_a_repair_whose_stage_fails_leaves_the_first_verdict_shown(project, server):
    refuse = "import sys\nif params.plan.pinned: sys.exit('palette: no room for more')"
    failing_project(epsilon=0.03, lack=0.002, plan=refuse)
    state = run_repair(1)
    assert state.is_failed()
    assert state.message == "plan: palette: no room for more"
    assert "| portfolio | Completed |" in artifact_of(state)


@pytest.mark.slow
def test_repair_rounds_are_an_option_and_never_negative(project):
    def pipeline(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "flows.pipeline", *arguments],
            env=os.environ | {"PYTHONPATH": SOURCES, "COLUMNS": "200", "TERM": "dumb"},
            capture_output=True, text=True,
        )  # fmt: skip

    assert "each one more look at certify" in pipeline("--help").stdout
    refused = pipeline("--repair-rounds", "-1")
    assert refused.returncode == 2
    assert "--repair-rounds" in refused.stderr


def test_what_a_round_bought_is_said_also_where_it_bought_nothing():
    from flows.repair import Look, bought, conclusion, markdown

    before = Look(1, False, 5, 6, 0.0612, None, 0.95, 2, "Train 2 more.")
    after = Look(2, False, 7, 8, 0.0613, 0.07, 0.975, 0, "Train longer.")
    assert bought(before, after) == (
        "repair round 1 trained 2 more: look 2, members 5 → 7, ε point 6.12% → 6.13%, "
        "upper no bound → 7.00%: FAIL"
    )
    assert markdown([]) == []
    counted, table, advice = markdown([before, after])
    assert "each round of repair in the file of plan.pinned is one more" in counted
    assert "| 2 | 0.975 | 8 | 7 | 6.13% | 7.00% | FAIL |" in table
    assert advice == "Train longer."
    assert conclusion([]) == []
    assert conclusion([before, after]) == ["look 2 at certify: FAIL", "Train longer."]


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
    environment = os.environ | {"PYTHONPATH": SOURCES}
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
