"""What an evaluation has not measured, and why: in English and in Russian."""

from train.evaluation.forgetting import KNOWS_ENOUGH
from train.evaluation.judge import Evaluation, Judgement
from train.evaluation.judged_rows import persona_run
from train.evaluation.markers import is_russian
from train.evaluation.meter import Meter
from train.evaluation.style import FEWEST


def not_measured(meter: Meter, evaluation: Evaluation, strange: int = 0) -> tuple[tuple[str, str], ...]:
    """What is missing and why, in English and in Russian; so many answers are `strange`: to no held-out prompt."""
    judged, forgot = evaluation.judgement, evaluation.forgetting
    count = len(judged.tuned) if judged else 0
    start = meter.config.lora.start_from if meter.config.lora else None
    known = (
        (
            judged and meter.other is None,
            f"Copies: the rows of {start}, which it went on from, are gone or no longer what was trained on.",
            f"Цитаты: строк запуска {start}, который он продолжает, нет, или обучение шло на других.",
        ),
        (
            judged and judged.two_sample is None,
            "The two-sample test: it needs answers in ten held-out dialogues.",
            "Двухвыборочный тест: нужны ответы в десяти отложенных диалогах.",
        ),
        (
            judged and not judged.markers,
            "Marks: they need answers in two held-out dialogues.",
            "Приметы: нужны ответы в двух отложенных диалогах.",
        ),
        (
            judged and judged.russian and not is_russian(judged.base),
            "How near it came: the base says nothing or speaks another language, so that any Russian is near 1.",
            "Насколько стало ближе: база молчит или говорит на другом языке, и любой русский окажется около 1.",
        ),
        (
            judged and strange,
            f"In pairs: {strange} of {count} answers are to prompts that were not held out.",
            f"Попарно: ответов не на отложенные промпты {strange} из {count}.",
        ),
        (
            judged and start and not (evaluation.beside or evaluation.via),
            f"Better or worse than {start}, which it went on from: that is gone or has changed.",
            f"Лучше или хуже запуска {start}, который он продолжает: того нет, или он изменился.",
        ),
        (
            judged and not judged.russian,
            "ты and вы, ё, imperatives, images: they need Russian; elsewhere topics count in the position, too.",
            "Ты и вы, ё, повеления, образы: им нужен русский; без него в положение входят и темы.",
        ),
        (
            forgot and forgot.p is None,
            f"Whether questions were forgotten: the base is right in less than {KNOWS_ENOUGH:.0%} of them.",
            f"Забыты ли вопросы: база верно отвечает меньше чем на {100 * KNOWS_ENOUGH:.0f} % из них.",
        ),
    )
    return (*_without_manner(meter, judged), *((english, russian) for missing, english, russian in known if missing))


def _without_manner(meter: Meter, judged: Judgement | None) -> list[tuple[str, str]]:
    """Why manner or copies were not measured, in English and in Russian."""
    persona = persona_run(meter.run)
    file, train_file = persona.held_out_file, persona.config().data.train_file
    if not meter.rows:
        if meter.run.manifest()["data"]["held_out"]["rows"]:
            return [(f"Manner and copies: {file} is gone.", f"Манера и цитаты: файла {file} больше нет.")]
        why = "Manner and copies: no row was held out (data.eval_fraction)."
        return [(why, "Манера и цитаты: отложенных строк нет (data.eval_fraction).")]
    if judged is None:
        why = "Manner and copies: no held-out prompt leaves room for an answer in the model's context."
        return [(why, "Манера и цитаты: ни один отложенный промпт не оставляет места для ответа в контексте модели.")]
    if meter.trained is None:
        why = f"Manner and copies: {train_file} is gone, or no longer what was trained on."
        return [(why, f"Манера и цитаты: файла {train_file} нет, или обучение шло на другом.")]
    if judged.position is None:
        why = f"Position: it needs answers in {FEWEST} held-out dialogues, and a base that is not like the persona."
        return [(why, f"Положение: нужны ответы в {FEWEST} отложенных диалогах и база, не похожая на персону.")]
    return []
