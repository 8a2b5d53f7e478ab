"""schemathesis against the server's own description: no 5xx, every error in the envelope, every answer as described.

GOVOR_FUZZ=300 pytest -s tests/test_jobs_fuzz.py   the full measure, in some minutes
"""

import os
import warnings
from collections import Counter
from datetime import timedelta

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from tests.jobs.jobs_server import Server, envelope, rows, strict
from train.serving.chat_request import ChatRequest
from train.serving.completions import CompletionRequest
from train.serving.response_request import ResponseRequest

EXAMPLES = int(os.environ.get("GOVOR_FUZZ", "20"))
"""Requests to each route that fit its description, and as many that do not."""
ANSWERS = ("/v1/chat/completions", "/v1/responses", "/v1/completions")
"""Paths whose answers have other tests."""


@pytest.fixture(scope="module")
def server(tmp_path_factory, base):
    with Server(tmp_path_factory.mktemp("jobs"), base) as server:
        yield server


def description(server: Server) -> dict:
    return server.ask("GET", "/../openapi.json").json()


def test_the_description_names_every_route(server):
    assert set(description(server)["paths"]) == {
        "/v1/files", "/v1/files/{file_id}", "/v1/files/{file_id}/content",
        "/v1/fine_tuning/jobs", "/v1/fine_tuning/jobs/{job_id}", "/v1/fine_tuning/jobs/{job_id}/cancel",
        "/v1/fine_tuning/jobs/{job_id}/pause", "/v1/fine_tuning/jobs/{job_id}/resume",
        "/v1/fine_tuning/jobs/{job_id}/events", "/v1/fine_tuning/jobs/{job_id}/checkpoints",
        "/v1/models", "/v1/models/{model}", "/v1/chat/completions", "/v1/completions",
        "/v1/responses", "/v1/responses/input_tokens", "/v1/responses/{response_id}",
        "/v1/responses/{response_id}/input_items",
        "/v1/uploads", "/v1/uploads/{upload_id}/parts",
        "/v1/uploads/{upload_id}/complete", "/v1/uploads/{upload_id}/cancel",
    }  # fmt: skip


def with_answers(tree: dict) -> dict:
    """The description with the bodies, which it leaves out, of the routes that ask a model, for one that is here."""
    kinds = {
        "/v1/chat/completions": ChatRequest,
        "/v1/responses": ResponseRequest,
        "/v1/completions": CompletionRequest,
    }
    for path, kind in kinds.items():
        body = kind.model_json_schema(ref_template="#/components/schemas/{model}")
        tree["components"]["schemas"] |= body.pop("$defs", {})
        body["properties"]["model"] = {"const": "acme/tiny"}
        tree["paths"][path]["post"]["requestBody"] = {
            "required": True, "content": {"application/json": {"schema": body}}
        }  # fmt: skip
    return tree


@pytest.mark.filterwarnings("ignore")
@pytest.mark.long
def test_nothing_a_client_sends_breaks_the_server(server):
    client = server.client(max_retries=20)
    response = client.responses.create(model="acme/tiny", input="Сколько?").id
    upload = client.uploads.create(bytes=9, filename="a", mime_type="text/plain", purpose="fine-tune").id
    file = client.files.create(file=rows(3), purpose="fine-tune").id
    job = client.fine_tuning.jobs.create(model="acme/tiny", training_file=file).id
    known = {"file_id": file, "job_id": job, "model": "acme/tiny"}
    known |= {"response_id": response, "upload_id": upload}
    schema = schemathesis.openapi.from_dict(with_answers(description(server)))
    seen: Counter[int] = Counter()

    for result in schema.get_all_operations():
        operation = result.ok()
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

            @settings(
                max_examples=EXAMPLES, deadline=timedelta(seconds=20), phases=[Phase.generate], database=None,
                suppress_health_check=list(HealthCheck), derandomize=EXAMPLES == 20,
            )  # fmt: skip
            @given(case=operation.as_strategy(generation_mode=mode), real=st.booleans())
            def attack(case, real) -> None:
                if real and case.path_parameters:  # half of the time at something that exists
                    case.path_parameters = {**case.path_parameters, **known}
                response = case.call(base_url=f"http://127.0.0.1:{server.port}")
                seen[response.status_code] += 1
                assert response.status_code < 500, (case.as_curl_command(), response.text)
                if response.status_code >= 400:
                    envelope(response.json())
                elif response.headers["content-type"] == ["application/json"]:
                    answer = response.json()
                    assert answer.get("deleted") or case.operation.path.startswith(ANSWERS) or strict(answer)

            try:
                attack()
            except Unsatisfiable:
                assert mode is GenerationMode.NEGATIVE, "only a route that takes nothing has nothing wrong to be sent"
    print(dict(seen))
    assert server.healthy()
    assert seen[200] and seen[400] and seen[404]


def test_bodies_that_no_description_allows(server):
    """What a generator of valid JSON never sends."""
    multipart = {"content-type": "multipart/form-data; boundary=x"}
    part = b'--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
    whole = part % (b"purpose", b"fine-tune") + part % (b'file"; filename="a', b"data")
    for headers, body in (
        ({}, whole + b"--x--\r\n"),
        ({"content-type": "multipart/form-data"}, whole + b"--x--\r\n"),
        ({"content-type": "multipart/form-data; boundary=" + "y" * 5000}, b"--y"),
        (multipart, b""),
        (multipart, b"--x--\r\n"),
        (multipart, whole),
        (multipart, whole + part % (b'file"; filename="b', b"more") + b"--x--\r\n"),
        (multipart, part % (b"purpose", b"fine-tune" * 1000) + whole + b"--x--\r\n"),
        (multipart, (part % (b"k", b"v")) * 50 + whole + b"--x--\r\n"),
        (multipart, part % (b"purpose", b"\xff\xfe") + whole[whole.index(b"--x", 3) :] + b"--x--\r\n"),
        (multipart, b"\x00" * 1000),
    ):
        response = server.ask("POST", "/files", headers=headers, content=body)
        assert response.status_code == 400, (body[:80], response.text)
    assert server.ask("POST", "/files", headers=multipart, content=whole + b"--x--\r\n").status_code == 200
    assert [path.name for path in (server.data / "files").iterdir() if path.name.startswith(".")] == []
    with warnings.catch_warnings():
        for path in ("/files?after=%FF%00", "/fine_tuning/jobs?metadata%5B%FF%5D=%00", "/models/%FF", "/files/%00"):
            assert server.ask("GET", path).status_code in (200, 400, 404)
