"""Tokens, keys and passwords, by the form that their issuers give them."""

import re
from collections.abc import Iterator
from typing import NamedTuple

SECRETS = {
    "Hugging Face token": r"\b(?:hf|api_org)_[A-Za-z0-9]{30,}\b",
    "OpenAI or Anthropic key": r"\bsk-(?:[a-z]+[0-9]*-)*[A-Za-z0-9_-]{20,}",
    "GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{40,})",
    "GitLab token": r"\bglpat-[A-Za-z0-9_-]{20,}",
    "AWS key": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "Google key": r"\bAIza[A-Za-z0-9_-]{35}|\bya29\.[A-Za-z0-9_-]{30,}|\bGOCSPX-[A-Za-z0-9_-]{20,}",
    "Yandex key": r"\b(?:AQVN[A-Za-z0-9_-]{30,}|y[0-3]_[A-Za-z0-9_-]{40,}|t1\.[A-Za-z0-9_=-]{60,})",
    "Slack token": r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}",
    "Telegram bot token": r"\b[0-9]{8,10}:AA[A-Za-z0-9_-]{33}(?![A-Za-z0-9_-])",
    "PyPI or npm token": r"\bpypi-[A-Za-z0-9_-]{50,}|\bnpm_[A-Za-z0-9]{36}\b",
    "Stripe key": r"\b[rs]k_live_[A-Za-z0-9]{16,}",
    "private key": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----",
    "signed web token": r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",
    "password in an address": r"\b[a-z][a-z0-9+.-]*://[^\s/:@\"'<>{}]+:[^\s/:@\"'<>{}]{3,}@[\w.-]+",
    "password or key": r"(?i:(?:api|access|secret|private|auth)[ _-]?(?:key|token)|client[ _-]?secret|password|passwd|"
    r"парол[ья])[\"']?\s{0,3}[:=]\s{0,3}[\"']?(?=[^\s\"']*[0-9])[A-Za-z0-9_+/=!@#$%^&*.-]{8,}",
}
SECRET = re.compile("|".join(f"(?P<s{number}>{pattern})" for number, pattern in enumerate(SECRETS.values())))


class Secret(NamedTuple):
    """A secret in a text."""

    kind: str
    """What it is, for people: Hugging Face token, …"""
    start: int
    """Its first character."""
    end: int


def find_secrets(text: str) -> Iterator[Secret]:
    """The secrets in a text, in order."""
    for match in SECRET.finditer(text):
        yield Secret(list(SECRETS)[int((match.lastgroup or "s0")[1:])], *match.span())


def mask_secrets(text: str) -> str:
    """The text with `[Hugging Face token]` and so on where secrets stand."""
    for secret in reversed([*find_secrets(text)]):
        text = f"{text[: secret.start]}[{secret.kind}]{text[secret.end :]}"
    return text
