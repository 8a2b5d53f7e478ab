"""govor: tune an open model on a person's chats, prove the result, serve it.

The rooms, lowest first (a module imports only from those before it; tests/test_layers.py holds this):
errors < config, files, shards < runs, chats, launch < plan < rendering, report < templates < encoding
< model, kernels < generate, trainer, progress, fold, drift < merged
< sft, evaluate, merge, chat, serving, exports, hub, analyze, preview < jobs < cli
"""

import os

# The libraries below read these once, when they are first imported, so the package itself must set them.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # TRL reports every trainer to the Hub otherwise
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads and our processes fight over the same cores
