"""Fanning out: the same results on every engine, and errors as one sentence."""

import os
import sys
import time
from contextlib import contextmanager
from functools import partial

import pytest
import torch

from palette.errors import PaletteError
from palette.fanout import fan_out
from palette.params import Runtime

ITEMS = list(range(7))


def powers(item: int, held: list[int]) -> tuple[int, torch.Tensor]:
    return item, torch.tensor(held) ** item


def place(item: int) -> tuple[int, int]:
    time.sleep(0.2)  # long enough for the other worker to begin
    return os.getpid(), torch.get_num_threads()


def picky(item: int) -> int:
    if item == 2:
        raise PaletteError(f"item {item} is wrong; mend it")
    return item


def results(engine: str, items=ITEMS, workers=2) -> list:
    runtime = Runtime(engine=engine, workers=workers, threads=1)
    held = list(range(1000))
    return list(fan_out(partial(powers, held=held), items, runtime, "powers"))


def assert_same(ones: list, others: list) -> None:
    assert [item for item, _ in ones] == [item for item, _ in others]
    for (_, one), (_, other) in zip(ones, others, strict=True):
        assert torch.equal(one, other)


@contextmanager
def named(address: str | None, **settings: str):
    """A cluster named as a user names one, whatever the environment of the tests names."""
    dask = pytest.importorskip("dask")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("DASK_SCHEDULER_ADDRESS", raising=False)
        if address:
            settings |= {"DASK_SCHEDULER_ADDRESS": address}
        for name, value in settings.items():
            patch.setenv(name, value)
        dask.config.refresh()
        yield
    dask.config.refresh()


@contextmanager
def running_cluster(**settings):
    """A Dask cluster of processes on loopback, and its address as a user names it."""
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            processes=True, host="127.0.0.1", dashboard_address="127.0.0.1:0", **settings
        ) as cluster,
        named(cluster.scheduler_address),
    ):
        yield cluster


@pytest.fixture(scope="module")
def cluster():
    with running_cluster(n_workers=2, threads_per_worker=1) as running:
        yield running


@pytest.mark.parametrize("engine", ["loky", "threading"])
def test_results_come_in_order_and_are_the_same_on_every_engine(engine):
    assert_same(results(engine), results("sequential"))
    assert results(engine, items=[]) == []


def test_a_running_dask_cluster_gives_the_same_results_from_both_its_workers(cluster):
    assert_same(results("dask"), results("sequential"))
    runtime = Runtime(engine="dask", workers=2, threads=1)
    assert len({process for process, _ in fan_out(place, ITEMS, runtime, "places")}) == 2


def test_a_lone_item_goes_to_the_cluster_too_with_the_threads_of_one_worker(cluster):
    runtime = Runtime(engine="dask", workers=4, threads=1)
    ((process, threads),) = fan_out(place, [0], runtime, "places")
    assert process != os.getpid() and threads == 1


@pytest.mark.parametrize("engine", ["sequential", "loky"])
def test_an_error_comes_through_as_its_sentence(engine):
    assert_the_error_comes_through(engine)


def test_an_error_comes_through_from_a_cluster_which_goes_on(cluster):
    assert_the_error_comes_through("dask")
    assert_same(results("dask"), results("sequential"))


def assert_the_error_comes_through(engine: str) -> None:
    runtime = Runtime(engine=engine, workers=2, threads=1)
    made = fan_out(picky, ITEMS, runtime, "picky")
    with pytest.raises(PaletteError, match=r"^item 2 is wrong; mend it$"):
        list(made)


def test_without_items_no_cluster_is_asked_for():
    with named(None):
        assert results("dask", items=[]) == []


def test_a_cluster_that_is_not_named_is_asked_for():
    with (
        named(None),
        pytest.raises(PaletteError, match="no cluster is named: set DASK_SCHEDULER_ADDRESS"),
    ):
        results("dask")


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense://here"])
def test_a_scheduler_that_does_not_answer_is_named(address):
    with (
        named(address, DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT="200ms"),
        pytest.raises(PaletteError, match=f"no Dask scheduler answers at {address} "),
    ):
        results("dask")


@pytest.mark.parametrize("workers, trouble", [(0, "no worker"), (1, "a worker of several threads")])
def test_a_cluster_that_cannot_run_our_items_is_refused(workers, trouble):
    with (
        running_cluster(n_workers=workers, threads_per_worker=2) as cluster,
        pytest.raises(PaletteError, match=f"at {cluster.scheduler_address} has {trouble}: start"),
    ):
        results("dask")


def test_without_dask_the_engine_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(PaletteError, match="not installed: pip install dask distributed"):
        results("dask")


@pytest.mark.parametrize(
    "items, workers, threads, each", [(1, 2, 1, 2), (1, 3, 2, 6), (2, 3, 1, 1), (2, 4, 1, 2)]
)
def test_fewer_items_than_workers_have_the_threads_of_the_idle_ones(items, workers, threads, each):
    runtime = Runtime(engine="threading", workers=workers, threads=threads)
    before = torch.get_num_threads()
    found = [own for _, own in fan_out(place, range(items), runtime, "places")]
    assert found == [each] * items
    assert torch.get_num_threads() == before
