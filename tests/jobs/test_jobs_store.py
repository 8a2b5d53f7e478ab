"""What the server keeps, checks and refuses, part by part."""

import csv
import json
import math
import shutil
import time
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from click.testing import CliRunner
from fastapi.testclient import TestClient
from huggingface_hub import constants

from tests.conftest import REPOSITORY
from tests.jobs.jobs_server import Server, envelope, rows
from train.chats.checks import validate
from train.cli import main
from train.core.cards import card_count
from train.core.config import config_class, load_config
from train.core.errors import ConfigError, GovorError
from train.jobs import bases, run_config, training_process
from train.jobs.bases import DEFAULT_CATALOGUE, load_catalogue
from train.jobs.change import JobEntry, JobState, new_id
from train.jobs.data_folder import lock_folder
from train.jobs.finish import succeed
from train.jobs.job_errors import file_problem, method_problem, training_problem
from train.jobs.server import make_app, serve
from train.jobs.step_metrics import StepCollector, Tail, result_csv
from train.jobs.store import NoSuchCursorError, Store
from train.jobs.wire import (
    DpoHyperparameters,
    GovorDetails,
    Hyperparameters,
    Job,
    JobMethod,
    SupervisedMethod,
    method_of,
)
from train.jobs.worker import GpuLease, Worker, cards_of_slots
from train.plan import plan
from train.plan.estimate import find_gpu
from train.serving.guard import Access
from train.serving.response_store import ResponseStore


def a_job(id_: str, status: str = "queued") -> JobEntry:
    numbers = Hyperparameters()
    job = Job(
        id=id_, model="tiny", created_at=1, organization_id="org-local", validation_file=None, training_file="file-x",
        hyperparameters=numbers, user_provided_suffix=None, seed=1, metadata=None, status=status,
        method=JobMethod(supervised=SupervisedMethod(hyperparameters=numbers)),
        govor=GovorDetails(requested_model="tiny", base="./tiny", config={}),
    )  # fmt: skip
    return JobEntry(job, JobState(tree={}, name_suffix="abcdefgh"))


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "data")


class TestStore:
    def test_a_change_is_whole_or_absent(self, store):
        with pytest.raises(RuntimeError), store.change() as change:
            change.add_job(a_job("ftjob-a"), "body", None)
            change.add_event("ftjob-a", "created", "Created")
            raise RuntimeError
        assert store.entry("ftjob-a") is None and store.page("events", limit=9).objects == []

    def test_it_is_on_disk_for_the_next_one(self, store):
        with store.change() as change:
            change.add_job(a_job("ftjob-a", "running"), "body", None)
        again = Store(store.folder)
        assert [entry.job.id for entry in again.jobs_with_status("running")] == ["ftjob-a"]
        with again.change() as change:
            entry = change.entry("ftjob-a")
            entry.job.status, entry.state.step = "succeeded", 7
            change.save(entry)
        assert store.jobs_with_status("running") == [] and store.entry("ftjob-a").state.step == 7

    def test_states_are_stored_under_the_names_of_older_servers(self):
        stored = '{"tree":{},"letters":"abcdefgh","alone":2,"step":7,"total":9}'
        state = JobState.model_validate_json(stored)
        assert (state.name_suffix, state.deaths_in_a_row) == ("abcdefgh", 2)
        assert state.model_dump_json() == stored

    def test_an_event_happens_once(self, store):
        for _ in range(3):
            with store.change() as change:
                change.add_event("ftjob-a", "step 1", "Step 1/2")
                change.add_event("ftjob-b", "step 1", "Step 1/2")
        assert len(store.page("events", [("job = ?", "ftjob-a")], limit=9).objects) == 1

    def test_pages(self, store):
        with store.change() as change:
            for number in range(7):
                change.add_event("ftjob-a", f"step {number}", f"{number}")
            change.add_event("ftjob-b", "other", "other")
        where, seen, after = [("job = ?", "ftjob-a")], [], None
        while True:
            page = store.page("events", where, after=after, limit=3)
            seen += [json.loads(text) for text in page.objects]
            if not page.has_more:
                break
            after = seen[-1]["id"]
        assert [event["message"] for event in seen] == list("6543210")
        first = store.page("events", where, limit=2, oldest_first=True).objects
        assert [json.loads(text)["message"] for text in first] == ["0", "1"]
        for cursor in ("ftevent-none", json.loads(store.page("events", limit=1).objects[0])["id"]):  # another job's
            with pytest.raises(NoSuchCursorError):
                store.page("events", where, after=cursor, limit=3)

    def test_one_server_a_folder(self, tmp_path):
        held = lock_folder(tmp_path)
        with pytest.raises(GovorError, match="another server works on this folder"):
            lock_folder(tmp_path)
        held.close()
        lock_folder(tmp_path).close()


class TestMetrics:
    def write(self, path: Path, *lines: dict, end: str = "") -> None:
        path.write_text("".join(json.dumps(line) + "\n" for line in lines) + end)

    def test_a_growing_file_is_read_once(self, tmp_path):
        path = tmp_path / "metrics.jsonl"
        tail = Tail(path)
        assert tail.new_lines() == []
        with path.open("w") as file:
            file.write('{"step": 1}\n{"st')
            file.flush()
            assert tail.new_lines() == [{"step": 1}]
            file.write('ep": 2}\n')
            file.flush()
            assert tail.new_lines() == [{"step": 2}] and tail.new_lines() == []
        other = tmp_path / "other"
        self.write(other, {"step": 1})
        other.replace(path)  # a resumed run forgets what it will do again
        assert tail.new_lines() == [{"step": 1}]

    def test_a_step_waits_for_its_validation(self):
        steps = StepCollector(total=4, eval_every=2, after=0)
        steps.add([{"step": 0, "eval_loss": 9.0}, {"step": 1, "loss": 1.0}, {"step": 2, "loss": 2.0}])
        assert [step.step for step in steps.ready()] == [1]
        steps.add([{"step": 2, "eval_loss": 3.0}, {"step": 3, "loss": 3.0}, {"step": 4, "loss": 4.0}])
        ready = list(steps.ready())
        assert [step.message for step in ready] == [
            "Step 2/4: training loss=2.00, validation loss=3.00",
            "Step 3/4: training loss=3.00",
        ]
        assert [step.step for step in steps.ready(ended=True)] == [4], "its validation never came"
        steps.add([{"step": 3, "loss": 3.5}])
        assert list(steps.ready(ended=True)) == [], "a step that is done again is not recorded again"

    def test_the_table(self):
        lines = [{"step": 1, "loss": 1.523471, "mean_token_accuracy": 0.0}, {"step": 2, "loss": 1.0},
                 {"step": 2, "eval_loss": 2.0, "eval_mean_token_accuracy": 0.5}]  # fmt: skip
        assert result_csv(lines) == (
            "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy\n1,1.52347,0.0,,\n2,1.0,,2.0,0.5\n"
        )

    def test_the_table_of_preference_tuning(self):
        lines = [{"step": 0, "eval_loss": 0.693, "eval_rewards/margins": 0.0},
                 {"step": 1, "loss": 0.69, "rewards/margins": 0.25, "rewards/accuracies": 0.75},
                 {"step": 1, "eval_loss": 0.6, "eval_rewards/margins": 0.5, "eval_rewards/accuracies": 1}]  # fmt: skip
        head, row = csv.reader(result_csv(lines).splitlines())
        assert head[:3] == ["step", "train_loss", "train_accuracy"]
        told = {name: value for name, value in zip(head, row, strict=True) if "reward" in name}
        assert told == {"train_reward_margin": "0.25", "train_reward_accuracy": "0.75",
                        "valid_reward_margin": "0.5", "valid_reward_accuracy": "1"}  # fmt: skip


class TestRecipe:
    def test_every_key_of_a_clients_exists(self):
        sections = {name: field.annotation for name, field in config_class().model_fields.items()}
        for section, keys in run_config.CLIENT_KEYS.items():
            kind = next(
                k for k in getattr(sections[section], "__args__", (sections[section],)) if hasattr(k, "model_fields")
            )
            assert keys - {"gradient_checkpointing"} <= set(kind.model_fields), section

    @pytest.mark.parametrize(
        ("batch", "at_once", "accumulated"), [(1, 1, 1), (4, 4, 1), (6, 3, 2), (7, 1, 7), (64, 4, 16)]
    )
    def test_rows_a_step(self, tmp_path, batch, at_once, accumulated):
        tree = {"name": "x", "model": {"name_or_path": "x"}, "data": {"train_file": "x"}}
        config = run_config.write_config(tmp_path / "c.yaml", {**tree, "training": {"per_device_train_batch_size": 4}})
        chosen = Hyperparameters(n_epochs=2, batch_size=batch, learning_rate_multiplier=0.1)
        config = run_config.write_config(tmp_path / "c.yaml", run_config.with_hyperparameters(tree, config, chosen))
        training = config.training
        assert (training.per_device_train_batch_size, training.gradient_accumulation_steps) == (at_once, accumulated)
        assert math.isclose(training.learning_rate, 2e-5)
        assert run_config.total_steps(config, 100) == 2 * math.ceil(math.ceil(100 / at_once) / accumulated)

    @pytest.mark.parametrize(
        ("multiplier", "lora", "little"),
        [(1.0, {}, False), (0.1, {}, False), (0.001, {}, True), (1.0, None, False), (1e-4, None, True)],
    )
    def test_what_a_multiplier_makes_of_the_rate_is_stated(self, tmp_path, multiplier, lora, little):
        """Over 219 steps, as three epochs of the shipped dialogues have."""
        tree = {"name": "x", "model": {"name_or_path": "x"}, "data": {"train_file": "x"}, "lora": lora}
        training = {"learning_rate": 2e-4 * multiplier}
        config = run_config.write_config(tmp_path / "c.yaml", {**tree, "training": training})
        text, warned = run_config.describe_rate(2e-4, multiplier, config, 219)
        assert text.startswith(f"Learning rate: 0.0002 × {multiplier:g} = {2e-4 * multiplier:g}")
        assert warned is little and ("next to nothing" in text) is little

    def test_auto(self, tmp_path):
        tree = {"name": "x", "model": {"name_or_path": "x"}, "data": {"train_file": "x"}}
        config = run_config.write_config(tmp_path / "c.yaml", tree)
        resolved = run_config.resolve_hyperparameters(Hyperparameters(), config, 10)
        assert resolved == Hyperparameters(n_epochs=10, batch_size=4, learning_rate_multiplier=1.0)
        assert run_config.resolve_hyperparameters(Hyperparameters(), config, 3).batch_size == 3


class TestWorker:
    def test_last_words(self, tmp_path):
        log = tmp_path / "output.log"
        assert training_process.last_error(log) is None
        log.write_text("24 rows\nstep 1/2: loss 1\n")
        assert training_process.last_error(log) is None
        log.write_text("24 rows\nerror: 2 problems:\n  one\n  two\nsome warning\n")
        assert training_process.last_error(log) == "2 problems:\n  one\n  two"

    def test_a_training_is_found_again_with_its_slot(self, tmp_path):
        mark = f"{tmp_path}:ftjob-a"
        started = training_process.start(["sleep", "60"], mark, tmp_path, tmp_path / "log", 3, {})
        training = training_process.TrainingProcesses(mark)
        assert training.runs() and training.slot() == 3 and training_process.live_marks(f"{tmp_path}:") == {mark}
        training.request_stop(saved=False)
        deadline = time.monotonic() + 10
        while started.runs() or training.runs():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert training.slot() is None

    def test_a_job_that_cannot_go_on_holds_up_no_other(self, store):
        with store.change() as change:
            for id_ in ("ftjob-a", "ftjob-b"):  # without the folders that a request makes
                change.add_job(a_job(id_), "body", None)
        worker = Worker(store, 1, GpuLease())
        worker._look()
        worker._look()
        assert [store.entry(id_).job.status for id_ in ("ftjob-a", "ftjob-b")] == ["failed", "failed"]
        assert store.entry("ftjob-a").job.error.code == "server_error"

    def test_what_training_says_becomes_the_error(self, store):
        folder = store.job_folder("ftjob-a")
        error = training_problem(f"{folder}/train.jsonl:3: the chat template refuses it", folder)
        assert (error.code, error.param) == ("invalid_training_file", "training_file")
        assert error.message == "The job failed due to an invalid training file. line 3: the chat template refuses it"
        text = f"2 rows of {folder}/valid.jsonl are like rows of {folder}/train.jsonl"
        assert training_problem(text, folder).param == "validation_file"
        long = "3 rows are longer than training.max_length=64 tokens: line 5 (70)"
        assert training_problem(long, folder).code == "invalid_training_file"
        error = training_problem(f"{store.folder}/runs/x: no room", folder)
        assert (error.code, error.message) == ("server_error", "The job failed: runs/x: no room")


PAIR = json.dumps({"input": {"messages": [{"role": "user", "content": "Кто?"}]},
                   "preferred_output": [{"role": "assistant", "content": "Я."}],
                   "non_preferred_output": [{"role": "assistant", "content": "Не знаю."}]})  # fmt: skip
CHAT = json.dumps({"messages": [{"role": "user", "content": "Кто?"}, {"role": "assistant", "content": "Я."}]})


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([PAIR] * 12, None),
        ([*[PAIR] * 12, '{"input": {"mess'], "Example 13, not valid JSON"),
        (['{"input": {"mess', *[PAIR] * 12], "Example 1, not valid JSON"),
        (["", ""], "no rows in it"),
        ([PAIR.replace("non_preferred", "other")] * 12, "`non_preferred_output`"),
        ([CHAT] * 12, "fine-tune-chat format"),
        ([CHAT] * 2, "fine-tune-chat format"),
    ],
)
def test_what_is_wrong_with_a_file_of_pairs(store, capsys, lines, said):
    """Its check answers whatever stands in it: without an answer the server takes the check for killed."""
    folder = store.job_folder("ftjob-a")
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
    validate((folder / "train.jsonl",), as_json=True)
    report = json.loads(capsys.readouterr().out)
    job = a_job("ftjob-a").job.model_copy(update={"method": method_of(DpoHyperparameters())})
    found = method_problem(report, "training", job, folder) or file_problem(report, "training", folder)
    assert (found.code, found.param) == ("invalid_training_file", "training_file") if said else found is None
    assert found is None or (said in found.message and str(folder) not in found.message)


def test_what_speaks_against_a_run_is_an_event_of_its_job(store, finished_run):
    with store.change() as change:
        change.add_job(a_job("ftjob-a", "running"), "body", None)
    run = store.run("ftjob-a")
    shutil.copytree(finished_run.path, run.path)
    run.update_manifest(warnings=["training moved no weight: why"])
    succeed(store, "ftjob-a", run)
    events = [json.loads(text) for text in store.page("events", [("job = ?", "ftjob-a")], limit=9).objects]
    warned = [event["message"] for event in events if event["level"] == "warn"]
    assert warned == ["Warning: training moved no weight: why"]


def test_a_loss_that_is_not_finite_is_the_job_s_error(store):
    text = "step 2: the loss is nan (rows at lines 3, 4): try a lower training.learning_rate"
    error = training_problem(text, store.job_folder("ftjob-a"))
    assert (error.code, error.message) == ("server_error", f"The job failed: {text}")


FAKE_TORCH = """
import os
from types import SimpleNamespace

visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0,1").split(",")
cuda = SimpleNamespace(device_count=lambda: len({"0", "1"}.intersection(visible)))
"""
"""What the server asks torch, on a machine with two cards."""


class TestSlots:
    @pytest.fixture
    def two_cards(self, tmp_path, monkeypatch):
        (tmp_path / "torch.py").write_text(FAKE_TORCH, encoding="utf-8")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")

    @pytest.mark.parametrize(
        ("visible", "slots", "cards"),
        [
            (None, 1, []),  # the training itself takes the first it sees
            (None, 2, ["0", "1"]),
            ("1,0", 2, ["1", "0"]),
            ("", 3, []),
            ("0,1", 1, []),
        ],
    )
    def test_each_has_a_card_of_its_own(self, two_cards, monkeypatch, visible, slots, cards):
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert cards_of_slots(slots) == cards

    @pytest.mark.parametrize(
        ("visible", "slots", "message"),
        [
            (None, 3, "--slots 3 wants a GPU for each slot, and 2 are visible: use --slots 2"),
            ("0,1", 3, "and 2 are visible: use --slots 2"),
            ("1", 2, "and 1 is visible: use --slots 1"),
            ("0,7", 2, "and 1 is visible: use --slots 1"),  # there is no card 7
        ],
    )
    def test_more_slots_than_cards_are_refused_at_the_start(
        self, two_cards, monkeypatch, working_folder, base, visible, slots, message
    ):
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        (working_folder / "c.yaml").write_text(f"x: {{base: {base}}}")
        words = ["jobs", "serve", "--port", "0", "--data-dir", "d", "--catalogue", "c.yaml", "--slots", str(slots)]
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 2 and message in result.stderr and result.stderr.count("\n") == 1
        assert not Path("d").exists()

    def test_without_a_card_they_are_for_the_cpu(self):
        assert card_count() == 0 and cards_of_slots(3) == []

    @pytest.mark.parametrize(("cards", "expected"), [(["1", "GPU-8f"], ["1", "GPU-8f"]), ([], [None, None])])
    def test_a_training_sees_the_card_of_its_slot_alone(self, store, monkeypatch, cards, expected):
        seen = []

        def start(command, mark, folder, log, slot, variables):
            seen.append(variables.get("CUDA_VISIBLE_DEVICES"))
            return SimpleNamespace(runs=lambda: True, stop_requested_at=None)

        monkeypatch.setattr(training_process, "start", start)
        with store.change() as change:
            for id_ in ("ftjob-a", "ftjob-b", "ftjob-c"):
                store.job_folder(id_).mkdir(parents=True)
                tree = {"name": id_, "model": {"name_or_path": "b"}, "data": {"train_file": "a.jsonl"}}
                run_config.write_config(store.job_folder(id_) / "config.yaml", tree)
                change.add_job(a_job(id_), "body", None)
        worker = Worker(store, 2, GpuLease(), cards)
        worker._look()
        worker._look()
        assert seen == expected, "two slots, and the third job waits"


class TestCatalogue:
    def test_the_default_names_the_bases_of_the_readme(self, monkeypatch, working_folder, base):
        (working_folder / "data").mkdir()
        (working_folder / "data/tiny-ru").symlink_to(base)
        (working_folder / ".bases").mkdir()
        (working_folder / ".bases/gemma-3-270m").symlink_to(base)
        catalogue = load_catalogue(DEFAULT_CATALOGUE)
        used = {yaml.safe_load(path.read_text())["model"]["name_or_path"] for path in REPOSITORY.glob("configs/*.yaml")}
        assert used <= {b.reference.removeprefix("./") for b in catalogue.bases.values()}
        assert catalogue.find("gpt-4.1-mini-2025-04-14").name == "Qwen/Qwen3-4B-Instruct-2507"
        assert catalogue.bases["tiny"].path == str(working_folder / "data/tiny-ru")
        assert catalogue.find("gpt-99") is None

    def test_the_models_of_the_guides_are_known_and_refused_where_their_base_cannot_run(self, monkeypatch, base):
        Path("data").mkdir()
        Path("data/tiny-ru").symlink_to(base)
        catalogue = load_catalogue(DEFAULT_CATALOGUE)
        guides = "gpt-4-turbo gpt-4 gpt-3.5-turbo moonshot-v1-8k moonshot-v1-32k moonshot-v1-128k gemini-1.5-pro-002"
        guides += " gemini-1.0-pro-001 gemini-1.5-flash-001-tuning gemini-2.0-flash-lite gemini-2.5-flash"
        for name in guides.split():
            why = catalogue.why_not_here(name)
            assert why.startswith(f"{name} stands for Qwen/Qwen3-4B-Instruct-2507 on this server and cannot be tuned")
            assert "a CUDA GPU for its 4-bit weights" in why and "Bases that can: tiny;" in why
        assert catalogue.why_not_here("tiny") is None
        monkeypatch.setattr(bases, "has_accelerator", lambda cuda: True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert "govor fetch Qwen/Qwen3-4B-Instruct-2507" in catalogue.why_not_here("gpt-4")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        assert catalogue.why_not_here("gpt-4") is None

    def test_all_that_is_listed_can_be_retrieved(self, base, tmp_path):
        """Also a base that answers here and that no job can tune, which is said."""
        entries = {"tiny": {"base": str(base), "overrides": {"training": {"use_cpu": True}}},
                   "large": {"base": str(base), "aliases": ["gpt-4"]}}  # fmt: skip
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(entries))
        app = make_app(Store(tmp_path / "data"), ResponseStore(None), load_catalogue(tmp_path / "c.yaml"), Access(), 1)
        client = TestClient(app, base_url="http://localhost")  # without its worker
        assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["large", "tiny"]
        assert client.get("/v1/models/tiny").json()["metadata"]["cannot_be_tuned"] is None
        why = client.get("/v1/models/large").json()["metadata"]["cannot_be_tuned"]
        assert why.startswith("large cannot be tuned here: it wants a GPU")
        unlisted = client.get("/v1/models/gpt-4")
        assert unlisted.status_code == 404 and "gpt-4 stands for large" in unlisted.json()["error"]["message"]

    def test_a_folder_that_is_not_there_is_no_base(self, working_folder):
        catalogue = load_catalogue(DEFAULT_CATALOGUE)
        assert catalogue.find("tiny") is None and catalogue.missing["tiny"] == "./data/tiny-ru"

    @pytest.mark.parametrize(
        ("name", "card"),
        [
            ("Qwen/Qwen3-4B-Instruct-2507", "8GB"),
            ("Qwen/Qwen3.5-4B", "12GB"),
            ("T-lite-it-2.1-nf4", "16GB"),
            ("t-tech/T-lite-it-2.1", "24GB"),
            ("Qwen/Qwen3.5-9B", "24GB"),
            ("t-tech/T-pro-it-2.1", "48GB"),
            ("T-pro-it-2.1-lora", "80GB"),
        ],
    )
    def test_a_base_fits_the_card_that_is_written_beside_it(self, name, card, working_folder):
        """By the plan, with rows of the shipped dialogues and the defaults of a job."""
        base = load_catalogue(DEFAULT_CATALOGUE).find(name)
        tree = {**base.tree, "name": "x", "data": {"train_file": str(REPOSITORY / "data/natasha.jsonl")}}
        (working_folder / "x.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
        found = plan(load_config(working_folder / "x.yaml"), find_gpu(card))
        assert found.fits, f"{found.memory.peak / 2**30:.1f} GiB"

    def test_recipes(self, working_folder, base):
        (working_folder / "mine.yaml").write_text(f"mine: {{base: {base}, recipe: {REPOSITORY}/configs/tiny.yaml}}")
        tree = load_catalogue(working_folder / "mine.yaml").find("mine").tree
        assert tree["lora"]["r"] == 64
        assert tree["model"]["name_or_path"] == str(base) and "data" not in tree

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("x: {bse: y/z}", "x.bse"),
            ("x: {base: a/b, overrides: {lora: {rank: 8}}}", "x: lora.rank"),
            ("x: {base: a/b, aliases: [y]}\ny: {base: a/b}", "'y' is empty, holds `:` or stands there twice"),
            ('"a:b": {base: a/b}', "holds `:`"),
            ("x: [", "cannot be read as YAML"),
            ("x: {base: a/b, recipe: none.yaml}", "no such config file"),
        ],
    )
    def test_mistakes(self, working_folder, text, message):
        (working_folder / "c.yaml").write_text(text)
        with pytest.raises(ConfigError, match=message.replace("[", r"\[")):
            load_catalogue(working_folder / "c.yaml")


class TestSafety:
    def test_beyond_loopback_only_with_a_key(self, tmp_path, base):
        (tmp_path / "c.yaml").write_text(f"x: {{base: {base}}}")
        with pytest.raises(GovorError, match="key"):
            serve(tmp_path / "d", load_catalogue(tmp_path / "c.yaml"), host="0.0.0.0", port=0, access=Access(), slots=1)
        assert not (tmp_path / "d").exists()

    def test_ids_are_ours(self):
        assert len({new_id("file-") for _ in range(1000)}) == 1000

    def test_keys_and_browsers(self, tmp_path, base):
        with Server(tmp_path, base, key="sk-right") as server:
            for given in ("Bearer sk-wrong", "Bearer", "sk-right", ""):
                response = server.ask("GET", "/files", headers={"authorization": given})
                assert response.status_code == 401 and envelope(response.json())["code"] == "invalid_api_key"
            assert server.ask("GET", "/files", headers={"origin": "https://evil.example"}).status_code == 200
            assert server.healthy()
            seen = CliRunner().invoke(main, ["jobs", "list", "--url", server.url])
            assert seen.exit_code == 2, "the key is missing"
            file = server.client().files.create(file=rows(3), purpose="fine-tune")
            job = server.client().fine_tuning.jobs.create(model="acme/tiny", training_file=file.id)
            server.wait(job.id)
            (tmp_path / "key").write_text("sk-right\n")
            at = ["--url", server.url, "--api-key-file", str(tmp_path / "key")]
            for arguments, shown in (
                (["list", *at], f"{job.id}  failed            acme/tiny"),
                (["show", job.id, *at], "Training file has 3 example(s), but must have at least 10 examples"),
                (["show", job.id, *at], f"\n{date.today()} "),
                (["list", *at, "--json"], '"object": "fine_tuning.job"'),
            ):
                seen = CliRunner().invoke(main, ["jobs", *arguments])
                assert seen.exit_code == 0 and shown in seen.output, seen.output
            refused = CliRunner().invoke(main, ["jobs", "cancel", job.id, *at])
            assert refused.exit_code == 2 and "cannot be cancelled" in refused.output
            second = Server.__new__(Server)
            second.__dict__ |= server.__dict__ | {
                "folder": tmp_path / "second",
                "data": tmp_path / "second",
                "process": None,
            }
            second.folder.mkdir()
            with pytest.raises(AssertionError, match="cannot be had"):
                second.start()
            second.process.wait(10)
            second.process.stdout.close()

    def test_without_a_key_a_web_page_is_refused(self, tmp_path, base):
        with Server(tmp_path, base) as server:
            for headers in ({"origin": "https://evil.example"}, {"origin": "null"}, {"host": "evil.example"}):
                assert server.ask("GET", "/files", headers=headers).status_code == 403
            for headers in ({}, {"origin": "http://localhost:3000"}, {"host": f"localhost:{server.port}"}):
                assert server.ask("GET", "/files", headers=headers).status_code == 200

    def test_too_large_is_refused_and_leaves_nothing(self, tmp_path, base, monkeypatch):
        from fastapi import FastAPI, Request
        from fastapi.testclient import TestClient

        from train.jobs.uploads import receive_upload
        from train.serving.api_errors import install_error_handlers

        app = FastAPI()
        install_error_handlers(app)

        @app.post("/")
        async def upload(request: Request) -> dict:
            return vars(await receive_upload(request, tmp_path / "file-x", max_bytes=3_000_000))

        with TestClient(app) as client:
            began = time.monotonic()
            for size, status in ((3_000_000, 200), (3_000_001, 413), (20_000_000, 413)):
                response = client.post("/", files={"file": ("a", b"x" * size)}, data={"purpose": "batch"})
                assert response.status_code == status
                assert (tmp_path / "file-x").exists() == (status == 200)
                (tmp_path / "file-x").unlink(missing_ok=True)
            assert not list(tmp_path.glob(".*")) and time.monotonic() - began < 20
