"""Plain Russian before and after training: our own texts, and losses as transformers computes them."""

import pytest
import torch

from train.evaluation.forgetting import Knowledge, compare_knowledge, measure_knowledge, prose, questions
from train.models.load import load_base, resolve_precision


def test_the_texts():
    text = "\n\n".join(prose())
    assert 38_000 < len(text.encode()) < 43_000 and len(set(prose())) == len(prose()) > 50
    assert len(questions()) == 64 == len({question for question, *_ in questions()})
    assert [[answer for *_, answer in questions()].count(place) for place in range(4)] == [16] * 4
    assert all(len(set(choices)) == 4 for _, choices, _ in questions())
    longest = [len(choices[answer]) > max(len(c) for at, c in enumerate(choices) if at != answer)
               for _, choices, answer in questions()]  # fmt: skip
    assert sum(longest) <= 0.35 * 64, "the longest choice tells nothing"


def test_losses_are_transformers_own(run):
    config = run.config()
    from train.models.base import run_base
    from train.models.load import load_tokenizer

    base = run_base(run)
    model = load_base(config.model, base, resolve_precision(config), use_cpu=True).eval()
    tokenizer = load_tokenizer(base)
    found = measure_knowledge(model, tokenizer, "before")
    ids = torch.tensor([tokenizer(prose()[0])["input_ids"]])
    with torch.inference_mode():
        loss = model(input_ids=ids, labels=ids).loss.item()
    assert found.nats[0] / found.tokens[0] == pytest.approx(loss, rel=1e-5)
    question, choices, answer = questions()[0]
    begun = tokenizer(f"Вопрос: {question}\nОтвет:")["input_ids"]
    scores = []
    for choice in choices:
        whole = torch.tensor([begun + tokenizer(f" {choice}", add_special_tokens=False)["input_ids"]])
        labels = whole.clone()
        labels[0, : len(begun)] = -100
        with torch.inference_mode():
            nats = model(input_ids=whole, labels=labels).loss.item() * (len(whole[0]) - len(begun))
        scores.append(nats / len(choice))
    assert found.right[0] == (scores.index(min(scores)) == answer)


def test_what_is_forgotten_is_told_from_chance():
    paragraphs, tokens = 60, [100] * 60
    base = Knowledge([300.0 + at for at in range(paragraphs)], tokens, [True] * 40 + [False] * 24)
    dearer = Knowledge([nats * 1.2 for nats in base.nats], tokens, [True] * 25 + [False] * 39)
    found = compare_knowledge(base, dearer)
    assert found.loss_change.low > 0.05 * found.base_loss.value and found.p < 0.001
    other = Knowledge([nats + (-3) ** (at % 2) for at, nats in enumerate(base.nats)], tokens, [False, *base.right[1:]])
    found = compare_knowledge(base, other)
    assert found.loss_change.low < 0.05 * found.base_loss.value and found.p == 1
    guessing = base._replace(right=[True] * 16 + [False] * 48)
    assert compare_knowledge(guessing, dearer).p is None
