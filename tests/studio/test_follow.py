"""Curves while they are written: nothing is lost, nothing comes twice, and a file that was written anew is noticed."""

import json
import os
import threading
import time
from pathlib import Path

import httpx2
import pytest

from tests.studio.studio_server import StudioServer
from train.core.runs import Run
from train.studio.follow import Mark, read_after

KILLS = int(os.environ.get("GOVOR_KILLS", "10"))


def line(step: int, **more) -> str:
    return json.dumps({"step": step, "epoch": step / 100, "loss": 1 / (step + 1), **more}) + "\n"


class TestReadAfter:
    def test_a_mark_goes_on_behind_the_last_whole_line(self, tmp_path):
        file = tmp_path / "metrics.jsonl"
        assert read_after(file, Mark()).points == []
        file.write_text(line(1) + line(2) + line(3)[:10])
        first = read_after(file, Mark())
        assert [point.step for point in first.points] == [1, 2]
        assert first.mark.offset == len(line(1) + line(2))
        with file.open("a") as handle:
            handle.write(line(3)[10:])
        then = read_after(file, Mark.parse(str(first.mark)))
        assert ([point.step for point in then.points], then.reset) == ([3], False)
        assert then.points[0].loss == 1 / 4

    def test_a_file_that_resume_has_written_anew(self, tmp_path):
        run = Run(tmp_path)
        for step in range(1, 9):
            run.append_metrics({"step": step, "loss": 2.0})
        mark = read_after(run.metrics_file, Mark()).mark
        run.forget_metrics_after(4)
        shorter = read_after(run.metrics_file, mark)
        assert shorter.reset and [point.step for point in shorter.points] == [1, 2, 3, 4]
        for step in range(5, 12):  # grown beyond the mark again
            run.append_metrics({"step": step, "loss": 3.0})
        longer = read_after(run.metrics_file, mark)
        assert longer.reset and [point.step for point in longer.points] == list(range(1, 12))

    def test_what_resume_keeps_is_not_sent_again(self, tmp_path):
        run = Run(tmp_path)
        for step in range(1, 5):
            run.append_metrics({"step": step, "loss": 2.0})
        mark = read_after(run.metrics_file, Mark()).mark
        run.append_metrics({"step": 5, "loss": 2.0})
        run.forget_metrics_after(4)
        assert read_after(run.metrics_file, mark) == (mark, [], False)

    def test_a_damaged_line_is_passed_over(self, tmp_path):
        file = tmp_path / "metrics.jsonl"
        file.write_bytes(line(1).encode() + b"\xff{]\n\n" + line(2).encode())
        assert [point.step for point in read_after(file, Mark()).points] == [1, 2]

    @pytest.mark.parametrize("text", [None, "", "x", "-5-0", "12", "9e9-zz", "999999999999-00000000"])
    def test_a_mark_that_is_none_begins_anew(self, tmp_path, text):
        file = tmp_path / "metrics.jsonl"
        file.write_text(line(1))
        assert [point.step for point in read_after(file, Mark.parse(text)).points] == [1]

    def test_many_points_come_in_pieces_without_a_gap(self, tmp_path):
        file = tmp_path / "metrics.jsonl"
        file.write_text("".join(line(step, eval_loss=2.5, tokens_per_second=100.0) for step in range(30_000)))
        mark, steps = Mark(), []
        while (read := read_after(file, mark)).points:
            mark = read.mark
            steps += [point.step for point in read.points]
        assert steps == list(range(30_000))


def project(folder: Path, *steps: int) -> Path:
    """A project folder with a run that looks as one that has just begun; the file of its metrics."""
    path = folder / "runs/x"
    path.mkdir(parents=True)
    (path / ".lock").write_text("1 2020-01-01T00:00:00+00:00 training")
    (path / "metrics.jsonl").write_text("".join(map(line, steps)))
    return path / "metrics.jsonl"


class Reader(threading.Thread):
    """A client as the page is: follows a run, and after a break goes on with the id that it saw last."""

    def __init__(self, server: StudioServer):
        super().__init__(daemon=True)
        self.server, self.steps, self.seen, self.last, self.ended = server, [], {}, None, False
        self.connections = 0

    def run(self) -> None:
        while not self.ended:
            try:
                headers = {"last-event-id": self.last} if self.last else {}
                url = f"{self.server.url}/studio/runs/x/metrics"
                with httpx2.stream("GET", url, headers=headers, timeout=5) as response:
                    self.connections += 1
                    self.read(response)
            except httpx2.HTTPError:
                time.sleep(0.02)

    def read(self, response: httpx2.Response) -> None:
        pending = None
        for text in response.iter_lines():
            if self.ended:
                return
            if text.startswith("id: "):
                pending = text[4:]
            elif text.startswith("data: ") and pending:
                for point in json.loads(text[6:]):
                    self.steps.append(point["step"])
                    self.seen[point["step"]] = time.monotonic()
                self.last, pending = pending, None


@pytest.mark.long
def test_a_server_that_is_killed_loses_and_doubles_no_point(tmp_path):
    file = project(tmp_path, 0)
    with StudioServer(tmp_path) as server:
        reader = Reader(server)
        reader.start()
        step, written = 0, threading.Event()

        def write() -> None:
            nonlocal step
            while not written.is_set():
                step += 1
                with file.open("a") as handle:
                    handle.write(line(step))
                time.sleep(0.005)

        writer = threading.Thread(target=write, daemon=True)
        writer.start()
        for _ in range(KILLS):
            before = len(reader.steps)
            while len(reader.steps) < before + 5:  # in mid-stream
                time.sleep(0.02)
            server.kill()
            server.start()
        written.set()
        writer.join()
        deadline = time.monotonic() + 30
        while len(reader.steps) <= step and time.monotonic() < deadline:
            time.sleep(0.05)
        reader.ended = True
        assert reader.connections > KILLS
        assert reader.steps == list(range(step + 1))


@pytest.mark.slow
def test_a_point_comes_within_a_second(tmp_path):
    file = project(tmp_path, 0)
    with StudioServer(tmp_path) as server:
        reader = Reader(server)
        reader.start()
        while not reader.steps:
            time.sleep(0.02)
        delays = []
        for step in range(1, 6):
            with file.open("a") as handle:
                handle.write(line(step))
            began = time.monotonic()
            while step not in reader.seen:
                assert time.monotonic() < began + 10
                time.sleep(0.005)
            delays.append(reader.seen[step] - began)
        reader.ended = True
        assert max(delays) < 1, delays
