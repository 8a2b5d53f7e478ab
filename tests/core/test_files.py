"""Nothing of a person's is deleted or overwritten: files, folders, checkpoints, scripts."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.conftest import REPOSITORY, govor
from train import sft
from train.core.config import load_config
from train.core.errors import GovorError, RunError
from train.core.files import (
    MARKER,
    NOTE,
    aside_folder,
    complete_folder,
    listed,
    note_files,
    remove_noted,
    require_new,
    table_cell,
    write_whole,
)
from train.core.locks import LOCK, hold_folder
from train.core.runs import (
    Run,
    clear_partial_checkpoint,
    discard_run,
    forget_tokens,
    last_checkpoint,
    require_free,
    rotate_checkpoints,
)


def names(folder: Path | str = ".") -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*"))


class TestFiles:
    def test_a_name_that_was_taken_for_leftovers_is_left_alone(self):
        Path(".rows.jsonl.partial").write_text("mine")
        write_whole(Path("rows.jsonl"), ["new"])
        assert Path(".rows.jsonl.partial").read_text() == "mine"
        assert names() == [".rows.jsonl.partial", "rows.jsonl"]

    @pytest.mark.parametrize("links", [True, False])
    def test_a_file_that_came_meanwhile_is_not_replaced_unasked(self, monkeypatch, links):
        if not links:
            monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError(1, "no links")))

        def parts():
            yield "new"
            Path("rows.jsonl").write_text("mine")  # while ours is being written

        with pytest.raises(GovorError, match=r"rows\.jsonl .* --force"):
            write_whole(Path("rows.jsonl"), parts(), replace=False)
        assert Path("rows.jsonl").read_text() == "mine" and names() == ["rows.jsonl"]
        Path("rows.jsonl").unlink()
        write_whole(Path("rows.jsonl"), ["new"], replace=False)
        assert Path("rows.jsonl").read_text() == "new" and names() == ["rows.jsonl"]

    def test_only_files_are_replaced(self):
        os.mkfifo("pipe")
        Path("folder").mkdir()
        for name in ("pipe", "folder", "/dev/null"):
            with pytest.raises(GovorError, match="is not a file"):
                require_new(Path(name), force=True)

    def test_names_on_one_line(self):
        assert listed(["а", "b\n\x1b[2J"]) == r"а, 'b\n\x1b[2J'"
        assert listed(map(str, range(12)), 2) == "0, 1 and 10 more"


def fill_and_die(path: str, wait: bool) -> None:
    with complete_folder(Path(path)) as folder:
        (folder / "half").write_text("x")
        if wait:
            signal.pause()
        os.kill(os.getpid(), signal.SIGKILL)


def replace_and_die(moment: str) -> None:
    import train.core.files
    import train.core.runs

    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    if moment == "flushed":
        train.core.runs.sync_folder = die
        train.core.runs.os.fsync = die
    elif moment == "moved away":
        train.core.files.Path.rename = lambda self, target, rename=Path.rename: (rename(self, target), die())
    else:
        train.core.files.remove_if_empty = die
        train.core.files.Path.unlink = lambda *_, **__: die()
    with complete_folder(Path("out"), replace=True) as folder:
        (folder / "a").write_text("new")


class TestFolders:
    def test_what_looks_like_leftovers_is_left_alone(self):
        theirs = [".out.partial", ".out.new", ".out.old", ".out.0123abcd.partial", ".out.0123abcd.old"]
        for name in theirs:
            Path(name).mkdir()
            Path(name, "mine").write_text("x")
        Path(".out.89abcdef.partial").mkdir()  # a copy of one of ours: its marker names another folder
        Path(".out.89abcdef.partial", MARKER).write_text(".out.0123abcd.partial")
        with complete_folder(Path("out")) as folder:
            (folder / "made").write_text("x")
        assert all(Path(name, "mine").exists() for name in theirs) and Path(".out.89abcdef.partial").exists()
        assert names("out") == [NOTE, "made"] and [*json.loads(Path("out", NOTE).read_text())] == ["made"]

    def test_what_a_killed_process_left_goes_and_what_a_living_one_fills_stays(self):
        context = multiprocessing.get_context("fork")
        dead = context.Process(target=fill_and_die, args=("out", False))
        dead.start()
        dead.join()
        (left,) = Path().glob(".out.*.partial")
        living = context.Process(target=fill_and_die, args=("out", True))
        living.start()
        try:
            while not (used := [half.parent for half in Path().glob(".out.*.partial/half") if half.parent != left]):
                assert living.is_alive()
            (used,) = used
            assert not left.exists()
            with complete_folder(Path("out")) as folder:
                (folder / "made").write_text("x")
            assert used.exists() and names("out") == [NOTE, "made"]
        finally:
            living.kill()
            living.join()
        with aside_folder(Path("out")):
            assert not used.exists()

    def test_replacing_takes_only_what_the_new_one_has(self, capsys):
        for name in ("out/a.txt", "out/sub/b.txt", "out/sub/mine.txt", "out/saves/adapter/w", "out/mine.txt"):
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_text("old")
        Path("elsewhere").write_text("kept")
        Path("out/link.txt").symlink_to(Path("elsewhere").absolute())
        Path("out/empty").mkdir()
        with complete_folder(Path("out"), replace=True) as folder:
            (folder / "sub").mkdir()
            for name in ("a.txt", "sub/b.txt", "link.txt"):
                (folder / name).write_text("new")
        assert [Path("out", name).read_text() for name in ("a.txt", "sub/b.txt", "link.txt")] == ["new"] * 3
        assert [Path("out", name).read_text() for name in ("mine.txt", "sub/mine.txt", "saves/adapter/w")] == [
            "old"
        ] * 3
        assert Path("elsewhere").read_text() == "kept" and Path("out/empty").is_dir()
        assert [path.name for path in Path().iterdir() if path.name.startswith(".")] == []
        said = capsys.readouterr().err
        assert said == "out: not written by this command and left as they were: empty, mine.txt, saves, sub/mine.txt\n"

    def test_a_folder_in_the_place_of_a_file_is_kept(self, capsys):
        Path("out/model").mkdir(parents=True)
        Path("out/model/mine").write_text("x")
        with complete_folder(Path("out"), replace=True) as folder:
            (folder / "model").write_text("new")
        (kept,) = Path().glob(".out.*.old")
        assert names(kept) == ["model", "model/mine"] and str(kept) in capsys.readouterr().err

    def test_what_an_earlier_one_wrote_goes(self):
        with complete_folder(Path("out")) as folder:
            for name in ("a", "b"):
                (folder / name).write_text("old")
        Path("out/mine").write_text("mine")
        with complete_folder(Path("out"), replace=True) as folder:
            (folder / "a").write_text("new")
        assert names("out") == [NOTE, "a", "mine"] and Path("out/a").read_text() == "new"

    def test_a_link_is_not_followed(self):
        Path("big").mkdir()
        Path("big/mine").write_text("x")
        Path("out").symlink_to("big")
        with pytest.raises(GovorError, match="out is a link to"), complete_folder(Path("out"), replace=True):
            raise AssertionError("before any work")
        assert names() == ["big", "big/mine", "out"]

    def test_a_folder_that_came_meanwhile_is_not_replaced_unasked(self):
        with pytest.raises(GovorError, match="come into being meanwhile"), complete_folder(Path("out")) as folder:
            (folder / "a").write_text("new")
            Path("out").mkdir()
            Path("out/a").write_text("mine")
        assert names() == ["out", "out/a"] and Path("out/a").read_text() == "mine"

    @pytest.mark.parametrize("moment", ["flushed", "moved away", "moving over"])
    def test_killed_while_it_is_put_in_its_place(self, capfd, moment):
        Path("out").mkdir()
        for name in ("a", "b", "mine"):
            Path("out", name).write_text("old")
        process = multiprocessing.get_context("fork").Process(target=replace_and_die, args=(moment,))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        kept = [path for path in Path().rglob("mine") if path.read_text() == "old"]
        assert len(kept) == 1, "a person's file is there, wherever"
        with complete_folder(Path("out"), replace=True) as folder:
            (folder / "a").write_text("new")
        if moment == "flushed":
            assert [path.name for path in Path().iterdir()] == ["out"], "what was half done is gone"
        elif kept[0].parent.name != "out":
            assert f"{kept[0].parent.name} holds what was there when an earlier replacement" in capfd.readouterr().err

    def test_a_note_leads_nowhere_else(self):
        """A stranger's folder may say anything."""
        Path("elsewhere").mkdir()
        for name in ("x", "elsewhere/y"):
            Path(name).write_text("mine")
        Path("out/real").mkdir(parents=True)
        Path("out/real/z").write_text("ours")
        Path("out/link").symlink_to(Path("elsewhere").absolute())
        Path("out/x").symlink_to(Path("x").absolute())
        paths = ["../x", str(Path("x").absolute()), "link/y", "x", "real/z", "real/../../x", "none", "", "."]
        noted = {
            path: [s.st_size, s.st_mtime_ns] for path in paths if (p := Path("out", path)).exists() and (s := p.stat())
        }
        Path("out", NOTE).write_text(json.dumps(noted))
        remove_noted(Path("out"))
        assert names() == ["elsewhere", "elsewhere/y", "out", "out/link", "out/x", "x"]

    @pytest.mark.parametrize("text", [b"", b"[]", b"{", b"\xff\xfe", b'{"a": null}', b'{"a": [3, "x"]}'])
    def test_a_damaged_note_proves_nothing(self, text):
        Path("out").mkdir()
        Path("out/a").write_text("mine")
        Path("out", NOTE).write_bytes(text)
        remove_noted(Path("out"))
        assert Path("out/a").read_text() == "mine"

    def test_a_file_that_somebody_has_replaced_is_his(self):
        with complete_folder(Path("out")) as folder:
            for name in ("a", "b\nc", "d"):
                (folder / name).write_text("ours")
            (folder / os.fsdecode(b"\xff")).write_text("ours")
        Path("out/a").write_text("mine")
        Path("out/c").write_text("mine")
        with complete_folder(Path("out"), replace=True) as folder:
            (folder / "e").write_text("new")
        assert names("out") == [NOTE, "a", "c", "e"]

    def test_a_file_in_the_place_of_the_folder(self):
        Path("out").write_text("mine")
        with pytest.raises(GovorError, match="out is a file"), complete_folder(Path("out"), replace=True):
            pass
        assert names() == ["out"] and Path("out").read_text() == "mine"

    def test_a_broken_replacement_changes_nothing(self):
        Path("out").mkdir()
        Path("out/a").write_text("old")
        with pytest.raises(RuntimeError), complete_folder(Path("out"), replace=True) as folder:
            (folder / "a").write_text("new")
            raise RuntimeError
        assert names() == ["out", "out/a"] and Path("out/a").read_text() == "old"


class TestCheckpoints:
    def make(self, *folders: str) -> Run:
        run = Run(Path("run"))
        for name in folders:
            (run.checkpoints / name).mkdir(parents=True)
            (run.checkpoints / name / "trainer_state.json").write_text("{}")
        return run

    @pytest.mark.parametrize(
        ("most", "best", "left"),
        [
            (2, None, {6, 9}),
            (1, None, {9}),
            (1, 3, {3, 9}),
            (2, 3, {3, 9}),
            (2, 1, {6, 9}),
            (3, None, {3, 6, 9}),
            (None, None, {3, 6, 9}),
        ],
    )
    def test_copies_under_other_names_stay(self, most, best, left):
        theirs = {"checkpoint-3-good", "checkpoint-best", "checkpoint-", "old-checkpoint-3"}
        run = self.make("checkpoint-3", "checkpoint-6", "checkpoint-9", *theirs)
        rotate_checkpoints(run.checkpoints, most, best)
        assert {path.name for path in run.checkpoints.iterdir()} == theirs | {f"checkpoint-{step}" for step in left}
        assert last_checkpoint(run) == run.checkpoints / "checkpoint-9"

    def test_of_a_checkpoint_only_what_was_written_goes(self):
        run = self.make("checkpoint-3", "checkpoint-6")
        folder = run.checkpoints / "checkpoint-3"
        note_files(folder)
        (folder / "mine.txt").write_text("mine")
        rotate_checkpoints(run.checkpoints, 1, None)
        assert names(run.checkpoints / "checkpoint-3") == ["mine.txt"]
        assert last_checkpoint(run).name == "checkpoint-6"

    def test_links_are_read_and_not_followed_when_something_goes(self):
        run = self.make("checkpoint-3", "checkpoint-6")
        elsewhere = Path("elsewhere").absolute()
        (run.checkpoints / "checkpoint-6").rename(elsewhere)
        (run.checkpoints / "checkpoint-6").symlink_to(elsewhere)
        assert last_checkpoint(run).name == "checkpoint-6", "moved to a larger disk, say"
        rotate_checkpoints(run.checkpoints, 1, 3)
        assert (elsewhere / "trainer_state.json").exists()
        other = Run(Path("other"))
        other.path.mkdir()
        other.checkpoints.symlink_to(run.checkpoints.absolute())
        rotate_checkpoints(other.checkpoints, 1, None)
        assert discard_run(other) == [other.checkpoints]
        linked = Run(Path("linked"))
        linked.path.symlink_to(run.path.absolute())
        assert discard_run(linked) == [linked.path]
        assert len(names(run.checkpoints)) == 3
        (run.checkpoints / ".partial").symlink_to(elsewhere)
        with pytest.raises(RunError, match="is a link"):
            clear_partial_checkpoint(run.checkpoints)

    def test_logs_of_tensorboard_stay_and_are_in_nobodys_way(self):
        run = Run(Path("runs/x"))
        log = run.checkpoints / "runs/Nov29_host/events.out.tfevents.1.host"
        log.parent.mkdir(parents=True)
        log.write_text("x")
        run.manifest_file.write_text("{}")
        assert discard_run(run) == [run.checkpoints] and log.exists()
        assert require_free("x") == run

    def test_odd_things_under_our_names(self):
        run = Run(Path("run"))
        run.report_file.mkdir(parents=True)
        run.adapter.write_text("mine")
        assert discard_run(run) == [run.adapter, run.report_file]
        assert discard_run(Run(run.adapter)) == [run.adapter] and discard_run(Run(Path("none"))) == []

    def test_a_run_folder_with_a_link_in_it_is_taken(self):
        Path("runs/x").mkdir(parents=True)
        Path("elsewhere").mkdir()
        Path("runs/x/checkpoints").symlink_to(Path("elsewhere").absolute())
        with pytest.raises(RunError, match="already holds other files"):
            require_free("x")

    def test_the_last_checkpoint_where_others_stand_beside(self):
        assert last_checkpoint(self.make("checkpoint-best", "checkpoint-9-good")) is None
        assert last_checkpoint(self.make("checkpoint-9", "checkpoint-10")).name == "checkpoint-10"

    def test_a_half_written_one(self):
        run = self.make(".partial/checkpoint-3")
        clear_partial_checkpoint(run.checkpoints)
        assert names(run.checkpoints) == []
        (run.checkpoints / ".partial").mkdir()
        (run.checkpoints / ".partial/mine").write_text("x")
        with pytest.raises(RunError, match=r"what govor did not write \(mine\)"):
            clear_partial_checkpoint(run.checkpoints)
        assert (run.checkpoints / ".partial/mine").exists()

    @pytest.mark.slow
    def test_training_keeps_what_was_put_beside_its_checkpoints(self, write_config, monkeypatch):
        from train.core.config import load_config
        from train.sft import train
        from train.tuning.trainer import Trainer

        original = Trainer._save_checkpoint

        def save(self, *more):
            original(self, *more)
            for name in ("checkpoint-1-good", "checkpoint-best"):
                Path("runs/x/checkpoints", name).mkdir(exist_ok=True)

        monkeypatch.setattr(Trainer, "_save_checkpoint", save)
        settings = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 1, "eval_strategy": "steps",
                    "eval_steps": 1, "load_best_model_at_end": True, "learning_rate": 3.0}  # fmt: skip
        run = train(load_config(write_config(training=settings)))
        left = {path.name for path in run.checkpoints.iterdir()}
        assert left >= {"checkpoint-1-good", "checkpoint-best", "checkpoint-4"} and "checkpoint-3" not in left


def test_ids_of_rows_that_earlier_versions_kept_go_and_other_files_stay():
    folder = Path("runs/.tokens")
    folder.mkdir(parents=True)
    for name in ("0" * 64 + ".npz", ".123.partial", "mine.npz"):
        (folder / name).write_text("x")
    forget_tokens()
    assert names(folder) == ["mine.npz"]
    (folder / "mine.npz").unlink()
    forget_tokens()
    assert not folder.exists()


@pytest.mark.slow
class TestScripts:
    def script(self, name: str, *words: str) -> subprocess.CompletedProcess:
        command = [sys.executable, str(REPOSITORY / "scripts" / name), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    def test_make_tiny_base_replaces_a_base_and_nothing_else(self):
        from make_tiny_base import main

        Path("home").mkdir()
        Path("home/mine.txt").write_text("x")
        rows = ["--rows", str(REPOSITORY / "data/natasha.jsonl"), "--vocab-size", "600", "--layers", "1"]
        result = CliRunner().invoke(main, ["home", *rows, "--force"])
        assert result.exit_code == 2 and "home holds other files" in result.output
        assert names() == ["home", "home/mine.txt"]
        for more in ([], ["--force"]):
            assert CliRunner().invoke(main, ["base", *rows, *more]).exit_code == 0
            Path("base/mine.txt").write_text("x")
        assert Path("base/mine.txt").exists() and Path("base/config.json").exists()

    def test_plot_loss(self, run):
        Path("mine.svg").write_text("mine")
        result = self.script("plot_loss.py", "runs/done", "mine.svg")
        assert result.returncode == 2 and result.stderr == "error: mine.svg is there already: --force replaces it\n"
        assert Path("mine.svg").read_text() == "mine"
        assert self.script("plot_loss.py", "runs/done", "mine.svg", "--force").returncode == 0
        assert "<svg" in Path("mine.svg").read_text()

    def test_bench_train(self):
        Path("home/govor").mkdir(parents=True)
        Path("home/govor/mine.txt").write_text("x")
        result = self.script("bench_train.py", "home", "--rows", str(REPOSITORY / "data/natasha.jsonl"))
        assert result.returncode == 1 and "home holds other files" in result.stderr
        assert names() == ["home", "home/govor", "home/govor/mine.txt"]

    def test_pretrain_tiny(self):
        Path("home").mkdir()
        Path("home/tokenizer.json").write_text("mine")
        Path("rows").touch()
        words = ("out", "--plays", "rows", "--prose", "rows", "--work", "home", "--resume")
        result = self.script("pretrain_tiny.py", *words)
        assert result.returncode == 1 and "home holds nothing to go on with" in result.stderr
        assert Path("home/tokenizer.json").read_text() == "mine"


HOLD = "import sys, time; from pathlib import Path; from train.core.locks import hold_folder\n"
HOLD += "with hold_folder(Path(sys.argv[1]), 'training'):\n    print('held', flush=True); time.sleep(60)"


class TestOneWriterAFolder:
    """The lock of a run folder: named while it is held, gone with the process that held it."""

    @pytest.fixture
    def holder(self):
        with subprocess.Popen(
            [sys.executable, "-c", HOLD, "runs/x"], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": REPOSITORY}
        ) as process:
            assert process.stdout.readline() == b"held\n"
            yield process
            process.kill()

    def test_a_second_one_is_told_who_works_there(self, holder):
        text = rf"runs/x: another training works on this folder \(process {holder.pid}, since \d{{4}}-\S+\)"
        with pytest.raises(RunError, match=text), hold_folder(Path("runs/x"), "merge"):
            pass
        assert Path("runs/x", LOCK).is_file()

    def test_it_is_gone_with_the_process(self, holder):
        holder.kill()
        holder.wait()
        require_free("x")
        with hold_folder(Path("runs/x"), "merge"):
            assert Path("runs/x", LOCK).is_file()
        assert [*Path("runs/x").iterdir()] == []
        with hold_folder(Path("runs/y"), "training"):
            pass
        assert not Path("runs/y").exists()

    def test_what_lies_in_the_folder_stays(self):
        Path("runs/x").mkdir(parents=True)
        Path("runs/x/mine").touch()
        with hold_folder(Path("runs/x"), "merge"):
            pass
        assert [path.name for path in Path("runs/x").iterdir()] == ["mine"]

    def test_a_training_a_merge_and_an_export_hold_it(self, run, write_config, monkeypatch):
        config = load_config(write_config(name="done"))
        with hold_folder(run.path, "training"):
            for verb in (["merge"], ["export", "--to", "llamafactory"]):
                result = govor(verb[0], str(run.path), *verb[1:])
                assert result.exit_code == 2 and "another training works on this folder" in result.output
        monkeypatch.setattr("train.tuning.phases.resumable_run", lambda _: run)
        with hold_folder(run.path, "merge"), pytest.raises(RunError, match="another merge works on this folder"):
            sft.train(config, resume=True)


@pytest.mark.long
def test_a_run_that_is_alive_is_not_resumed(write_config):
    """Its history stays as it is, and it ends well."""
    steps = {"max_steps": 30, "save_strategy": "steps", "save_steps": 1, "eval_strategy": "no", "eval_on_start": False}
    config = write_config(training=steps)
    command = [sys.executable, str(REPOSITORY / "train/sft.py"), str(config)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as first:
        while not [*Path("runs/x/checkpoints").glob("checkpoint-*")]:
            assert first.poll() is None, first.stderr.read()
            time.sleep(0.1)
        os.kill(first.pid, signal.SIGSTOP)
        second = subprocess.run([*command, "--resume"], capture_output=True, text=True)
        os.kill(first.pid, signal.SIGCONT)
        first.stderr.read()
    assert second.returncode == 2
    assert f"another training works on this folder (process {first.pid}, since " in second.stderr
    assert first.returncode == 0
    steps_logged = [entry["step"] for entry in Run(Path("runs/x")).metrics() if "loss" in entry]
    assert steps_logged == [*range(1, 31)]


@pytest.mark.parametrize(
    "text", ["=1+1", "+7 916", "-1", "@SUM(1)", "\t=1", "\r=1", '=HYPERLINK("http://evil.example")']
)
def test_no_cell_of_a_table_is_a_formula(text):
    assert table_cell(text) == f"'{text}"
    assert [table_cell(plain) for plain in ("Привет =", "1-2", "", 5, -5, None)] == ["Привет =", "1-2", "", 5, -5, None]
