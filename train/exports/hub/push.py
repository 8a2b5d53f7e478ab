"""The verb: a run's adapter, merged model or GGUF to the Hugging Face Hub, unless something speaks against it."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from train.core.files import format_bytes
from train.core.runs import Run, now
from train.evaluation.report import Sample
from train.exports.hub.card import card
from train.exports.hub.card_facts import Facts, What
from train.exports.hub.card_samples import languages_of, quoting_nothing, rows_of, samples_of
from train.exports.hub.files import base_folder, files_of, public_base, with_public_base
from train.exports.hub.licences import LICENCE_FILES, Licence, licence_beside, licence_of_card
from train.exports.hub.objections import Objection, about_base, about_files, about_licence, gates, require_none
from train.exports.hub.upload import HubError, Remote, commit_files, create, look, one_line


class Stated(NamedTuple):
    """What only the user can say."""

    base: str | None = None
    """The base's name on the Hub, of a run that was trained over a folder."""
    licence: str | None = None
    """Of the pushed model, as the Hub writes it; also of the base where nothing else tells its licence."""
    languages: tuple[str, ...] = ()
    source: str | None = None
    samples: bool | None = None
    """Whether the card shows answers. None: those that quote no row."""


class Parcel(NamedTuple):
    """All that would go, and all that speaks against it."""

    run: Run
    repo: str
    what: What
    private: bool
    contents: dict[str, Path | bytes]
    card: str
    notes: list[str]
    """What the user may want to mend before."""
    objections: list[Objection]


class Pushed(NamedTuple):
    url: str
    commit: str
    changed: bool
    """False: the repository held all of it already."""


def pack(run: Run, repo: str, what: What, stated: Stated, *, private: bool, api: Any = None) -> Parcel:
    """Everything about the push, without sending anything. `api`: may be asked for what is not known here."""
    config, manifest = run.config(), run.manifest()
    contents: dict[str, Path | bytes] = dict(files_of(run, what))
    folder, base = base_folder(run), public_base(run, stated.base)
    for name in contents:
        contents[name] = with_public_base(name, contents[name], run, base)
    if folder and what != "adapter":  # the base's weights go along, and so do its terms
        for file in (file for pattern in LICENCE_FILES for file in sorted(folder.glob(pattern)) if file.is_file()):
            contents.setdefault(file.name, file)
    licence, base_licence = licences(folder, base, stated.licence, api)
    rows, complete = rows_of(run)
    samples = samples_of(run, config) if stated.samples is not False else []
    facts = Facts(
        repo=repo,
        what=what,
        config=config,
        manifest=manifest,
        steps=max((entry["step"] for entry in run.metrics()), default=0),
        base=base,
        licence=licence,
        base_licence=base_licence,
        languages=stated.languages or languages_of(rows),
        source=stated.source,
        system=manifest["data"].get("system_message") if stated.samples else None,
        samples=samples if stated.samples else quoting_nothing(samples, rows) if complete else [],
    )
    text = card(facts)
    contents["README.md"] = text.encode()
    objections = [
        *gates(run, what),
        *about_licence(facts, may_ask=api is None and base is not None),
        *about_base(run, what, base),
        *about_files(run, contents, folder),
    ]
    notes = _notes(facts, samples, complete, private=private)
    if base_licence is None and api is None and base is not None:
        notes.append(f"the licence of {base} is asked of the Hub when it comes to pushing (--license states it)")
    return Parcel(run, repo, what, private, dict(sorted(contents.items())), text, notes, objections)


def licences(
    folder: Path | None, base: str | None, stated: str | None, api: Any
) -> tuple[Licence | None, Licence | None]:
    """(of this model, of its base): as found beside the base, else on its page on the Hub, else as stated."""
    found = licence_beside(folder) if folder else None
    if found is None and base is not None and api is not None:
        try:
            metadata = api.model_info(base).card_data
            found = licence_of_card(metadata.to_dict()) if metadata else None
        except Exception:  # gated, renamed, gone: what the user states counts
            found = None
    if found and found.link and base and "://" not in found.link:  # a file of the base's
        found = found._replace(link=f"https://huggingface.co/{base}/blob/main/{found.link}")
    said = Licence(stated.lower()) if stated else None
    return (found if said is None or (found and found.id == said.id) else said), found or said


def push(parcel: Parcel, api: Any, *, allow: Collection[str] = (), force: bool = False) -> Pushed:
    """Send the parcel, in one commit; RefusedError before that where something not allowed speaks against it.

    `force`: also into a repository that holds something else. What an earlier push of this run left there and is no
    part of this one is taken away.
    """
    require_none(parcel.objections, allow)
    run, repo, contents = parcel.run, parcel.repo, parcel.contents
    record = (run.manifest().get("pushed") or {}).get(repo) or {}
    with one_line():
        found = look(api, repo)
        remote = found or create(api, repo, private=parcel.private)
        _require_privacy(repo, remote, parcel.private, fresh=found is None)
        if record.get("commit") != remote.commit and not force:
            _require_own(repo, remote, contents)
        gone = [name for name in record.get("files", ()) if name in remote.files and name not in contents]
        changed = bool(gone) or not remote.holds_all(contents)
        message = f"{parcel.what} of {run.path.name}, by govor"
        commit = commit_files(api, repo, contents, remote.commit, gone, message) if changed else remote.commit
    entry = {"what": parcel.what, "commit": commit, "files": sorted(contents), "private": remote.private, "at": now()}
    run.update_manifest(pushed={**(run.manifest().get("pushed") or {}), repo: entry})
    return Pushed(f"{api.endpoint}/{repo}", commit, changed)


def listing(parcel: Parcel) -> str:
    """Every file with its size."""
    sizes = {name: len(c) if isinstance(c, bytes) else c.stat().st_size for name, c in parcel.contents.items()}
    width = max(map(len, sizes))
    lines = [f"{parcel.repo}, {'private' if parcel.private else 'public'}, {parcel.what}:"]
    lines += [f"  {name:{width}}  {format_bytes(number):>9}" for name, number in sizes.items()]
    return "\n".join([*lines, f"{len(sizes)} files, {format_bytes(sum(sizes.values()))}"])


def _notes(facts: Facts, samples: Sequence[Sample], complete: bool, *, private: bool) -> list[str]:
    notes = []
    if facts.base is None:
        notes.append("the card names no base: --base OWNER/NAME says what it is called on the Hub")
    if not facts.source:
        notes.append("the card does not say where the dialogues come from: --source TEXT")
    if not facts.languages:
        notes.append("the card names no language: --language CODE")
    if hidden := len(samples) - len(facts.samples):
        why = "quote rows" if complete else "may quote rows: the training file is not here as it was"
        notes.append(f"{hidden} of {len(samples)} answers stay out of the card, they {why} (--samples shows them)")
    if not facts.manifest.get("evaluation"):
        notes.append("no held-out loss was measured: govor eval RUN")
    if facts.what != "adapter" and facts.config.lora and (facts.manifest.get("merge") or {}).get("passed") is None:
        notes.append("the merged model was not compared with the adapter: govor merge RUN --force")
    if facts.base_licence and facts.base_licence.condition and not private:
        notes.append(f"the base's licence {facts.base_licence} asks: {facts.base_licence.condition}")
    return notes


def _require_privacy(repo: str, remote: Remote, private: bool, *, fresh: bool) -> None:
    """HubError where more or fewer would see the files than was asked for."""
    if remote.private == private:
        return
    is_ = "private" if remote.private else "public"
    if fresh:
        asked = "private" if private else "public"
        raise HubError(f"{repo} was made {is_} by its owner's settings, nothing was sent: --{asked} is not to be had")
    raise HubError(f"{repo} is {is_} on the Hub: push with --{is_}, change its settings, or choose another name")


def _require_own(repo: str, remote: Remote, contents: Mapping[str, Path | bytes]) -> None:
    """HubError where the repository holds anything that this push would change or that is no part of it."""
    other = [name for name in remote.files if name not in contents or not remote.holds(name, contents[name])]
    if other:
        shown = ", ".join(sorted(other)[:3]) + (", …" if len(other) > 3 else "")
        raise HubError(
            f"{repo} already holds something else ({shown}): choose another name, or --force writes over and beside it"
        )
