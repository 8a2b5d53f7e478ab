"""The words of the page of statistics, in English and Russian, as `train.core.pages.speaker` looks them up."""

from train.chats.privacy.scrub import PLACEHOLDER_WORDS

ENGLISH = {
    "AID rows": "A row is one conversation to train on. Repeats weigh more in training than what is said once; "
    "personal data is what the model could repeat to a stranger: run `govor scrub`.",
    "AID lengths": "Half of all lie below the median, nine of ten between 5 % and 95 %. Example: a median of 60 "
    "characters says that the assistant answers in a sentence or two, and the tuned model will too.",
    "AID style": "Shares of the messages with text. Example: where 40 % of the answers end with a question, so will "
    "the tuned model's.",
    "AID topics": "A topic is named by its three weightiest words, or as the list of words calls it. A large share of "
    "rows without one means that short talk prevails.",
    "AID channels": "From the dialogues that `govor collect` wrote beside the rows. One that fills most of the file "
    "sets the tone: `--most-per-chat` evens it out.",
    "AID vocabulary": "The ratio says how seldom words come back: the higher, the richer.",
    "AID quality": "A count leads to its rows. The bounds are yours: `--good min_answer=20`, for example.",
    "AID plot": "Each bar counts the {counted} of that length; a long tail to the right is rare and costs the most "
    "memory.",
    "AID fails": "The file's own lines: fix them or leave them out. `sed -n {line}p FILE` shows line {line}.",
    **{f"KIND {kind}": kind for kind in PLACEHOLDER_WORDS},
    **{f"CRITERION {name}": "{en}" for name in
       ("invalid", "personal_data", "near_duplicate", "answer_length", "not_letters", "echo")},
    "FAILS invalid": "Rows with errors", "FAILS personal_data": "Rows with personal data",
    "FAILS near_duplicate": "Rows that nearly repeat an earlier one",
    "FAILS answer_length": "Rows with answers too short or too long",
    "FAILS not_letters": "Rows with answers that are mostly no letters", "FAILS echo": "Rows that repeat the question",
    "REASON invalid": "error", "REASON personal_data": "kinds", "REASON near_duplicate": "the earlier row",
    "REASON answer_length": "characters", "REASON not_letters": "letters", "REASON echo": "repeats",
}  # fmt: skip
RUSSIAN = {
    "rows": "строк", "messages": "сообщений", "{n:,} rows": "{n:,} строк", "Rows": "Строки", "Lengths": "Длины",
    "Messages": "Сообщения", "Topics": "Темы", "Channels": "Каналы", "Quality": "Качество", "share": "доля",
    "none": "нет", "line": "строка файла", "words": "слов", "mean": "среднее", "median": "медиана", "5 %": "5 %",
    "95 %": "95 %", "most": "макс.", "Vocabulary of the assistant": "Словарь ассистента",
    "turns a row": "реплик ассистента в строке", "tokens a row": "токенов в строке",
    "characters a message, user": "знаков в сообщении, собеседник",
    "characters a message, assistant": "знаков в сообщении, ассистент",
    "Turns a row": "Реплик ассистента в строке", "Tokens a row": "Токенов в строке",
    "Characters a message, user": "Знаков в сообщении, собеседник",
    "Characters a message, assistant": "Знаков в сообщении, ассистент",
    "hold a question": "с вопросом", "end with a question": "кончаются вопросом", "hold an emoji": "с эмодзи",
    "hold a bracket smile": "со скобкой-улыбкой", "without text, left out": "без текста, не в счёт",
    "messages, system messages aside": "сообщений, кроме системных",
    "rows that repeat an earlier one exactly": "строк, дословно повторяющих прежние",
    "rows that repeat an earlier one nearly (from {threshold})": "строк, почти повторяющих прежние (от {threshold})",
    "rows with personal data, names not looked for": "строк с персональными данными (имена не искались)",
    "rows longer than {n:,} tokens": "строк длиннее {n:,} токенов",
    "different words": "разных слов",
    "type/token ratio of the first {n:,} words": "доля разных слов среди первых {n:,}",
    "Most frequent: {words}": "Самые частые: {words}",
    "A row is good when": "Строка хороша, если", "rows that fail": "не проходит строк",
    "Good, failing nothing: {n:,} of {whole:,} rows ({share:.1%}).": "Хороших строк, к которым нет замечаний: "
    "{n:,} из {whole:,} ({share:.1%}).",
    "These are {n:,} rows, the file has {whole:,}.": "Это {n:,} строк, а в файле {whole:,}.",
    "{n:,} more are in dataset_stats.json.": "Ещё {n:,} — в dataset_stats.json.",
    "{n:,} more, up to {most:,}, lie to the right of it.": "Ещё {n:,}, до {most:,}, лежат правее.",
    "AID rows": "Строка — это один разговор, на котором учится модель. Повторы весят в обучении больше сказанного один "
    "раз; персональные данные модель может пересказать чужому: запустите `govor scrub`.",
    "AID lengths": "Половина значений меньше медианы, девять из десяти лежат между 5 % и 95 %. Например, медиана в 60 "
    "знаков значит, что ассистент отвечает фразой-двумя, и обученная модель будет так же.",
    "AID style": "Доли сообщений с текстом. Например, если 40 % ответов кончаются вопросом, так же будет и у обученной "
    "модели.",
    "AID topics": "Тема названа тремя самыми весомыми словами, или так, как её зовёт ваш список. Много строк без темы "
    "значит, что больше всего коротких реплик.",
    "AID channels": "Из диалогов, которые `govor collect` записал рядом. Канал, занимающий большую часть файла, задаёт "
    "тон: `--most-per-chat` выравнивает.",
    "AID vocabulary": "Доля показывает, как редко слова повторяются: чем выше, тем богаче речь.",
    "AID quality": "Число ведёт к своим строкам. Границы ваши: например, `--good min_answer=20`.",
    "AID fails": "Номера строк самого файла: поправьте их или уберите. `sed -n {line}p ФАЙЛ` покажет строку {line}.",
    **{f"KIND {kind}": word if word == "IP" else word.lower() for kind, word in PLACEHOLDER_WORDS.items()},
    "user": "собеседник", "assistant": "ассистент", "yes": "да",
    "AID plot": "Столбик — сколько {counted} такой длины; длинный хвост справа редок, а памяти требует больше всего.",
    "CRITERION invalid": "`govor validate` не находит в ней ошибок",
    "CRITERION personal_data": "в ней не осталось персональных данных (имена не искались)",
    "CRITERION near_duplicate": "нет прежней строки, почти такой же (сходство Жаккара от {similar})",
    "CRITERION answer_length": "в ней есть обучаемые ответы словами, каждый от {shortest} до {longest:,} знаков",
    "CRITERION not_letters": "не меньше {letters:.0%} каждого ответа без пробелов — буквы",
    "CRITERION echo": "ни один ответ не повторяет сказанное перед ним собеседником",
    "FAILS invalid": "Строки с ошибками", "FAILS personal_data": "Строки с персональными данными",
    "FAILS near_duplicate": "Строки, почти повторяющие прежние",
    "FAILS answer_length": "Строки со слишком короткими или длинными ответами",
    "FAILS not_letters": "Строки, где в ответах мало букв", "FAILS echo": "Строки, повторяющие вопрос",
    "REASON invalid": "ошибка", "REASON personal_data": "виды", "REASON near_duplicate": "прежняя строка",
    "REASON answer_length": "знаков", "REASON not_letters": "букв", "REASON echo": "повторяет",
}  # fmt: skip
