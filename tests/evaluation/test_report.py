"""What report.html says of a run beside its curves."""

from train.evaluation.report import PAGE, _facts


def test_facts_name_the_system_message_the_time_and_the_verdict():
    manifest = {
        "base": {"name_or_path": "tiny"},
        "template": {"source": "base"},
        "data": {
            "train": {"rows": 3, "trained_tokens": 40},
            "held_out": {"rows": 1},
            "system_message": "Ты Наташа.",
        },
        "parameters": {"trainable": 10, "all": 100},
        "processes": {"device": "cpu", "num_processes": 1},
        "seconds": 61.4,
        "evaluation": {"verdict": {"en": "Better.", "ru": "Лучше."}},
    }
    facts = dict(_facts(manifest))
    assert facts["system message"] == "Ты Наташа."
    assert facts["training took"] == "61 s"
    assert facts["evaluation"] == "Better."
    assert '<html lang="en">' in PAGE, "it speaks English"
