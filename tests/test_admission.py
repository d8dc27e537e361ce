"""The house's book: decoders step down in order, dates bound overtaking, Retry-After is computed."""

import pytest

from asr.decoding.options import DecodingOptions
from service.admission import PATIENCE, Admission
from service.errors import BusyError
from service.expectation import FIRST_GUESS, Expectation
from service.metrics import Metrics

RESCORE = DecodingOptions("beam_lm_rescore")


def book(target_s: float | None = 10.0, budget_s: float = 1e6) -> Admission:
    """Greedy takes 0.1 s a second of audio, beam search 0.3 s, rescoring 0.6 s; there are two threads."""
    expectation = Expectation()
    for step in FIRST_GUESS:
        seconds = {"acoustic": 0.1, "search:beam_lm": 0.2, "rescoring": 0.3}.get(step, 0.0)
        expectation.learn(step, seconds * 1e6, 1e6)
    return Admission(
        budget_s=budget_s,
        max_unmeasured=1000,
        latency_target_s=target_s,
        threads=2,
        expectation=expectation,
        metrics=Metrics(),
    )


@pytest.mark.parametrize(
    ("recordings", "used"),
    [(3, "beam_lm_rescore"), (4, "beam_lm"), (6, "beam_lm"), (7, "greedy"), (90, "greedy")],
)
def test_rescoring_goes_first_then_beam_search(recordings: int, used: str) -> None:
    """Ten seconds each: 3 rescored take 9 s, 6 searched 9 s, and the target is 10 s."""
    admission = book()
    tickets = [admission.enter("beam_lm_rescore") for _ in range(recordings)]
    for ticket in tickets:
        admission.measure(ticket, 10.0)
    decoder, why = admission.affordable(tickets[-1], RESCORE)
    assert decoder == used
    assert bool(why) == (used != "beam_lm_rescore")


def test_nobody_steps_down_without_a_target_or_alone_or_below_what_was_asked() -> None:
    admission = book(target_s=None)
    tickets = [admission.enter("beam_lm_rescore") for _ in range(50)]
    for ticket in tickets:
        admission.measure(ticket, 100.0)
    assert admission.affordable(tickets[0], RESCORE) == ("beam_lm_rescore", "")
    alone = book()
    ticket = alone.enter("beam_lm_rescore")
    alone.measure(ticket, 3600.0)
    assert alone.affordable(ticket, RESCORE) == ("beam_lm_rescore", "")
    greedy = alone.enter("greedy")
    alone.measure(greedy, 3600.0)
    assert alone.affordable(greedy, DecodingOptions("greedy")) == ("greedy", "")


def test_a_long_recording_is_overtaken_only_for_so_long() -> None:
    admission = book()
    long, early, late = (admission.enter("greedy") for _ in range(3))
    long.arrived = early.arrived = 0.0
    late.arrived = PATIENCE * 0.1 * 100.0
    for ticket, duration_s in ((long, 100.0), (early, 1.0), (late, 1.0)):
        admission.measure(ticket, duration_s)
    assert early.date < long.date < late.date
    assert early.predicted_s == 0.0
    assert late.predicted_s == pytest.approx((100.0 + 1.0) * 0.1 / 2, rel=1e-3)


def test_retry_after_is_the_time_that_the_excess_takes() -> None:
    admission = book(budget_s=1000.0)
    for _ in range(2):
        admission.measure(admission.enter("greedy"), 400.0)
    with pytest.raises(BusyError) as refused:
        admission.measure(admission.enter("greedy"), 300.0)
    # 100 s too many, 0.1 s of work each, two threads; the refused one is in the house until it leaves
    assert refused.value.retry_after_s in (5, 6)


def test_what_is_done_of_a_long_recording_gives_its_room_back() -> None:
    admission = book(budget_s=1000.0)
    ticket = admission.enter("greedy")
    admission.measure(ticket, 500.0)
    admission.measure(admission.enter("greedy"), 500.0)
    with pytest.raises(BusyError):
        admission.check_room()
    admission.progress(ticket, done_s=100.0, read_s=130.0)
    admission.check_room()
    admission.measure(admission.enter("greedy"), 100.0)
