"""govor: tune an open model on a person's chats, prove the result, serve it.

The rooms, lowest first. A module imports from its own room and from those before it, never from one beside it
(tests/test_layers.py holds this):
core < chats, models < encoding, plan < tuning, merging, evaluation < sft.py, serving, exports < jobs < cli.py
"""

import os

# The libraries below read these once, when they are first imported, so the package itself must set them.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # TRL reports every trainer to the Hub otherwise
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads and our processes fight over the same cores
