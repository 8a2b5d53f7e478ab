"""What speaks against a push: what stands in the files, the base's licence, a run that failed its gates."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from train.chats.privacy.secret_scan import local_secrets, scan_file
from train.core.errors import GovorError
from train.core.runs import Run
from train.exports.hub.card_facts import Artifact, CardFacts
from train.exports.hub.files import BASE_KEY, same_content

ObjectionKind = Literal["secret", "personal-data", "path", "license", "gates"]
SHOWN_OF_A_KIND = 5


class Objection(NamedTuple):
    """One thing that speaks against a push."""

    kind: ObjectionKind
    text: str


class RefusedError(GovorError):
    """Something that was not allowed speaks against the push."""

    exit_code = 1


def require_none(objections: Sequence[Objection], allow: Collection[str]) -> None:
    """RefusedError that names every objection of a kind that was not allowed."""
    left = [objection for objection in objections if objection.kind not in allow]
    if not left:
        return
    lines = []
    kinds = list(dict.fromkeys(kind for kind, _ in left))
    for kind in kinds:
        texts = [objection.text for objection in left if objection.kind == kind]
        lines += [f"{text} [{kind}]" for text in texts[:SHOWN_OF_A_KIND]]
        if len(texts) > SHOWN_OF_A_KIND:
            lines.append(f"and {len(texts) - SHOWN_OF_A_KIND} more [{kind}]")
    insist = " ".join(f"--allow {kind}" for kind in kinds)
    head = f"nothing was sent; {insist} would send it all the same:"
    raise RefusedError("\n  ".join([head, *lines]))


def failed_gates(run: Run, artifact: Artifact) -> list[Objection]:
    """The checks of the run itself that failed."""
    manifest = run.manifest()
    objections: list[Objection] = []
    if manifest.get("status") != "finished":
        objections.append(Objection("gates", f"{run.path} is unfinished: govor train … --resume"))
    if differing := (manifest.get("parity") or {}).get("differing"):
        total = manifest["parity"]["prompts"]
        text = f"{len(differing)} of {total} held-out prompts render otherwise than they were trained"
        objections.append(Objection("gates", text))
    merge = manifest.get("merge") or {}
    if artifact != "adapter" and merge.get("passed") is False:
        kl = merge["drift"][merge["target"]]["mean_kl"]
        bound = merge["drift"]["max_drift"]
        fault = merge.get("fault") or f"mean KL {kl:.2g} is above {bound:.2g} nats a token"  # runs before 2026-11-29
        objections.append(Objection("gates", f"the merged model drifted: {fault}"))
    return objections


def licence_objections(facts: CardFacts, *, ask_hub_later: bool) -> list[Objection]:
    """What the base's licence says against a push; nothing where it is unknown until the Hub is asked."""
    if facts.base_licence is None:
        if ask_hub_later:
            return []
        return [Objection("license", f"the licence of {facts.base or 'the base'} is unknown: --license ID states it")]
    reason = facts.base_licence.objection
    return [Objection("license", f"the base's licence {reason}")] if reason else []


def base_objections(run: Run, artifact: Artifact, base: str | None) -> list[Objection]:
    """Whether an adapter names a base that others have: else it is of no use to them."""
    if artifact != "adapter" or base:
        return []
    name = run.config().model.name_or_path
    problem = f"adapter_config.json: {BASE_KEY}: the base is a folder here, {name}"
    return [Objection("path", f"{problem}: --base OWNER/NAME says what it is called on the Hub, or push --merged")]


def file_objections(run: Run, contents: Mapping[str, Path | bytes], base: Path | None) -> list[Objection]:
    """Secrets, personal data and folders of this machine in the files.

    `base`: the base's folder; files that are equal there are public already if the base came from the Hub.
    """
    from huggingface_hub import get_token

    places = [Path.cwd(), run.path, *([base] if base else [])]
    guarded = local_secrets(get_token(), places)
    of_hub = bool(run.manifest()["base"].get("revision"))
    objections: list[Objection] = []
    for name, content in contents.items():
        published = of_hub and base is not None and same_content(content, base / name)
        findings = scan_file(name, content, guarded, published=published)
        objections += [Objection(finding.kind, f"{name}: {finding}") for finding in findings]
    return objections
