"""`make serve` on a tiny project: a real server, a worker and its clone, and whatever is killed.

About 80 s on two idle cores: one server serves all tests, and is started anew once.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from prefect.artifacts import Artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_API_PORT, temporary_settings
from prefect.states import Cancelling

from flows import serve, server
from palette.errors import PaletteError

ROOT = Path(__file__).parents[1]
OFTEN = "* * * * * */15"  # seconds
HOLD = """
import json, os, pathlib, sys, time
hold = pathlib.Path(os.environ["PALETTE_TEST_HOLD"])
if hold.exists():
    hold.write_text(str(os.getpid()))
while hold.exists():
    time.sleep(0.05)
"""
APPEND = """
import pathlib, sys
source, target = map(pathlib.Path, sys.argv[1:])
target.parent.mkdir(exist_ok=True)
target.write_text(source.read_text() + target.stem)
"""
REPORT = (
    HOLD
    + """
import yaml
asked = yaml.safe_load(pathlib.Path("params.yaml").read_text())["portfolio"]["epsilon"]
metrics = json.loads(pathlib.Path("metrics.json").read_text())
metrics |= {"certificate.epsilon.requested": asked, "certificate.passed": int(asked >= 0.04)}
pathlib.Path("reports").mkdir(exist_ok=True)
pathlib.Path("reports/metrics.json").write_text(json.dumps(metrics))
"""
)
METRICS = {
    "portfolio.size": 2, "plan.trainings": 3, "plan.lower_bound": 2,
    "certificate.delta.requested": 0, "certificate.epsilon.point": 0.03,
    "certificate.epsilon.upper": 0.04, "objective.portfolio": 0.6, "share.portfolio": 0.9,
}  # fmt: skip
PARAMS = """\
base: {model: sandbox}
users:
  file: null              # histories
traits: {brevity: {kind: brevity}, humor: {kind: humor}}
portfolio:
  epsilon: 0.05           # asked
"""


def append(source: str, target: str, flow: str) -> dict:
    return {
        "cmd": f"python append.py {source} {target}", "deps": [source, "append.py"],
        "outs": [target], "meta": {"flow": flow},
    }  # fmt: skip


STAGES = {
    "insights": append("word.txt", "data/insights.txt", "insights"),
    "plan": append("data/insights.txt", "data/plan.txt", "adapters"),
    "report": {
        "cmd": "python report.py", "deps": ["data/plan.txt", "metrics.json", "report.py"],
        "params": ["portfolio"], "outs": [{"reports": {"cache": False}}],
        "meta": {"flow": "portfolio"},
    },
}  # fmt: skip


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


class Served:
    """A project that is being served."""

    def __init__(self, project: Path):
        self.project, self.hold = project, project / ".hold"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/api"

    def start(self) -> None:
        environment = os.environ | {
            "PYTHONPATH": str(ROOT / "src"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "DVC_SITE_CACHE_DIR": str(self.project.parent / "site"),
            "PALETTE_TEST_HOLD": str(self.hold),
            "PREFECT_HOME": str(self.project.parent / "home"),
            "PREFECT_SERVER_API_PORT": str(self.port),
            "PREFECT_WORKER_QUERY_SECONDS": "0.5",
            "PREFECT_SERVER_SERVICES_SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS": "1",
            "PREFECT_SERVER_SERVICES_LATE_RUNS_AFTER_SECONDS": "4",
            "PREFECT_SERVER_SERVICES_LATE_RUNS_LOOP_SECONDS": "1",
        }
        self.log = self.project.parent / "serve.log"
        with self.log.open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "flows.serve"],
                cwd=self.project, env=environment, stdout=out, stderr=subprocess.STDOUT,
            )  # fmt: skip
        self.eventually(lambda: "serving at" in self.log.read_text())

    def eventually(self, condition, seconds: float = 300):
        """The first true value of a condition, which must come true in time."""
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < deadline, f"waited in vain:\n{self.log.read_text()[-3000:]}"
            assert self.process.poll() is None or "ended by itself" in self.log.read_text()
            time.sleep(0.2)
        return found

    @property
    def clone(self) -> Path:
        return self.project / ".palette/clone"

    def client(self):
        return get_client(sync_client=True)

    def ask(self, deployment: str, **parameters):
        """A run of a deployment, as somebody asks for it in the UI."""
        with self.client() as client:
            found = client.read_deployment_by_name(deployment)
            return client.create_flow_run_from_deployment(found.id, parameters=parameters)

    def run(self, run):
        with self.client() as client:
            return client.read_flow_run(run.id)

    def finish(self, run):
        """The run, once it is done."""
        self.eventually(lambda: self.run(run).state.is_final())
        return self.run(run)

    def stages(self, run) -> dict[str, str]:
        """Stage → state of its task run, of a run and its sub-flows."""
        with self.client() as client:
            inside = FlowRunFilter(parent_flow_run_id={"any_": [run.id]})
            parts = client.read_flow_runs(flow_run_filter=inside)
            ids = [part.id for part in parts if part.state.is_completed()] or [run.id]
            tasks = client.read_task_runs(flow_run_filter=FlowRunFilter(id={"any_": ids}))
        tasks = sorted(tasks, key=lambda task: task.created)
        return {task.name: task.state_name for task in tasks if task.name in STAGES}

    def fired(self):
        """The run that the schedule has started."""
        with self.client() as client:
            runs = client.read_flow_runs()
        return next((run for run in runs if run.infrastructure_pid), None)

    def held(self) -> psutil.Process:
        """The process of the stage that waits while the hold is there."""
        return psutil.Process(int(self.eventually(lambda: self.hold.read_text())))

    def programs(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    project = tmp_path_factory.mktemp("served") / "project"
    shutil.copytree(ROOT / "flows", project / "flows", ignore=shutil.ignore_patterns("__pycache__"))
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    nightly = deployments["deployments"][0]
    nightly["schedules"][0] |= {"cron": OFTEN, "active": False}
    nightly["parameters"] |= {"commit": "nightly", "push": True}
    files = {
        "append.py": APPEND, "report.py": REPORT, "word.txt": "word", "params.yaml": PARAMS,
        "metrics.json": json.dumps(METRICS), "prefect.yaml": yaml.safe_dump(deployments),
        "dvc.yaml": yaml.safe_dump({"stages": STAGES}, sort_keys=False),
        ".gitignore": "/data/\n.palette/\n__pycache__/\n.hold\n",
    }  # fmt: skip
    for name, text in files.items():
        (project / name).write_text(text)
    git(project, "init", "--quiet", "--initial-branch", "main")
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet"], cwd=project, check=True)
    git(project, "add", ".")
    git(project, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", "all")
    served = Served(project)
    try:
        served.start()
        with temporary_settings({PREFECT_API_URL: served.url}):
            yield served
    finally:
        served.process.kill()


@pytest.mark.slow
def test_cron_fires_and_the_results_are_on_a_branch(served):
    with served.client() as client:
        nightly = client.read_deployment_by_name("palette/nightly")
        (schedule,) = nightly.schedules
        client.update_deployment_schedule(nightly.id, schedule.id, active=True)
        run = served.eventually(served.fired)
        client.update_deployment_schedule(nightly.id, schedule.id, active=False)
    run = served.finish(run)
    assert run.auto_scheduled
    assert run.state.message.startswith("3 Completed; committed "), run.state
    assert served.stages(run) == dict.fromkeys(STAGES, "Completed")
    changed = git(served.project, "diff", "--name-only", "main", "nightly").splitlines()
    assert changed == ["dvc.lock", "reports/metrics.json"]
    assert git(served.project, "status", "--porcelain") == ""


@pytest.mark.slow
def test_a_second_run_skips_everything_and_commits_nothing(served):
    before = git(served.project, "rev-parse", "nightly")
    run = served.finish(served.ask("palette/nightly"))
    assert run.state.message == "3 Skipped; nothing has changed on branch 'nightly'"
    assert served.stages(run) == dict.fromkeys(STAGES, "Skipped")
    assert git(served.project, "rev-parse", "nightly") == before


def unnamed(port: int):
    """Settings under which no server is named, and one of our own would have this port."""
    port_alone = {PREFECT_SERVER_API_PORT: port}
    return temporary_settings(port_alone, restore_defaults={PREFECT_API_URL})


def test_a_taken_port_is_one_sentence(monkeypatch):
    monkeypatch.setattr(server, "ANSWER_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        refused = pytest.raises(PaletteError, match=f"port {port} is taken by another program")
        with unnamed(port), refused:
            server.find()


def test_a_server_elsewhere_must_answer():
    refused = pytest.raises(PaletteError, match="where no Prefect server answers")
    with temporary_settings({PREFECT_API_URL: "http://nowhere.invalid:4200/api"}), refused:
        server.find()


@pytest.mark.slow
def test_a_server_that_runs_is_used_where_it_is_named_alone(served, monkeypatch):
    assert server.find() == server.Server(served.url, running=True)
    refused = pytest.raises(PaletteError, match=f"PREFECT_API_URL={served.url} make serve` uses it")
    with unnamed(served.port), refused:
        server.find()
    monkeypatch.chdir(served.project)
    with pytest.raises(PaletteError, match="runs here already"):
        serve.serve(served.project, None)


@pytest.mark.slow
def test_wrong_values_are_refused_before_anything_runs(served):
    run = served.finish(served.ask("palette/nightly", histories="inputs/users/none.csv"))
    assert run.state.is_failed()
    assert run.state.message == "histories is 'inputs/users/none.csv', and there is no such file"
    assert served.stages(run) == {}


@pytest.mark.slow
def test_a_cancelled_run_leaves_no_process_and_runs_never_overlap(served):
    served.hold.write_text("")
    run = served.ask("palette/nightly", epsilon=0.06)
    stage = served.held()
    engine = next(p for p in served.programs() if "prefect.engine" in p.cmdline())
    again = served.ask("palette/nightly")
    other = served.ask("insights/insights")
    again = served.finish(again)
    assert (again.state.name, again.run_count) == ("Cancelled", 0)
    assert served.run(other).state.is_scheduled()  # another deployment's run waits for the clone
    assert stage.is_running()

    with served.client() as client:
        client.set_flow_run_state(run.id, Cancelling())
    served.eventually(lambda: not stage.is_running() and not engine.is_running())
    assert served.finish(run).state.is_cancelled()
    served.hold.unlink()
    other = served.finish(other)
    assert other.state.message == "1 Skipped"


@pytest.mark.slow
def test_the_run_of_a_killed_worker_goes_on_later(served):
    served.hold.write_text("")
    run = served.ask("palette/nightly", epsilon=0.03)
    stage = served.held()
    programs = served.programs()
    worker = next(
        p for p in programs if "worker" in p.cmdline() and "leash.py" not in p.cmdline()[3]
    )
    worker.send_signal(signal.SIGKILL)
    assert served.process.wait(30) == 1
    assert "worker ended by itself" in served.log.read_text()
    assert not psutil.wait_procs([stage, *programs], timeout=10)[1]
    served.hold.unlink()

    served.start()
    run = served.finish(run)
    assert run.run_count == 2
    assert run.state.message.startswith("1 Completed, 2 Skipped; the certificate stopped passing")
    assert served.stages(run) == {"insights": "Skipped", "plan": "Skipped", "report": "Completed"}
    assert_it_is_told(served, run)
    assert git(served.project, "show", "nightly:params.yaml") == PARAMS.strip().replace(
        "0.05", "0.03"
    )


def assert_it_is_told(served, run):
    with served.client() as client:
        ours = {"filter": {"event": {"prefix": ["palette."]}}}
        told = served.eventually(  # events travel by themselves, after the run
            lambda: client.request("POST", "/events/filter", json=ours).json()["events"]
        )
    (event,) = told
    assert event["event"] == "palette.certificate.stopped-passing"
    assert event["resource"]["prefect.resource.id"] == f"prefect.flow-run.{run.id}"
    shown = Artifact.get("palette-watch").data
    assert "ε certified 0.04 (point estimate 0.03): FAIL" in shown


@pytest.mark.slow
def test_a_stop_stops_all_of_it(served):
    programs = served.programs()
    served.process.send_signal(signal.SIGINT)
    assert served.process.wait(30) == 0
    assert "stopped" in served.log.read_text().splitlines()[-1]
    assert not psutil.wait_procs(programs, timeout=10)[1]
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", served.port)) != 0
