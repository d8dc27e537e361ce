"""LitServe around a Transcriber: batches of up to 8, a worker process per core. For bench/serving.py."""

import base64
import os

import litserve
import torch

from asr.decoding.options import DecodingOptions
from asr.transcriber import Transcriber

Job = tuple[bytes, str]  # a recording and its decoder
Answer = dict[str, str]


class Api(litserve.LitAPI):
    """LitServe calls these one after another, `setup` once in each worker."""

    def __init__(self, bundle: str) -> None:
        super().__init__(max_batch_size=8, batch_timeout=0.02, api_path="/transcribe")
        self._bundle = bundle

    def setup(self, device: str) -> None:
        torch.set_num_threads(1)
        self._transcriber = Transcriber.load(self._bundle, "cpu")

    def decode_request(self, request: dict[str, str]) -> Job:
        return base64.b64decode(request["audio"]), request["decoder"]

    def predict(self, batch: list[Job]) -> list[Answer]:
        transcriber = self._transcriber
        options = [DecodingOptions(decoder) for _, decoder in batch]  # type: ignore[arg-type]
        prepared = [
            transcriber.prepare(content).for_decoder(wanted.decoder)
            for (content, _), wanted in zip(batch, options, strict=True)
        ]
        heard = transcriber.listen_batch(prepared)
        found = [
            transcriber.decode(posteriors, wanted) for posteriors, wanted in zip(heard, options, strict=True)
        ]
        return [{"text": one.text, "decoder": one.decoder} for one in found]

    def encode_response(self, output: Answer) -> Answer:
        return output


def run(port: int, bundle: str) -> None:
    server = litserve.LitServer(Api(bundle), accelerator="cpu", workers_per_device=os.cpu_count() or 1)
    server.run(host="127.0.0.1", port=port, log_level="error", generate_client_file=False)
