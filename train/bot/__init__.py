"""The Telegram bot: a persona that is served at a URL, talked to where people are. No torch here; wants `govor[bot]`.

run.py        `govor bot`: token, updates, and when they are acknowledged
handlers.py   what is done with a message and with a button; who may talk
writing.py    an answer as it is shown: sent once, then edited while it grows
model.py      the model behind its URL: what fits its context, and its answers
store.py      conversations and feedback, in SQLite; what /forget deletes
texts.yaml    every word that the bot says by itself, in Russian and English
"""
