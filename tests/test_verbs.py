"""merge, chat and train as a person uses them, on a finished run."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.conftest import REPOSITORY, govor
from train.cli import main
from train.core.config import load_config
from train.core.errors import RunError
from train.core.runs import open_run
from train.merging.merge import merge
from train.sft import train


class TestChat:
    def test_one_answer_is_all_that_stands_on_stdout(self, run):
        merge(run, measure=False)
        plain = govor("chat", str(run.path), "--prompt", "Кто я?")
        merged = govor("chat", str(run.path), "--prompt", "Кто я?", "--merged")
        assert plain.exit_code == 0
        assert plain.stdout.strip()
        assert plain.stdout == merged.stdout
        assert "<|im_end|>" not in plain.stdout

    def test_conversation(self, run):
        result = govor("chat", str(run.path), input="Кто я?\n/reset\n/nonsense\n\nА ты?\n/exit\nне дойдёт\n")
        assert result.exit_code == 0
        assert result.stdout.count("› ") == 6
        assert result.stderr.count("/reset") == 2

    def test_from_another_folder(self, write_config, base, monkeypatch):
        shutil.copytree(base, "near")
        run = train(load_config(write_config(model={"name_or_path": "near"}, training={"max_steps": 1})))
        elsewhere = Path("elsewhere")
        elsewhere.mkdir()
        monkeypatch.chdir(elsewhere)
        assert govor("chat", str(".." / run.path), "--prompt", "а").exit_code == 0

    def test_end_of_input_leaves(self, run):
        assert govor("chat", str(run.path), input="").exit_code == 0

    def test_prompt_beyond_the_context(self, run):
        result = govor("chat", str(run.path), "--prompt", "слово " * 2000)
        assert result.exit_code == 2
        assert re.fullmatch(
            r"error: the conversation has \d+ tokens, the model reads 1024: begin a new one\n", result.stderr
        )

    def test_merged_before_merging(self, run):
        result = govor("chat", str(run.path), "--merged", "--prompt", "а")
        assert result.stderr == "error: runs/done has no merged model yet: govor merge runs/done\n"


class TestBadRunFolders:
    @pytest.mark.parametrize("verb", ["eval", "merge", "chat"])
    def test_not_there(self, verb):
        result = govor(verb, "runs/nowhere")
        assert (result.exit_code, result.stderr) == (
            2, "error: runs/nowhere: no such run folder (runs: none here yet)\n",
        )  # fmt: skip

    def test_not_a_run(self):
        Path("folder").mkdir()
        with pytest.raises(RunError, match=r"^folder is not a run folder"):
            open_run(Path("folder"))

    def test_unfinished(self, run):
        shutil.rmtree(run.adapter)
        with pytest.raises(RunError, match=r"unfinished: training has left no adapter"):
            open_run(run.path)


class TestTrain:
    @pytest.mark.long
    def test_prints_the_command_and_runs_it(self, write_config):
        path = write_config(name="cli", training={"max_steps": 1})
        command = [str(Path(sys.executable).with_name("govor")), "train", str(path), "lora.r=2"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stderr
        first = result.stderr.splitlines()[0]
        assert re.search(r"accelerate launch --quiet .*train/sft\.py .*cli\.yaml lora\.r=2$", first)
        assert open_run(Path("runs/cli")).config().lora.r == 2

    def test_failure_is_one_line_and_exit_2(self, write_config):
        path = write_config(model={"name_or_path": "nowhere"})
        command = [str(Path(sys.executable).with_name("govor")), "train", str(path)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert result.returncode == 2
        assert result.stderr.splitlines()[1:] == ["error: nowhere: no such folder, and no Hub id (owner/name) either"]

    def test_bad_config_shows_before_the_launcher_starts(self, write_config):
        result = govor("train", str(write_config()), "lora.rnk=1")
        assert result.exit_code == 2
        assert result.stderr == "error: override 'lora.rnk=1': lora.rnk: unknown option; did you mean lora.r?\n"


class TestStartUp:
    def test_help_is_fast(self):
        """The median of five, in processor time; 0.25 s is what a person takes for at once."""
        command = [str(Path(sys.executable).with_name("govor")), "--help"]
        times = []
        for _ in range(5):
            before = os.times()
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
            after = os.times()
            times.append(after.children_user - before.children_user + after.children_system - before.children_system)
        times.sort()
        assert times[2] < 0.25

    def test_validate_imports_no_torch(self):
        check = "\n".join(
            [
                "import sys",
                "from train.cli import main",
                "try: main(['validate', sys.argv[1]])",
                "except SystemExit: print('torch' in sys.modules)",
            ]
        )
        rows = str(REPOSITORY / "data/natasha.jsonl")
        output = subprocess.check_output([sys.executable, "-c", check, rows], text=True)
        assert output.splitlines()[-1] == "False"

    def test_no_telemetry(self):
        code = "import train, os; print(os.environ['HF_HUB_DISABLE_TELEMETRY'])"
        environment = {k: v for k, v in os.environ.items() if k != "HF_HUB_DISABLE_TELEMETRY"}
        assert subprocess.check_output([sys.executable, "-c", code], text=True, env=environment).strip() == "1"

    def test_an_unexpected_error_is_one_line_too(self, monkeypatch):
        monkeypatch.setattr("train.chats.checks.check_file", lambda _: 1 / 0)
        result = CliRunner().invoke(main, ["validate", "x"])
        assert result.exit_code == 2
        assert result.stderr.startswith("error: ZeroDivisionError: division by zero (unexpected")
        assert len(result.stderr.splitlines()) == 1
