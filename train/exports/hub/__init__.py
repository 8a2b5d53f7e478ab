"""A run on the Hugging Face Hub: what goes, what must not, and what the card says of it.

push.py          the verb: everything about a push gathered, checked and sent
files.py         the files of an adapter, a merged model or GGUF exports, naming the base as the public knows it
objections.py    what speaks against a push: secrets, personal data, licence, failed gates
licences.py      the base's licence, and whether it lets a tuned model be passed on
card.py          README.md, from card_facts.py, card_usage.py and card_samples.py
upload.py        one commit through the Hub's own client, resumed where it broke off
"""
