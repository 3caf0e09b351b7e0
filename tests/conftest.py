"""Fixtures of several test files."""

import pytest
import report_world
import tiny_chain


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


def pytest_collection_modifyitems(items):
    """The longest file first, so that of two workers neither waits for the other at the end."""
    items.sort(key=lambda item: item.path.name != "test_promise.py")
