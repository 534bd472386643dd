"""What a run says of a training: lines now and then, a bar in a terminal, and how long it will take."""

import io
import re
import time

import pytest
from rich.console import Console
from run_parts import configuration

from slimcodec.pipeline import plan
from slimcodec.pipeline.checks import checked, new_architecture
from slimcodec.pipeline.plan import Fit
from slimcodec.pipeline.run_directory import RunDirectory
from slimcodec.pipeline.telling import Teller, duration
from slimcodec.training.progress import Status
from slimcodec.training.records import Round, count_planned, next_attempt
from slimcodec.training.schedule import Late, Schedule
from slimcodec.training.widths import COUNTS

FIT = Fit("prune", round=2, pixels_after=3_000_000)
BEGINS = Status(0, 900, quality=4)
TRAINS = Status(450, 900, 4, 0.3521, 28.314, 0.7342, 74.26, 725.0, 1000.0)
LINE = (
    "prune round 2: step 450 of 900 · loss 0.7342 · 0.352 bpp 28.31 dB at quality 4 · 74.3 pictures/s · "
    "12 min 05 s left, of the run ≥ 1 h 02 min"
)


@pytest.fixture
def clock(monkeypatch):
    """Seconds, which a test lets pass."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def told(statuses, clock, fit=FIT, seconds_between=10.0) -> list[str]:
    kept: list[str] = []
    printed = io.StringIO()
    teller = Teller(Console(file=printed, width=80), kept.append, seconds=30)
    with teller.training(fit) as watch:
        for status in statuses:
            watch(status)
            clock[0] += seconds_between
    assert printed.getvalue().splitlines() == kept, "the log holds what is printed"
    return kept


def test_a_line_says_everything_in_words(clock):
    assert told([BEGINS, TRAINS], clock) == ["prune round 2: 900 steps", LINE]


def test_lines_are_said_now_and_then_and_the_last_one_always(clock):
    statuses = [BEGINS, *(TRAINS._replace(step=step) for step in range(0, 900, 100)), TRAINS._replace(step=900)]
    said = told(statuses, clock)
    assert [line.split(" · ")[0].split()[-3] for line in said[1:]] == ["0", "300", "600", "900"]


def test_what_is_not_known_is_left_out_and_what_goes_on_says_so(clock):
    early = Status(10, 900, 4, loss=1.5, pictures_per_second=1234.5, seconds_left=3, pixels_per_second=1.0)
    said = told([BEGINS._replace(step=5), early], clock, Fit("teacher", is_last_work=True))
    assert said[0] == "teacher: continues from step 5 of 900"
    assert said[1] == "teacher: step 10 of 900 · loss 1.5 · 1,234 pictures/s · 3 s left"


def test_a_terminal_has_one_bar_a_training(clock):
    """The log has the lines all the same."""
    kept, shown = [], io.StringIO()
    teller = Teller(Console(file=shown, width=80, force_terminal=True, color_system=None), kept.append)
    with teller.training(FIT) as watch:
        watch(BEGINS._replace(step=100))
        watch(TRAINS)
    printed = re.sub(r"\x1b\[\S*?[A-Za-z]", "", shown.getvalue())
    assert "prune round 2: continues from step 100 of 900" in printed and "step 450 of" not in printed
    *_, bar, numbers = [line for line in printed.splitlines() if line.strip()]
    assert re.fullmatch(r"prune round 2 ━+\S* +450/900 12 min 05 s left, of the run ≥ 1 h 02 min *", bar)
    assert numbers.strip() == "loss 0.7342 · 0.352 bpp 28.31 dB at quality 4 · 74.3 pictures/s"
    assert kept[-1] == LINE


@pytest.mark.parametrize(
    "seconds, words", [(7.6, "8 s"), (200, "3 min 20 s"), (7500, "2 h 05 min"), (97_300, "1 d 03 h")]
)
def test_durations_have_two_units(seconds, words):
    assert duration(seconds) == words


# ------------------------------------------------------------------------------------------------------- the plan


def settings(*overrides):
    return checked(configuration("experiment=smoke", *overrides))


def test_what_is_to_come_is_counted_in_pixels(tmp_path):
    chosen, directory = settings("+student.training.late={share:0.25,batch:2,crop:128}"), RunDirectory(tmp_path)
    rounds = count_planned([], COUNTS["decoder"](new_architecture(chosen)), chosen.prune.rules("decoder"))
    a_round, distill = 16 * 8 * 64**2, 18 * 8 * 64**2 + 6 * 2 * 128**2
    assert plan.pixels(chosen.student.training) == distill
    assert plan.fit(chosen, directory, "teacher", directory.teacher).pixels_after == distill + rounds * a_round
    first = plan.fit(chosen, directory, "prune", directory.rounds("decoder") / "01-180.work" / "pass-1")
    assert first == Fit("prune", 0, 1, (rounds - 1) * a_round) and first.label == "prune round 1"


def test_only_a_run_that_ends_with_training_knows_when(tmp_path):
    directory = RunDirectory(tmp_path)
    alone = plan.fit(settings("stages=[teacher,distill]"), directory, "teacher", directory.teacher)
    assert alone.is_last_work and alone.pixels_after == 24 * 8 * 64**2
    assert not plan.fit(settings(), directory, "teacher", directory.teacher).is_last_work


def test_rounds_are_planned_as_if_each_were_accepted():
    rules = settings("prune.target_macs_per_pixel=2000").prune.rules("decoder")._replace(shrink=0.75)
    assert count_planned([], 5000, rules) == 3  # 3750, 2812, and 2109 is near enough to the target
    done = Round(1, 3750, 1, 3700, None, None, 1.0, True, 0.0, "01")
    assert count_planned([done], 5000, rules) == 2
    assert next_attempt([done], 5000, rules).number == 2


def test_the_pixels_of_a_schedule_are_those_of_its_steps():
    schedule = Schedule(10, 4, 64, late=Late(0.3, 2, 128))
    each = [schedule.batch_at(step) * schedule.crop_at(step) ** 2 for step in range(10)]
    assert all(schedule.pixels(a, b) == sum(each[a:b]) for a in range(11) for b in range(a, 11))
