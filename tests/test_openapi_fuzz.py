"""Requests made up from the service's own OpenAPI document: whatever they hold, it is never our fault."""

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

from service.settings import Settings
from tests.live_server import live_server

EXAMPLES = 10  # of each endpoint; `python -m bench.fuzz` is the long run, over recordings
WITH_PARAMETERS = {
    ("POST", "/transcribe"),
    ("POST", "/v1/audio/transcriptions"),
    ("POST", "/v1/jobs"),
    ("GET", "/v1/jobs/{id}"),
    ("DELETE", "/v1/jobs/{id}"),
}
ENDPOINTS = WITH_PARAMETERS | {("GET", path) for path in ("/v1/models", "/healthz", "/readyz", "/metrics")}


@pytest.fixture(scope="module")
def operations(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[str, str], object]]:
    folder = tmp_path_factory.mktemp("fuzzed") / "jobs"
    with live_server(settings=Settings(jobs_dir=folder)) as address:
        schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
        found = [result.ok() for result in schema.get_all_operations()]
        yield {(operation.method.upper(), operation.path): operation for operation in found}


def test_every_endpoint_is_tried(operations: dict[tuple[str, str], object]) -> None:
    assert operations.keys() == ENDPOINTS


@pytest.mark.parametrize("endpoint", sorted(ENDPOINTS))
def test_made_up_requests_are_never_our_fault(
    operations: dict[tuple[str, str], object], endpoint: tuple[str, str]
) -> None:
    modes = [schemathesis.GenerationMode.POSITIVE]  # what the document allows, and what it does not
    modes += [schemathesis.GenerationMode.NEGATIVE] if endpoint in WITH_PARAMETERS else []
    for mode in modes:

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operations[endpoint].as_strategy(generation_mode=mode))
        def try_it(case: schemathesis.Case) -> None:
            response = case.call()
            assert response.status_code < 500, (case.as_curl_command(), response.text)

        try_it()
