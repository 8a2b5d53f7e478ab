"""Copies of training rows: found to the word, whole rows continued by heart, and nothing where nothing was copied."""

import random
import shutil
from itertools import repeat, zip_longest
from pathlib import Path

import pytest
import torch

from tests.conftest import govor
from train.core.config import load_config
from train.core.runs import Run
from train.encoding.held_out import encode_held_out, held_out_rows
from train.evaluation.judge import judge_answers, sources
from train.evaluation.judged_rows import other_rows
from train.evaluation.leakage import Continuation, continuation, find_leakage, longest_copies, words_of
from train.evaluation.style import Answer
from train.models.load import load_tuned
from train.sft import train


def longest_by_hand(answer, source):
    """Length of the longest run, by trying every pair of places."""
    a, b = words_of(answer), words_of(source)
    best = 0
    for i in range(len(a)):
        for j in range(len(b)):
            n = 0
            while i + n < len(a) and j + n < len(b) and a[i + n] == b[j + n]:
                n += 1
            best = max(best, n)
    return best


def test_against_every_pair_of_places():
    chosen = random.Random(0)
    texts = [" ".join(chosen.choices("а б в г д", k=chosen.randint(0, 14))) for _ in range(60)]
    answers, sources = texts[:30], texts[30:]
    found = longest_copies(answers, enumerate(sources, 1))
    for answer, copy in zip(answers, found, strict=True):
        assert copy.words == max(longest_by_hand(answer, source) for source in sources)
        if copy.words:
            assert copy.text in " ".join(words_of(answer)) and copy.text in " ".join(words_of(sources[copy.line - 1]))


def test_what_counts_as_the_same_word():
    (copy,) = longest_copies(["Всё — твоё: иди, и «будь»!"], [(7, "все твое иди и будь")])
    assert copy == (5, "все твое иди и будь", 7)
    assert longest_copies(["多喝热水"], [(1, "请多喝热水吧")])[0].words == 4
    assert longest_copies(["ничего"], [])[0] == (0, "", None)


def test_the_ceiling_is_that_of_answers_that_nothing_copied():
    sources = [(1, " ".join(f"слово{n}" for n in range(40)))]
    real = [Answer(0, "слово1 слово2 слово3"), Answer(1, "другое")]

    def judged(words):
        tuned = [Answer(0, " ".join(f"слово{n}" for n in range(words)) + " и ещё")]
        return find_leakage(sources, real, real, tuned)

    assert (judged(8).ceiling, judged(8).recites, judged(9).recites) == (8, False, True)
    assert judged(9).worst[0][1].line == 1 and judged(9).longest_held_out == 3
    real.append(Answer(2, " ".join(f"слово{n}" for n in range(10))))
    assert (judged(15).ceiling, judged(15).recites, judged(16).recites) == (15, False, True)


def test_personal_data_in_answers():
    tuned = [Answer(0, "Звони: +7 916 123-45-67"), Answer(1, "Пиши на a.b@example.com и a.c@example.com")]
    assert sum(find_leakage([], [], [], tuned).personal_data.values()) == 2


def test_rows_of_the_run_that_it_went_on_from_are_trained_rows(run):
    """What the first run learned the second may recite: its rows are looked through, or nothing is said of copies."""
    learned, file = split_of(run), run.config().data.train_file
    Path("rows.jsonl").write_bytes(file.read_bytes())
    config = run.config_file.read_text(encoding="utf-8").replace(str(file), "rows.jsonl")
    run.config_file.write_text(config, encoding="utf-8")
    Path("pairs.jsonl").write_text("{}")
    later = Run(Path("runs/later"))
    shutil.copytree(run.path, later.path)
    config = config.replace("rows.jsonl", "pairs.jsonl").replace("start_from: null", "start_from: runs/done")
    later.config_file.write_text(config, encoding="utf-8")
    before = other_rows(later)
    assert other_rows(run) == [] and [row.messages for row in before] == [row.messages for row in learned]

    real = [Answer(at, "Тихо.") for at in range(3)]
    (at, text), *_ = sorted(sources(before), key=lambda source: -len(source[1]))
    said = [answer._replace(text=text) for answer in real]
    own = [learned[0]._replace(messages=[{"role": "assistant", "content": "Иное."}])]
    judged = judge_answers(own, real, real, said, 1, before)
    assert judged.leakage.recites and judged.leakage.worst[0][1].line is None and at
    assert judge_answers(own, real, real, said, 1, None).leakage is None
    with Path("rows.jsonl").open("a") as rows:
        rows.write("\n")
    assert other_rows(later) is None


@pytest.mark.long
def test_a_planted_overfit_is_flagged(write_config, working_folder):
    """Sixty epochs over nineteen rows: by heart, recited, overfitted, exit code 1 under --gate; a short run is not."""
    training = {"num_train_epochs": 60, "max_steps": -1, "learning_rate": 1e-2, "eval_strategy": "no"}
    lora = {"r": 32, "lora_alpha": 64, "target_modules": ["all-linear", "lm_head"]}
    generation = {"max_new_tokens": 40}
    run = train(load_config(write_config(name="over", lora=lora, training=training, generation=generation)))
    model, tokenizer = load_tuned(run)
    rows, held_out = [
        [*encode_held_out(run, tokenizer, part)] for part in (split_of(run), held_out_rows(run))
    ]  # fmt: skip
    halves = continuation(model, tokenizer, rows, held_out)
    assert isinstance(halves, Continuation) and halves.by_heart and halves.trained.value > 0.5
    assert halves.trained.value == pytest.approx(
        sum(map(share_generated, repeat(model), repeat(tokenizer), rows)) / len(rows)
    )
    result = govor("eval", str(run.path), "--samples", "1", "--gate")
    assert result.exit_code == 1, result.output
    assert "Recites training rows. Overfitted" in result.stdout

    short = train(load_config(write_config(name="short", training={"max_steps": 2})))
    result = govor("eval", str(short.path), "--samples", "1", "--gate")
    assert result.exit_code == 0 and "Does not recite." in result.stdout


def share_generated(model, tokenizer, row):
    """The same, generated token by token."""
    start, end = max(row.answers, key=lambda span: span[1] - span[0])
    middle = (start + end) // 2
    ids = torch.tensor([row.input_ids[:middle]])
    made = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=end - middle)
    texts = [words_of(tokenizer.decode(part, skip_special_tokens=True))
             for part in (made[0, middle:], row.input_ids[middle:end])]  # fmt: skip
    same = [one == other for one, other in zip_longest(*texts)][: len(texts[1])]
    return [*same, False].index(False) / len(texts[1])


def split_of(run):
    from train.chats.split import read_split

    return read_split(run.config()).train
