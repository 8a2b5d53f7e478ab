"""A guide to Google's Gemini API: upload_and_finetune.py with its defaults and words.

With --base-url or GOVOR_BASE_URL the same command trains on one's own server.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from upload_and_finetune import follow_guide

if __name__ == "__main__":
    follow_guide("google")
