"""The whole life of a job through the 1.x line of the SDK, which needs an environment of its own:

python -m venv sdk1 && sdk1/bin/pip install 'openai<2'
GOVOR_SDK1=sdk1/bin/python pytest tests/test_jobs_sdk1.py
"""

import os
import subprocess
from pathlib import Path

import pytest

from tests.jobs.jobs_server import Server, rows

PYTHON = os.environ.get("GOVOR_SDK1")
HERE = Path.cwd()
LIFE = """
import sys, time
import openai
from openai.types import FileObject, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint

def strict(kind, item):
    sent = item.to_dict()
    if sent.get("status") == "paused":  # the published type of `status` lacks it
        sent["status"] = "queued"
    kind.model_validate(sent, strict=True)
    return item

url, training, held_out = sys.argv[1:]
client = openai.OpenAI(base_url=url, api_key="any", max_retries=60)  # the model is loaded when it is asked first
files = [client.files.create(file=open(path, "rb"), purpose="fine-tune") for path in (training, held_out)]
for file in files:
    strict(FileObject, file)
    strict(FileObject, client.files.retrieve(file.id))
assert client.files.wait_for_processing(files[0].id).status == "processed"
jobs = client.fine_tuning.jobs
job = strict(FineTuningJob, jobs.create(
    model="acme/tiny", training_file=files[0].id, validation_file=files[1].id, suffix="old", seed=3,
    method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 6}}},
    metadata={"sdk": "1"},
))
assert job.status == "validating_files" and job.fine_tuned_model is None and job.error is None
while jobs.retrieve(job.id).status != "running":
    time.sleep(0.2)
strict(FineTuningJob, jobs.pause(job.id))
assert strict(FineTuningJob, jobs.resume(job.id)).status == "queued"
while strict(FineTuningJob, job := jobs.retrieve(job.id)).status not in ("succeeded", "failed", "cancelled"):
    time.sleep(0.5)
assert job.status == "succeeded", job.error
assert job.hyperparameters.n_epochs == 2 and job.hyperparameters.batch_size == 6 and job.trained_tokens > 0
events = [strict(FineTuningJobEvent, event) for event in jobs.list_events(job.id, limit=5)]
assert events[0].message == "The job has successfully completed" and events[-1].message.startswith("Created")
steps = [event.data["step"] for event in events if event.type == "metrics"]
assert steps == sorted(set(steps), reverse=True) and steps[0] == 8
checkpoints = [strict(FineTuningJobCheckpoint, item) for item in jobs.checkpoints.list(job.id, limit=1)]
assert [item.step_number for item in checkpoints] == [8, 4]
assert client.files.content(job.result_files[0]).text.startswith("step,train_loss,train_accuracy")
assert job.fine_tuned_model in [strict(Model, model).id for model in client.models.list()]
request = {"messages": [{"role": "user", "content": "Привет"}], "max_tokens": 4, "timeout": 200}
for name in (job.fine_tuned_model, checkpoints[1].fine_tuned_model_checkpoint):
    assert strict(ChatCompletion, client.chat.completions.create(model=name, **request)).model == name
chunks = [strict(ChatCompletionChunk, c) for c in client.chat.completions.create(model=name, stream=True, **request)]
assert chunks[-1].choices[0].finish_reason in ("stop", "length")
other = jobs.create(model="acme/tiny", training_file=files[0].id, hyperparameters={"n_epochs": 50})
assert strict(FineTuningJob, jobs.cancel(other.id)).status == "cancelled"
assert {item.id for item in jobs.list(limit=1)} == {job.id, other.id}
for call, error in (
    (lambda: jobs.cancel(other.id), openai.BadRequestError), (lambda: jobs.retrieve("ftjob-x"), openai.NotFoundError),
    (lambda: jobs.create(model="gpt-none", training_file=files[0].id), openai.BadRequestError),
):
    try:
        call()
        raise AssertionError("not refused")
    except error as refused:
        assert refused.message and refused.request_id and refused.type == "invalid_request_error"
assert client.files.delete(files[0].id).deleted and client.models.delete(job.fine_tuned_model).deleted
print(openai.__version__)
"""


@pytest.mark.skipif(PYTHON is None, reason="GOVOR_SDK1 names no Python with openai<2 (see the top of this file)")
def test_the_whole_life_of_a_job(tmp_path, base):
    for name, content in (("life.py", LIFE.encode()), ("rows.jsonl", rows(24)), ("held_out.jsonl", rows(6, start=500))):
        (tmp_path / name).write_bytes(content)
    with Server(tmp_path / "server", base) as server:
        command = [HERE / PYTHON, "life.py", server.url, "rows.jsonl", "held_out.jsonl"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, (done.stderr, server.log())
    assert done.stdout.startswith("1.")
