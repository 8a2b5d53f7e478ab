"""Run folders and server data of the version before open: small ones made by it, see made_by_407b9a9/README.md."""

import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, govor
from tests.jobs.jobs_server import Server, strict
from train.core.config import load_config
from train.core.runs import open_run
from train.sft import train

JOB = "ftjob-cs0FbbM0anolVidVdfQwSbZh"


@pytest.fixture
def old(working_folder) -> Path:
    """A copy of what the version before has left, as if it had been made there, and the working folder in it."""
    shutil.copytree(REPOSITORY / "tests/made_by_407b9a9", working_folder, dirs_exist_ok=True)
    (working_folder / "README.md").unlink()
    names = ("config.yaml", "manifest.json", "adapter_config.json")
    for file in (file for name in names for file in working_folder.rglob(name)):
        text = file.read_text(encoding="utf-8")
        file.write_text(text.replace("/home/user/old", str(working_folder)), encoding="utf-8")
    return working_folder


def test_a_run_goes_through_the_later_verbs(old):
    run = open_run(Path("runs/natasha"))
    evaluated = govor("eval", "runs/natasha", "--samples", "1")
    assert evaluated.exit_code == 0 and "held-out loss:" in evaluated.output
    assert run.manifest()["evaluation"]["rows"] == 2
    assert govor("merge", "runs/natasha").exit_code == 0
    assert run.manifest()["merge"]["passed"] is True
    assert govor("export", "runs/natasha", "--to", "llamafactory").exit_code == 0
    assert govor("push", "runs/natasha", "a/b", "--base", "a/base", "--license", "mit", "--dry-run").exit_code == 0


def test_an_unfinished_run_goes_on(old):
    shutil.rmtree("runs/natasha/adapter")
    before = Path("runs/natasha/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    run = train(load_config(Path("natasha.yaml")), resume=True)
    assert run.manifest()["steps"] == 4 and run.adapter.exists()
    after = [json.loads(line) for line in run.metrics_file.read_text(encoding="utf-8").splitlines()]
    losses = [(entry["step"], entry["loss"]) for entry in after if "loss" in entry]
    assert losses == [(e["step"], pytest.approx(e["loss"], rel=1e-4)) for e in map(json.loads, before) if "loss" in e]


@pytest.mark.long
def test_a_jobs_server_goes_on_with_its_data(old):
    with Server(old, Path("base")) as server:
        client = server.client(max_retries=60)
        job = strict(server.get(f"/fine_tuning/jobs/{JOB}"))
        assert job["status"] == "succeeded" and job["fine_tuned_model"].startswith("ft:acme/tiny:local:natasha:")
        assert strict(server.get(f"/fine_tuning/jobs/{JOB}/events"))["data"]
        checkpoints = strict(server.get(f"/fine_tuning/jobs/{JOB}/checkpoints"))["data"]
        assert [checkpoint["step_number"] for checkpoint in checkpoints] == [10, 5]
        assert client.files.content(job["result_files"][0]).read().startswith(b"step,")
        assert client.files.content(job["training_file"]).read() == Path("rows.jsonl").read_bytes()
        for model in (job["fine_tuned_model"], checkpoints[-1]["fine_tuned_model_checkpoint"]):
            assert client.models.retrieve(model).id == model
            answer = client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": "Привет"}], max_tokens=4, timeout=200
            )
            assert answer.model == model
        again = client.fine_tuning.jobs.create(
            model="acme/tiny", training_file=job["training_file"], hyperparameters={"n_epochs": 1}
        )
        assert server.wait(again.id)["status"] == "succeeded", server.output(again.id)
