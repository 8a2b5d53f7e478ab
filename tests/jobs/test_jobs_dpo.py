"""Preference tuning through the official SDK: a model is tuned on rows, then gone on with on pairs."""

import io
import json
import re

import pytest

from tests.jobs.jobs_server import Server
from train.jobs.wire import Job

pytestmark = pytest.mark.long

OTHERS = ("Не знаю.", "Спроси кого-нибудь ещё.", "Мне всё равно.", "Давай потом, я занята.")
"""What nobody prefers."""


@pytest.fixture(scope="module")
def server(tmp_path_factory, base):
    with Server(tmp_path_factory.mktemp("jobs"), base) as server:
        yield server


@pytest.fixture(scope="module")
def uploaded(server, rows_file) -> dict[str, str]:
    """Ids of a file of chat rows and of a file of pairs, held-out ones apart."""
    rows = [json.loads(line)["messages"] for line in rows_file.read_text(encoding="utf-8").splitlines()]
    pairs = [
        {"input": {"messages": row[:-1]}, "preferred_output": [row[-1]],
         "non_preferred_output": [{"role": "assistant", "content": OTHERS[number % len(OTHERS)]}]}
        for number, row in enumerate(rows)
    ]  # fmt: skip
    chats = [{"messages": row} for row in rows]
    texts = {"chats": chats, "pairs": pairs[:18], "held_out": pairs[18:]}

    def upload(lines: list[dict]) -> str:
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        return server.client().files.create(file=("rows.jsonl", io.BytesIO(text.encode())), purpose="fine-tune").id

    return {name: upload(lines) for name, lines in texts.items()}


@pytest.fixture(scope="module")
def first(server, uploaded) -> dict:
    """A supervised job."""
    method = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1, "batch_size": 8}}}
    job = server.client().fine_tuning.jobs.create(
        model="acme/tiny", training_file=uploaded["chats"], method=method, suffix="first"
    )
    done = server.wait(job.id)
    assert done["status"] == "succeeded", server.output(job.id)
    return done


@pytest.fixture(scope="module")
def second(server, uploaded, first) -> dict:
    """A job that goes on from the first by preference."""
    numbers = {"beta": 0.2, "n_epochs": 5, "batch_size": 4, "learning_rate_multiplier": 10.0}
    job = server.client().fine_tuning.jobs.create(
        model=first["fine_tuned_model"], training_file=uploaded["pairs"], validation_file=uploaded["held_out"],
        method={"type": "dpo", "dpo": {"hyperparameters": numbers}}, suffix="second", seed=3,
    )  # fmt: skip
    done = server.wait(job.id)
    assert done["status"] == "succeeded", server.output(job.id)
    return done


def test_the_job_is_what_was_asked_for(server, first, second):
    numbers = {"beta": 0.2, "n_epochs": 5, "batch_size": 4, "learning_rate_multiplier": 10.0}
    assert second["method"] == {"type": "dpo", "dpo": {"hyperparameters": numbers}}
    assert second["hyperparameters"] is None
    Job.model_validate(second)
    assert second["govor"]["requested_model"] == first["fine_tuned_model"] and second["model"] == "acme/tiny"
    assert second["govor"]["config"]["dpo"]["beta"] == 0.2
    assert second["govor"]["config"]["training"]["learning_rate"] == pytest.approx(0.01 / 20 * 10)
    assert str(server.data) not in json.dumps(second), "no path of the server"
    assert re.fullmatch(r"ft:acme/tiny:local:second:\w{8}", second["fine_tuned_model"])


def test_events_and_checkpoints_carry_margin_and_accuracy(server, second):
    events = server.events(second["id"])
    messages = [event["message"] for event in events]
    assert any(message.startswith("Going on from ft:acme/tiny:local:first:") for message in messages)
    steps = [event for event in events if event["type"] == "metrics"]
    assert all({"train_reward_margin", "train_reward_accuracy"} <= event["data"].keys() for event in steps)
    assert re.search(r"training loss=\S+, margin=\S+, accuracy=\S+, validation loss=\S+, margin=", steps[-1]["message"])
    last = steps[-1]["data"]
    assert last["valid_reward_margin"] > 0 and last["valid_reward_accuracy"] >= 0.8
    checkpoints = server.client().fine_tuning.jobs.checkpoints.list(second["id"]).data
    assert len(checkpoints) == 5


def test_it_began_with_the_first_model_which_may_be_deleted_meanwhile(server, second):
    file = server.data / "runs" / second["id"] / "metrics.jsonl"
    metrics = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert metrics[0]["rewards/margins"] == pytest.approx(0, abs=1e-6), "the reference is where it begins"
    manifest = json.loads((server.data / "runs" / second["id"] / "manifest.json").read_bytes())
    assert manifest["start"] and (server.data / "jobs" / second["id"] / "start" / "adapter").is_dir()


@pytest.mark.parametrize(
    ("file", "type_", "said"),
    [("chats", "dpo", "fine-tune-chat format.*not using 'supervised'.*method=dpo"),
     ("pairs", "supervised", "fine-tune-preference format.*not using 'dpo'.*method=supervised")],
)  # fmt: skip
def test_rows_of_the_other_method_are_refused(server, uploaded, file, type_, said):
    job = server.client().fine_tuning.jobs.create(
        model="acme/tiny", training_file=uploaded[file], method={"type": type_, type_: {}}
    )
    done = server.wait(job.id)
    assert (done["status"], done["error"]["code"]) == ("failed", "invalid_training_file")
    assert re.search(said, done["error"]["message"]), done["error"]


def test_the_adapter_of_what_is_gone_on_from_stays_as_it_is(server, uploaded, first):
    fields = {"model": first["fine_tuned_model"], "training_file": uploaded["chats"], "govor": {"lora": {"r": 8}}}
    response = server.ask("POST", "/fine_tuning/jobs", json=fields)
    assert response.status_code == 400 and "govor.lora.r" in response.json()["error"]["message"]


def test_rows_go_on_from_a_checkpoint_too(server, uploaded, second):
    checkpoint = server.client().fine_tuning.jobs.checkpoints.list(second["id"]).data[0]
    job = server.client().fine_tuning.jobs.create(
        model=checkpoint.fine_tuned_model_checkpoint, training_file=uploaded["chats"],
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1, "batch_size": 12}}},
    )  # fmt: skip
    assert server.wait(job.id)["status"] == "succeeded", server.output(job.id)
