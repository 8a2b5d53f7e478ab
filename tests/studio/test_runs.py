"""The list of runs and what can be done with them, as `govor runs` and the page have it."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path

import httpx2
import psutil
import pytest

from tests.conftest import govor
from tests.studio.studio_server import StudioServer
from train.core.errors import RunError
from train.core.locks import LOCK, hold_folder, lock_holder
from train.studio.commands import commands_of, stop
from train.studio.run_list import find_runs, list_runs, run_state

HOLDS = """
import sys, time
from pathlib import Path
from train.core.locks import hold_folder
with hold_folder(Path(sys.argv[1]), sys.argv[2]):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def held(working_folder):
    """Call it with a folder and what is done there: a process that holds its lock."""
    processes = []

    def hold(folder: Path, what: str = "training") -> subprocess.Popen:
        process = subprocess.Popen([sys.executable, "-c", HOLDS, folder, what], stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield hold
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


class TestLockHolder:
    def test_who_works_there(self, tmp_path, held):
        process = held(tmp_path / "x", "merge")
        holder = lock_holder(tmp_path / "x")
        assert (holder.pid, holder.what) == (process.pid, "merge")
        assert abs(holder.since.timestamp() - time.time()) < 300

    def test_a_lock_that_a_kill_has_left(self, tmp_path, held):
        process = held(tmp_path / "x")
        process.kill()
        process.wait()
        assert (tmp_path / "x" / LOCK).is_file()
        assert lock_holder(tmp_path / "x") is None

    def test_the_number_of_another_process(self, tmp_path):
        """After a kill its number may be anybody's: ours here, which began later or does not hold the file."""
        for since in (datetime.now().astimezone() - timedelta(days=30), datetime.now().astimezone()):
            (tmp_path / LOCK).write_text(f"{os.getpid()} {since.isoformat(timespec='seconds')} training")
            assert lock_holder(tmp_path) is None

    @pytest.mark.parametrize("text", ["", "x", "1 2 3", "0 2026-01-01T00:00:00+00:00 training", "-1 - training"])
    def test_a_lock_that_says_nothing(self, tmp_path, text):
        (tmp_path / LOCK).write_text(text)
        assert lock_holder(tmp_path) is None

    def test_looking_takes_no_lock(self, tmp_path):
        with hold_folder(tmp_path / "x", "training"):
            assert lock_holder(tmp_path / "x").pid == os.getpid()
            assert lock_holder(tmp_path / "x").pid == os.getpid()


@pytest.mark.slow
class TestList:
    def test_a_finished_run(self, run, finished_run):
        state = run_state("done", run.path)
        assert (state.state, state.step, state.steps, state.rows, state.held_out) == ("finished", 6, 6, 19, 5)
        assert state.method == "LoRA r=16" and not state.merged and state.seconds_left is None
        last = [entry for entry in run.metrics() if "loss" in entry][-1]
        assert (state.loss, state.tokens) == (last["loss"], last["num_tokens"])
        assert state.eval_loss == [entry["eval_loss"] for entry in run.metrics() if "eval_loss" in entry][-1]
        assert [one["verb"] for one in commands_of(state)] == ["eval"] * 3 + ["merge"] + ["export"] * 3
        assert commands_of(state)[0]["command"] == "govor eval runs/done"

    def test_one_that_was_stopped_and_one_that_trains(self, run, held):
        manifest = json.loads(run.manifest_file.read_text())
        run.manifest_file.write_text(json.dumps({**manifest, "status": "running"}))
        state = run_state("done", run.path)
        assert state.state == "stopped"
        assert [one["command"] for one in commands_of(state)] == ["govor train runs/done/config.yaml --resume"]
        with run.metrics_file.open("w") as file:
            file.write('{"step": 2, "epoch": 0.4, "loss": 3.0, "num_tokens": 800, "tokens_per_second": 100.0}\n')
        process = held(run.path)
        state = run_state("done", run.path)
        assert (state.state, state.step, state.steps) == ("training", 2, 6)
        assert state.seconds_left == pytest.approx(4 * 400 / 100)
        assert commands_of(state) == [{"verb": "stop", "target": None, "command": f"kill -TERM {process.pid}"}]

    def test_one_that_is_damaged_does_not_hide_the_others(self, run, finished_run):
        broken = run.path.with_name("broken")
        broken.mkdir()
        (broken / "manifest.json").write_text("{")
        (broken / "config.yaml").write_text(run.config_file.read_text())
        states = {state.id: state for state in list_runs([Path()])}
        assert states["done"].state == "finished"
        assert states["broken"].state == "damaged" and "not valid JSON" in states["broken"].problem
        assert commands_of(states["broken"]) == []

    def test_a_stranger_s_numbers_and_names(self, run, finished_run):
        """Nothing in one folder keeps the list from being shown: no number, no half of a character, no name."""
        manifest = json.loads(run.manifest_file.read_text())
        run.manifest_file.write_text(json.dumps({**manifest, "started": "\ud83d", "merge": {"drift": float("nan")}}))
        with run.metrics_file.open("a") as file:
            file.write('{"step": 9, "loss": NaN, "eval_loss": 1e999}\n{"step": 9, "loss": ' + "9" * 400 + "}\n")
        try:
            strange = run.path.with_name(os.fsdecode(b"\xff"))
            strange.mkdir()
            (strange / "manifest.json").write_text("{}")
        except OSError:  # a file system that takes only UTF-8
            pass
        with StudioServer(Path.cwd()) as server:
            listed = server.get("/studio/runs")["runs"]
            assert [one["id"] for one in listed] == ["done"] and listed[0]["loss"] is not None
            assert server.get("/studio/runs/done")["merge"] == {"drift": None}

    def test_in_the_terminal(self, run):
        table = govor("runs")
        assert table.exit_code == 0
        assert "runs/done" in table.output and "finished" in table.output and "6/6" in table.output
        told = json.loads(govor("runs", "--json").output)["runs"]
        assert [(one["id"], one["state"]) for one in told] == [("done", "finished")]


class TestFolders:
    def make(self, path: Path) -> Path:
        path.mkdir(parents=True)
        (path / "manifest.json").write_text("{}")
        return path

    def test_links_never_lead_out(self, tmp_path):
        inside = self.make(tmp_path / "project/runs/x")
        outside = self.make(tmp_path / "secret/y")
        (tmp_path / "project/runs/link").symlink_to(outside)
        (tmp_path / "project/runs/up").symlink_to(tmp_path)
        assert find_runs([tmp_path / "project"]) == {"x": inside}

    def test_the_same_name_in_two_projects(self, tmp_path):
        one, two = self.make(tmp_path / "a/runs/x"), self.make(tmp_path / "b/runs/x")
        assert find_runs([tmp_path / "a", tmp_path / "b"]) == {"x": one, "x~2": two}

    def test_names_of_a_terminal(self, tmp_path):
        self.make(tmp_path / "runs/a\x1b[31mred")
        assert "\x1b" not in govor("runs", str(tmp_path)).output

    def test_no_such_folder(self):
        told = govor("runs", "nowhere")
        assert (told.exit_code, told.output) == (2, "error: nowhere: no such folder\n")


@pytest.mark.slow
class TestStop:
    def test_begun_elsewhere(self, tmp_path, held):
        process = held(tmp_path / "runs/x")
        with StudioServer(tmp_path) as server:
            listed = server.get("/studio/runs")["runs"][0]
            assert listed["commands"][0]["command"] == f"kill -TERM {process.pid}"
            response = server.ask("POST", "/studio/runs/x/stop", json={})
            assert response.json() == {"stopped": process.pid}
            assert process.wait(30) == -signal.SIGTERM
            assert server.ask("POST", "/studio/runs/x/stop", json={}).status_code == 409

    def test_never_another_process(self, tmp_path):
        innocent = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        try:
            (tmp_path / LOCK).write_text(f"{innocent.pid} {datetime.now().astimezone().isoformat()} training")
            with pytest.raises(RunError, match="no training runs there"):
                stop(tmp_path)
            assert psutil.Process(innocent.pid).is_running() and innocent.poll() is None
        finally:
            innocent.kill()
            innocent.wait()

    def test_a_merge_is_not_stopped(self, tmp_path, held):
        held(tmp_path / "x", "merge")
        with pytest.raises(RunError, match="no training runs there"):
            stop(tmp_path / "x")


@pytest.mark.slow
class TestServer:
    def test_who_may_talk_to_it(self, tmp_path):
        with StudioServer(tmp_path) as server:
            page = server.ask("GET", "/")
            assert "default-src 'self'" in page.headers["content-security-policy"]
            assert server.ask("GET", "/studio/runs").headers["x-content-type-options"] == "nosniff"
            assert server.ask("GET", "/studio/runs", headers={"host": "evil.example"}).status_code == 403
            assert server.ask("GET", "/studio/runs", headers={"origin": "http://evil.example"}).status_code == 403
            plain = {"content-type": "text/plain"}  # what a page elsewhere could send without asking
            assert server.ask("POST", "/studio/runs/x/stop", content="{}", headers=plain).status_code in (404, 415)
            for path in ("/static/../app.py", "/static/%2e%2e/app.py", "/studio/runs/..%2f..%2fetc", "/studio/runs/.."):
                assert server.ask("GET", path).status_code == 404, path
            code = "import sys, psutil; print([m for m in open(f'/proc/{sys.argv[1]}/maps') if 'libtorch' in m])"
            if sys.platform == "linux":
                maps = subprocess.run([sys.executable, "-c", code, str(server.process.pid)], capture_output=True)
                assert maps.stdout == b"[]\n"

    def test_a_key_opens_it(self, tmp_path):
        with StudioServer(tmp_path, key="k-1") as server:
            bare = httpx2.get(server.url + "/")
            assert bare.status_code == 200 and "<script" in bare.text
            assert httpx2.get(server.url + "/static/studio.js").status_code == 200
            for path in ("/studio/runs", "/studio/about", "/studio/runs/x/metrics", "/static/a/../../studio/runs"):
                assert httpx2.get(server.url + path).status_code in (401, 404), path
            assert server.get("/studio/runs") == {"runs": []}

    def test_beyond_loopback_only_with_a_key(self, tmp_path):
        told = govor("studio", "--host", "0.0.0.0", "--port", "0", env={"GOVOR_API_KEY": ""})
        assert told.exit_code == 2 and "give a key too" in told.output

    def test_the_first_page_is_small(self, tmp_path):
        with StudioServer(tmp_path) as server:
            first = [
                "/",
                *(
                    f"/static/{name}"
                    for name in ("studio.css", "uplot.css", "uplot.js", "icon.svg", "vote.css", "vote.js")
                ),
            ]
            first += [f"/static/{path.name}" for path in Path(__file__).parents[2].glob("train/studio/static/*.js")]
            size = 0
            with httpx2.Client() as client:
                for path in dict.fromkeys(first):
                    with client.stream("GET", server.url + path, headers={"accept-encoding": "gzip"}) as response:
                        size += sum(map(len, response.iter_raw()))
        assert size <= 150_000


@pytest.mark.alone
@pytest.mark.slow
def test_it_starts_in_a_moment(tmp_path):
    """Processor time of `govor studio` until it listens, against what the import of its server takes at the time.

    It is about 2.5 times as much, 1.3 s on an idle machine; torch alone would be five times.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", "import fastapi, uvicorn"], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    server_alone = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    with StudioServer(tmp_path) as server:
        used = psutil.Process(server.process.pid).cpu_times()
        assert used.user + used.system < 4 * server_alone
