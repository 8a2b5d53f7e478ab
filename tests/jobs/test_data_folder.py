"""`govor jobs serve` erases nothing that it cannot prove to have made."""

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.jobs.jobs_server import Server, rows
from tests.jobs.test_jobs_store import a_job
from train.core.errors import GovorError
from train.core.files import NOTE, complete_folder
from train.core.runs import Run, discard_run
from train.jobs.change import new_id
from train.jobs.data_folder import DATA_MARKER, DATABASE, LOCK, SERVER_NAME, claim_data_folder, lock_folder
from train.jobs.store import Store
from train.jobs.wire import Checkpoint, File


def content(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder with its bytes; the lock is touched by whoever asks for it."""
    paths = [path for path in folder.rglob("*") if path.name != LOCK]
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in paths}


def add_file(store: Store, id_: str | None = None, expires_at: int | None = None) -> str:
    """An uploaded file with its contents."""
    id_ = id_ or new_id("file-")
    with store.change() as change:
        change.add_file(File(id=id_, purpose="batch", filename="x", bytes=1, created_at=1, expires_at=expires_at), "")
    store.file_path(id_).write_bytes(b"x")
    return id_


def make_run(store: Store, job: str, step: int) -> Run:
    """A finished run with one checkpoint, and the folder that the checkpoint is served from."""
    checkpoint = Checkpoint(
        id=new_id("ftckpt_"), created_at=1, fine_tuned_model_checkpoint="x", step_number=step, fine_tuning_job_id=job,
        metrics={"step": step},
    )  # fmt: skip
    with store.change() as change:
        change.add_checkpoint(checkpoint)
    run, view = store.run(job), store.checkpoint_run(job, step)
    for folder in (run.adapter, run.checkpoints / f"checkpoint-{step}"):
        with complete_folder(folder) as aside:
            for name in ("adapter_config.json", "adapter_model.safetensors", "trainer_state.json"):
                (aside / name).write_text("x")
    run.config_file.write_text("x")
    with complete_folder(view.path) as aside:
        (aside / "adapter").mkdir()
        (aside / "adapter/adapter_model.safetensors").write_text("x")
    return run


@pytest.fixture
def data(tmp_path) -> Path:
    """A data folder with one uploaded file, everything in the database and nothing in its log."""
    folder = tmp_path / "data"
    with claim_data_folder(folder):
        store = Store(folder)
        add_file(store)
        store._connection.close()
    return folder


@pytest.fixture
def killed(data, tmp_path) -> Path:
    """The same as a killed server leaves it: everything stands in the log, nothing in the database."""
    folder = tmp_path / "killed"
    script = f"""
import os
from pathlib import Path
from tests.jobs.test_data_folder import add_file, claim_data_folder, Store
folder = Path({str(folder)!r})
with claim_data_folder(folder):
    add_file(Store(folder))
    os._exit(0)
"""
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ, "PYTHONPATH": str(REPOSITORY)})
    assert (folder / f"{DATABASE}-wal").stat().st_size > 0
    return folder


def refused(folder: Path) -> str:
    """Why the folder is not taken; nothing in it, nor its mode, has changed."""
    before, mode = content(folder), folder.stat().st_mode
    with pytest.raises(GovorError) as error, claim_data_folder(folder):
        pass
    assert content(folder) == before and folder.stat().st_mode == mode
    assert "\n" not in str(error.value)
    return str(error.value)


class TestWhoseFolder:
    def test_a_new_one_is_its_owners_alone(self, tmp_path):
        with claim_data_folder(tmp_path / "new/data") as foreign:
            store = Store(tmp_path / "new/data")
        assert foreign == [] and (store.folder / DATA_MARKER).is_file()
        assert store.folder.stat().st_mode & 0o077 == 0

    def test_its_databases_may_lie_elsewhere(self, tmp_path):
        """As where other machines share the folder; each of both has one server."""
        folder, databases = tmp_path / "shared", tmp_path / "own"
        with claim_data_folder(folder, databases) as foreign:
            store = Store(folder, databases)
            id_ = add_file(store)
            assert foreign == [] and databases.stat().st_mode & 0o077 == 0
            assert (databases / DATABASE).exists() and not (folder / DATABASE).exists()
            for other in ((folder, tmp_path / "new"), (tmp_path / "new", databases)):
                with pytest.raises(GovorError, match="another server works on this folder"), claim_data_folder(*other):
                    pass
        with claim_data_folder(folder, databases):
            assert Store(folder, databases).object_json("files", id_)
        with pytest.raises(GovorError, match="nothing was changed"), claim_data_folder(folder):
            pass

    def test_an_empty_one_is_taken_with_the_mode_it_has(self, tmp_path):
        folder = tmp_path / "data"
        folder.mkdir(mode=0o750)
        mode = folder.stat().st_mode
        with claim_data_folder(folder):
            Store(folder)
        assert (folder / DATA_MARKER).is_file() and folder.stat().st_mode == mode
        inside = [folder / name for name in ("files", "jobs", "runs", DATABASE)]
        assert all(path.stat().st_mode & 0o077 == 0 for path in inside), "what is in it is private all the same"

    @pytest.mark.parametrize(
        "names", [("files/thesis.txt",), ("jobs/cv/cv.txt", "files/photos/a.jpg"), (".hidden",), ("a\n\x1b[2J.txt",)]
    )  # fmt: skip
    def test_somebodys_is_refused(self, tmp_path, names):
        folder = tmp_path / "home"
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("mine")
        folder.chmod(0o755)
        message = refused(folder)
        assert message.startswith(f"{folder} holds other things (")
        assert "--data-dir" in message and "\x1b" not in message
        assert not (folder / LOCK).exists(), "not even a lock"

    def test_no_folder_at_all(self, tmp_path):
        (tmp_path / "file").write_text("mine")
        (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
        for name in ("file", "dangling"):
            with pytest.raises(GovorError, match="is not a folder"), claim_data_folder(tmp_path / name):
                pass

    def test_one_of_the_last_version_gets_its_marker(self, data, killed):
        for folder in (data, killed):
            (folder / DATA_MARKER).unlink()
            with claim_data_folder(folder) as foreign:
                assert foreign == []
                Store(folder).sweep()
            assert (folder / DATA_MARKER).is_file() and len([*folder.glob("files/*")]) == 1

    def test_one_of_the_last_version_that_was_never_used(self, tmp_path):
        Store(tmp_path / "data")
        with claim_data_folder(tmp_path / "data"):
            assert (tmp_path / "data" / DATA_MARKER).is_file()

    def test_one_of_the_last_version_whose_server_runs(self, data):
        (data / DATA_MARKER).unlink()
        with lock_folder(data):
            assert "another server works on this folder" in refused(data)
        assert not (data / DATA_MARKER).exists()

    @pytest.mark.parametrize("damage", ["truncated", "garbage", "other tables", "no tables", "rows gone", "torn"])
    def test_a_missing_marker_beside_a_bad_database(self, data, damage):
        (data / DATA_MARKER).unlink()
        spoil(data / DATABASE, damage)
        message = refused(data)
        assert message.startswith(f"{data} has no {DATA_MARKER}") and "nothing was changed" in message

    def test_a_second_server(self, data):
        with claim_data_folder(data):
            assert "another server works on this folder" in refused(data)


def spoil(database: Path, damage: str) -> None:
    """Damage a database in one of the ways that disks, backups and people do."""
    if damage == "garbage":
        database.write_bytes(os.urandom(8192))
        return
    if damage == "torn":
        block = database.read_bytes()
        database.write_bytes(block[:4096] + bytes(4096) + block[8192:])
        return
    if damage == "rows gone":
        with sqlite3.connect(database) as connection:
            connection.execute("DELETE FROM files")
        connection.close()
        return
    database.write_bytes(b"")
    if damage in ("other tables", "no tables"):
        with sqlite3.connect(database) as connection:
            connection.execute("CREATE TABLE photos (id)")
            connection.execute("DROP TABLE photos" if damage == "no tables" else "INSERT INTO photos VALUES (1)")
        connection.close()


class TestDatabase:
    @pytest.mark.parametrize(
        "damage", ["truncated", "garbage", "other tables", "no tables", "rows gone", "torn", "missing"]
    )
    def test_one_that_does_not_know_the_files_stops_the_start(self, data, damage):
        if damage == "missing":
            (data / DATABASE).unlink()
        else:
            spoil(data / DATABASE, damage)
        message = refused(data)
        assert str(data / DATABASE) in message and "files/file-" in message and "Restore it from a backup" in message

    def test_one_restored_without_its_log(self, killed):
        (killed / f"{DATABASE}-wal").unlink()
        assert "Restore it from a backup (with its -wal file)" in refused(killed)

    def test_a_log_without_its_database(self, killed):
        (killed / DATABASE).write_bytes(b"")
        assert "is gone, but its log is not" in refused(killed)

    def test_one_that_knows_of_some_sweeps_none_of_the_others(self, data):
        """Restored from an old backup: what was uploaded since stays."""
        shutil.copy(data / DATABASE, data.parent / "backup")
        with claim_data_folder(data):
            store = Store(data)
            later = add_file(store)
            store._connection.close()
        shutil.copy(data.parent / "backup", data / DATABASE)
        with claim_data_folder(data) as foreign:
            Store(data).sweep()
        assert foreign == [f"files/{later}"] and (data / "files" / later).exists()

    def test_something_else_under_the_servers_names(self, data):
        shutil.rmtree(data / "jobs")
        (data / "jobs").write_text("mine")
        assert refused(data) == f"{data / 'jobs'} is not a folder: move it away"
        (data / "jobs").unlink()
        (data / DATABASE).unlink()
        (data / DATABASE).mkdir()
        assert f"{DATABASE} is not a file" in refused(data)

    def test_a_first_start_that_was_killed(self, tmp_path):
        """The marker is there, the database is not yet, or is empty."""
        for beside in ((), (DATABASE,)):
            with claim_data_folder(tmp_path / "data"):
                pass
            for name in beside:
                (tmp_path / "data" / name).touch()
            with claim_data_folder(tmp_path / "data"):
                pass


class TestSweep:
    def test_only_what_has_an_entry_goes(self, data):
        store = Store(data)
        kept = next(data.glob("files/*")).name
        old, job, done = add_file(store, expires_at=1), new_id("ftjob-"), new_id("ftjob-")
        with store.change() as change:
            change.add_job(a_job(job), "body", None)
            change.add_job(a_job(done, "succeeded"), "body", None)
        cut_off, half_job = new_id("file-"), new_id("ftjob-")
        store.reserve(cut_off)
        store.reserve(half_job)
        (data / f"files/.{cut_off}.0123abcd.partial").write_bytes(b"half")
        for name in (f".{half_job}.0123abcd.partial", job):
            (data / "jobs" / name).mkdir()
        (data / "runs" / job).mkdir()
        make_run(store, done, 4)
        with store.change() as change:
            change.mark_deleted([done])
        folders = {f"jobs/{new_id('ftjob-')}", f"jobs/{half_job}", "jobs/cv"}
        folders |= {f"runs/{done}-copy", f"runs/{done}-step-4-good", "runs/mine"}
        files = {f"files/{new_id('file-')}", f"files/{cut_off}", f"files/.{new_id('file-')}.partial"}
        files |= {"files/thesis.txt", "notes.txt"}
        theirs = folders | files
        for name in folders:
            (data / name).mkdir()
            (data / name / "inside").write_text("mine")
        for name in files:
            (data / name).write_text("mine")
        with claim_data_folder(data) as foreign:
            assert {*foreign} == theirs
            Store(data).sweep()
        left = {str(path.relative_to(data)) for path in data.glob("*/*")}
        assert left == {f"files/{kept}", f"jobs/{job}", f"runs/{job}", *theirs} - {"notes.txt"}
        assert (data / "notes.txt").exists() and (data / f"runs/{done}-copy/inside").read_text() == "mine"
        assert store.object_json("files", old) is None
        with Store(data).change() as change:
            assert change.unreferenced() == {cut_off: 0, half_job: 0}, "what is whole under these ids is still there"

    def test_a_run_that_holds_more_than_training_wrote(self, data, capsys):
        """The files that training wrote go with the job's last model; it does so once, and then all is somebody's."""
        store, job = Store(data), new_id("ftjob-")
        with store.change() as change:
            change.add_job(a_job(job, "succeeded"), "body", None)
            change.mark_deleted([job])
        run = make_run(store, job, 6)
        theirs = ["notes.md", "exports/model.gguf", "adapter/mine.txt", "checkpoints/runs/photos/a.jpg"]
        theirs += ["checkpoints/checkpoint-6/mine.txt", "checkpoints/checkpoint-6-good/adapter_model.safetensors"]
        for name in theirs:
            (run.path / name).parent.mkdir(parents=True, exist_ok=True)
            (run.path / name).write_text("mine")
        other = store.checkpoint_run(job, 77)  # the server made no such checkpoint
        other.adapter.mkdir(parents=True)
        (other.adapter / "adapter_model.safetensors").write_text("mine")
        half = data / f"runs/.{job}-step-6.0123abcd.partial"
        half.mkdir()
        (half / ".made-by-govor").write_text(half.name)
        store.sweep()
        left = [str(path.relative_to(run.path)) for path in run.path.rglob("*") if path.is_file()]
        assert sorted(left) == sorted(theirs)
        assert not store.checkpoint_run(job, 6).path.exists() and not half.exists() and other.adapter.exists()
        named = f"left as they are: runs/{job}/adapter, runs/{job}/checkpoints, runs/{job}/exports, runs/{job}/notes.md"
        assert named in capsys.readouterr().err
        run.adapter.joinpath("adapter_model.safetensors").write_text("put back")
        store.sweep()
        assert run.adapter.joinpath("adapter_model.safetensors").read_text() == "put back"

    def test_a_run_of_the_last_version(self, data):
        """It has no note of what was written: known names go."""
        store, job = Store(data), new_id("ftjob-")
        run = make_run(store, job, 6)
        for note in data.glob(f"runs/**/{NOTE}"):
            note.unlink()
        (run.checkpoints / "checkpoint-6/README.md").write_text("PEFT's")
        for name in ("mine.txt", "README.md"):
            (run.adapter / name).write_text("mine")
        store.forget_run(job)
        left = [str(path.relative_to(run.path)) for path in run.path.rglob("*") if path.is_file()]
        assert sorted(left) == ["adapter/README.md", "adapter/mine.txt"]

    def test_an_odd_folder_does_not_stop_the_server(self, data, monkeypatch, capsys):
        store, job = Store(data), new_id("ftjob-")
        with store.change() as change:
            change.add_job(a_job(job, "succeeded"), "body", None)
            change.mark_deleted([job])
        (data / "runs" / job).write_text("mine")
        id_ = next(data.glob("files/*")).name
        with store.change() as change:
            change.delete("files", id_)
        (data / "files" / id_).unlink()
        (data / "files" / id_).mkdir()
        (data / "files" / id_ / "inside").write_text("mine")
        store.sweep()
        assert (data / "runs" / job).read_text() == (data / "files" / id_ / "inside").read_text() == "mine"
        monkeypatch.setattr(
            "train.jobs.store.discard_run", lambda run: (_ for _ in ()).throw(OSError(5, "broken", "x"))
        )
        store.discard(store.run(job))
        assert "not removed: broken: x" in capsys.readouterr().err

    def test_a_kill_between_the_file_and_its_entry(self, data, tmp_path):
        """The upload is whole but nobody was told of it: the next server starts, names it and leaves it, every time."""
        folder, id_ = tmp_path / "fresh", new_id("file-")
        with claim_data_folder(folder):
            store = Store(folder)
            store.reserve(id_)
            store.file_path(id_).write_bytes(b"x")
        for _ in range(2):
            with claim_data_folder(folder) as foreign:
                assert foreign == [f"files/{id_}"]
                Store(folder).sweep()
            assert store.file_path(id_).exists()

    def test_the_names_are_the_servers(self):
        file, job = new_id("file-"), new_id("ftjob-")
        for name in (file, f".{file}.0123abcd.partial", job, f"{job}-step-12", f".{job}-step-12.0123abcd.partial"):
            assert SERVER_NAME.fullmatch(name)
        for name in ("file-holiday", f"{file}.txt", f".{file}.partial", f"{job}-copy", f"x{job}", "..", f"{job}-step-"):
            assert not SERVER_NAME.fullmatch(name)


def start(folder: Path, base: Path) -> subprocess.CompletedProcess:
    """A server that is expected to refuse."""
    catalogue = folder.parent / "c.yaml"
    catalogue.write_text(f"x: {{base: {base}}}")
    command = [sys.executable, "-m", "train.cli", "jobs", "serve", "--port", "0", "--data-dir", str(folder)]
    return subprocess.run([*command, "--catalogue", str(catalogue)], capture_output=True, text=True, timeout=60)


@pytest.mark.long
def test_the_real_server(tmp_path, base):
    """Refused, taken, killed, its database lost: a person's things and uploads stay."""
    home = tmp_path / "home"
    (home / "files").mkdir(parents=True)
    (home / "files/thesis.txt").write_text("mine")
    result = start(home, base)
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and "holds other things (files)" in result.stderr
    assert content(home) == {"files": None, "files/thesis.txt": b"mine"}

    with Server(tmp_path / "s", base) as server:
        file = server.client().files.create(file=rows(3), purpose="fine-tune").id
        gone = server.client().files.create(file=rows(4), purpose="fine-tune").id
        server.client().files.delete(gone)
        assert [path.name for path in server.data.glob("files/*")] == [file]
        (server.data / "files/photos").mkdir()
        (server.data / "files/photos/a.jpg").write_bytes(b"mine")
        server.kill()
        server.start()
        assert server.log().count("not the server's, left as they are: files/photos\n") == 1
        assert (server.data / "files/photos/a.jpg").read_bytes() == b"mine"
        assert server.client().files.content(file).content == rows(3)
        server.stop()
        (server.data / DATABASE).write_bytes(b"")
        (server.data / f"{DATABASE}-wal").unlink(missing_ok=True)
        before = content(server.data)
        result = start(server.data, base)
        assert result.returncode == 2 and "is empty, and beside it lie" in result.stderr
        assert content(server.data) == before


def test_a_training_that_begins_anew_keeps_what_it_did_not_write(tmp_path):
    run = Run(tmp_path / "run")
    run.checkpoints.mkdir(parents=True)
    for file in (run.config_file, run.manifest_file, run.metrics_file, run.held_out_file):
        file.write_text("x")
        file.with_name(f".{file.name}.0123abcd.partial").write_text("x")  # the kill came while it was written
    assert discard_run(run) == [] and not run.path.exists()
    (run.path / "mine").mkdir(parents=True)
    assert discard_run(run) == [run.path / "mine"]
