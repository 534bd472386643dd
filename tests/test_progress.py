"""Where no terminal is, work that takes long says in lines how far it is."""

import sys

import pytest

from slimcodec.codec import progress


@pytest.fixture
def soon(monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0)


def test_lines_say_how_far_the_work_is(capsys, soon):
    assert list(progress.bar(iter("abc"), desc="letters", total=3, unit="letters")) == list("abc")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("letters: 0 of 3 (letters) in 00:00")
    assert lines[-1].startswith("letters: 3 of 3 (letters) in 00:00, 00:00 left")


def test_short_work_says_nothing(capsys):
    assert list(progress.bar(range(1000), desc="numbers")) == list(range(1000))
    assert capsys.readouterr().err == ""


def test_a_terminal_has_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    list(progress.bar(range(3), desc="numbers"))
    assert "\rnumbers: 100%" in capsys.readouterr().err


def test_without_standard_error_the_work_goes_on(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    assert list(progress.bar(range(3))) == [0, 1, 2]
