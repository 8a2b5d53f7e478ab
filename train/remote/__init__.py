"""Other models asked over the network, within a budget and never twice. No torch here.

services.py    who answers at a URL: keys, prices
budget.py      money or tokens, reserved before a request is sent
journal.py     what was asked and answered, on disk before anything goes on
asking.py      requests → answers: concurrency, retries, progress

generation_plan.py  what is to be asked for, and how much of it
gates.py            what a generated row must pass
generate.py         govor generate: questions, answers, rows with their origin
review.py           govor review: a person says y, n or edits

compare.py, compare_page.py  govor compare: the same prompts to several models
votes.py                     which pairs are shown, and what votes on them tell
vote.py, vote.js             govor vote: the page
judge.py, judge_rows.py      another model's verdicts, by rubric.yaml, on answers and on rows

verbs.py  the verbs as the command line has them
"""
