"""From whatever people have to checked rows. No torch here.

rows.py             a row: one conversation in OpenAI's chat format
rules.py            what makes a row valid
checks.py           govor validate: every problem of a file, with its line

readers.py          files in any known format → rows
writers.py          govor convert: rows → the formats of other tools
telegram/           govor collect: a Telegram export → one person's rows
scrub_rows.py       govor scrub: placeholders for personal data in rows
privacy/            finds personal data and secrets in texts

duplicates.py       texts that are equal or nearly so
split.py            which rows are held out
statistics.py       govor analyze: what a file of rows is like, in numbers
statistics_page.py  the same as tables, page and JSON
topics.py           topics by lists of words, and the vocabulary; topics.yaml are the lists
"""
