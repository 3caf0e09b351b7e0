"""Fixtures of several test files."""

import pytest
import report_world
import tiny_chain
import tiny_project
from warm import Warm


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """The folder of tests/tiny_chain.py: every stage has run in it. Read only."""
    folder = tmp_path_factory.mktemp("chain")
    tiny_chain.build(folder)
    return folder


@pytest.fixture
def chain(built, monkeypatch):
    """The same folder, as the working directory."""
    monkeypatch.chdir(built)
    return built


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A folder of tests/report_world.py with three traits, as the working directory."""
    monkeypatch.chdir(tmp_path)
    report_world.make(report_world.params_with(3))
    return tmp_path


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory, warm):
    """The git and DVC project of tests/tiny_project.py, after its first run. Read only."""
    return tiny_project.build(tmp_path_factory.mktemp("tiny") / "project", warm.python)


@pytest.fixture(scope="session")
def warm(tmp_path_factory):
    """Interpreters that have imported the libraries already (tests/warm.py)."""
    server = Warm(tmp_path_factory.mktemp("warm"))
    yield server
    server.close()


LONGEST = ["test_promise.py", "test_serve.py", "test_training.py", "test_flows.py"]
"""These first, so that no worker waits for another's at the end."""


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: [*LONGEST, item.path.name].index(item.path.name))
