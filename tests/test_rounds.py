"""What a round tries next, what it accepts, and that a killed run continues from its last complete piece."""

import json

import pytest
from training_parts import ARCHITECTURES, lively

from slimcodec import InvalidInput
from slimcodec.codec import models
from slimcodec.codec.complexity import decoder_macs_per_pixel
from slimcodec.evaluation.curves import BdRate, Curve
from slimcodec.training import prune
from slimcodec.training.records import RECORDS, Attempt, Round, Rules, next_attempt, read_records
from slimcodec.training.rounds import is_accepted, rounds
from slimcodec.training.teach import load_trained, save_trained

RULES = Rules(target_macs_per_pixel=500, shrink=0.75, max_passes=2, max_halvings=2)


def record(number, budget, passes, accepted, macs=None):
    macs = 0.98 * budget if macs is None else macs
    directory = f"{number:02d}" if accepted else f"{number:02d}-{budget:.0f}.work/pass-{passes}"
    return Round(number, budget, passes, macs, 2.0, 1.0, 1.0, accepted, 1.0, directory)


FAILED_ONCE = [record(1, 750, 1, False)]
FAILED_LONGER = [*FAILED_ONCE, record(1, 750, 2, False)]
FAILED_HALF = [*FAILED_LONGER, record(1, 875, 1, False), record(1, 875, 2, False)]
FAILED_QUARTER = [*FAILED_HALF, record(1, 937.5, 1, False), record(1, 937.5, 2, False)]


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        pytest.param([], Attempt(1, None, 1000, 750, 1), id="first"),
        pytest.param([record(1, 750, 1, True)], Attempt(2, "01", 735, 551.25, 1), id="next"),
        pytest.param([record(1, 750, 1, True, 640)], Attempt(2, "01", 640, 500, 1), id="never below the target"),
        pytest.param(FAILED_ONCE, Attempt(1, None, 1000, 750, 2), id="longer"),
        pytest.param(FAILED_LONGER, Attempt(1, None, 1000, 875, 1), id="half the step"),
        pytest.param(FAILED_HALF[:3], Attempt(1, None, 1000, 875, 2), id="half the step, longer"),
        pytest.param(FAILED_HALF, Attempt(1, None, 1000, 937.5, 1), id="a quarter of it"),
        pytest.param(FAILED_QUARTER, None, id="nothing left to try"),
        pytest.param([*FAILED_LONGER, record(1, 875, 1, True, 840)], Attempt(2, "01", 840, 630, 1), id="recovered"),
        pytest.param(
            [*FAILED_QUARTER[:5], record(1, 937.5, 2, True)], Attempt(2, "01", 918.75, 689.0625, 1), id="last"
        ),
        pytest.param([record(1, 750, 1, True, 510), record(2, 500, 1, False)], Attempt(2, "01", 510, 500, 2), id="2nd"),
        pytest.param([record(1, 500, 1, True, 499)], None, id="target reached"),
    ],
)
def test_next_attempt(records, expected):
    assert next_attempt(records, 1000, RULES) == expected


def test_a_start_below_the_target_needs_no_round():
    assert next_attempt([], 500, RULES) is None


def test_the_last_few_per_cent_are_no_round_of_their_own():
    rules = RULES._replace(target_macs_per_pixel=500, shrink=0.75)
    assert next_attempt([], 732, rules).budget == 500  # 549 would leave a round of 49
    assert next_attempt([], 734, rules).budget == 550.5


def test_one_pass_and_no_halving_stop_at_the_first_failure():
    assert next_attempt(FAILED_ONCE, 1000, RULES._replace(max_passes=1, max_halvings=0)) is None
    assert next_attempt(FAILED_ONCE, 1000, RULES._replace(max_passes=1)) == Attempt(1, None, 1000, 875, 1)


@pytest.mark.parametrize(
    ("result", "strict"),
    [
        pytest.param(BdRate(1.0, 28, 40, 1.0, True), True, id="at the limit"),
        pytest.param(BdRate(-5.0, 28, 40, 0.95, True), True, id="better than the teacher"),
        pytest.param(BdRate(1.01, 28, 40, 1.0, True), False, id="above the limit"),
        pytest.param(BdRate(-5.0, 28, 40, 0.949, True), False, id="too little of the range"),
        pytest.param(BdRate(float("nan"), 28, 40, 1.0, False), False, id="not monotonic"),
        pytest.param(None, False, id="no range in common"),
    ],
)
def test_the_gate(result, strict):
    assert is_accepted(result, RULES) is strict
    assert is_accepted(result, RULES._replace(gate="record")) is True


# ------------------------------------------------------------------------------------------------------- the generator

TEACHER = Curve((1.0, 3.0, 5.0, 7.0), (0.1, 0.3, 0.8, 1.6), (27.0, 31.0, 36.0, 41.0))


def curve_of(rate: float) -> Curve:
    """The teacher's PSNR at this multiple of its rate: a BD-rate of exactly 100·(rate - 1) per cent."""
    return TEACHER._replace(bpp=tuple(rate * bpp for bpp in TEACHER.bpp))


class Killed(Exception):
    pass


class Workshop:
    """Real model directories and real pruning; fine-tuning copies, and the curves are chosen.

    rates     from the path of a model that is measured to its rate over the teacher's
    kill_at   raise in that call (counted over all pieces of work), as a killed job would stop there
    """

    def __init__(self, student, directory, rates, kill_at=None):
        self.student, self.directory, self.rates, self.kill_at = student, directory, rates, kill_at
        self.calls = []

    def call(self, name, path):
        self.calls.append((name, f"{path.parent.name}/{path.name}"))
        if len(self.calls) - 1 == self.kill_at:
            raise Killed

    def prune_to(self, base, budget, out):
        self.call("prune", out)
        self.prune(base, budget, out)

    def prune(self, base, budget, out):
        codec, prior, _ = load_trained(base)
        floors = {"latent": 8, "hyper": 4}
        smaller = prune.prune(codec, prior, scope="decoder", budget=budget, importance="magnitude", floors=floors)
        save_trained(out, *smaller, role="student")

    def finetune(self, before, out):
        self.call("finetune", out)
        models.copy(before, out)

    def measure(self, model):
        self.call("measure", model)
        return TEACHER if model == self.student else curve_of(self.rates(model.relative_to(self.directory).as_posix()))

    def run(self, rules):
        return list(
            rounds(
                self.student,
                TEACHER,
                directory=self.directory,
                scope="decoder",
                rules=rules,
                prune_to=self.prune_to,
                finetune=self.finetune,
                measure=self.measure,
            )
        )


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    directory = tmp_path_factory.mktemp("run") / "distilled"
    return save_trained(directory, *lively(ARCHITECTURES["student"]), role="student")


@pytest.fixture
def workshop(student, tmp_path):
    def make(rates, kill_at=None):
        here = tmp_path / "distilled"
        if not here.is_dir():
            models.copy(student, here)
        return Workshop(here, tmp_path / "rounds", rates, kill_at)

    return make


START = decoder_macs_per_pixel(ARCHITECTURES["student"])
STRICT = Rules(target_macs_per_pixel=0.62 * START, shrink=0.8)
FIRST = f"01-{0.8 * START:.0f}.work"
HALF = f"01-{0.9 * START:.0f}.work"
# The first step fails twice; half of it needs a second pass; the round after is accepted at once; then the target.
RATES = {f"{FIRST}/pass-1": 1.05, f"{FIRST}/pass-2": 1.02, f"{HALF}/pass-1": 1.011}


def eventful(path):
    return RATES.get(path, 1.0)


def told(records):
    return [
        (record.number, round(record.budget / START, 3), record.passes, record.accepted, record.directory)
        for record in records
    ]


def timeless(records):
    return [record._replace(seconds=0) for record in records]


def test_accepts_fine_tunes_longer_and_halves(workshop):
    job = workshop(eventful)
    records = job.run(STRICT)
    assert told(records)[:4] == [
        (1, 0.8, 1, False, f"{FIRST}/pass-1"),
        (1, 0.8, 2, False, f"{FIRST}/pass-2"),
        (1, 0.9, 1, False, f"{HALF}/pass-1"),
        (1, 0.9, 2, True, "01"),
    ]
    assert all(record.accepted for record in records[3:])
    assert records[0].bd_rate_percent == pytest.approx(5) and records[2].bd_rate_percent == pytest.approx(1.1)
    assert records[-1].macs_per_pixel <= STRICT.target_macs_per_pixel < records[-2].macs_per_pixel
    for item in records:
        model = models.load(job.directory / item.directory)
        assert item.macs_per_pixel == model.info["decoder_macs_per_pixel"]
        assert 0.93 * item.budget <= item.macs_per_pixel <= item.budget
        assert model.info["figures"]["validation"]["bd_rate_percent_against_teacher"] == item.bd_rate_percent
    assert [name for name, _ in job.calls].count("prune") == len(records) - 2  # a second pass prunes nothing
    assert read_records(job.directory) == records


def test_stops_when_nothing_helps_and_keeps_the_last_accepted(workshop):
    job = workshop(lambda path: 1.5 if path.startswith("02-") else 1.0)
    records = job.run(STRICT)
    assert [record.accepted for record in records] == [True] + 6 * [False]
    assert [record.passes for record in records[1:]] == 3 * [1, 2]
    assert len({record.budget for record in records[1:]}) == 3
    assert models.load(job.directory / "01").info["decoder_macs_per_pixel"] == records[0].macs_per_pixel
    assert job.run(STRICT) == records  # run again: the same records, and no attempt more


def test_record_goes_on_to_the_target_whatever_the_curves(workshop):
    records = workshop(lambda path: 1.5 if path.startswith("01") else 1.8).run(STRICT._replace(gate="record"))
    assert all(record.accepted and record.passes == 1 for record in records)
    assert [record.number for record in records] == list(range(1, len(records) + 1))
    assert [record.bd_rate_percent for record in records[:2]] == pytest.approx([50, 80])
    assert [record.bd_rate_percent_against_previous for record in records[:2]] == pytest.approx([50, 20])
    assert records[-1].macs_per_pixel <= STRICT.target_macs_per_pixel


def test_a_curve_without_bd_rate_is_recorded_as_none(workshop):
    job = workshop(eventful)
    job.measure = lambda model: TEACHER._replace(values=(10.0, 11.0, 12.0, 13.0)) if model != job.student else TEACHER
    rules = STRICT._replace(max_passes=1, max_halvings=0)
    (record,) = job.run(rules)
    assert record.bd_rate_percent is None and record.coverage == 0 and not record.accepted
    assert json.loads((job.directory / RECORDS).read_text())[0]["bd_rate_percent"] is None


def test_an_unknown_gate_is_an_error(workshop):
    with pytest.raises(InvalidInput, match=r"prune\.gate=lenient"):
        workshop(eventful).run(STRICT._replace(gate="lenient"))


def test_killed_anywhere_it_continues_without_doing_work_twice(workshop, tmp_path):
    rules = STRICT._replace(target_macs_per_pixel=0.8 * START)
    whole = workshop(eventful)
    expected = whole.run(rules)
    assert told(expected)[-1] == (2, 0.8, 1, True, "02")
    work = [call for call in whole.calls if call[0] != "measure"]

    for kill_at in range(len(whole.calls)):
        job = workshop(eventful, kill_at)
        job.directory = tmp_path / f"killed-{kill_at}" / "rounds"
        # Pruning takes most of the time and was checked above.
        job.prune = lambda _base, _budget, out, job=job: models.copy(
            whole.directory / out.relative_to(job.directory), out
        )
        with pytest.raises(Killed):
            job.run(rules)
        done, kept = job.calls[:-1], read_records(job.directory)
        assert timeless(kept) == timeless(expected[: len(kept)])
        job.kill_at, job.calls = None, []
        assert timeless(job.run(rules)) == timeless(expected)
        assert [call for call in done + job.calls if call[0] != "measure"] == work


def test_records_that_were_removed_are_judged_again_and_nothing_is_trained_anew(workshop):
    """What the message about a damaged rounds.json promises."""
    job = workshop(eventful)
    rules = STRICT._replace(target_macs_per_pixel=0.8 * START)
    expected = job.run(rules)
    job.directory.joinpath(RECORDS).unlink()
    job.calls = []
    assert timeless(job.run(rules)) == timeless(expected)
    assert {name for name, _ in job.calls} == {"measure"}


@pytest.mark.parametrize("text", ["", "[{", "null", "{}", "[1]", "[{}]", "[" * 100_000])
def test_damaged_records_are_named(tmp_path, text):
    (tmp_path / RECORDS).write_text(text)
    with pytest.raises(InvalidInput, match=r"rounds\.json: is damaged .*; remove it: the same command"):
        read_records(tmp_path)


@pytest.mark.parametrize("shrink", [1.5, 1.0, 0.0, float("nan"), True])
def test_a_shrink_by_which_rounds_never_end_is_refused(workshop, shrink):
    with pytest.raises(InvalidInput, match=r"prune\.shrink=.*: must be between 0 and 1"):
        workshop(eventful).run(STRICT._replace(shrink=shrink))
