"""Fraction and estimate of a job, by a clock that is set by hand; and what is remembered of earlier jobs, whatever becomes of its file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from comfyui_sam3d.worker.history import FILE, FIRST, KEYS, RATES, History
from comfyui_sam3d.worker.job import Planned
from comfyui_sam3d.worker.progress import Course

ROW = [Planned("sample", 3.0, 10.0), Planned("bake", 1.0, 4.0)]


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def play(
    history: History, seconds: dict[str, float], row: list[Planned] = ROW, *, end: bool = True, clock: Clock | None = None
) -> list[float | None]:
    """A job whose stages take these seconds, in ten steps each; the estimates after each step."""
    clock = clock or Clock()
    course = Course(lambda: history, None, clock=clock)
    course.plan(row, "engine gpu")
    seen: list[float | None] = []
    last = 0.0
    for stage, taken in seconds.items():
        for step in range(11):
            clock.now += taken / 10 if step else 0.0
            progress = course.step(stage, step, 10)
            assert progress.fraction >= last
            last = progress.fraction
            seen.append(progress.eta)
    if end:
        course.finish()
    return seen


def test_the_first_job_has_nothing_but_its_own_pace(tmp_path):
    seen = play(History(tmp_path), {"sample": 6.0, "bake": 2.0})
    assert seen[0] is None and seen[1] == pytest.approx(0.6 / 0.075 * 0.925)  # a tenth of three quarters took 0.6 s
    assert seen[-1] == 0


def test_the_next_job_knows_what_is_to_come(tmp_path):
    play(History(tmp_path), {"sample": 6.0, "bake": 2.0})
    seen = play(History(tmp_path), {"sample": 6.0, "bake": 2.0})  # another process
    assert seen[0] == pytest.approx(8.0) and seen[5] == pytest.approx(5.0) and seen[10] == seen[11] == pytest.approx(2.0)
    assert seen[16] == pytest.approx(1.0) and seen[-1] == 0


def test_estimates_follow_the_amount_of_work_and_what_does_it(tmp_path):
    play(History(tmp_path), {"sample": 6.0, "bake": 2.0})
    twice = [Planned("sample", 3.0, 20.0), Planned("bake", 1.0, 2.0)]
    assert play(History(tmp_path), {"sample": 12.0}, twice)[0] == pytest.approx(13.0)
    course = Course(lambda: History(tmp_path), None, clock=Clock())
    course.plan(ROW, "engine cpu")
    assert course.step("sample", 0, 10).eta is None


def test_its_own_pace_counts_the_more_the_further_a_stage_is(tmp_path):
    play(History(tmp_path), {"sample": 6.0, "bake": 2.0})
    seen = play(History(tmp_path), {"sample": 12.0})  # twice as slow as then
    half, nearly = seen[5], seen[9]
    assert 3.0 + 2.0 < half < 6.0 + 2.0 and nearly == pytest.approx(1.2 + 2.0, rel=0.05)


def test_the_first_run_of_a_stage_in_a_process_is_another_thing(tmp_path):
    history = History(tmp_path)
    play(history, {"sample": 20.0, "bake": 2.0})  # networks are loaded, kernels compiled
    assert play(history, {"sample": 6.0, "bake": 2.0})[0] == pytest.approx(22.0)  # nothing better is known
    assert play(history, {"sample": 6.0, "bake": 2.0})[0] == pytest.approx(8.0)
    assert play(History(tmp_path), {"sample": 20.0, "bake": 2.0})[0] == pytest.approx(22.0)


def test_a_job_that_did_not_succeed_teaches_nothing(tmp_path):
    play(History(tmp_path), {"sample": 6.0}, end=False)
    assert not (tmp_path / FILE).exists()


def test_stages_that_are_not_needed_and_stages_that_come_again(tmp_path):
    """Two objects, cleaned and baked one after the other; nothing is sampled."""
    row = [Planned("sample", 8.0, 1.0), *[Planned("clean", 1.0, 1.0), Planned("bake", 3.0, 1.0)] * 2]
    clock = Clock()
    course = Course(History, None, clock=clock)
    course.plan(row, "engine gpu")
    fractions = []
    for stage, taken in (("clean", 1.0), ("bake", 3.0)) * 2:
        course.step(stage, 0, 1)
        clock.now += taken
        fractions.append(course.step(stage, 1, 1).fraction)
    assert fractions == [pytest.approx(x / 16) for x in (9, 12, 13, 16)]
    course = Course(lambda: History(tmp_path), None, clock=clock)  # `clean` that never says that it is done
    course.plan(row, "engine gpu")
    for stage in ("clean", "bake", "clean", "bake"):
        course.step(stage, 0, 2)
        clock.now += 1.0
        last = course.step(stage, 1, 2).fraction
    assert last == pytest.approx((13 + 1.5) / 16)
    course.finish()
    assert set(json.loads((tmp_path / FILE).read_text())["rates"]) == {
        f"engine gpu {name}" for name in ("clean (first)", "clean", "bake (first)", "bake")
    }


def test_a_stage_that_begins_before_what_it_needs_has_that_made(tmp_path):
    """`sample` says that it begins, then finds that `embed` must be done: each has its own time, of both it is learned."""
    clock, history = Clock(), History(tmp_path)
    course = Course(lambda: history, None, clock=clock)
    course.plan([Planned("embed", 1.0, 2.0), Planned("sample", 3.0, 10.0)], "engine gpu")
    fractions = []
    for stage, step, total, taken in (
        ("sample", 0, 3, 0.5),
        ("embed", 0, 1, 4.0),
        ("embed", 1, 1, 0.0),
        ("sample", 1, 3, 1.0),
        ("sample", 3, 3, 0.0),
    ):
        fractions.append(course.step(stage, step, total).fraction)
        clock.now += taken
    course.finish()
    assert fractions == [0.25, 0.25, 0.25, 0.5, 1.0]
    rates = json.loads((tmp_path / FILE).read_text())["rates"]
    assert rates == {"engine gpu embed (first)": [pytest.approx(2.0)], "engine gpu sample (first)": [pytest.approx(0.15)]}


def test_an_unplanned_stage_moves_the_bar_by_half_of_what_is_left_and_ends_the_estimate():
    course = Course(History, Planned("encode", 0.3), clock=Clock())
    assert course.step("surprise", 1, 1).fraction == 0.5
    assert course.step("surprise", 1, 2).fraction == 0.5  # never back
    assert course.step("encode", 1, 1).fraction == 1.0


# -- what is remembered


def test_the_last_rates_count_by_their_median(tmp_path):
    history = History(tmp_path)
    for rate in (9.0, 1.0, 2.0, 100.0, 3.0):
        history.add([("a", rate)])
    assert History(tmp_path).rate("a") == 3.0
    history.add([("a", float("nan")), ("a", 0.0), ("a", -1.0), ("b", float("inf"))])
    assert History(tmp_path).rate("a") == 3.0 and History(tmp_path).rate("b") is None


def test_it_is_bounded(tmp_path):
    history = History(tmp_path)
    history.add([(f"stage {n}", 1.0) for n in range(KEYS + 50)])
    for n in range(30):
        history.add([(f"stage {KEYS + 49}", float(n + 1))])
    found = json.loads((tmp_path / FILE).read_text())["rates"]
    assert len(found) == KEYS and "stage 0" not in found and found[f"stage {KEYS + 49}"] == [float(n) for n in range(31 - RATES, 31)]


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"\xff\xfe", b"[]", b"7", b'{"schema": 2, "rates": {"a": [1]}}', b'{"schema": 1, "rates": [1]}', b"[" * 100_000,
        b'{"schema": 1, "rates": {"a": []}}', b'{"schema": 1, "rates": {"a": ["x"]}}', b'{"schema": 1, "rates": {"a": [-1]}}',
        b'{"schema": 1, "rates": {"a": [NaN]}}', b'{"schema": 1, "rates": {"a": [true]}}', b" " * 2_000_000,
    ],
)  # fmt: skip
def test_a_file_that_is_none_counts_as_none(tmp_path, content):
    (tmp_path / FILE).write_bytes(content)
    history = History(tmp_path)
    assert history.rate("a") is None
    history.add([("a", 2.0)])
    assert History(tmp_path).rate("a") == 2.0


def test_a_folder_that_can_not_be_written_costs_the_memory_only(tmp_path):
    (tmp_path / "file").write_text("in the way")
    history = History(tmp_path / "file")
    history.add([("a" + FIRST, 2.0)])
    assert history.rate("a") == 2.0 and History(tmp_path / "file").rate("a") is None
    alone = History()
    alone.add([("a", 1.0)])
    assert alone.rate("a") == 1.0


WRITER = """
import sys
from pathlib import Path
from comfyui_sam3d.worker.history import History
history = History(Path(sys.argv[1]))
print("ready", flush=True)
for n in range(10**6):
    history.add([(sys.argv[2], 5.0), (f"{sys.argv[2]} {n % 3}", 5.0)])
    assert all(rate == 5.0 for rates in History(Path(sys.argv[1]))._rates.values() for rate in rates)
"""


def test_two_processes_and_kills_leave_a_whole_file(tmp_path: Path):
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), name], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for name in "ab"
    ]
    for writer in writers:
        assert writer.stdout is not None and writer.stdout.readline() == b"ready\n"
    for writer in writers:
        with pytest.raises(subprocess.TimeoutExpired):
            writer.wait(0.3)
        writer.kill()
        writer.communicate()
    found = json.loads((tmp_path / FILE).read_text())["rates"]
    assert found and all(rate == 5.0 for rates in found.values() for rate in rates)
