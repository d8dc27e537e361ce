"""Who is let in, who goes first, and who must make do with a simpler decoder.

The budget is audio: the seconds of all recordings that are in the house, a very long one counting as half of
it. A recording's length is known once it is decoded, a long one's is what its header claims until it turns
out to be longer; before that the number of uploads is bounded. The order is shortest first with ageing: each
recording gets a date, its arrival plus `PATIENCE` times the work that it is expected to be, and the earliest
date goes first. So a short recording overtakes a long one, and the long one is overtaken only by those that
arrive within `PATIENCE` times its own work.
"""

import math
import time
from dataclasses import dataclass, field

from asr.decoding.options import DECODERS, DecoderName, DecodingOptions
from service.errors import BusyError, StoppingError
from service.expectation import Expectation, steps_of
from service.metrics import Metrics

PATIENCE = 4.0
MAX_RETRY_AFTER_S = 600


@dataclass(eq=False)
class Ticket:
    """One recording in the house."""

    asked: DecoderName
    decoder: DecoderName  # what it will be decoded with, as far as is known
    arrived: float = field(default_factory=time.monotonic)
    date: float = math.inf  # the earliest goes first; on time.monotonic's clock
    duration_s: float | None = None  # None until it is known
    done_s: float = 0.0  # of a long recording: what has its words
    steps_done: int = 0  # of the rest, where that is one piece
    waited_s: float = 0.0
    predicted_s: float = 0.0  # what it would wait, as it was known when it was let in


class Admission:
    """The house's book."""

    def __init__(
        self,
        *,
        budget_s: float,
        max_unmeasured: int,
        latency_target_s: float | None,
        threads: int,
        expectation: Expectation,
        metrics: Metrics,
    ) -> None:
        self._budget_s = budget_s
        self._max_unmeasured = max_unmeasured
        self._latency_target_s = latency_target_s
        self._threads = threads
        self._expectation = expectation
        self._metrics = metrics
        self._inside: dict[Ticket, None] = {}  # in the order of arrival
        self.stopping = False

    def check_room(self, uploading: int = 0) -> None:
        """Raises StoppingError, or BusyError when a recording would be refused now.

        uploading: recordings that are still being received.
        """
        if self.stopping:
            self._metrics.rejected.labels("stopping").inc()
            raise StoppingError("the service is shutting down", retry_after_s=1)
        unmeasured = uploading + sum(ticket.duration_s is None for ticket in self._inside)
        if unmeasured >= self._max_unmeasured:
            self._metrics.rejected.labels("uploads").inc()
            raise BusyError(f"{unmeasured} uploads are being read", self._retry_after_s(0.0))
        if self._audio_s() >= self._budget_s:
            self._refuse(self._expectation.mean_duration_s)

    def enter(self, decoder: DecoderName) -> Ticket:
        """Let a recording in whose length is not known yet. Raises as `check_room` does."""
        self.check_room()
        ticket = Ticket(decoder, decoder)
        ticket.date = ticket.arrived + PATIENCE * self._work_s(ticket, decoder)
        self._inside[ticket] = None
        self._show()
        return ticket

    def measure(self, ticket: Ticket, duration_s: float) -> None:
        """Its length is known. Raises BusyError when it does not fit in beside the others.

        A recording that is alone always fits: its own length has a limit of its own.
        """
        others_s = self._audio_s()
        if others_s and others_s + self._counted_s(duration_s) > self._budget_s:
            self._refuse(self._counted_s(duration_s))
        self._expectation.learn_duration(duration_s)
        ticket.duration_s = duration_s
        ticket.date = ticket.arrived + PATIENCE * self._work_s(ticket, ticket.decoder)
        before = [other for other in self._inside if other is not ticket and other.date <= ticket.date]
        ticket.predicted_s = sum(self._work_s(other, other.decoder) for other in before) / self._threads
        self._metrics.predicted_wait.observe(ticket.predicted_s)
        self._show()

    def progress(self, ticket: Ticket, done_s: float, read_s: float) -> None:
        """So much of a long recording has its words, and so much of it has been read."""
        ticket.done_s, ticket.steps_done = done_s, 0
        ticket.duration_s = max(ticket.duration_s or 0.0, read_s)
        self._show()

    def leave(self, ticket: Ticket) -> None:
        """The recording is done, or nobody wants it any more."""
        del self._inside[ticket]
        self._show()

    def affordable(self, ticket: Ticket, options: DecodingOptions) -> tuple[DecoderName, str]:
        """The best decoder, up to the ticket's, that the queue allows, and why where it is a lesser one.

        That is the first with which everything in the house would be done within the latency target, nobody
        using a better one. A recording that takes longer than the target by itself is no reason: only the
        others are. Hotwords, n-grams and n-best lists need a beam search, whatever the queue.
        """
        target_s = self._latency_target_s
        place = DECODERS.index(ticket.decoder)
        if target_s is None or len(self._inside) == 1:
            return ticket.decoder, ""
        needs_search = options.hotwords or options.lm or options.lm_text or options.nbest > 1
        lowest = 1 if needs_search and place else 0
        allowed_s = max(target_s, self._work_s(ticket, ticket.decoder))
        asked_s = self._drained_s(place)
        chosen = place
        while chosen > lowest and self._drained_s(chosen) > allowed_s:
            chosen -= 1
        if chosen == place:
            return ticket.decoder, ""
        return DECODERS[chosen], (
            f"{len(self._inside)} recordings are in the queue and {ticket.decoder} for all would take "
            f"{asked_s:.1f} s, the target is {target_s:g} s"
        )

    def _work_s(self, ticket: Ticket, decoder: DecoderName) -> float:
        """Seconds of a thread that the rest of its way is expected to take."""
        return self._left_s(ticket) * self._expectation.rate(steps_of(decoder)[ticket.steps_done :])

    def _left_s(self, ticket: Ticket) -> float:
        """Seconds of audio that have no words yet."""
        if ticket.duration_s is None:
            return self._expectation.mean_duration_s
        return max(0.0, ticket.duration_s - ticket.done_s)

    def _drained_s(self, highest: int) -> float:
        """Seconds until the house is empty if nobody uses a better decoder than this one."""
        rates: dict[tuple[DecoderName, int], float] = {}
        work_s = 0.0
        for ticket in self._inside:
            place = DECODERS[min(highest, DECODERS.index(ticket.decoder))], ticket.steps_done
            if place not in rates:
                rates[place] = self._expectation.rate(steps_of(place[0])[place[1] :])
            work_s += rates[place] * self._left_s(ticket)
        return work_s / self._threads

    def _audio_s(self) -> float:
        """Seconds of audio in the house that have no words yet, as far as they are known."""
        return sum(
            self._counted_s(self._left_s(ticket)) for ticket in self._inside if ticket.duration_s is not None
        )

    def _counted_s(self, duration_s: float) -> float:
        return min(duration_s, self._budget_s / 2)

    def _refuse(self, duration_s: float) -> None:
        """Raises BusyError."""
        self._metrics.rejected.labels("budget").inc()
        over_s = self._audio_s() + duration_s - self._budget_s
        message = f"{self._audio_s():.0f} s of audio are being transcribed or wait for it"
        raise BusyError(message, self._retry_after_s(over_s))

    def _retry_after_s(self, over_s: float) -> int:
        """Seconds until so much audio should be done, or one recording where that is nothing."""
        audio_s = max(over_s, self._expectation.mean_duration_s)
        inside_s, work_s = self._audio_s(), self._drained_s(len(DECODERS) - 1)
        rate = work_s / inside_s if inside_s else self._expectation.rate(["read"])
        return min(MAX_RETRY_AFTER_S, max(1, math.ceil(audio_s * rate)))

    def _show(self) -> None:
        self._metrics.in_flight.set(len(self._inside))
        self._metrics.in_flight_audio.set(self._audio_s())
