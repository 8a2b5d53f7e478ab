"""What speaks against a push: what stands in the files, the base's licence, a run that failed its gates."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal

from train.chats.privacy.secret_scan import guard, scan
from train.core.errors import GovorError
from train.core.runs import Run
from train.exports.hub.card_facts import Facts, What
from train.exports.hub.files import same

Kind = Literal["secret", "personal-data", "path", "license", "gates"]
Objection = tuple[Kind, str]
SHOWN = 5  # of one kind
BASE_KEY = "base_model_name_or_path"


class RefusedError(GovorError):
    """Something speaks against pushing: the answer is no."""

    exit_code = 1


def require_none(objections: Sequence[Objection], allow: Collection[str]) -> None:
    """RefusedError with every one that was not allowed."""
    left = [(kind, text) for kind, text in objections if kind not in allow]
    if not left:
        return
    lines = []
    for kind in dict.fromkeys(kind for kind, _ in left):
        texts = [text for known, text in left if known == kind]
        lines += [f"{text} [{kind}]" for text in texts[:SHOWN]]
        if len(texts) > SHOWN:
            lines.append(f"and {len(texts) - SHOWN} more [{kind}]")
    insist = " ".join(f"--allow {kind}" for kind in dict.fromkeys(kind for kind, _ in left))
    head = f"nothing was sent; {insist} would send it all the same:"
    raise RefusedError("\n  ".join([head, *lines]))


def gates(run: Run, what: What) -> list[Objection]:
    """What the run's own checks have found."""
    manifest = run.manifest()
    found: list[Objection] = []
    if manifest.get("status") != "finished":
        found.append(("gates", f"{run.path} is unfinished: govor train … --resume"))
    if differing := (manifest.get("parity") or {}).get("differing"):
        of = manifest["parity"]["prompts"]
        found.append(("gates", f"{len(differing)} of {of} held-out prompts render otherwise than they were trained"))
    merge = manifest.get("merge") or {}
    if what != "adapter" and merge.get("passed") is False:
        kl = merge["drift"][merge["target"]]["mean_kl"]
        bound = merge["drift"]["max_drift"]
        found.append(("gates", f"the merged model drifted: mean KL {kl:.2g} is above {bound:.2g} nats a token"))
    return found


def about_licence(facts: Facts, *, may_ask: bool) -> list[Objection]:
    """`may_ask`: an unknown licence is none yet, the Hub is asked when it comes to pushing."""
    if facts.base_licence is None:
        if may_ask:
            return []
        return [("license", f"the licence of {facts.base or 'the base'} is unknown: --license ID states it")]
    objection = facts.base_licence.objection
    return [("license", f"the base's licence {objection}")] if objection else []


def about_base(run: Run, what: What, base: str | None) -> list[Objection]:
    """An adapter that names no base which others have is of no use to them."""
    if what != "adapter" or base:
        return []
    name = run.config().model.name_or_path
    said = f"adapter_config.json: {BASE_KEY}: the base is a folder here, {name}"
    return [("path", f"{said}: --base OWNER/NAME says what it is called on the Hub, or push --merged")]


def about_files(run: Run, contents: Mapping[str, Path | bytes], folder: Path | None) -> list[Objection]:
    """What stands in the files. `folder`: the base's, whose own files are known to the public where it is the Hub's."""
    from huggingface_hub import get_token

    places = [Path.cwd(), run.path, *([folder] if folder else [])]
    guarded = guard(get_token(), places)
    of_hub = bool(run.manifest()["base"].get("revision"))
    found: list[Objection] = []
    for name, content in contents.items():
        published = of_hub and folder is not None and same(content, folder / name)
        findings = scan(name, content, guarded, published=published)
        found += [(one.kind, f"{name}: {one}") for one in findings if one.place != BASE_KEY]  # about_base()
    return found
