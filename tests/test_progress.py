"""What is said of long work: how far it has come, and how long it will still take."""

import sys

import pytest

from palette import progress
from palette.passes import Forecast


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """The time, to be set."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_time_left_is_reckoned_by_what_steps_cost(clock, capsys):
    dear = Forecast(50, 0, ((30, 1.0), (20, 6.0)))  # 30 s, and then 120
    assert [dear.share(done) for done in (0, 30, 40, 50)] == [0, 0.2, 0.6, 1]
    with progress.progress("training", 50, dear.share) as advance:
        clock[0] += 15
        advance(15)
        clock[0] += 15 + 60
        advance(15 + 10)
        clock[0] += 60
        advance(10)
    assert capsys.readouterr().err.splitlines() == [
        "training: 15 of 50, about 2 min 15 s left",
        "training: 40 of 50, about 1 min 00 s left",
        "training: 50 of 50 in 2 min 30 s",
    ]


def test_steps_that_cost_the_same_need_no_forecast(clock, capsys):
    with progress.progress("rows", 4) as advance:
        advance(1)  # too soon to be said
        clock[0] += 12
        advance(1)
        clock[0] += 12
        advance(2)
    with progress.progress("nothing", 0):
        pass
    assert capsys.readouterr().err.splitlines() == [
        "rows: 2 of 4, about 12 s left",
        "rows: 4 of 4 in 24 s",
        "nothing: 0 of 0 in 0 s",
    ]


def test_a_terminal_shows_a_bar_with_the_steps(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress.progress("rows", 4) as advance:
        advance(3)
        advance(1)
    said = capsys.readouterr().err
    assert "rows" in said and "4/4" in said
