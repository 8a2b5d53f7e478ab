"""What report.html says of a run beside its curves."""

import inspect
import re
from pathlib import Path

import pytest

from train.core.config import Generation
from train.core.pages import speaker
from train.evaluation.report import ENGLISH, RUSSIAN, _duration, _facts, _sampling, _verdict, write_report

EN, RU = speaker("en", RUSSIAN, ENGLISH), speaker("ru", RUSSIAN, ENGLISH)
MANIFEST = {
    "base": {"name_or_path": "tiny"},
    "template": {"source": "base"},
    "data": {
        "train": {"rows": 3, "trained_tokens": 4000},
        "held_out": {"rows": 1},
        "system_message": "Ты Наташа.",
    },
    "parameters": {"trainable": 10, "all": 100},
    "processes": {"device": "cpu", "num_processes": 1},
    "seconds": 61.4,
}


def test_facts_name_the_system_message_and_the_time():
    facts = dict(_facts(MANIFEST, EN))
    assert facts["system message"] == "Ты Наташа."
    assert facts["training took"] == "1 min 1 s"
    assert facts["trained"] == "3 rows, 4,000 trained tokens an epoch"
    facts = dict(_facts(MANIFEST, RU))
    assert facts["системное сообщение"] == "Ты Наташа."
    assert facts["обучено"] == "строк: 3, обучаемых токенов за эпоху: 4\u00a0000"


@pytest.mark.parametrize(
    ("after", "english", "russian"),
    [(3.0, "Better", "Лучше"), (5.0, "Worse", "Хуже"), (4.001, "No change", "Без перемен")],
)
def test_the_verdict_compares_the_losses(after, english, russian):
    manifest = {**MANIFEST, "evaluation": {"base_loss": 4.0, "tuned_loss": after}}
    assert _verdict(manifest, "en", EN).startswith(english)
    assert _verdict(manifest, "ru", RU).startswith(russian)


def test_the_verdict_says_what_the_evaluation_found():
    found = {"base_loss": 4.0, "tuned_loss": 3.0, "verdict": {"en": "Recites training rows.", "ru": "Цитирует."}}
    told = _verdict({**MANIFEST, "evaluation": found}, "en", EN)
    assert told == "Better: held-out loss fell from 4.000 to 3.000 (-25%). Recites training rows."
    assert _verdict({**MANIFEST, "evaluation": found}, "ru", RU).endswith("с 4,000 до 3,000 (-25\u00a0%). Цитирует.")
    assert "govor eval" in _verdict(MANIFEST, "en", EN)


def test_sampling_settings():
    assert _sampling(Generation(temperature=0.7), EN).startswith("temperature 0.7, top_p 0.9, repetition penalty 1.05")
    assert _sampling(Generation(do_sample=False), EN).startswith("always the likeliest token")
    assert "температурой 0,7" in _sampling(Generation(temperature=0.7), RU)


@pytest.mark.parametrize(("seconds", "told"), [(5, "5 s"), (600, "10 min 0 s"), (7320, "2 h 2 min")])
def test_duration(seconds, told):
    assert _duration(seconds, EN) == told


def test_every_text_is_there_in_russian():
    said = re.findall(r'say\(\s*"([^"]+)"', Path(inspect.getfile(write_report)).read_text(encoding="utf-8"))
    assert len(said) > 20 and set(said) <= set(RUSSIAN)
    assert set(ENGLISH) <= set(RUSSIAN)
