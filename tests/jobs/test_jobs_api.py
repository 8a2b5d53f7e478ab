"""The official SDK against a real server: the whole life of a job, every answer read strictly."""

import csv
import io
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import openai
import pytest

from tests.jobs.jobs_server import Server, check_events, envelope, rows, strict

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def server(tmp_path_factory, base):
    with Server(tmp_path_factory.mktemp("jobs"), base, "--slots", "2") as server:
        yield server


@pytest.fixture(scope="module")
def training_file(server) -> str:
    return server.client().files.create(file=("чаты.jsonl", rows(24)), purpose="fine-tune").id


@pytest.fixture(scope="module")
def long_job(server, training_file) -> str:
    """A job that trains for minutes beside the others."""
    govor = {"lora": {"r": 2}, "training": {"per_device_train_batch_size": 1}}
    job = server.client().fine_tuning.jobs.create(
        model="acme/tiny", training_file=training_file, hyperparameters={"n_epochs": 50}, extra_body={"govor": govor}
    )
    return job.id


@pytest.fixture(scope="module")
def finished(server, training_file, long_job) -> dict:
    """A job with a validation file that has gone the whole way."""
    client = server.client()
    validation = client.files.create(file=rows(10, start=500), purpose="fine-tune").id
    hyperparameters = {"n_epochs": 2, "batch_size": 6, "learning_rate_multiplier": 0.5}
    method = {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}}
    created = client.fine_tuning.jobs.with_raw_response.create(
        model="gpt-4o-mini-2024-07-18", training_file=training_file, validation_file=validation, suffix="natasha",
        seed=7, method=method, metadata={"who": "Наташа", "empty": ""},
    ).http_response.json()  # fmt: skip
    assert strict(created)["status"] == "validating_files" and created["fine_tuned_model"] is None
    client.files.delete(validation)  # the job has its own hold of it
    job = server.wait(created["id"])
    assert job["status"] == "succeeded", (job, server.output(job["id"]))
    return job


def test_the_whole_life_of_a_job(server, finished):
    """Object, events, checkpoints, result file and models agree with one another."""
    job, client = finished, server.client()
    chosen = {"n_epochs": 2, "batch_size": 6, "learning_rate_multiplier": 0.5}
    assert job["hyperparameters"] == chosen
    assert job["method"] == {"type": "supervised", "supervised": {"hyperparameters": chosen}}
    assert job["model"] == "acme/tiny", "the base that really was tuned, not the name that asked for it"
    assert job["govor"]["requested_model"] == "gpt-4o-mini-2024-07-18"
    training = job["govor"]["config"]["training"]
    assert training["learning_rate"] == 0.005
    assert training["per_device_train_batch_size"] * training["gradient_accumulation_steps"] == 6
    assert re.fullmatch(r"ft:gpt-4o-mini-2024-07-18:local:natasha:[A-Za-z0-9]{8}", job["fine_tuned_model"])
    assert job["error"] is None and job["seed"] == 7 and job["estimated_finish"] is None
    assert job["created_at"] <= job["finished_at"] <= time.time() + 1
    assert job["metadata"] == {"who": "Наташа", "empty": ""} and job["user_provided_suffix"] == "natasha"
    manifest = json.loads((server.data / "runs" / job["id"] / "manifest.json").read_bytes())
    assert job["trained_tokens"] == 2 * manifest["data"]["train"]["tokens"]

    events = server.events(job["id"])
    check_events(events, job)
    steps = [event for event in events if event["type"] == "metrics"]
    assert len(steps) == 8, "24 rows, 6 a step, 2 epochs"
    assert re.fullmatch(r"Step 1/8: training loss=\d+\.\d\d", steps[0]["message"])
    evaluated = [event["data"]["step"] for event in steps if "valid_loss" in event["data"]]
    assert evaluated == [4, 8], "validation at the end of each epoch"
    last = r"Step 8/8: training loss=\d+\.\d\d, validation loss=\d+\.\d\d, full validation loss=\d+\.\d\d"
    assert re.fullmatch(last, steps[-1]["message"])
    assert steps[-1]["data"]["full_valid_loss"] == steps[-1]["data"]["valid_loss"]
    for event in steps:
        assert {"step", "train_loss", "total_steps", "train_mean_token_accuracy"} <= event["data"].keys()
    said = [event["message"] for event in events]
    assert any("gpt-4o-mini-2024-07-18 stands for acme/tiny" in message for message in said)
    assert "Learning rate: 0.01 × 0.5 = 0.005" in said
    assert server.get("/models/gpt-4-turbo")["owned_by"] == "catalogue: acme/tiny"

    checkpoints = server.get(f"/fine_tuning/jobs/{job['id']}/checkpoints")
    assert [c["step_number"] for c in checkpoints["data"]] == [8, 4], "one an epoch, newest first"
    for checkpoint in checkpoints["data"]:
        step = checkpoint["step_number"]
        assert checkpoint["fine_tuned_model_checkpoint"] == f"{job['fine_tuned_model']}:ckpt-step-{step}"
        assert checkpoint["metrics"]["train_loss"] == steps[step - 1]["data"]["train_loss"]
        assert checkpoint["metrics"]["full_valid_loss"] == steps[step - 1]["data"]["valid_loss"]
    assert (checkpoints["first_id"], checkpoints["last_id"]) == tuple(c["id"] for c in checkpoints["data"])

    [result] = job["result_files"]
    described = server.get(f"/files/{result}")
    text = client.files.content(result).text
    assert (described["purpose"], described["filename"]) == ("fine-tune-results", "step_metrics.csv")
    assert described["bytes"] == len(text.encode())
    table = list(csv.DictReader(io.StringIO(text)))
    assert text.startswith("step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy\n")
    assert [int(line["step"]) for line in table] == list(range(1, 9))
    assert [line["step"] for line in table if line["valid_loss"]] == ["4", "8"]
    assert float(table[2]["train_loss"]) == pytest.approx(steps[2]["data"]["train_loss"], abs=1e-5)

    names = [model["id"] for model in server.get("/models")["data"]]
    assert {job["fine_tuned_model"], f"{job['fine_tuned_model']}:ckpt-step-4", "acme/tiny"} <= set(names)
    assert client.models.retrieve(job["fine_tuned_model"]).id == job["fine_tuned_model"]


def test_the_sdk_pages_through_everything_once(server, finished):
    client = server.client()
    for items in (
        client.fine_tuning.jobs.list_events(finished["id"], limit=3),
        client.fine_tuning.jobs.checkpoints.list(finished["id"], limit=1),
        client.fine_tuning.jobs.list(limit=1),
        client.files.list(limit=1),
    ):
        ids = [item.id for item in items]
        assert len(ids) == len(set(ids)) > 1
    newest_first = [file.created_at for file in client.files.list()]
    assert newest_first == sorted(newest_first, reverse=True)
    oldest_first = [file.id for file in client.files.list(order="asc", limit=2)]
    assert oldest_first == [file.id for file in client.files.list()][::-1]
    by_metadata = client.fine_tuning.jobs.list(metadata={"who": "Наташа", "empty": ""})
    assert [job.id for job in by_metadata] == [finished["id"]]
    assert finished["id"] not in [job.id for job in client.fine_tuning.jobs.list(extra_query={"metadata": "null"})]


def test_pause_resume_cancel(server, long_job, finished):
    """Each within seconds, with the state saved; a resumed job goes on after its last step."""
    client = server.client()
    server.wait_steps(long_job, 3)
    assert server.get(f"/fine_tuning/jobs/{long_job}")["estimated_finish"] > time.time() - 1
    with pytest.raises(openai.InternalServerError, match="training a job now") as caught:
        client.chat.completions.create(model=finished["fine_tuned_model"], messages=[{"role": "user", "content": "?"}])
    assert caught.value.status_code == 503 and 1 <= int(caught.value.response.headers["retry-after"]) <= 120
    paused = strict(client.fine_tuning.jobs.with_raw_response.pause(long_job).http_response.json())
    assert paused["status"] == "paused"
    began = time.monotonic()
    while not (stopped := re.search(r"stopped after step (\d+) and saved", server.output(long_job))):
        assert time.monotonic() - began < 30, "a pause takes seconds"
        time.sleep(0.05)
    with pytest.raises(openai.BadRequestError, match="has status 'paused' and cannot be paused"):
        client.fine_tuning.jobs.pause(long_job)
    assert client.fine_tuning.jobs.resume(long_job).status == "queued"
    server.wait_steps(long_job, int(stopped[1]) + 3)
    assert f"going on after step {stopped[1]}" in server.output(long_job)
    cancelled = strict(client.fine_tuning.jobs.with_raw_response.cancel(long_job).http_response.json())
    assert (cancelled["status"], cancelled["fine_tuned_model"], cancelled["result_files"]) == ("cancelled", None, [])
    assert cancelled["finished_at"] >= cancelled["created_at"]
    events = server.events(long_job)
    steps = [event["data"]["step"] for event in events if event["type"] == "metrics"]
    assert steps == list(range(1, len(steps) + 1)), "no step twice, none left out"
    texts = [event["message"] for event in events]
    changes = [text for text in texts if text.startswith("Fine-tuning job ")]
    assert changes == [f"Fine-tuning job {what}" for what in ("started", "paused", "resumed", "cancelled")]
    with pytest.raises(openai.BadRequestError, match="has status 'cancelled' and cannot be cancelled"):
        client.fine_tuning.jobs.cancel(long_job)


def test_chat_with_all_that_is_listed(server, long_job):
    """A model, its checkpoint and its base answer under their own names once the card is free; the SDK waits for that
    by itself. A question to another model lets the answers in flight end.

    The job has no validation file, so nothing was held out: the first answer must not take from the run what the second
    needs. test_jobs_sdk1.py asks those of a job that has one.
    """
    client = server.client(max_retries=60)
    running = server.get(f"/fine_tuning/jobs/{long_job}")
    assert running["status"] == "cancelled", "runs after the test that cancels it"
    file = client.files.create(file=rows(24, system="Ты счетовод."), purpose="fine-tune").id
    job = client.fine_tuning.jobs.create(model="acme/tiny", training_file=file, hyperparameters={"n_epochs": 2})
    model = server.wait(job.id)["fine_tuned_model"]
    run = server.data / "runs" / job.id
    assert (run / "held_out.jsonl").stat().st_size == 0
    question = [{"role": "user", "content": "Привет"}]

    def ask(name: str, **more):
        messages = more.pop("messages", question)
        return client.chat.completions.create(model=name, messages=messages, timeout=200, **{"max_tokens": 4, **more})

    answer = ask(model)
    assert answer.model == model and answer.usage.completion_tokens <= 4
    with_system = ask(model, messages=[{"role": "system", "content": "Ты счетовод."}, *question])
    with_none = ask(model, messages=[{"role": "system", "content": ""}, *question])
    assert answer.usage.prompt_tokens == with_system.usage.prompt_tokens > with_none.usage.prompt_tokens

    def long_answer(_) -> str | None:
        chunks = list(ask(model, max_tokens=300, temperature=2, stream=True))
        return chunks[-1].choices[0].finish_reason

    checkpoint = client.fine_tuning.jobs.checkpoints.list(job.id).data[-1].fine_tuned_model_checkpoint
    with ThreadPoolExecutor(4) as pool:
        in_flight = pool.map(long_answer, range(4))
        time.sleep(1)
        assert ask(checkpoint).model == checkpoint
        assert set(in_flight) <= {"stop", "length"}
    assert ask("acme/tiny").model == "acme/tiny"
    assert ask("gpt-4o-mini-2024-07-18").model == "acme/tiny", "an alias stands for its base"
    assert (run / "held_out.jsonl").exists(), "a file of training's is not the server's to delete"
    listed = {model["id"]: model["metadata"]["system_message"] for model in server.get("/models")["data"]}
    assert (listed[model], listed[checkpoint], listed["acme/tiny"]) == ("Ты счетовод.", "Ты счетовод.", None)
    assert "not/here" not in listed, "a base that is not on this machine"
    with pytest.raises(openai.NotFoundError, match="not/here is not on this machine yet: govor fetch not/here"):
        ask("not/here")
    health = httpx2.get(server.url.replace("/v1", "/health")).json()
    assert health["engines"] == {"transformers serve": "one answer at a time"}
    log = server.log()
    for name in (model, checkpoint, "acme/tiny"):
        assert log.count(f"{name}: transformers serve (") == log.count(f"{name}: ready after ") == 1
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="ft:gpt:none", messages=[{"role": "user", "content": "?"}])
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        (rows(7), "invalid_n_examples", r"Training file has 7 example\(s\), but must have at least 10 examples"),
        (rows(10) + b'{"messages": [{"content": ""}]}\n', "invalid_training_file", "Example 11, message 1: no `role`"),
        (b'{"prompt": "a", "completion": "b"}\n' * 10, "invalid_training_file", r"prompt-completion format"),
        ("Вопрос;Ответ;Дата\n".encode() + "Как ты?;Хорошо.;1\n".encode() * 12, "invalid_training_file", "CSV, rows in"),
        (b"a,b,c\n" + b"1,2,3\n" * 12, "invalid_training_file", "a CSV table with the columns 'a', 'b', 'c'"),
        (b"", "invalid_training_file", "no rows in it"),
        (b"\x1f\x8b" + b"x" * 40, "invalid_training_file", "cannot be unpacked"),
        (rows(10) + "слово".encode("cp1251") + b"\n", "invalid_training_file", "Example 11, byte 1 is not UTF-8"),
    ],
)
def test_a_bad_file_fails_the_job_and_not_the_request(server, content, code, message):
    client = server.client()
    file = client.files.create(file=content, purpose="fine-tune")
    job = server.wait(client.fine_tuning.jobs.create(model="acme/tiny", training_file=file.id).id)
    assert (job["status"], job["error"]["code"], job["error"]["param"]) == ("failed", code, "training_file")
    assert re.search(message, job["error"]["message"]), job["error"]
    assert str(server.data) not in json.dumps(job), "no path of the server"
    last = server.events(job["id"])[-1]
    assert (last["level"], last["message"]) == ("error", job["error"]["message"])
    assert str(server.data) not in json.dumps(last) and last["data"]["errors"]


def test_auto_is_resolved_as_documented():
    from train.jobs.run_config import auto_epochs

    assert [auto_epochs(n) for n in (1, 4, 10, 33, 34, 100, 8333, 12500, 25001)] == [25, 25, 10, 3, 3, 3, 3, 2, 1]


BAD = [
    ({"model": "gpt-none"}, "model", "not available for fine-tuning"),
    ({"model": "ft:acme/tiny:local::abcdefgh"}, "model", "no fine-tuned model"),
    ({"training_file": "file-none"}, "training_file", "no such file"),
    ({"training_file": None}, "training_file", "string"),
    ({"validation_file": "file-none"}, "validation_file", "no such file"),
    ({"suffix": "娜塔莎"}, "suffix", "letters a-z"),
    ({"suffix": "a:b"}, "suffix", "letters a-z"),
    ({"suffix": "x" * 65}, "suffix", "at most 64"),
    ({"seed": -1}, "seed", "greater than or equal"),
    ({"seed": True}, "seed", "integer"),
    ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters.n_epochs", "greater than or equal"),
    ({"hyperparameters": {"n_epochs": True}}, "hyperparameters.n_epochs", "integer|auto"),
    ({"hyperparameters": {"batch_size": 257}}, "hyperparameters.batch_size", "less than or equal"),
    ({"hyperparameters": {"learning_rate_multiplier": 0}}, "hyperparameters.learning_rate_multiplier", "greater than"),
    ({"hyperparameters": {"rank": 8}}, "hyperparameters.rank", "Unrecognized"),
    ({"method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0}}}}, "method.dpo.hyperparameters.beta",
     "greater than"),
    ({"method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 2.5}}}}, "method.dpo.hyperparameters.beta",
     "less than or equal"),
    ({"method": {"type": "dpo", "supervised": {}}}, "method", "leave out the other"),
    ({"method": {"type": "dpo"}, "hyperparameters": {"n_epochs": 1}}, "hyperparameters", "method.dpo"),
    ({"method": {"type": "reinforcement"}}, "method.type", "not available"),
    ({"method": {"type": "magic"}}, "method.type", "supervised"),
    ({"hyperparameters": {"n_epochs": 1}, "method": {"type": "supervised", "supervised": {"hyperparameters": {}}}},
     "hyperparameters", "differ"),
    ({"integrations": [{"type": "wandb", "wandb": {"project": "p"}}]}, "integrations", "sends nothing"),
    ({"metadata": {"k": 1}}, "metadata.k", "string"),
    ({"metadata": {str(n): "" for n in range(17)}}, "metadata", "16"),
    ({"colour": "red"}, "colour", "Unrecognized request argument"),
    ({"govor": {"model": {"trust_remote_code": True}}}, "govor", "govor.model.trust_remote_code: not a client's"),
    ({"govor": {"model": {"name_or_path": "/etc"}}}, "govor", "request's own model"),
    ({"govor": {"data": {"train_file": "/etc/passwd"}}}, "govor", "training_file says it"),
    ({"govor": {"training": {"output_dir": "/tmp"}}}, "govor", "not a client's"),
    ({"govor": {"training": {"deepspeed": "/x.json"}}}, "govor", "not a client's"),
    ({"govor": {"training": {"report_to": "wandb"}}}, "govor", "not a client's"),
    ({"govor": {"name": "../x"}}, "govor", "govor.name: a job may set"),
    ({"govor": {"lora": {"r": 0}}}, "govor", "lora.r"),
    ({"govor": {"lora": {"rank": 8}}}, "govor", "govor.lora.rank"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "param", "message"), BAD)
def test_a_wrong_request_is_refused_at_once(server, training_file, fields, param, message):
    response = server.ask(
        "POST", "/fine_tuning/jobs", json={"model": "acme/tiny", "training_file": training_file, **fields}
    )
    assert response.status_code == 400, response.text
    error = envelope(response.json())
    assert error["param"] == param and re.search(message, error["message"]), error
    assert str(server.folder) not in error["message"]


def test_errors_of_every_kind_come_in_the_envelope(server, training_file):
    for method, path, status in (
        ("GET", "/nothing", 404),
        ("GET", "/fine_tuning/jobs/ftjob-none", 404),
        ("POST", "/fine_tuning/jobs/ftjob-none/cancel", 404),
        ("GET", "/fine_tuning/jobs/ftjob-none/events", 404),
        ("GET", "/fine_tuning/jobs/ftjob-none/checkpoints", 404),
        ("GET", "/fine_tuning/checkpoints/ftckpt_x/permissions", 404),
        ("GET", "/files/file-none", 404),
        ("DELETE", "/files/..%2F..%2Fjobs.sqlite3", 404),
        ("GET", "/files/..%2F..%2Fjobs.sqlite3/content", 404),
        ("GET", "/models/ft:none", 404),
        ("DELETE", "/models/acme%2Ftiny", 403),
        ("PUT", "/files", 405),
        ("GET", "/files?limit=0", 400),
        ("GET", "/files?after=file-none", 400),
        ("GET", "/fine_tuning/jobs?limit=many", 400),
    ):
        response = server.ask(method, path)
        assert response.status_code == status, (method, path, response.text)
    error = envelope(server.ask("GET", "/fine_tuning/jobs/ftjob-none").json())
    assert (error["code"], error["param"]) == ("fine_tune_not_found", "fine_tune_id")
    for body in (b"", b"{", b"[]", b"null", b'{"model": NaN}', b'"\\ud800"', b"[" * 100_000):
        assert server.ask("POST", "/fine_tuning/jobs", content=body).status_code == 400


def test_files(server):
    client = server.client()
    file = client.files.create(
        file=("../../..\\имя файла.jsonl", b"a\n\x00\xff"), purpose="user_data",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )  # fmt: skip
    assert (file.filename, file.bytes, file.status) == ("имя файла.jsonl", 4, "processed")
    assert file.expires_at == file.created_at + 3600
    assert client.files.wait_for_processing(file.id).id == file.id
    content = client.files.with_raw_response.content(file.id)
    assert content.http_response.content == b"a\n\x00\xff"
    assert content.headers["content-type"] == "application/octet-stream"
    assert "filename*=UTF-8''%D0%B8" in content.headers["content-disposition"]
    assert [f.id for f in client.files.list(purpose="user_data")] == [file.id]
    assert client.files.delete(file.id).to_dict() == {"id": file.id, "object": "file", "deleted": True}
    with pytest.raises(openai.NotFoundError, match=f"No such File object: {file.id}"):
        client.files.retrieve(file.id)
    assert not (server.data / "files" / file.id).exists()
    with pytest.raises(openai.BadRequestError, match=r"'vector_store' is not one of \['fine-tune', 'assistants'"):
        client.files.create(file=b"x", purpose="vector_store")
    with pytest.raises(openai.BadRequestError, match="was uploaded with the purpose 'user_data'"):
        other = client.files.create(file=rows(10), purpose="user_data")
        client.fine_tuning.jobs.create(model="acme/tiny", training_file=other.id)


def test_a_repeated_request_makes_no_second_job(server, training_file):
    """The SDKs say so in x-stainless-retry-count; others send an Idempotency-Key."""

    def create(seed: int, **headers: str) -> str:
        body = {"model": "acme/tiny", "training_file": training_file, "seed": seed, "metadata": {"repeated": "1"}}
        job = server.ask("POST", "/fine_tuning/jobs", json=body, headers=headers).json()["id"]
        server.ask("POST", f"/fine_tuning/jobs/{job}/cancel")
        return job

    first = create(1)
    assert create(1, **{"x-stainless-retry-count": "1"}) == first
    assert create(1) != first, "asked for twice, made twice"
    assert create(2, **{"x-stainless-retry-count": "1"}) != first
    keyed = create(3, **{"idempotency-key": "k"})
    assert create(3, **{"idempotency-key": "k"}) == keyed
    body = {"model": "acme/tiny", "training_file": training_file, "seed": 4}
    response = server.ask("POST", "/fine_tuning/jobs", json=body, headers={"idempotency-key": "k"})
    assert response.status_code == 400
    assert len(list(server.client().fine_tuning.jobs.list(metadata={"repeated": "1"}))) == 4


def test_a_deleted_model_is_gone_with_its_last_name(server, finished):
    """Last in this file: it takes the finished job's models away."""
    client = server.client()
    name = finished["fine_tuned_model"]
    assert client.models.delete(name).to_dict() == {"id": name, "object": "model", "deleted": True}
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve(name)
    run = server.data / "runs" / finished["id"]
    assert run.exists(), "checkpoints still have names"
    for step in (4, 8):
        client.models.delete(f"{name}:ckpt-step-{step}")
    assert not run.exists() and not list(Path(run.parent).glob(f"{finished['id']}*"))
    assert server.get(f"/fine_tuning/jobs/{finished['id']}")["fine_tuned_model"] == name
