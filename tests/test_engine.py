"""The engine: who is let in, who goes first, who steps down, and that everything that is let in ends."""

import asyncio
import io
import threading
from collections.abc import Awaitable, Callable

import numpy as np
import pytest

from asr.decoding.options import DecodingOptions
from asr.decoding.result import NBest
from asr.errors import EmptyAudioError
from asr.recording import Posteriors
from service.engine import Engine
from service.errors import BusyError, CallerLeftError, StoppingError, TimedOutError
from service.metrics import Metrics
from service.settings import Settings
from service.speech import Readiness, Speech
from tests.conftest import wav_bytes
from tests.scripted_speech import PATIENCE_S, SECRET, ScriptedSpeech

GREEDY = DecodingOptions("greedy")


def silence(seconds: float) -> io.BytesIO:
    return io.BytesIO(wav_bytes(np.zeros(round(16000 * seconds), dtype=np.float32)))


# Read in this process: no recording comes while the one thread is at work.
ALONE = Settings(workers=1, isolate_audio=False, batch_wait_ms=10_000, max_batch=64)


def on_engine(
    check: Callable[[Engine], Awaitable[None]],
    speech: Speech,
    settings: Settings | None = None,
    metrics: Metrics | None = None,
) -> Metrics:
    """Run an async check with an engine that is closed afterwards; its metrics."""
    metrics = metrics or Metrics()

    async def run() -> None:
        async with asyncio.timeout(PATIENCE_S):
            settings_ = settings or ALONE
            readiness = Readiness()
            readiness.load(settings_, lambda _: speech)
            engine = Engine(settings_, readiness, metrics)
            await check(engine)
            await engine.close()

    asyncio.run(run())
    return metrics


@pytest.fixture
def closed() -> ScriptedSpeech:
    """A model that does not hear until its gate is opened."""
    speech = ScriptedSpeech()
    speech.gate.clear()
    return speech


async def entered(speech: ScriptedSpeech) -> None:
    """Returns when a recording has come to the acoustic model."""
    assert await asyncio.to_thread(speech.entered.acquire, timeout=PATIENCE_S)


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(name, labels) or 0.0


def test_waiting_recordings_are_heard_in_one_batch_and_rescored_in_one_pass(closed: ScriptedSpeech) -> None:
    async def check(engine: Engine) -> None:
        first = asyncio.create_task(engine.transcribe(silence(1), GREEDY))
        await entered(closed)
        rest = [asyncio.create_task(engine.transcribe(silence(1), DecodingOptions())) for _ in range(5)]
        await asyncio.sleep(0)
        closed.gate.set()
        answers = await asyncio.gather(first, *rest)
        assert {answer.transcript.text for answer in answers} == {SECRET}

    metrics = on_engine(check, closed)
    assert closed.batches == [[1.0], [1.0] * 5]
    assert closed.rescored == [5]
    assert value(metrics, "asr_decoders_total", asked="beam_lm_rescore", used="beam_lm_rescore") == 5


@pytest.mark.parametrize(("given", "most"), [(None, 2), (1, 1), (3, 3)])
def test_a_batch_has_no_more_than_it_may_and_on_a_cpu_few(
    closed: ScriptedSpeech, given: int | None, most: int
) -> None:
    async def check(engine: Engine) -> None:
        first = asyncio.create_task(engine.transcribe(silence(1), GREEDY))
        await entered(closed)
        rest = [asyncio.create_task(engine.transcribe(silence(1), GREEDY)) for _ in range(6)]
        await asyncio.sleep(0)
        closed.gate.set()
        await asyncio.gather(first, *rest)

    on_engine(check, closed, ALONE.model_copy(update={"max_batch": given, "device": "cpu"}))
    assert [len(batch) for batch in closed.batches] == [1] + [most] * (6 // most)


def test_recordings_are_read_while_all_threads_are_at_work(closed: ScriptedSpeech) -> None:
    """Another process reads them: a thread that waits for it takes no core from the others."""
    metrics = Metrics()

    async def check(engine: Engine) -> None:
        first = asyncio.create_task(engine.transcribe(silence(1), GREEDY))
        await entered(closed)
        second = asyncio.create_task(engine.transcribe(silence(2), GREEDY))
        while value(metrics, "asr_in_flight_audio_seconds") < 3.0:
            await asyncio.sleep(0.01)
        assert closed.batches == [[1.0]]
        closed.gate.set()
        await asyncio.gather(first, second)

    on_engine(check, closed, Settings(workers=1), metrics)
    assert closed.batches == [[1.0], [2.0]]


def test_searching_greedily_takes_no_thread_where_the_recording_is_short() -> None:
    """Handing it to one takes longer. Passages of a long recording may be longer, and so is a beam search."""
    threads: list[int] = []

    class Noting(ScriptedSpeech):
        def search(
            self, posteriors: Posteriors, options: DecodingOptions, *, deadline: float | None = None
        ) -> NBest:
            threads.append(threading.get_ident())
            return super().search(posteriors, options, deadline=deadline)

    async def check(engine: Engine) -> None:
        for seconds, options in ((1, GREEDY), (1, DecodingOptions("beam_lm")), (40, GREEDY)):
            hum = 0.1 * np.sin(np.arange(16000 * seconds, dtype=np.float32))
            await engine.transcribe(io.BytesIO(wav_bytes(hum)), options)

    metrics = on_engine(check, Noting())
    on_loop = [thread == threading.get_ident() for thread in threads]
    assert on_loop[:2] == [True, False]
    assert len(on_loop) > 2
    assert not any(on_loop[2:])
    assert value(metrics, "asr_decoders_total", asked="greedy", used="greedy") == 2


def test_a_list_with_a_budget_of_its_own_is_rescored_alone(closed: ScriptedSpeech) -> None:
    async def check(engine: Engine) -> None:
        first = asyncio.create_task(engine.transcribe(silence(1), GREEDY))
        await entered(closed)
        options = [DecodingOptions(rescore_budget_s=budget_s) for budget_s in (None, None, 9.0)]
        rest = [asyncio.create_task(engine.transcribe(silence(1), one)) for one in options]
        closed.gate.set()
        await asyncio.gather(first, *rest)

    on_engine(check, closed)
    assert sorted(closed.rescored) == [1, 2]


def test_a_short_recording_overtakes_long_ones_that_wait(closed: ScriptedSpeech) -> None:
    """whisper.cpp #1803: three seconds waited two minutes behind ten minutes."""

    async def check(engine: Engine) -> None:
        first = asyncio.create_task(engine.transcribe(silence(1), GREEDY))
        await entered(closed)
        long = [asyncio.create_task(engine.transcribe(silence(29), GREEDY)) for _ in range(2)]
        short = asyncio.create_task(engine.transcribe(silence(2), GREEDY))
        await asyncio.sleep(0)
        closed.gate.set()
        await asyncio.gather(first, short, *long)

    on_engine(check, closed)
    assert closed.batches == [[1.0], [2.0], [29.0, 29.0]]


def test_a_long_recording_lets_others_between_its_stretches(closed: ScriptedSpeech) -> None:
    speech = closed
    rng = np.random.default_rng(0)
    long = io.BytesIO(wav_bytes((0.1 * rng.standard_normal(16000 * 100)).astype(np.float32)))

    async def check(engine: Engine) -> None:
        ends: list[float] = []
        task = asyncio.create_task(
            engine.transcribe(long, GREEDY, on_part=lambda part: ends.append(part.end_s))
        )
        await entered(speech)
        short = asyncio.create_task(engine.transcribe(silence(1), GREEDY))
        await asyncio.sleep(0)
        speech.gate.set()
        assert (await short).transcript.duration_s == 1.0
        assert not task.done()
        answer = await task
        assert answer.transcript.duration_s == 100.0
        assert ends
        assert ends == sorted(ends)

    on_engine(check, speech)
    assert speech.batches[1] == [1.0]
    assert len(speech.batches) > 3


def test_audio_seconds_are_the_budget_and_a_lone_recording_always_fits(closed: ScriptedSpeech) -> None:
    async def check(engine: Engine) -> None:
        long = asyncio.create_task(engine.transcribe(silence(25), GREEDY))  # more than the budget
        await entered(closed)
        short = asyncio.create_task(engine.transcribe(silence(9), GREEDY))  # beside half of it
        await entered(closed)
        with pytest.raises(BusyError) as refused:
            await engine.transcribe(silence(2), GREEDY)
        assert refused.value.retry_after_s >= 1
        closed.gate.set()
        await asyncio.gather(long, short)
        assert (await engine.transcribe(silence(12), GREEDY)).transcript.text == SECRET

    metrics = on_engine(check, closed, Settings(workers=3, max_queued_s=20))
    assert value(metrics, "asr_rejected_total", reason="budget") == 1
    assert value(metrics, "asr_in_flight_audio_seconds") == 0


def test_recordings_of_unknown_length_are_counted(closed: ScriptedSpeech) -> None:
    async def check(engine: Engine) -> None:
        first = asyncio.create_task(engine.transcribe(silence(1), GREEDY))
        await entered(closed)  # the only thread is taken, nothing can be read
        second = asyncio.create_task(engine.transcribe(silence(1), GREEDY))
        await asyncio.sleep(0)
        engine.check_room(uploading=0)
        with pytest.raises(BusyError):
            engine.check_room(uploading=1)
        third = asyncio.create_task(engine.transcribe(silence(1), GREEDY))
        await asyncio.sleep(0)
        with pytest.raises(BusyError):
            await engine.transcribe(silence(1), GREEDY)
        closed.gate.set()
        await asyncio.gather(first, second, third)

    metrics = on_engine(check, closed, Settings(workers=1, max_uploads=2))
    assert value(metrics, "asr_rejected_total", reason="uploads") == 2


def test_work_stops_within_one_batch_of_the_caller_leaving(closed: ScriptedSpeech) -> None:
    """speaches #129: a caller leaves, the work goes on."""

    async def check(engine: Engine) -> None:
        left = asyncio.Event()

        async def leave() -> None:
            await left.wait()

        heard = asyncio.create_task(engine.transcribe(silence(1), GREEDY, caller_left=leave))
        await entered(closed)
        waiting = [
            asyncio.create_task(engine.transcribe(silence(1), GREEDY, caller_left=leave)) for _ in range(3)
        ]
        stays = asyncio.create_task(engine.transcribe(silence(2), GREEDY))
        await asyncio.sleep(0)
        left.set()
        for task in (heard, *waiting):
            with pytest.raises(CallerLeftError):
                await task
        closed.gate.set()
        await stays

    metrics = on_engine(check, closed)
    assert closed.batches == [[1.0], [2.0]]  # the one in the model was heard out, the others never were
    assert len(closed.calls) == 1  # only he who stayed was decoded
    assert value(metrics, "asr_cancelled_total") == 4


def test_a_cancelled_task_is_a_caller_who_left(closed: ScriptedSpeech) -> None:
    async def check(engine: Engine) -> None:
        task = asyncio.create_task(engine.transcribe(silence(1), GREEDY))
        await entered(closed)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        closed.gate.set()

    metrics = on_engine(check, closed)
    assert closed.calls == []
    assert value(metrics, "asr_in_flight") == 0


def test_the_time_limit_counts_waiting_and_nothing_begins_after_it(closed: ScriptedSpeech) -> None:
    async def check(engine: Engine) -> None:
        first = asyncio.create_task(engine.transcribe(silence(1), GREEDY))
        await entered(closed)
        with pytest.raises(TimedOutError):
            await engine.transcribe(silence(1), GREEDY, timeout_s=0.01)
        closed.gate.set()
        await first

    on_engine(check, closed)
    assert closed.batches == [[1.0]]


def test_what_the_model_raises_reaches_the_caller_and_frees_the_house() -> None:
    speech = ScriptedSpeech(ZeroDivisionError("broken"))

    async def check(engine: Engine) -> None:
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                await engine.transcribe(silence(1), GREEDY)
        with pytest.raises(EmptyAudioError):
            await engine.transcribe(b"", GREEDY)
        speech.error = None
        assert (await engine.transcribe(silence(1), GREEDY)).transcript.text == SECRET

    metrics = on_engine(check, speech)
    assert value(metrics, "asr_in_flight") == 0


def test_shutdown_finishes_what_was_let_in_and_refuses_the_rest(closed: ScriptedSpeech) -> None:
    async def check(engine: Engine) -> None:
        admitted = [asyncio.create_task(engine.transcribe(silence(1), GREEDY)) for _ in range(3)]
        await entered(closed)
        closing = asyncio.create_task(engine.close())
        await asyncio.sleep(0)
        with pytest.raises(StoppingError):
            await engine.transcribe(silence(1), GREEDY)
        closed.gate.set()
        assert [(await task).transcript.text for task in admitted] == [SECRET] * 3
        await closing

    metrics = on_engine(check, closed)
    assert value(metrics, "asr_rejected_total", reason="stopping") == 1


def test_under_pressure_decoders_step_down_and_say_why(closed: ScriptedSpeech) -> None:
    """Twelve recordings of 25 s: rescoring would break the target, as a guess, and beam search too."""
    free = DecodingOptions("beam_lm_rescore")
    bound = DecodingOptions("beam_lm_rescore", hotwords=("ada",))

    async def check(engine: Engine) -> None:
        lone = asyncio.create_task(engine.transcribe(silence(1), free))
        await entered(closed)
        closed.gate.set()
        assert (await lone).degraded == ""
        closed.gate.clear()
        asked = [free] * 10 + [bound]
        tasks = [asyncio.create_task(engine.transcribe(silence(25), one)) for one in asked]
        exact = asyncio.create_task(engine.transcribe(silence(25), free, degrade=False))
        await entered(closed)
        await asyncio.sleep(0.5)  # all have arrived
        closed.gate.set()
        answers = await asyncio.gather(*tasks)
        used = {answer.transcript.decoder for answer in answers[:-1]}
        assert "greedy" in used
        assert answers[-1].transcript.decoder == "beam_lm"
        assert (await exact).transcript.decoder == "beam_lm_rescore"
        assert {answer.asked for answer in answers} == {"beam_lm_rescore"}
        lesser = [answer for answer in answers if answer.transcript.decoder != answer.asked]
        assert all("target is 0.5 s" in answer.degraded for answer in lesser)

    metrics = on_engine(check, closed, Settings(workers=1, latency_target_s=0.5, max_uploads=100))
    assert value(metrics, "asr_decoders_total", asked="beam_lm_rescore", used="greedy") >= 1
