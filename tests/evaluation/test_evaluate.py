"""govor eval: losses as transformers computes them, answers that stay the same, one page."""

import re

import pytest
import torch

from tests.conftest import govor
from train.chats.readers import read_rows
from train.core.config import load_config
from train.encoding.held_out import encode_held_out
from train.encoding.loss_mask import encode_row
from train.evaluation.evaluate import held_out_loss
from train.models.load import load_tuned
from train.sft import train


def test_losses_samples_and_report(run):
    result = govor("eval", str(run.path))
    assert result.exit_code == 0, result.output
    found = re.search(r"held-out loss: ([\d.]+) before, ([\d.]+) after", result.stdout)
    assert float(found[2]) < float(found[1])
    samples = run.samples_file.read_text(encoding="utf-8")
    assert samples.count("**Base**") == samples.count("**Tuned**") == 2
    assert "Кто я?" in samples
    assert "От себя." in samples
    report = run.report_file.read_text(encoding="utf-8")
    assert report.count("<svg") == 2
    assert "Кто я?" in report
    assert not re.search(r"<(script|link|img)|src=|url\(http", report), "one page, nothing to fetch"
    assert run.manifest()["evaluation"]["rows"] == 5


def test_loss_is_that_of_every_trained_token(run):
    """Against transformers' own loss, row by row, weighted by tokens."""
    model, tokenizer = load_tuned(run)
    rows = read_rows(run.held_out_file)
    total, count = 0.0, 0
    for row in rows:
        encoded = encode_row(tokenizer, row)
        ids, labels = torch.tensor([encoded.input_ids]), torch.tensor([encoded.labels])
        n = int((labels != -100).sum())
        with torch.inference_mode():
            total += model(input_ids=ids, labels=labels).loss.item() * n
        count += n
    assert held_out_loss(model, encode_held_out(run, tokenizer, rows)) == pytest.approx(total / count, rel=1e-5)


def test_same_answers_every_time(run):
    govor("eval", str(run.path))
    first = run.samples_file.read_text(encoding="utf-8").split("\n", 3)[3]
    govor("eval", str(run.path))
    assert run.samples_file.read_text(encoding="utf-8").split("\n", 3)[3] == first


def test_fully_tuned_run(write_config):
    training = {"max_steps": 3, "learning_rate": 1e-3}
    run = train(load_config(write_config(lora=None, training=training)))
    assert govor("eval", str(run.path)).exit_code == 0
    assert run.manifest()["evaluation"]["tuned_loss"] < run.manifest()["evaluation"]["base_loss"]
