"""evaluation.html: verdict, every value with what it lies between, best and worst answers; Russian and English."""

import html
from collections import Counter
from collections.abc import Iterable, Sequence

from train.core.files import write_atomically
from train.core.runs import Run, now
from train.evaluation.forgetting import KNOWS_ENOUGH, prose, questions
from train.evaluation.intervals import Interval
from train.evaluation.judge import FORGOTTEN, OVERFITTED, Evaluation, Judgement, verdict
from train.evaluation.markers import FLAGGED
from train.evaluation.style import TURNS, Answer

LANGUAGES = ("ru", "en")
PAGE = """<!doctype html>
<html lang="ru"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{name}</title>
<style>
 :root {{ color-scheme: light dark }}
 body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 1.5rem auto; padding: 0 1rem }}
 table {{ border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }}
 td, th {{ border-top: 1px solid #8886; padding: .4rem .8rem .4rem 0; text-align: left; vertical-align: top;
 white-space: nowrap }}
 td:first-child {{ white-space: normal; min-width: 9rem }}
 .wide {{ overflow-x: auto }} .verdict {{ font-size: 1.4rem }} .aid {{ opacity: .75 }}
 blockquote {{ margin: .6rem 0; padding-left: 1rem; border-left: 3px solid #8886; white-space: pre-wrap;
 overflow-wrap: anywhere }}
 .flag {{ font-weight: bold }}
 body:has(#ru:checked) [lang=en], body:has(#en:checked) [lang=ru] {{ display: none }}
</style>
<p><label><input type="radio" name="language" id="ru" checked> Русский</label>
<label><input type="radio" name="language" id="en"> English</label></p>
{body}
</html>
"""
WORDS = {
    "title": ("{name}: что изменило обучение", "{name}: what training changed"),
    "sampled": (
        "{date}. Ответов {answers}: {prompts} отложенных промптов из {dialogues} диалогов, по {samples} на каждый.",
        "{date}. {answers} answers: {prompts} held-out prompts of {dialogues} dialogues, {samples} to each.",
    ),
    "via": ("Отвечал сервер: {via}.", "Answers came from a server: {via}."),
    "head": ("мера|значение|интервал 95 %|пол|потолок|n", "measure|value|interval of 95 %|floor|ceiling|n"),
    "measures": ("Значения", "Values"),
    "position": ("манера", "manner"),
    "turn": ("манера, ответ {turn} диалога", "manner, answer {turn} of a dialogue"),
    "later": ("манера, ответ {turn} и дальше", "manner, answer {turn} and later"),
    "auc": ("отличимость от настоящих (AUC), p = {p:.3f}", "told from the real ones (AUC), p = {p:.3f}"),
    "loss": ("ошибка на отложенных строках, до {base:.3f}", "held-out loss, {base:.3f} before"),
    "accuracy": ("угаданные токены, до {base:.1%}", "tokens guessed, {base:.1%} before"),
    "gap": ("отложенные строки минус строки обучения, до {base:.2f}", "held-out less training rows, {base:.2f} before"),
    "copy": ("самая длинная цитата, слов", "longest copy, words"),
    "halves": ("продолжено наизусть: строки обучения", "continued by heart: training rows"),
    "prose": ("ошибка на простом русском, до {base:.3f}", "loss of plain Russian, {base:.3f} before"),
    "questions": ("верные ответы на вопросы, до {base:.2f}", "questions answered right, {base:.2f} before"),
    "personal": ("ответов с персональными данными", "answers with personal data"),
    "markers": ("Приметы", "Marks"),
    "marks_head": (
        "примета|настоящие|база|обученная|разница (95 %)",
        "mark|real|base|tuned|difference (95 %)",
    ),
    "best": ("Пять ответов, больше всего похожих на персону", "The five answers most like the persona"),
    "worst": ("Пять наименее похожих", "The five least like it"),
    "copies": ("Самые длинные цитаты", "The longest copies"),
    "copied_before": (
        "слов подряд: {words}, прежнее обучение: «{text}»",
        "{words} words in a row, of an earlier run: “{text}”",
    ),
    "copied": ("слов подряд: {words}, строка {line}: «{text}»", "{words} words in a row, line {line}: “{text}”"),
    "checkpoints": ("Сохранённые состояния", "Saved states"),
    "states_head": ("состояние|манера|интервал 95 %|цитирует", "state|manner|interval of 95 %|recites"),
    "keep": ("Оставить: {name}", "Keep: {name}"),
    "yes": ("да", "yes"),
    "missing": ("Не измерено", "Not measured"),
    "reading": ("Как это читать", "How to read it"),
}
MARKS = {
    "question": ("ответы с вопросом", "answers with a question"),
    "closing_question": ("ответы, которые кончаются вопросом", "answers that end in a question"),
    "emoji": ("ответы с эмодзи", "answers with an emoji"),
    "words": ("слов в ответе", "words an answer"),
    "sentence_words": ("слов в предложении", "words a sentence"),
    "dashes": ("тире на предложение", "dashes a sentence"),
    "ty": ("ответы на ты", "answers that say ты"),
    "vy": ("ответы на вы", "answers that say вы"),
    "yo": ("букв ё на сто слов", "letters ё a hundred words"),
    "imperatives": ("повелений на предложение", "imperatives a sentence"),
    "images": ("слов сравнения на предложение", "words of comparison a sentence"),
    "opening": ("другие ответы с тем же началом", "other answers that begin alike"),
}
READING = (
    (
        "Ошибка — в натах на токен, чем меньше, тем лучше; угаданные токены — доля тех, которые модель сочла самыми "
        "вероятными. Пол и потолок — между чем лежит значение, n — сколько ответов, строк, абзацев или вопросов.",
        "Losses are in nats a token, less is better; tokens guessed is the share of those that the model held for the "
        "likeliest. Floor and ceiling are what a value lies between, n counts answers, rows, paragraphs or questions.",
    ),
    (
        "Манера: 0 — отвечает как база, 1 — как сама персона в отложенных ответах. Темы почти не считаются: слова со "
        "смыслом заменены частями речи. Интервал захватывает 1 — по манере не отличить.",
        "Manner: 0 is how the base answers, 1 how the persona did in held-out answers. Topics hardly count: content "
        "words are replaced by their parts of speech. An interval that holds 1: no difference in manner was found.",
    ),
    (
        "Отличимость: 0,5 — не отличить, 1 — отличить всегда; пол — что даёт случай, p — как часто он даёт столько. "
        "Она быстро доходит до единицы и не показывает, насколько модель приблизилась.",
        "Told apart: 0.5 is by chance, 1 always; the floor is what chance gives, p how often it gives so much. It soon "
        "reaches 1 and does not show how near a model has come.",
    ),
    (
        f"Приметы: жирным — дальше {FLAGGED} стандартных ошибок от настоящих ответов.",
        f"Marks: bold ones are more than {FLAGGED} standard errors from the real answers.",
    ),
    (
        "Цитаты: потолок — чего не превышает случай, по ответам, которые обучение не видело. Выше — модель цитирует.",
        "Copies: the ceiling is what chance reaches, by answers that training never saw. Above it the model recites.",
    ),
    (
        f"Наизусть: модель получает половину ответа, считается доля слов другой половины до первого расхождения; пол — "
        f"то же по отложенным строкам. Переобучена: разница отложенных строк и строк обучения выросла больше чем на "
        f"{OVERFITTED:g} нат.",
        "By heart: the model is given half an answer; counted is the share of the other half's words up to the first "
        "that differs; the floor is the same of held-out rows. Overfitted: the gap of held-out and training rows has "
        f"grown by more than {OVERFITTED:g} nat.",
    ),
    (
        f"Знание: 59 абзацев и 64 вопроса, которых персона не касается. Пострадало: ошибка выросла больше чем на "
        f"{100 * FORGOTTEN:.0f} %, или верных ответов стало меньше (критерий Макнемара, p < 0,05); где база знает "
        f"меньше {100 * KNOWS_ENOUGH:.0f} %, вопросы ничего не говорят.",
        f"Knowledge: 59 paragraphs and 64 questions that have nothing to do with the persona. It has suffered where "
        f"the loss grew by more than {FORGOTTEN:.0%} or fewer answers are right (McNemar, p < 0.05); where the base "
        f"knows less than {KNOWS_ENOUGH:.0%}, questions say nothing.",
    ),
)


def write_page(run: Run, evaluation: Evaluation) -> None:
    """Write RUN/evaluation/evaluation.html, over an earlier one."""
    body = "\n".join(
        f'<section lang="{language}">\n{_Section(run, evaluation, number).text()}\n</section>'
        for number, language in enumerate(LANGUAGES)
    )
    write_atomically(run.evaluation / "evaluation.html", PAGE.format(name=_text(run.path.name), body=body))


class _Section:
    """The page in one language."""

    def __init__(self, run: Run, evaluation: Evaluation, language: int) -> None:
        self.run, self.evaluation, self.language = run, evaluation, language

    def say(self, key: str, **values: object) -> str:
        return _text(self._localized(WORDS[key][self.language].format(**values), key))

    def _localized(self, text: str, key: str) -> str:
        """The words that carry numbers, as Russian writes these."""
        if key not in ("auc", "loss", "accuracy", "gap", "prose", "questions"):
            return text
        text = text.replace(" -", " −")
        return text.replace(".", ",").replace("%", " %") if self.language == 0 else text

    def number(self, value: float | None, places: int = 2) -> str:
        if value is None:
            return ""
        text = f"{value:z.{places}f}".replace("-", "−")
        return text.replace(".", ",") if self.language == 0 else text

    def interval(self, found: Interval | None, places: int = 2) -> str:
        return f"{self.number(found.low, places)} – {self.number(found.high, places)}" if found else ""

    def text(self) -> str:
        evaluation, judged = self.evaluation, self.evaluation.judgement
        parts = [f"<h1>{self.say('title', name=self.run.path.name)}</h1>"]
        parts.append(f'<p class="verdict">{_text(verdict(evaluation, LANGUAGES[self.language]))}</p>')
        if judged:
            counts = {"prompts": judged.prompts, "dialogues": judged.dialogues, "samples": judged.samples}
            date = now()[:16].replace("T", " ") + " UTC"
            parts.append(f'<p class="aid">{self.say("sampled", date=date, answers=len(judged.tuned), **counts)}</p>')
        if evaluation.via:
            parts.append(f'<p class="aid">{self.say("via", via=evaluation.via)}</p>')
        parts += [f"<h2>{self.say('measures')}</h2>", self.table("head", self.values())]
        if evaluation.checkpoints:
            parts += [f"<h2>{self.say('checkpoints')}</h2>", self.table("states_head", self.states())]
            parts += [f"<p>{self.say('keep', name=evaluation.keep)}</p>"] if evaluation.keep else []
        if judged:
            parts += self.marks(judged) + self.answers(judged)
        if evaluation.not_measured:
            reasons = "".join(f"<li>{_text(pair[1 - self.language])}</li>" for pair in evaluation.not_measured)
            parts.append(f"<h2>{self.say('missing')}</h2><ul>{reasons}</ul>")
        aid = "".join(f"<li>{_text(pair[self.language])}</li>" for pair in READING)
        return "\n".join([*parts, f'<h2>{self.say("reading")}</h2><ul class="aid">{aid}</ul>'])

    def table(self, head: str, rows: Iterable[Sequence[str]]) -> str:
        """Cells are HTML."""
        cells = "".join(f"<th>{cell}</th>" for cell in self.say(head).split("|"))
        body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
        return f'<div class="wide"><table><tr>{cells}</tr>{body}</table></div>'

    def values(self) -> Iterable[Sequence[str]]:
        """(measure, value, interval, floor, ceiling, how many of what is counted)."""
        evaluation, judged = self.evaluation, self.evaluation.judgement
        answers = str(len(judged.tuned)) if judged else ""
        if judged and (place := judged.position):
            yield self.say("position"), self.number(place.whole.value), self.interval(place.whole), "0", "1", answers
            by_turn = Counter(min(answer.turn, TURNS) for answer in judged.tuned)
            for turn, found in place.by_turn.items():
                name = self.say("later" if turn == TURNS else "turn", turn=turn)
                yield name, self.number(found.value), self.interval(found), "0", "1", str(by_turn[turn])
        if judged and (test := judged.two_sample):
            spread = Interval(0.5, 0.5 - 2 * test.spread, 0.5 + 2 * test.spread)
            told = Interval(test.auc, test.low, test.high)
            yield (
                self.say("auc", p=test.p),
                self.number(test.auc),
                self.interval(told),
                self.interval(spread),
                "1",
                answers,
            )
        base, tuned = evaluation.base, evaluation.tuned
        if base and tuned:
            rows, (loss, right) = str(tuned.rows), tuned.intervals
            yield (
                self.say("loss", base=base.held_out),
                self.number(tuned.held_out, 3),
                self.interval(loss, 3),
                "",
                "",
                rows,
            )
            accuracy = self.number(100 * tuned.held_out_accuracy, 1) + " %"
            shares = right and Interval(*(100 * share for share in right))
            yield self.say("accuracy", base=base.held_out_accuracy), accuracy, self.interval(shares, 1), "", "", rows
            if base.gap is not None and tuned.gap is not None:
                most = self.number(base.gap + OVERFITTED)
                apart = self.interval(tuned.gap_interval)
                yield self.say("gap", base=base.gap), self.number(tuned.gap), apart, self.number(base.gap), most, rows
        if judged and (leakage := judged.leakage):
            ceiling, floor = str(leakage.ceiling), str(leakage.longest_held_out)
            yield self.say("copy"), str(leakage.longest), "", floor, ceiling, answers
            kinds = ", ".join(f"{_text(kind)}: {count}" for kind, count in leakage.personal_data.items())
            yield self.say("personal"), kinds or "0", "", "0", "0", answers
        if halves := evaluation.continuation:
            trained, held_out = halves.trained, halves.held_out
            yield (
                self.say("halves"),
                self.number(trained.value),
                self.interval(trained),
                self.number(held_out.value),
                "1",
                str(halves.answers),
            )
        if forgot := evaluation.forgetting:
            yield (
                self.say("prose", base=forgot.base_loss.value),
                self.number(forgot.tuned_loss.value, 3),
                self.interval(forgot.tuned_loss, 3),
                "",
                self.number(forgot.base_loss.value * (1 + FORGOTTEN), 3),
                str(len(prose())),
            )
            right = forgot.tuned_right
            yield (
                self.say("questions", base=forgot.base_right.value),
                self.number(right.value),
                self.interval(right),
                self.number(0.25),
                "1",
                str(len(questions())),
            )

    def states(self) -> Iterable[Sequence[str]]:
        for name, place, recites in self.evaluation.checkpoints:
            value = self.number(place.value) if place else ""
            yield _text(name), value, self.interval(place), self.say("yes") if recites else ""

    def marks(self, judged: Judgement) -> list[str]:
        if not judged.markers:
            return []
        rows = []
        for row in judged.markers:
            numbers = [self.number(value) for value in (row.real, row.base, row.tuned)]
            cells = [_text(MARKS[row.name][self.language]), *numbers, self.interval(row.difference)]
            rows.append([f'<span class="flag">{cell}</span>' for cell in cells] if row.flagged else cells)
        return [f"<h2>{self.say('markers')}</h2>", self.table("marks_head", rows)]

    def answers(self, judged: Judgement) -> list[str]:
        parts = []
        if judged.position:
            pairs = sorted(zip(judged.position.scores, judged.tuned, strict=True), key=lambda pair: -pair[0])
            for key, five in (("best", pairs[:5]), ("worst", pairs[-5:][::-1])):
                parts += [f"<h2>{self.say(key)}</h2>", *(_quote(answer) for _, answer in five)]
        if judged.leakage:
            parts.append(f"<h2>{self.say('copies')}</h2>")
            for answer, copy in judged.leakage.worst:
                where = self.say(
                    "copied" if copy.line else "copied_before", words=copy.words, line=copy.line, text=copy.text
                )
                parts += [_quote(answer), f'<p class="aid">{where}</p>']
        return parts


def _quote(answer: Answer) -> str:
    return f"<blockquote>{_text(answer.text)}</blockquote>"


def _text(value: object) -> str:
    return html.escape(str(value))
