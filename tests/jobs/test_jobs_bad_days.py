"""What may go wrong on the server's machine; nothing that was acknowledged is lost.

A full disk, a folder that takes nothing, a database that is held or damaged, a clock that is set back, deaths.
"""

import json
import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, contextmanager

import pytest
import yaml
from fastapi.testclient import TestClient

from tests.conftest import govor
from tests.jobs.jobs_server import envelope, rows
from tests.jobs.test_jobs_store import a_job
from train.core.errors import GovorError
from train.jobs import finish, store
from train.jobs.bases import load_catalogue
from train.jobs.data_folder import DATABASE, VERSION, claim_data_folder, read_database
from train.jobs.finish import Attempt, Deaths, finish_attempt
from train.jobs.server import make_app
from train.jobs.store import Store
from train.serving.guard import Access
from train.serving.response_store import ResponseStore

ON_CPU = {"training": {"use_cpu": True}}


@pytest.fixture
def serve(base, tmp_path):
    """Call it with a data folder: a client of the app over it, without its worker."""

    def serve(folder):
        (tmp_path / "c.yaml").write_text(yaml.safe_dump({"acme/tiny": {"base": str(base), "overrides": ON_CPU}}))
        app = make_app(Store(folder), ResponseStore(None), load_catalogue(tmp_path / "c.yaml"), Access(), 1)
        return TestClient(app, base_url="http://localhost")

    return serve


def upload(client, content=None):
    return client.post("/v1/files", files={"file": ("a.jsonl", content or rows(12))}, data={"purpose": "fine-tune"})


def create(client, file):
    return client.post("/v1/fine_tuning/jobs", json={"model": "acme/tiny", "training_file": file})


@contextmanager
def small_disk(folder, size: str):
    """A file system of its own; skips where mounting is not allowed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_is_507_and_loses_nothing(serve, tmp_path):
    with small_disk(tmp_path / "small", "3m") as disk:
        client = serve(disk / "data")
        kept = upload(client).json()["id"]
        refused = upload(client, b"x" * 8_000_000)
        assert refused.status_code == 507 and envelope(refused.json())["code"] == "insufficient_storage"
        assert refused.headers["x-request-id"] and refused.headers["x-should-retry"] == "false"
        assert [path.name for path in (disk / "data" / "files").iterdir()] == [kept], "nothing is left of it"
        filler = os.open(disk / "filler", os.O_WRONLY | os.O_CREAT)
        with pytest.raises(OSError, match="No space left"):
            while True:
                os.write(filler, b"x" * 4096)
        os.close(filler)
        statuses = {create(client, kept).status_code for _ in range(5)} | {upload(client).status_code for _ in range(5)}
        assert 507 in statuses and statuses <= {200, 507}, statuses
        assert client.get(f"/v1/files/{kept}/content").content == rows(12)
        created = len(client.get("/v1/fine_tuning/jobs").json()["data"])
        (disk / "filler").unlink()
        assert create(client, kept).status_code == 200
        assert len(client.get("/v1/fine_tuning/jobs").json()["data"]) == created + 1
        assert read_database(disk / "data" / DATABASE).problem is None


def test_a_training_without_room_goes_on_later(tmp_path):
    opened = Store(tmp_path / "data")
    with opened.change() as change:
        change.add_job(a_job("ftjob-" + "a" * 24, "running"), "hash", None)
    [entry] = opened.jobs_with_status("running")
    folder = opened.job_folder(entry.job.id)
    folder.mkdir(parents=True)
    for text in (
        "no room left on disk while writing runs/x: free some and run it again",
        "runs/x: training needs 9.0 GB on disk, 1.0 GB is free: make room first",
        "runs/x: another merge works on this folder (process 7): wait for it, or stop it first",
    ):
        (folder / "output.log").write_text(f"error: {text}\n")
        for _ in range(3):
            assert finish_attempt(opened, entry.job.id, Deaths(opened)) is Attempt.LATER
        assert opened.entry(entry.job.id).job.status == "running"
    messages = [json.loads(one)["message"] for one in opened.page("events", limit=99).objects]
    assert len(messages) == 2 and "The disk is full; the job goes on when there is room" in messages


def test_a_read_only_data_folder(tmp_path):
    with small_disk(tmp_path / "small", "4m") as disk:
        make = f"import pathlib; from train.jobs.store import Store; Store(pathlib.Path({str(disk / 'data')!r}))"
        subprocess.run([sys.executable, "-c", make], check=True)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        for folder in (disk / "data", disk / "new"):
            result = govor("jobs", "serve", "--port", "0", "--data-dir", str(folder))
            assert result.exit_code == 2 and result.stderr.count("\n") == 1 and "Read-only" in result.stderr


def test_a_data_folder_that_becomes_read_only(serve, tmp_path):
    """As file systems do by themselves upon errors of the disk."""
    client = serve(tmp_path / "data")
    kept = upload(client).json()["id"]
    with small_disk(tmp_path / "small", "1m"):
        command = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(tmp_path / "data" / "files")]
        subprocess.run(command, check=True)
        try:
            refused = upload(client)
            assert refused.status_code == 500 and envelope(refused.json())["code"] == "read_only", refused.text
        finally:
            subprocess.run(["umount", command[-1]], check=True)
    assert upload(client).status_code == 200
    assert client.get(f"/v1/files/{kept}/content").content == rows(12)


def test_a_locked_database(serve, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "LOCK_WAIT", 0.2)
    client = serve(tmp_path / "data")
    kept = upload(client).json()["id"]
    with closing(sqlite3.connect(tmp_path / "data" / DATABASE, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for refused in (upload(client), create(client, kept)):
            assert refused.status_code == 503 and envelope(refused.json())["code"] == "database_locked"
            assert refused.headers["retry-after"]
        assert client.get("/v1/files").status_code == 200, "who only reads is let in"
        other.execute("ROLLBACK")
    assert create(client, kept).status_code == 200
    assert [file["id"] for file in client.get("/v1/files").json()["data"]] == [kept]


def test_a_database_that_is_damaged_while_the_server_runs(serve, tmp_path, capfd):
    client = serve(tmp_path / "data")
    kept = upload(client).json()["id"]
    with closing(sqlite3.connect(tmp_path / "data" / DATABASE)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    file = tmp_path / "data" / DATABASE
    file.write_bytes(file.read_bytes()[:100] + b"\xff" * (file.stat().st_size - 100))
    fresh = serve_again(client)
    for response in (fresh.get("/v1/files"), fresh.get(f"/v1/files/{kept}"), upload(fresh), create(fresh, kept)):
        assert response.status_code == 500 and envelope(response.json())["code"] == "storage_failed", response.text
    assert "Traceback" not in capfd.readouterr().err
    with pytest.raises(GovorError, match="nothing was changed"), claim_data_folder(tmp_path / "data"):
        pass


def serve_again(client: TestClient) -> TestClient:
    """The same app in a thread of its own, which opens the database anew."""
    return TestClient(client.app, base_url="http://localhost")


def test_two_servers_under_two_names(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "data")
    with claim_data_folder(tmp_path / "data"):
        for name in (tmp_path / "link", tmp_path / "data" / "runs" / ".." / ".." / "data"):
            (tmp_path / "data" / "runs").mkdir(exist_ok=True)
            with pytest.raises(GovorError, match="another server works on this folder"), claim_data_folder(name):
                pass


def test_a_clock_that_is_set_back(serve, tmp_path, monkeypatch):
    client = serve(tmp_path / "data")
    file = upload(client).json()["id"]
    job = create(client, file).json()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 86_400)
    second = create(client, upload(client).json()["id"]).json()
    assert [one["id"] for one in client.get("/v1/fine_tuning/jobs").json()["data"]] == [second["id"], job["id"]]
    cancelled = client.post(f"/v1/fine_tuning/jobs/{job['id']}/cancel").json()
    assert cancelled["finished_at"] >= cancelled["created_at"]
    events = client.get(f"/v1/fine_tuning/jobs/{job['id']}/events").json()["data"]
    times = [event["created_at"] for event in events]
    assert times == sorted(times, reverse=True) and len(times) == 3
    page = client.get(f"/v1/fine_tuning/jobs/{job['id']}/events?limit=1&after={events[0]['id']}").json()
    assert page["data"] == events[1:2]


class TestVersions:
    def test_a_new_one(self, tmp_path):
        Store(tmp_path)
        with closing(sqlite3.connect(tmp_path / DATABASE)) as database:
            assert database.execute("PRAGMA user_version").fetchone() == (VERSION,)

    def test_an_older_one_is_brought_up_to_date(self, serve, tmp_path):
        kept = upload(serve(tmp_path / "data")).json()["id"]
        with closing(sqlite3.connect(tmp_path / "data" / DATABASE, isolation_level=None)) as database:
            database.executescript(
                "DROP TABLE upload_parts; DROP TABLE uploads; DROP TABLE unreferenced; PRAGMA user_version = 0"
            )
        assert read_database(tmp_path / "data" / DATABASE).problem is None
        client = serve(tmp_path / "data")
        assert create(client, kept).status_code == 200
        with closing(sqlite3.connect(tmp_path / "data" / DATABASE)) as database:
            assert database.execute("PRAGMA user_version").fetchone() == (VERSION,)

    def test_a_newer_one_is_refused_and_left_as_it_is(self, serve, tmp_path):
        upload(serve(tmp_path / "data"))
        with closing(sqlite3.connect(tmp_path / "data" / DATABASE, isolation_level=None)) as database:
            database.executescript(f"PRAGMA user_version = {VERSION + 1}; PRAGMA wal_checkpoint(TRUNCATE)")
        (tmp_path / "data" / "govor-jobs.json").write_text("{}")
        before = (tmp_path / "data" / DATABASE).read_bytes()
        with (
            pytest.raises(GovorError, match=r"is of a newer govor .*nothing was changed"),
            claim_data_folder(tmp_path / "data"),
        ):
            pass
        assert (tmp_path / "data" / DATABASE).read_bytes() == before


class TestDeaths:
    """Only a death that the server has outlived counts: what kills the whole machine says nothing of the job."""

    @pytest.fixture
    def job(self, tmp_path):
        opened = Store(tmp_path / "data")
        with opened.change() as change:
            change.add_job(a_job("ftjob-" + "a" * 24, "running"), "hash", None)
        opened.job_folder("ftjob-" + "a" * 24).mkdir(parents=True)
        return opened, "ftjob-" + "a" * 24

    def test_a_machine_that_is_killed_ten_times(self, job):
        opened, id_ = job
        for _ in range(20):  # the training dies, and the server right after it
            deaths = Deaths(opened)
            assert finish_attempt(opened, id_, deaths) is Attempt.SETTLED
            deaths.count()
        assert opened.entry(id_).job.status == "running" and opened.entry(id_).state.deaths_in_a_row == 0

    def test_a_training_that_dies_ten_times_alone(self, job, monkeypatch):
        opened, id_ = job
        monkeypatch.setattr(finish, "DEATH_GRACE", 0.0)
        deaths = Deaths(opened)
        for number in range(1, 11):
            assert opened.entry(id_).job.status == "running"
            finish_attempt(opened, id_, deaths)
            deaths.count()
            assert opened.entry(id_).state.deaths_in_a_row == number
        assert opened.entry(id_).job.status == "failed"
        assert "killed 10 times without a new step" in opened.entry(id_).job.error.message
