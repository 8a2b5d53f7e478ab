"""The demo's model behind `govor serve` makes rows, judges and is compared, by the code that asks hosted models."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from tests.conftest import REPOSITORY, govor
from tests.remote.test_generate import PLAN
from tests.serving.test_serve import KEY, Server
from train.remote.judge import RUBRIC

ROWS = 30


@pytest.mark.long
def test_the_demo_is_asked_by_its_url(working_folder, monkeypatch):
    """A few steps and short answers, as only the way is looked at; the judge is a copy of the run by another name."""
    for name in ("data", "configs"):
        Path(name).symlink_to(REPOSITORY / name)
    lines = Path("data/natasha.jsonl").read_text(encoding="utf-8").splitlines()[:ROWS]
    Path("rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    options = ("data.train_file=rows.jsonl", "training.max_steps=2", "training.save_strategy=no", "prompts=[]",
               "training.eval_strategy=no", "generation.max_new_tokens=12", "training.max_length=512",
               "data.too_long=truncate")  # fmt: skip
    assert govor("train", "configs/tiny.yaml", *options).exit_code == 0
    assert govor("merge", "runs/tiny", "--no-drift").exit_code == 0
    shutil.copytree("runs/tiny", "runs/other")
    server = Server("runs/tiny", "runs/other", "--engine", "transformers")
    monkeypatch.setenv("GOVOR_API_KEY", KEY)
    try:
        rows_are_made(server.url)
        answers_are_judged(server.url)
        both_are_compared(server.url)
    finally:
        server.process.terminate()
        server.process.wait(180)  # two engines
        server.close()


def rows_are_made(url: str) -> None:
    """Hardly anything that so small a model says passes: that all is asked for, kept and accounted for is looked at."""
    plan = {**PLAN, "rows": 2, "spare": 0, "rounds": 1, "question_tokens": 60, "answer_tokens": 24}
    Path("plan.yaml").write_text(yaml.safe_dump(plan, allow_unicode=True), encoding="utf-8")
    command = ("generate", "rows.jsonl", "--via", url, "--model", "tiny", "--plan", "plan.yaml", "-o", "more.jsonl")
    made = govor(*command, "--max-tokens", "100000")
    assert made.exit_code in (0, 1), made.output
    count = len(Path("more.jsonl").read_text(encoding="utf-8").splitlines()) if made.exit_code == 0 else 0
    assert f"rows: {count} of 2" in made.output and "failed attempts" not in made.output
    replies = Path("more.journal.jsonl").read_text(encoding="utf-8")
    assert '"text"' in replies and KEY not in replies


def answers_are_judged(url: str) -> None:
    """Of every answer; that so small a model gives verdicts that can be read is not to be expected."""
    rubric = yaml.safe_load(RUBRIC.read_text(encoding="utf-8")) | {"judge_tokens": 12}
    Path("rubric.yaml").write_text(yaml.safe_dump(rubric, allow_unicode=True), encoding="utf-8")
    judged = govor("eval", "runs/tiny", "--samples", "1", "--rubric", "rubric.yaml", "--judge", f"{url}#other")
    assert judged.exit_code == 0, judged.output
    told = json.loads(Path("runs/tiny/evaluation/judge.json").read_text(encoding="utf-8"))
    prompts = json.loads(Path("runs/tiny/evaluation/evaluation.json").read_text(encoding="utf-8"))["answers"]["prompts"]
    assert told["judge"].startswith("other at 127.0.0.1") and told["unanswered"] == 0
    assert 0 <= told["unreadable"] <= 5 * prompts and told["pairs"]["pairs"] <= prompts


def both_are_compared(url: str) -> None:
    command = ("compare", "trial", f"{url}#tiny", f"{url}#other", "--prompts", "held-out", "--run", "runs/tiny")
    limits = ("--limit", "2", "--answer-tokens", "12", "--max-tokens", "100000")
    compared = govor(*command, *limits)
    assert compared.exit_code == 0, compared.output
    text = Path("compare/trial/answers.jsonl").read_text(encoding="utf-8")
    entries = [json.loads(line) for line in text.split("\n") if line]
    assert len(entries) == 2
    for entry in entries:
        assert set(entry["answers"]) == {"tiny", "other"} and all(said["text"] for said in entry["answers"].values())
    assert govor(*command, *limits).exit_code == 0  # all is in the journal
    assert Path("compare/trial/answers.jsonl").read_text(encoding="utf-8") == text
