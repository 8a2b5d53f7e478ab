"""What one request may ask of the jobs server: a bound for every field of every route, and 400 or 413 beyond it."""

import json
import re

import pytest
import yaml
from fastapi.testclient import TestClient

from tests.jobs.jobs_server import envelope, rows
from train.jobs.bases import load_catalogue
from train.jobs.run_config import CLIENT_KEYS, LARGEST
from train.jobs.server import make_app
from train.jobs.store import Store
from train.jobs.wire import JobRequest
from train.serving.guard import Access
from train.serving.response_store import ResponseStore

NAN, INF = float("nan"), float("inf")
ON_CPU = {"training": {"use_cpu": True}}


@pytest.fixture
def client(tmp_path, base):
    whole = {"base": str(base), "overrides": {**ON_CPU, "lora": None}}
    catalogue = {"acme/tiny": {"base": str(base), "overrides": ON_CPU}, "acme/whole": whole}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(catalogue))
    app = make_app(Store(tmp_path / "data"), ResponseStore(None), load_catalogue(tmp_path / "c.yaml"), Access(), 1)
    return TestClient(app, base_url="http://localhost")  # without its worker


@pytest.fixture
def ask(client):
    file = client.post("/v1/files", files={"file": ("a.jsonl", rows(12))}, data={"purpose": "fine-tune"}).json()["id"]

    def ask(**fields):
        body = json.dumps({"model": "acme/tiny", "training_file": file, **fields}).encode()
        response = client.post("/v1/fine_tuning/jobs", content=body)
        assert response.headers["x-request-id"]
        return response

    return ask


def nested(depth: int):
    return json.loads('{"a":' * depth + "1" + "}" * depth)


BAD = [
    *({"govor": {"training": {"learning_rate": value}}} for value in (NAN, INF, -INF, 1e300, 10**400, -1e9)),
    *({"govor": {"lora": {"r": value}}} for value in (10**9, 2**63, 10**400, NAN, INF)),
    *({"govor": {"training": {"max_length": value}}} for value in (10**12, INF)),
    *({"govor": {"training": {"per_device_train_batch_size": value}}} for value in (10**9, INF)),
    *({"govor": {"training": {"gradient_accumulation_steps": value}}} for value in (10**9, NAN)),
    *({"govor": {"training": {"max_steps": value}}} for value in (10**12, INF)),
    *({"govor": {"generation": {"max_new_tokens": value}}} for value in (10**12, NAN)),
    *({"govor": {"generation": {"temperature": value}}} for value in (1e300, NAN)),
    *({"govor": {"data": {"eval_fraction": value}}} for value in (1, NAN, INF)),
    {"govor": {"lora": {"target_modules": "(a+)+$"}}},
    {"govor": {"lora": {"target_modules": ["x"] * 257}}},
    {"govor": {"lora": {"target_modules": ["x" * 201]}}},
    {"govor": {"lora": {"target_modules": nested(20)}}},
    {"govor": {"lora": {"r": [1] * 100}}},
    {"govor": {"training": {"lr_scheduler_type": "x" * 65}}},
    {"govor": nested(40)},
    {"govor": {"lora": {"r": 8, "x": "x" * 70_000}}},
    {"hyperparameters": {"learning_rate_multiplier": NAN}},
    {"hyperparameters": {"learning_rate_multiplier": INF}},
    {"hyperparameters": {"n_epochs": 51}},
    {"hyperparameters": {"batch_size": 257}},
    {"model": "x" * 513},
    {"training_file": "x" * 513},
    {"validation_file": "x" * 513},
    {"suffix": "x" * 65},
    {"seed": 2**31},
    {"method": {"type": "dpo", "dpo": nested(40)}},
    {"integrations": [{"type": "wandb"}] * 6},
    {"integrations": [nested(40)]},
    {"metadata": {"x" * 65: "a"}},
    {"metadata": {"a": "x" * 513}},
    {"metadata": {str(n): "a" for n in range(17)}},
    {"metadata": {"a": "\ud83d"}},
    {"model": "\ud83d"},
    {"govor": {"lora": {"target_modules": ["\ud83d"]}}},
]


def test_job_requests(ask):
    for fields in BAD:
        response = ask(**fields)
        assert response.status_code == 400, (fields, response.text)
        assert envelope(response.json())["param"].split(".")[0] in fields
    assert ask(metadata={"a": "x" * 300_000}).status_code == 413
    assert set(JobRequest.model_fields) <= {name for fields in BAD for name in fields} | {"method"}
    assert ask(govor={"lora": {"r": 8, "target_modules": ["q_proj", "v_proj"]}}).status_code == 200
    assert ask(govor={"lora": {"target_modules": "all-linear"}, "training": {"max_grad_norm": 5}}).status_code == 200


def test_every_number_that_a_client_may_set_has_a_largest(ask):
    for section, keys in CLIENT_KEYS.items():
        for key in keys:
            as_text = ("100000000", "1e8", "nan") if key != "target_modules" else ()  # which are names
            for number in (10**8, *as_text):
                response = ask(govor={section: {key: number}})
                assert response.status_code == 400, (section, key, number)
    assert set(LARGEST) <= {f"{section}.{key}" for section, keys in CLIENT_KEYS.items() for key in keys}


def test_a_rate_that_ruins_is_refused_and_a_multiplier_is_not(ask):
    for rate, model, largest in (
        (0.1, "acme/tiny", "0.005"), ("0.1", "acme/tiny", "0.005"), ("1e-1", "acme/tiny", "0.005"),
        (0.002, "acme/whole", "0.001"), ("0.002", "acme/whole", "0.001"),
    ):  # fmt: skip
        response = ask(model=model, govor={"training": {"learning_rate": rate}})
        assert response.status_code == 400, rate
        message = envelope(response.json())["message"]
        assert f"govor.training.learning_rate: {float(rate):g} is above {largest}" in message
        assert "learning_rate_multiplier" in message
    assert ask(model="acme/whole", govor={"training": {"learning_rate": 1e-3}}).status_code == 200
    assert ask(model="acme/whole", govor={"lora": {"r": 4}, "training": {"learning_rate": 2e-3}}).status_code == 200
    assert ask(govor={"training": {"learning_rate": 5e-3}}).status_code == 200
    for multiplier in (1e-9, 1000, 1e9):
        assert ask(hyperparameters={"learning_rate_multiplier": multiplier}).status_code == 200


def test_null_asks_for_nothing(client, ask):
    """Also for a field that nobody knows, and within others."""
    nulls = {"n_epochs": None, "batch_size": None, "learning_rate_multiplier": None, "foo": None}
    plain = ask().json()["hyperparameters"]
    method = {"type": "supervised", "supervised": {"hyperparameters": nulls}, "dpo": None}
    unused = dict.fromkeys(set(JobRequest.model_fields) - {"model", "training_file"})
    for fields in ({"hyperparameters": nulls}, {"method": method}, {"foo": None, **unused}):
        response = ask(**fields)
        assert response.status_code == 200, response.text
        assert response.json()["hyperparameters"] == plain
    upload = {"bytes": 1, "filename": "a", "mime_type": "b", "purpose": "fine-tune", "expires_after": None, "foo": None}
    assert client.post("/v1/uploads", json=upload).status_code == 200
    for fields, param in (({"foo": 0}, "foo"), ({"training_file": None}, "training_file")):
        assert envelope(ask(**fields).json())["param"] == param


def test_the_same_rows_as_training_and_validation_file_warn(client, ask):
    file = client.post("/v1/files", files={"file": ("b.jsonl", rows(12))}, data={"purpose": "fine-tune"}).json()["id"]
    other = client.post("/v1/files", files={"file": ("c.jsonl", rows(12, start=90))}, data={"purpose": "fine-tune"})
    for validation, warned in ((file, True), (other.json()["id"], False)):
        job = ask(validation_file=validation).json()
        events = client.get(f"/v1/fine_tuning/jobs/{job['id']}/events").json()["data"]
        found = [event["level"] for event in events if "hold the same rows" in event["message"]]
        assert found == ["warn"] * warned and job["validation_file"] == validation


def test_uploads(client):
    def upload(**form):
        return client.post("/v1/files", files={"file": ("a", b"x")}, data={"purpose": "batch", **form})

    for seconds in ("3600", "0003600", "2592000"):
        file = upload(**{"expires_after[anchor]": "created_at", "expires_after[seconds]": seconds}).json()
        assert file["expires_at"] - file["created_at"] == int(seconds)
    for seconds in (
        "3599",
        "2592001",
        "000003600999999",
        "1e4",
        "3600.5",
        "-3600",
        "NaN",
        "",
        "x",
        "9" * 4000,
        "٣٦٠٠٠",
    ):
        response = upload(**{"expires_after[anchor]": "created_at", "expires_after[seconds]": seconds})
        assert response.status_code == 400, seconds
        assert envelope(response.json())["param"] == "expires_after[seconds]"
    assert upload(purpose="x" * 5000).status_code == 400
    assert upload(**{f"more{n}": "x" for n in range(20)}).status_code == 400


def test_large_uploads(client, monkeypatch):
    least = {"bytes": 10, "filename": "a", "mime_type": "text/plain", "purpose": "fine-tune"}
    for fields in (
        {"bytes": 512 * 2**20 + 1}, {"bytes": 0}, {"bytes": "10"}, {"bytes": 10**400}, {"bytes": NAN},
        {"filename": ""}, {"filename": "x" * 256}, {"mime_type": "x" * 256}, {"purpose": "x"},
        {"expires_after": {"anchor": "created_at", "seconds": 3599}}, {"expires_after": nested(40)},
    ):  # fmt: skip
        answer = client.post("/v1/uploads", content=json.dumps({**least, **fields}))
        assert (answer.status_code, envelope(answer.json())["param"].split(".")[0]) == (400, *fields), fields
    id_ = client.post("/v1/uploads", json=least).json()["id"]
    for fields in ({"part_ids": []}, {"part_ids": ["x"] * 10_001}, {"part_ids": ["x" * 65]}, {"md5": "x"}):
        body = {"part_ids": ["x"], **fields}
        answer = client.post(f"/v1/uploads/{id_}/complete", json=body)
        assert (answer.status_code, envelope(answer.json())["param"].split("[")[0]) == (400, *fields), fields
    monkeypatch.setattr("train.jobs.upload_routes.MAX_PART_BYTES", 2**20)
    for size, status in ((2**20 + 1, 413), (10, 200), (2**20, 200), (2**20, 400)):  # the last is beyond what may come
        answer = client.post(f"/v1/uploads/{id_}/parts", files={"data": ("a", b"x" * size)})
        assert answer.status_code == status, (size, answer.text)


QUERIES = [
    ("fine_tuning/jobs", [(f"metadata[{n}]", "v") for n in range(16)], 200),
    ("fine_tuning/jobs", [(f"metadata[{n}]", "v") for n in range(17)], 400),
    ("fine_tuning/jobs", [("metadata[" + "k" * 64 + "]", "v" * 512)], 200),
    ("fine_tuning/jobs", [("metadata[" + "k" * 65 + "]", "v")], 400),
    ("fine_tuning/jobs", [("metadata[k]", "v" * 513)], 400),
    ("fine_tuning/jobs", [("metadata", "null")] * 17, 200),
    ("fine_tuning/jobs", [("metadata[\x00']", "\x00\ud83d'")], 200),
    ("fine_tuning/jobs", [("limit", "1000")], 200),
    ("fine_tuning/jobs", [("limit", "1001")], 400),
    ("fine_tuning/jobs", [("limit", "9" * 5000)], 400),
    ("fine_tuning/jobs", [("after", "x" * 129)], 400),
    ("files", [("limit", "10001")], 400),
    ("files", [("after", "x" * 129)], 400),
    ("files", [("purpose", "x" * 65)], 400),
    ("files", [("order", "up")], 400),
    ("files/" + "x" * 5000, [], 404),
    ("models/" + "x" * 5000, [], 404),
    ("fine_tuning/jobs/" + "x" * 5000, [], 404),
]


@pytest.mark.parametrize(("path", "query", "status"), QUERIES)
def test_queries(client, path, query, status):
    query = [(name.encode(errors="replace"), value.encode(errors="replace")) for name, value in query]
    text = "&".join(f"{_quoted(name)}={_quoted(value)}" for name, value in query)
    response = client.get(f"/v1/{path}?{text}")
    assert response.status_code == status, response.text
    assert response.headers["x-request-id"]


def _quoted(raw: bytes) -> str:
    return "".join(f"%{byte:02x}" for byte in raw)


def test_an_idempotency_key_has_a_bound(client):
    response = client.post("/v1/fine_tuning/jobs", content=b'{"model": "x", "training_file": "y"}',
                           headers={"idempotency-key": "x" * 256})  # fmt: skip
    assert envelope(response.json())["param"] == "idempotency-key"


def test_every_route_has_been_thought_of(client):
    """A new route has to be written here, with the test that knows its bounds."""
    known = {
        "POST /v1/files": "test_uploads", "GET /v1/files": "QUERIES", "GET /v1/files/{}": "QUERIES",
        "DELETE /v1/files/{}": "an id alone", "GET /v1/files/{}/content": "an id alone",
        "POST /v1/fine_tuning/jobs": "BAD", "GET /v1/fine_tuning/jobs": "QUERIES",
        "GET /v1/fine_tuning/jobs/{}": "QUERIES", "POST /v1/fine_tuning/jobs/{}/cancel": "an id alone",
        "POST /v1/fine_tuning/jobs/{}/pause": "an id alone", "POST /v1/fine_tuning/jobs/{}/resume": "an id alone",
        "GET /v1/fine_tuning/jobs/{}/events": "as GET jobs", "GET /v1/fine_tuning/jobs/{}/checkpoints": "as GET jobs",
        "GET /v1/models": "nothing", "GET /v1/models/{}": "QUERIES", "DELETE /v1/models/{}": "an id alone",
        "POST /v1/chat/completions": "tests/serving/test_chat_request.py", "GET /health": "nothing",
        "POST /v1/responses": "tests/serving/test_response_request.py", "GET /v1/responses/{}": "an id alone",
        "DELETE /v1/responses/{}": "an id alone", "GET /v1/responses/{}/input_items": "QUERIES",
        "POST /v1/responses/input_tokens": "as responses",
        "POST /v1/completions": "tests/serving/test_response_request.py", "POST /v1/uploads": "test_large_uploads",
        "POST /v1/uploads/{}/parts": "test_large_uploads", "POST /v1/uploads/{}/complete": "test_large_uploads",
        "POST /v1/uploads/{}/cancel": "an id alone",
    }  # fmt: skip
    paths = client.get("/openapi.json").json()["paths"]
    described = {
        f"{method.upper()} {re.sub(r'{[^}]*}', '{}', path)}" for path, methods in paths.items() for method in methods
    }
    assert described <= set(known) and len(described) >= 16
