"""A run that is killed at any moment and resumed ends as if nothing had happened."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.conftest import REPOSITORY
from train.core.config import load_config
from train.core.errors import BaseError, GovorError, RunError
from train.core.runs import Run, last_checkpoint
from train.sft import train

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["train.tuning.trainer"]
)  # torch and TRL are imported once, before any thread is started
SETTINGS = {"max_steps": 9, "save_strategy": "steps", "save_steps": 3, "eval_strategy": "steps", "eval_steps": 3,
            "logging_steps": 2, "lr_scheduler_type": "linear"}  # fmt: skip
SFT = REPOSITORY / "train/sft.py"
LORA = {"lora_dropout": 0.1}  # the random state matters


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def train_and_die(folder: str, config: str, where: str, step: int, ask: int = signal.SIGKILL) -> None:
    """In a process of its own: train until that place in that step, then get the signal."""
    os.chdir(folder)
    import train.core.runs
    import train.tuning.common_trainer
    import train.tuning.trainer
    from train.tuning.progress import StopOnSignal

    trainer = train.tuning.trainer.Trainer
    original_step, original_save = StopOnSignal.on_step_end, trainer._save_rng_state
    original_settle, original_rotate = (
        train.tuning.common_trainer.settle_folder,
        train.tuning.common_trainer.rotate_checkpoints,
    )

    def at(place: str, now: int) -> None:
        if (place, now) == (where, step):
            os.kill(os.getpid(), ask)

    def on_step_end(self, args, state, control, **more):
        at("step", state.global_step)
        original_step(self, args, state, control, **more)

    def save(self, output_dir):
        at("save", self.state.global_step)
        original_save(self, output_dir)

    def settle(aside, path):
        at("settle", int(path.name.split("-")[1]))
        original_settle(aside, path)

    def rotate(folder, *more):
        at("rotate", max(int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*")))
        original_rotate(folder, *more)

    StopOnSignal.on_step_end, trainer._save_rng_state = on_step_end, save
    train.tuning.common_trainer.settle_folder, train.tuning.common_trainer.rotate_checkpoints = settle, rotate
    if where == "adapter":
        train.core.files.settle_folder = die
    train.sft.train(load_config(Path(config)))


def killed(config: Path, where: str, step: int = 0, ask: int = signal.SIGKILL) -> int:
    """Exit code of a process that trained until then."""
    process = PROCESSES.Process(target=train_and_die, args=(str(Path.cwd()), str(config), where, step, ask))
    process.start()
    process.join(120)
    assert process.exitcode is not None
    return process.exitcode


def comparable(run: Run) -> list[dict]:
    """The metrics without what depends on the clock and the machine."""
    return [{k: v for k, v in e.items() if k not in ("tokens_per_second", "memory_gib")} for e in run.metrics()]


@pytest.fixture
def whole(write_config):
    """An uninterrupted run of the same settings."""
    return train(load_config(write_config(name="whole", training=SETTINGS, lora=LORA)))


@pytest.mark.long
def test_killed_anywhere_and_resumed_equals_the_uninterrupted_run(whole, write_config):
    places = [("step", 1), ("step", 4), ("step", 5), ("step", 8), ("save", 3), ("save", 6), ("save", 9), ("settle", 3),
              ("settle", 9), ("rotate", 6), ("rotate", 9), ("adapter", 0)]  # fmt: skip
    for number, (where, step) in enumerate(places):
        config = write_config(name=f"killed{number}", training=SETTINGS, lora=LORA)
        assert killed(config, where, step) == -signal.SIGKILL, (where, step)
        assert not Path(f"runs/killed{number}/adapter").exists()
        run = train(load_config(config), resume=True)
        assert comparable(run) == comparable(whole), (where, step)
        assert (run.adapter / "adapter_model.safetensors").read_bytes() == (
            whole.adapter / "adapter_model.safetensors"
        ).read_bytes(), (where, step)
        names = {path.name for path in run.checkpoints.iterdir() if not path.name.startswith(".")}
        assert names >= {"checkpoint-6", "checkpoint-9"}, (where, step)  # a kill before the clean-up leaves one more


def test_killed_twice(whole, write_config):
    config = write_config(name="twice", training=SETTINGS, lora=LORA)
    assert killed(config, "step", 4) == -signal.SIGKILL
    assert last_checkpoint(Run(Path("runs/twice"))).name == "checkpoint-3"
    half = Path("runs/twice/metrics.jsonl")
    half.write_bytes(half.read_bytes() + b'{"step": 4, "lo')  # the kill came in the middle of a line
    run = train(load_config(config), resume=True)
    assert comparable(run) == comparable(whole)


@pytest.mark.parametrize(("ask", "strategy"), [(signal.SIGTERM, "steps"), (signal.SIGINT, "epoch")])
def test_asked_to_stop_it_saves_at_once_and_goes_on(whole, write_config, ask, strategy):
    config = write_config(name="asked", training={**SETTINGS, "save_strategy": strategy}, lora=LORA)
    assert killed(config, "step", 4, ask) == 1, "a Stopped error ends the process"
    run = Run(Path("runs/asked"))
    assert last_checkpoint(run).name == "checkpoint-4"
    run = train(load_config(config), resume=True)
    weights, expected = (load_file(r.adapter / "adapter_model.safetensors") for r in (run, whole))
    assert all(weights[name].equal(expected[name]) for name in expected)


def test_what_cannot_be_resumed_is_said(write_config, finished_run, rows_file):
    config = write_config(name="begun", training=SETTINGS)
    with pytest.raises(RunError, match="runs/begun holds no run to resume"):
        train(load_config(config), resume=True)
    Path("mine.jsonl").write_bytes(rows_file.read_bytes())
    config = write_config(name="begun", training=SETTINGS, data={"train_file": "mine.jsonl"})
    killed(config, "step", 4)
    with pytest.raises(RunError, match=r"another config \(training.learning_rate: 0.01 → 0.1\)"):
        train(load_config(config, ["training.learning_rate=0.1"]), resume=True)
    with pytest.raises(RunError, match="holds an unfinished run"):
        train(load_config(config))
    lines = rows_file.read_bytes().splitlines(keepends=True)
    Path("mine.jsonl").write_bytes(b"".join(lines[1:]))
    with pytest.raises(RunError, match=r"mine.jsonl has changed since runs/begun was begun"):
        train(load_config(config), resume=True)
    Path("mine.jsonl").write_bytes(b"".join(lines))
    train(load_config(config), resume=True)
    with pytest.raises(RunError, match="runs/begun is finished"):
        train(load_config(config), resume=True)


def test_a_damaged_checkpoint_is_named_and_the_one_before_serves(write_config):
    config = load_config(write_config(name="torn", training=SETTINGS))
    killed(write_config(name="torn", training=SETTINGS), "step", 7)
    run = Run(Path("runs/torn"))
    last = last_checkpoint(run)
    before = run.metrics_file.read_bytes()
    for name in ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"):
        whole = (last / name).read_bytes()
        for torn in (whole[: len(whole) // 2], b"", whole[:-40]):
            (last / name).write_bytes(torn)
            with pytest.raises(RunError, match=rf"{last / name} is damaged .*: move {last} away"):
                train(config, resume=True)
        (last / name).write_bytes(whole)
    assert run.metrics_file.read_bytes() == before
    last.rename("elsewhere")
    assert last_checkpoint(run).name == "checkpoint-3"
    assert train(config, resume=True).adapter.exists()


def test_a_full_disk_loses_no_earlier_checkpoint(write_config, monkeypatch):
    from train.tuning.trainer import Trainer

    original = Trainer._save_rng_state

    def full(self, output_dir):
        if self.state.global_step == 6:
            raise OSError(28, "No space left on device")
        original(self, output_dir)

    config = load_config(write_config(name="full", training=SETTINGS))
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(Trainer, "_save_rng_state", full)
        train(config)
    assert last_checkpoint(Run(Path("runs/full"))).name == "checkpoint-3"
    assert train(config, resume=True).adapter.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent has ended")
def test_a_launcher_that_ends_takes_training_along_saved(write_config):
    config = write_config(training={"max_steps": 10_000, "save_strategy": "no", "eval_strategy": "no"})
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--cpu", str(SFT), str(config)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as launcher:
        assert launcher.stderr is not None
        for line in launcher.stderr:
            if line.startswith("step 2/"):
                break
        launcher.terminate()
        rest = launcher.stderr.read()  # ends when the training process, too, has closed it
    assert "saved; --resume goes on from there" in rest
    assert last_checkpoint(Run(Path("runs/x"))) is not None


def test_weights_alone_are_nothing_to_go_on_from(write_config):
    """Optimizer and schedule would begin anew, in silence; a run whose last step is done needs neither."""
    alone = {**SETTINGS, "save_only_model": True}
    config = write_config(name="alone", training=alone)
    assert killed(config, "step", 5) == -signal.SIGKILL
    before = Path("runs/alone/metrics.jsonl").read_bytes()
    with pytest.raises(RunError, match=r"checkpoint-3 holds weights alone \(training\.save_only_model\)"):
        train(load_config(config), resume=True)
    assert Path("runs/alone/metrics.jsonl").read_bytes() == before
    config = write_config(name="ended", training=alone)
    assert killed(config, "adapter") == -signal.SIGKILL
    assert train(load_config(config), resume=True).adapter.is_dir()


class TestStartFrom:
    """lora.start_from: an adapter goes on under another name."""

    def test_it_begins_where_the_run_ended(self, write_config, finished_run):
        lora = {"r": 16, "lora_alpha": 32, "start_from": str(finished_run.path)}
        run = train(load_config(write_config(lora=lora, training={"max_steps": 2})))
        first = next(entry["eval_loss"] for entry in run.metrics() if "eval_loss" in entry)
        last = [entry["eval_loss"] for entry in finished_run.metrics() if "eval_loss" in entry][-1]
        assert first == pytest.approx(last, rel=1e-3)
        old, new = (load_file(one.adapter / "adapter_model.safetensors") for one in (finished_run, run))
        assert old.keys() == new.keys() and any((old[name] != new[name]).any() for name in old)
        saved = json.loads((run.adapter / "adapter_config.json").read_bytes())
        assert "start_from" not in saved

    def test_what_does_not_fit_is_said_before_anything_starts(self, write_config, finished_run, base):
        lora = {"r": 16, "lora_alpha": 32, "start_from": str(finished_run.path)}
        with pytest.raises(RunError, match=r"its adapter has lora\.r=16: set the same"):
            train(load_config(write_config(lora={**lora, "r": 8})))
        with pytest.raises(RunError, match="no such run folder"):
            train(load_config(write_config(lora={"start_from": "runs/nowhere"})))
        shutil.copytree(base, "other")
        weights = load_file("other/model.safetensors")
        save_file({name: 2 * weight for name, weight in weights.items()}, "other/model.safetensors", {"format": "pt"})
        with pytest.raises(RunError, match="not over this base"):
            train(load_config(write_config(lora=lora, model={"name_or_path": "other"})))
        assert not Path("runs/x").exists()

    @pytest.mark.parametrize(
        ("name", "content", "said"),
        [
            ("adapter_model.safetensors", b"half of it", r"adapter_model\.safetensors is damaged .*: put it back"),
            ("adapter_model.safetensors", None, r"its adapter has no adapter_model\.safetensors: put it back"),
            ("adapter_config.json", b"{", r"adapter_config\.json: not valid JSON"),
        ],
    )
    def test_a_damaged_adapter_is_none(self, name, content, said, write_config, finished_run):
        shutil.copytree(finished_run.path, "start")
        file = Path("start/adapter", name)
        file.unlink() if content is None else file.write_bytes(content)
        with pytest.raises(GovorError, match=said):
            train(load_config(write_config(lora={"r": 16, "lora_alpha": 32, "start_from": "start"})))
        assert not Path("runs/x").exists()

    def test_it_keeps_the_template_that_the_run_has_learned(self, write_config, finished_run, base):
        """Its answers would begin after another prompt than the one that it knows."""
        lora = {"r": 16, "lora_alpha": 32, "start_from": str(finished_run.path)}
        other = (base / "chat_template.jinja").read_text() + "\n{# another #}"
        Path("other.jinja").write_text(other)
        with pytest.raises(RunError, match=r"another chat template: set model\.chat_template=(.*)") as caught:
            train(load_config(write_config(lora=lora, model={"chat_template": "other.jinja"})))
        assert not Path("runs/x").exists()
        same = str(caught.value).rpartition("=")[2]
        assert train(load_config(write_config(lora=lora, model={"chat_template": same}))).adapter.is_dir()

    @pytest.mark.parametrize("inside", [".", "adapter"])
    def test_a_run_or_an_adapter_is_no_base(self, inside, write_config, finished_run):
        with pytest.raises(BaseError, match=r"lora\.start_from=.*merged"):
            train(load_config(write_config(model={"name_or_path": str(finished_run.path / inside)})))
