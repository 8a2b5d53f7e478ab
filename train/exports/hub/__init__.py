"""A run on the Hugging Face Hub: what goes, what must not, and what the card says of it.

scan.py      secrets, personal data and folders of this machine in the files
licences.py  the base's licence, and whether it lets a tuned model be passed on
samples.py   languages of the rows, answers that quote none of them
card.py      README.md
upload.py    one commit through the Hub's own client, resumed where it broke off
push.py      the verb
"""
