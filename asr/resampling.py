"""Decoded frames to one rate by FFmpeg's filters, half a second at a time.

What `av.AudioResampler` gives, bit for bit, in less than half its time: that one looks for output after each
frame, finds that out by an exception, and an hour of Opus has 180,000 frames.

Shapes: C channels, N samples.
"""

from collections.abc import Iterator

import av
import numpy as np
from av.filter import Graph
from numpy.typing import NDArray

TAKEN_S = 0.5  # of input between two looks for output, which bounds what waits
PIECE_S = 2.0  # of output: each piece costs Python some work


class Resampler:
    """For frames of one kind: sample format, channel layout and rate."""

    def __init__(self, frame: av.AudioFrame, rate: int) -> None:
        """frame: one of them. rate: what becomes of them, in Hz."""
        sample_format, layout, from_rate = frame.format.name, frame.layout.name, frame.sample_rate
        self._first = frame  # whole: a layout may point into its frame
        graph = self._graph = Graph()  # held: the filters know it, but do not keep it
        self._source = graph.add(
            "abuffer", sample_rate=str(from_rate), sample_fmt=sample_format, channel_layout=layout
        )
        form = graph.add("aformat", sample_rates=str(rate), sample_fmts="flt", channel_layouts=layout)
        self._sink = graph.add("abuffersink")
        self._source.link_to(form)
        form.link_to(self._sink)
        graph.configure()
        graph.set_audio_frame_size(int(PIECE_S * rate))
        self._limit = int(TAKEN_S * from_rate)
        self._waiting = 0  # samples of input

    def takes(self, frame: av.AudioFrame) -> bool:
        """Whether the frame is of its kind. Layouts are compared as they are: naming one is slow."""
        first = self._first
        return (
            frame.sample_rate == first.sample_rate
            and frame.format.name == first.format.name
            and frame.layout == first.layout
        )

    def push(self, frame: av.AudioFrame) -> bool:
        """Take one more frame; whether it is time to look what is `ready`. Raises av.error.FFmpegError."""
        frame.pts = None  # broken time stamps must not make FFmpeg drop or pad
        self._source.push(frame)
        self._waiting += frame.samples
        return self._waiting >= self._limit

    def finish(self) -> Iterator[NDArray[np.float32]]:
        """The rest."""
        self._source.push(None)
        yield from self.ready()

    def ready(self) -> Iterator[NDArray[np.float32]]:
        """What has come of the frames so far: (C, N) pieces.

        Interleaved on the way: PyAV reads beyond its planes where a planar frame has more than eight.
        """
        self._waiting = 0
        while True:
            try:
                out = self._sink.pull()
            except (BlockingIOError, EOFError):  # nothing until there is more, or for ever
                return
            assert isinstance(out, av.AudioFrame)
            interleaved: NDArray[np.float32] = out.to_ndarray()  # type: ignore[assignment]
            yield np.ascontiguousarray(interleaved.reshape(-1, out.layout.nb_channels).T)
