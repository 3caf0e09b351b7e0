"""Fixtures of several test files."""

import pytest
import tiny_chain
import tiny_project


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


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory):
    """The git and DVC project of tests/tiny_project.py, after its first run. Read only."""
    return tiny_project.build(tmp_path_factory.mktemp("tiny") / "project")


def pytest_collection_modifyitems(items):
    """The longest file first, so that of two workers neither waits for the other at the end."""
    items.sort(key=lambda item: item.path.name != "test_promise.py")
