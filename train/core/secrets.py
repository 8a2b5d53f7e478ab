"""Tokens, keys and passwords, by the form that their issuers give them.

The forms are facts of their issuers, gathered here in one table: detect-secrets (Apache-2.0, on PyPI) knows half of
them, and gitleaks (MIT), which knows most, is a Go program whose rules are in no Python package. Where a form stands in
gitleaks' rules of version 8.30 that is its source; `issuer` stands for the issuer's own documentation or tokens.
Every quantifier has a bound and a literal text goes before, so that a search takes time in proportion to the text.
"""

import base64
import re
from collections.abc import Iterator
from typing import NamedTuple


class Form(NamedTuple):
    """The form of one kind of secret."""

    kind: str
    """What it is, for people."""
    literals: tuple[str, ...]
    """In small letters; a text without any of them holds no such secret."""
    pattern: str
    source: str


WORD = r"(?<![A-Za-z0-9_-])"
"""Nothing before that could belong to the token."""
END = r"(?![A-Za-z0-9_-])"
VALUE = r"[\"']?\s{0,3}[:=]\s{0,3}[\"']?(?=[^\s\"']{0,128}[0-9])%s[A-Za-z0-9_+/=!@#$%%^&*.~-]{8,128}+(?![\w(\[{<:])"
"""What follows the name of a secret: with a digit in it, and no call or index as in code."""
FORMS = (
    Form("Hugging Face token", ("hf_", "api_org_"), WORD + r"(?:hf|api_org)_[A-Za-z0-9]{30,64}" + END, "gitleaks"),
    Form("OpenAI or Anthropic key", ("sk-",),
         WORD + r"sk-(?:[a-z]{2,12}[0-9]{0,2}-){0,3}[A-Za-z0-9_-]{20,200}", "gitleaks"),
    Form("GitHub token", ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
         WORD + r"(?:gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{40,255})", "gitleaks"),
    Form("GitLab token", ("glpat-",), WORD + r"glpat-[A-Za-z0-9_.-]{20,64}", "gitleaks"),
    Form("AWS key", ("akia", "asia"), WORD + r"(?:AKIA|ASIA)[A-Z0-9]{16}" + END, "gitleaks"),
    Form("Google key", ("aiza", "ya29.", "gocspx-"),
         WORD + r"(?:AIza[A-Za-z0-9_-]{35}|ya29\.[A-Za-z0-9_-]{30,400}|GOCSPX-[A-Za-z0-9_-]{20,40})", "gitleaks"),
    Form("Yandex key", ("aqvn", "y0_", "y1_", "y2_", "y3_", "t1."),
         WORD + r"(?:AQVN[A-Za-z0-9_-]{30,60}|y[0-3]_[A-Za-z0-9_-]{40,200}|t1\.[A-Za-z0-9_=-]{60,400})", "gitleaks"),
    Form("VK token", ("vk1.a.",), WORD + r"vk1\.a\.[A-Za-z0-9_-]{60,400}", "issuer"),
    Form("Groq key", ("gsk_",), WORD + r"gsk_[A-Za-z0-9]{52}" + END, "issuer"),
    Form("xAI key", ("xai-",), WORD + r"xai-[A-Za-z0-9]{80}" + END, "issuer"),
    Form("Perplexity key", ("pplx-",), WORD + r"pplx-[A-Za-z0-9]{48}" + END, "gitleaks"),
    Form("Replicate token", ("r8_",), WORD + r"r8_[A-Za-z0-9]{37}" + END, "issuer"),
    Form("NVIDIA key", ("nvapi-",), WORD + r"nvapi-[A-Za-z0-9_-]{64}" + END, "issuer"),
    Form("Discord token", (".",),
         WORD + r"[MNO][A-Za-z0-9_-]{23,27}\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{27,38}" + END, "detect-secrets"),
    Form("Discord webhook", ("webhooks/",),
         r"discord(?:app)?\.com/api/(?:v[0-9]{1,2}/)?webhooks/[0-9]{17,20}/[A-Za-z0-9_-]{60,80}", "issuer"),
    Form("SendGrid key", ("sg.",), WORD + r"SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}" + END, "gitleaks"),
    Form("Mailgun key", ("key-", "-"),
         WORD + r"(?:key-[0-9a-f]{32}|[0-9a-f]{32}-[0-9a-f]{8}-[0-9a-f]{8})" + END, "gitleaks"),
    Form("Twilio key", ("sk",), WORD + r"SK[0-9a-f]{32}" + END, "gitleaks"),
    Form("Slack token", ("xox", "xapp-", "xwfp-"),
         WORD + r"(?:xox[abeoprs](?:\.xox[bp])?-[A-Za-z0-9-]{10,250}|xwfp-[A-Za-z0-9-]{10,250}"
         r"|xapp-[0-9]-[A-Z0-9]{6,20}-[0-9]{6,20}-[a-z0-9]{30,80})", "gitleaks"),
    Form("Slack webhook", ("hooks.slack.com",),
         r"hooks\.slack\.com/(?:services|workflows|triggers)/[A-Z0-9]{6,14}/[A-Za-z0-9/]{20,90}", "gitleaks"),
    Form("DigitalOcean token", ("_v1_",), WORD + r"do[opr]_v1_[0-9a-f]{64}" + END, "gitleaks"),
    Form("Databricks token", ("dapi",), WORD + r"dapi[0-9a-f]{32}(?:-[0-9]{1,2})?" + END, "gitleaks"),
    Form("Azure key", ("accountkey=", "q~", "jqqj9", "sig="),
         r"(?i:AccountKey)=[A-Za-z0-9+/]{86}==|(?<![\w~.-])[\w~.]{3}[0-9]Q~[\w~.-]{31,34}(?![\w~.-])|"
         + WORD + r"[A-Za-z0-9]{52}JQQJ99[A-Za-z0-9]{26}" + END + r"|[?&]sig=[A-Za-z0-9%+/]{40,120}(?:%3[dD]|=)",
         "gitleaks; issuer"),
    Form("W&B key", ("wandb",),
         WORD + r"wandb_v1_[A-Za-z0-9_]{40,120}|(?i:wandb)[\w .:=\"'-]{0,24}" + WORD + r"[0-9a-f]{40}" + END, "issuer"),
    Form("Telegram bot token", (":aa",), r"(?<![0-9])[0-9]{8,10}:AA[A-Za-z0-9_-]{33}" + END, "gitleaks"),
    Form("PyPI or npm token", ("pypi-", "npm_"),
         WORD + r"(?:pypi-[A-Za-z0-9_-]{50,400}|npm_[A-Za-z0-9]{36}" + END + ")", "gitleaks"),
    Form("Stripe key", ("k_live_",), WORD + r"[rs]k_live_[A-Za-z0-9]{16,200}", "gitleaks"),
    Form("private key", ("-----begin ",),
         r"-----BEGIN (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----", "gitleaks"),
    Form("signed web token", ("eyj",),
         WORD + r"eyJ[A-Za-z0-9_-]{10,2000}\.eyJ[A-Za-z0-9_-]{10,4000}\.[A-Za-z0-9_-]{10,1000}", "gitleaks"),
    Form("Authorization header", ("authorization",),
         r"(?i:authorization)[\"']?\s{0,3}[:=,]\s{0,3}[\"']?(?:(?i:bearer|token)\s{1,3}(?=[^\s\"'<>{}]{0,400}[0-9])"
         r"[A-Za-z0-9._~+/=-]{16,400}|(?i:basic)\s{1,3}(?P<basic>[A-Za-z0-9+/]{8,400}={0,2}))", "RFC 6750, RFC 7617"),
    Form("password in an address", ("://",),
         r"(?<![A-Za-z0-9+.-])[a-z][a-z0-9+.-]{0,31}://(?P<user>[^\s/:@\"'<>{}]{1,128}):"
         r"(?P<password>[^\s/:@\"'<>{}]{3,128})@[\w.-]{1,255}", "RFC 3986"),
    Form("password or key", ("passw", "passphrase", "key", "парол", "secret"),
         r"(?i:(?:api|access|secret|private|auth|account|master|service|client)[ _-]?key|password|passwd|passphrase|"
         r"парол[ья])" + VALUE % "", "detect-secrets"),
    Form("password or key", ("token", "secret", "токен"),
         r"(?<![?&])(?i:token|secret|токен)" + VALUE % r"(?=[^\s\"']{0,128}[A-Za-z])", "detect-secrets"),
)  # fmt: skip
EXAMPLE = re.compile(
    r"[:=]\s{0,3}[\"']?(?:(?:your|my|secret|api|access|key|token|example|test|dummy)[_-]){1,6}[0-9]{1,4}$",
    re.IGNORECASE,
)
"""A value that says of itself that it is none: your_api_key_123."""
PATTERNS = [(form.kind, form.literals, re.compile(form.pattern, re.MULTILINE)) for form in FORMS]


class Secret(NamedTuple):
    """A secret in a text."""

    kind: str
    """What it is, for people: Hugging Face token, …"""
    start: int
    """Its first character."""
    end: int


def find_secrets(text: str) -> Iterator[Secret]:
    """The secrets in a text, in order; of those that overlap, the one that begins first."""
    small = text.lower()
    found = [
        Secret(kind, *match.span())
        for kind, literals, pattern in PATTERNS
        if any(literal in small for literal in literals)
        for match in pattern.finditer(text)
        if not _is_example(match)
    ]
    end = 0
    for secret in sorted(found, key=lambda secret: (secret.start, -secret.end)):
        if secret.start >= end:
            yield secret
            end = secret.end


def _is_example(match: re.Match[str]) -> bool:
    """Whether it only looks like a secret: Basic without name:password in base64, or a password as manuals write it."""
    parts = match.groupdict()
    if "basic" in parts and parts["basic"] is not None:
        try:
            return b":" not in base64.b64decode(parts["basic"] + "=" * (-len(parts["basic"]) % 4), validate=True)
        except ValueError:
            return True
    if "password" in parts:
        return parts["password"].lower() in ("pass", "password", "passwd", parts["user"].lower())
    return EXAMPLE.search(match[0]) is not None


def mask_secrets(text: str) -> str:
    """The text with `[Hugging Face token]` and so on where secrets stand."""
    for secret in reversed([*find_secrets(text)]):
        text = f"{text[: secret.start]}[{secret.kind}]{text[secret.end :]}"
    return text
