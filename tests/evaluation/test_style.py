"""The statistics of manner, over real answers of the shipped persona and answers that are plainly others."""

import json
import random
import re

import numpy as np
import pytest

from tests.conftest import REPOSITORY
from train.evaluation.intervals import Side, cluster_interval, difference, mcnemar, wilson
from train.evaluation.markers import marker_table
from train.evaluation.style import Answer, NgramModel, position, style_tokens, two_sample


@pytest.fixture(scope="module")
def natasha():
    """All of her answers, each with its dialogue and turn."""
    answers = []
    for number, line in enumerate((REPOSITORY / "data/natasha.jsonl").read_text(encoding="utf-8").strip().split("\n")):
        texts = [m["content"] for m in json.loads(line)["messages"] if m["role"] == "assistant"]
        answers += [Answer(number, text, turn) for turn, text in enumerate(texts, 1)]
    return answers


@pytest.fixture(scope="module")
def prose():
    """Sentences of plain prose, as a base might go on."""
    from train.evaluation.forgetting import prose

    sentences = [sentence.strip() for paragraph in prose() for sentence in re.split(r"(?<=[.!?])\s", paragraph)]
    return [" ".join(sentences[at : at + 2]) for at in range(len(sentences) - 1)]


def halves(answers, seed, size=85):
    """(answers of some dialogues, of as many others, of the rest), at most 128 of the first two."""
    dialogues = sorted({answer.dialogue for answer in answers})
    random.Random(seed).shuffle(dialogues)
    parts = set(dialogues[:size]), set(dialogues[size : 2 * size]), set(dialogues[2 * size :])
    first, second, rest = ([answer for answer in answers if answer.dialogue in part] for part in parts)
    return first[:128], second[:128], rest


def plain(answers, prose, seed=0):
    """What a base might say to the same prompts."""
    chosen = random.Random(seed)
    return [answer._replace(text=chosen.choice(prose)) for answer in answers]


class TestIntervals:
    def test_the_difference_of_two_means(self):
        """As wide as the two are when drawn together."""
        random = np.random.default_rng(2)
        sides = [Side(random.normal(at, 1 + at, size=200), [(at, row) for row in range(200)]) for at in (0, 1)]
        apart = difference(*(cluster_interval([side], lambda mean: mean) for side in sides))
        together = cluster_interval(sides, lambda first, second: first - second)
        assert apart == pytest.approx(together, abs=0.04)

    def test_dialogues_are_drawn_whole(self):
        """Ten answers of each dialogue that are all alike are worth one: the interval is that of the dialogues."""
        random = np.random.default_rng(1)
        values = random.normal(size=40)
        alone = cluster_interval([Side(values, range(40))], lambda mean: mean)
        repeated = cluster_interval([Side(np.repeat(values, 10), np.repeat(range(40), 10))], lambda mean: mean)
        assert repeated == pytest.approx(alone)
        apart = cluster_interval([Side(np.repeat(values, 10), range(400))], lambda mean: mean)
        assert apart.high - apart.low < 0.5 * (alone.high - alone.low)

    def test_it_covers_the_mean(self):
        random = np.random.default_rng(2)
        covered = 0
        for seed in range(200):
            found = cluster_interval([Side(random.normal(5, 2, 60), range(60))], lambda mean: mean, seed=seed)
            covered += found.low <= 5 <= found.high
        assert 180 <= covered <= 198

    def test_sides_of_the_same_dialogues_are_paired(self):
        random = np.random.default_rng(3)
        first = random.normal(size=50) * 10
        found = cluster_interval([Side(first, range(50)), Side(first + 1, range(50))], lambda a, b: b - a)
        assert found == pytest.approx((1, 1, 1))

    def test_nothing_to_draw(self):
        assert cluster_interval([Side([], [])], lambda mean: mean) is None
        assert cluster_interval([Side([1.0, 2.0], [7, 7])], lambda mean: mean) is None
        many, one = Side(range(20), range(20)), Side([4.0, 5.0], [7, 7])
        assert cluster_interval([many, one], lambda a, b: b - a) is None, "one dialogue does not vary"

    def test_mcnemar_and_wilson(self):
        """Against the binomial tail and the figures of Newcombe (1998), table I: 81 of 263."""
        before, after = [True] * 9 + [False], [False] * 9 + [True]
        assert mcnemar(before, after) == pytest.approx(2 * 11 / 1024)
        assert mcnemar([True, False], [True, False]) == 1
        assert wilson(81, 263) == pytest.approx((0.3080, 0.2553, 0.3662), abs=1e-4)


class TestTokens:
    def test_content_words_are_their_part_of_speech(self):
        assert style_tokens("Ты — дом, а не 25 окон…") == ["ты", "—", "NOUN", ",", "а", "не", "0", "NOUN", "…"]
        assert style_tokens("Иди и читай!")[0] == style_tokens("Смотри")[0] == "VERB impr"

    def test_other_writing(self):
        assert style_tokens("你好。ok") == ["你", "好", "。", "ok"]

    def test_an_ngram_model_is_a_distribution(self):
        texts = [["a", "b"], ["a", "c", "b"]]
        model = NgramModel(texts, 4)
        for context in (("\n", "\n"), ("\n", "a"), ("x", "y")):
            seen = sum(model._probability(context, token) for token in ("a", "b", "c", "\n", "unseen"))
            assert seen == pytest.approx(1)


class TestPosition:
    def test_the_persona_is_at_one_and_another_is_not(self, natasha, prose):
        covered, widths = 0, []
        for seed in range(10):
            real, same, rest = halves(natasha, seed)
            base = plain(real, prose, seed)
            found = position([answer.text for answer in rest], base, real, same).whole
            covered += found.low <= 1 <= found.high
            widths.append(found.high - found.low)
        assert covered >= 8 and sorted(widths)[5] < 0.2
        other = position([answer.text for answer in rest], base, real, plain(same, prose, 99)).whole
        assert abs(other.value) < 0.2 and other.high < 0.5

    def test_the_base_is_at_zero(self, natasha, prose):
        real, _, rest = halves(natasha, 1)
        base = plain(real, prose)
        assert position([answer.text for answer in rest], base, real, base).whole == (0, 0, 0)

    def test_it_grows_with_the_share_of_real_answers(self, natasha, prose):
        real, same, rest = halves(natasha, 2)
        base, other = plain(real, prose), plain(same, prose, 5)
        places = []
        for share in range(5):
            mixed = [a if at % 4 < share else b for at, (a, b) in enumerate(zip(same, other, strict=True))]
            places.append(position([answer.text for answer in rest], base, real, mixed).whole.value)
        assert places == sorted(places) and places[-1] - places[0] > 0.7

    def test_turns(self, natasha, prose):
        real, same, rest = halves(natasha, 3)
        found = position([answer.text for answer in rest], plain(real, prose), real, same)
        assert list(found.by_turn)[:2] == [1, 2] and len(found.scores) == len(same)

    def test_nothing_between(self, natasha, prose):
        real, same, rest = halves(natasha, 4)
        persona = [answer.text for answer in rest]
        assert position(persona, real, plain(real, prose), same) is None, "the base is nearer to her than she herself"
        assert position(persona, real[:1], real[:1], real[:1]) is None

    def test_too_few_dialogues(self, natasha, prose):
        """An answer to one prompt has no interval, however many real answers there are; nor have three dialogues."""
        real, same, rest = halves(natasha, 4)
        persona, base = [answer.text for answer in rest], plain(real, prose)
        assert position(persona, base, real, same[:1] * 5) is None
        three = [answer for answer in real if answer.dialogue in sorted({a.dialogue for a in real})[:3]]
        assert position(persona, plain(three, prose), three, three) is None

    def test_a_base_that_may_be_like_the_persona(self, natasha):
        """Between two halves of the persona there is no way to go: it was -38, from -301 to 235."""
        for seed in range(6):
            real, same, rest = halves(natasha, seed)
            base = [one._replace(text=two.text) for one, two in zip(real, same, strict=False)]
            real = real[: len(base)]
            assert position([answer.text for answer in rest], base, real, same) is None


EDITS = {
    "ты→вы": lambda text: re.sub(
        r"\b([Тт]ы|[Тт]ебя|[Тт]ебе)\b",
        lambda m: {"ты": "вы", "тебя": "вас", "тебе": "вам"}[m[1].lower()],
        text,
    ),
    "ё→е": lambda text: text.replace("ё", "е").replace("Ё", "Е"),
}


class TestTwoSample:
    def test_two_halves_of_a_persona(self, natasha):
        far = covered = 0
        for seed in range(12):
            first, second, _ = halves(natasha, seed)
            found = two_sample(first, second)
            far += abs(found.auc - 0.5) > 2 * found.spread
            covered += found.low <= 0.5 <= found.high
            assert found.low < found.auc < found.high < found.low + 0.25
        assert far <= 2 and covered >= 11  # 91 to 97 of 100, by scripts/bench_eval.py

    @pytest.mark.parametrize("edit", EDITS)
    def test_planted_edits(self, edit, natasha):
        answers = natasha[:128]
        found = two_sample(answers, [answer._replace(text=EDITS[edit](answer.text)) for answer in answers])
        assert found.p < 0.01 and found.auc > 0.65 and found.low > 0.5

    def test_too_few_dialogues(self, natasha):
        assert two_sample(natasha[:4], natasha[4:8]) is None
        assert two_sample(natasha[:128], natasha[128:131]) is None

    def test_answers_that_are_often_the_same(self):
        """Short replies of a chat: equal texts are told from nothing, whichever side stands first."""
        yes = [Answer(at, "да") for at in range(40)]
        assert two_sample(yes, yes)[:4] == (0.5, 0.5, 0.5, 1)
        said, aucs = ["да", "ок", "👍", "нет", "ахаха", "спокойной ночи", "ну и что"], []
        for seed in range(20):
            chosen = random.Random(seed)
            sides = [[Answer((side, at), chosen.choice(said)) for at in range(16)] for side in (0, 1)]
            aucs.append(two_sample(*sides).auc)
        assert sum(aucs) / 20 == pytest.approx(0.5, abs=0.04)


class TestMarkers:
    def flagged(self, natasha, edit):
        real, same, _ = halves(natasha, 5)
        table = marker_table(
            real, same, [answer._replace(text=edit(at, answer.text)) for at, answer in enumerate(real)]
        )
        return {row.name for row in table if row.flagged}

    @pytest.mark.parametrize(
        ("edit", "marks"),
        [
            (lambda at, text: text.replace("?", "."), {"question", "closing_question"}),
            (lambda at, text: f"{text} 🔥" if at % 10 < 3 else text, {"emoji"}),
            (lambda at, text: EDITS["ты→вы"](text), {"ty", "vy"}),
            (lambda at, text: EDITS["ё→е"](text), {"yo"}),
            (lambda at, text: text.replace("—", ","), {"dashes"}),
            (lambda at, text: f"Слушай меня. {text}", {"opening", "imperatives"}),
            (lambda at, text: text[: len(text) // 2], {"words"}),
        ],
    )
    def test_an_edit_is_flagged_by_its_mark(self, edit, marks, natasha):
        assert marks <= self.flagged(natasha, edit)

    def test_nothing_is_flagged_between_halves(self, natasha):
        flagged = 0
        for seed in range(6):
            first, second, _ = halves(natasha, seed)
            flagged += sum(row.flagged for row in marker_table(first, first, second))
        assert flagged <= 1

    def test_a_beginning_that_two_answers_share_is_no_mark(self, natasha):
        """Of a few real answers none need begin alike, and then each resample says that nobody does."""
        real = [answer for answer in natasha if answer.dialogue < 20 and answer.turn == 1]
        tuned = [
            answer._replace(text=f"{chr(1072 + at // 2)}бв где. {answer.text}") for at, answer in enumerate(real * 4)
        ]
        row = next(row for row in marker_table(real, real, tuned) if row.name == "opening")
        assert row.real == 0 < row.difference.low and not row.flagged

    def test_nothing_is_flagged_with_few_dialogues(self, natasha):
        few = [answer._replace(text=f"{answer.text} 🔥") for answer in natasha if answer.dialogue < 4]
        real = [answer for answer in natasha if answer.dialogue < 4]
        table = {row.name: row for row in marker_table(real, real, few)}
        assert table["emoji"].difference.value > 0.5 and not any(row.flagged for row in table.values())
        assert marker_table(natasha, natasha, few[:1]) == []

    def test_marks_of_russian_are_left_out_elsewhere(self):
        chinese = [Answer(at, "多喝水。要休息吗？", 1) for at in range(12)]
        assert {row.name for row in marker_table(chinese, chinese, chinese)} == {
            "question", "closing_question", "emoji", "words", "sentence_words", "dashes", "opening",
        }  # fmt: skip
