"""From whatever people have to checked rows. No torch here.

rows.py             a row: one conversation in OpenAI's chat format
rules.py            what makes a row valid
checks.py           govor validate: every problem of a file, with its line

formats.py          the table of all formats: how each is known, read and called
readers.py          files of rows in any known format → rows
row_formats.py      what each form of rows means
tables.py           CSV, TSV and .xlsx → records
writers.py          govor convert: rows → the formats of other tools

messages.py         a message of a chat, as every reader makes it
chat_exports.py     the exports in files, folders and archives → messages
whatsapp.py         and vk.py, discord.py, instagram.py, chatgpt.py, claude.py: a reader each
html_pages.py       pages as a stream of elements; json_streams.py JSON as one of events
sources.py          files on the disk or in a zip, and their beginnings
telegram/           Telegram's readers; govor collect: messages of any chat → one person's rows
scrub_rows.py       govor scrub: rows without personal data
privacy/            finds personal data and secrets in texts

provenance.py       where generated rows come from, and whether somebody has reviewed them

duplicates.py       texts that are equal or nearly so
split.py            which rows are held out
statistics.py       govor analyze: what a file of rows is like, in numbers
statistics_page.py  the same as tables, page and JSON
statistics_words.py the page's words in English and Russian
topics.py           topics by lists of words, and the vocabulary; topics.yaml are such lists
learned_topics.py   topics that come from the rows themselves
"""
