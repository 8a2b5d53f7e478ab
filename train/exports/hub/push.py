"""govor push: a run's adapter, merged model or GGUF to the Hugging Face Hub, unless something speaks against it."""

import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from train.core.files import format_bytes
from train.core.runs import Run, now
from train.evaluation.report import Sample
from train.exports.hub.card import model_card
from train.exports.hub.card_facts import Artifact, CardFacts
from train.exports.hub.card_samples import languages_of, read_run_rows, read_samples, without_quotations
from train.exports.hub.files import artifact_files, base_folder, public_base, require_name, with_public_base
from train.exports.hub.licences import LICENCE_FILES, Licence, licence_beside, licence_of_card
from train.exports.hub.objections import (
    Objection,
    base_objections,
    failed_gates,
    file_objections,
    licence_objections,
    require_none,
)
from train.exports.hub.upload import (
    HubError,
    RepoState,
    commit_files,
    connect,
    create_repo,
    one_line_hub_errors,
    read_repo,
)


class CardOptions(NamedTuple):
    """What only the user can say of the model."""

    base: str | None = None
    """The base's name on the Hub, where the run was trained over a folder."""
    licence: str | None = None
    """The licence of the pushed model, as the Hub writes it; also of the base where nothing else tells its licence."""
    languages: tuple[str, ...] = ()
    source: str | None = None
    samples: bool | None = None
    """Whether the card shows answers; None shows those that quote no row."""


class PreparedPush(NamedTuple):
    """Everything that a push would send, and everything that speaks against it."""

    run: Run
    repo: str
    artifact: Artifact
    private: bool
    contents: dict[str, Path | bytes]
    """Name on the Hub → file, or its content."""
    card: str
    notes: list[str]
    """What the user may want to improve before."""
    objections: list[Objection]


class PushResult(NamedTuple):
    """Where the files are on the Hub."""

    url: str
    commit: str
    changed: bool
    """False where the repository held all the files already."""


def push(
    run: Run,
    repo: str,
    artifact: Artifact,
    options: CardOptions,
    *,
    private: bool,
    allow: Collection[str],
    force: bool,
    dry_run: bool,
) -> None:
    """Send a run to the Hub with a model card and print where it is; with `dry_run` print what would be sent."""
    require_name(repo, "REPO")
    api = None if dry_run else connect()
    prepared = prepare_push(run, repo, artifact, options, private=private, api=api)
    for note in prepared.notes:
        print(f"note: {note}", file=sys.stderr)
    if dry_run:
        print(f"{listing(prepared)}\n\n{prepared.card}")
        require_none(prepared.objections, allow)
        return
    result = send(prepared, api, allow=allow, force=force)
    state = f"commit {result.commit[:10]}" if result.changed else "held all of it already"
    print(f"{result.url} ({'private' if private else 'public'}): {len(prepared.contents)} files, {state}")


def prepare_push(
    run: Run, repo: str, artifact: Artifact, options: CardOptions, *, private: bool, api: Any = None
) -> PreparedPush:
    """Gather everything about a push and send nothing. `api`: the client that asks the Hub for the base's licence."""
    config, manifest = run.config(), run.manifest()
    contents: dict[str, Path | bytes] = dict(artifact_files(run, artifact))
    folder, base = base_folder(run), public_base(run, options.base)
    for name in contents:
        contents[name] = with_public_base(name, contents[name], run, base)
    if folder and artifact != "adapter":  # the base's weights go along, and so do its terms
        for file in (file for pattern in LICENCE_FILES for file in sorted(folder.glob(pattern)) if file.is_file()):
            contents.setdefault(file.name, file)
    licence, base_licence = find_licences(folder, base, options.licence, api)
    rows, complete = read_run_rows(run)
    samples = read_samples(run, config) if options.samples is not False else []
    facts = CardFacts(
        repo=repo,
        artifact=artifact,
        config=config,
        manifest=manifest,
        steps=max((entry["step"] for entry in run.metrics()), default=0),
        base=base,
        licence=licence,
        base_licence=base_licence,
        languages=options.languages or languages_of(rows),
        source=options.source,
        system=manifest["data"].get("system_message") if options.samples else None,
        samples=samples if options.samples else without_quotations(samples, rows) if complete else [],
    )
    card = model_card(facts)
    contents["README.md"] = card.encode()
    objections = [
        *failed_gates(run, artifact),
        *licence_objections(facts, ask_hub_later=api is None and base is not None),
        *base_objections(run, artifact, base),
        *file_objections(run, contents, folder),
    ]
    notes = _notes(facts, samples, complete, private=private)
    if base_licence is None and api is None and base is not None:
        notes.append(f"the licence of {base} is asked of the Hub when it comes to pushing (--license states it)")
    return PreparedPush(run, repo, artifact, private, dict(sorted(contents.items())), card, notes, objections)


def find_licences(
    folder: Path | None, base: str | None, stated: str | None, api: Any
) -> tuple[Licence | None, Licence | None]:
    """(licence of this model, licence of its base): as stated, beside the base, or on its page on the Hub.

    What the user states counts for the model, and for the base where nothing else tells its licence.
    """
    of_base = licence_beside(folder) if folder else None
    if of_base is None and base is not None and api is not None:
        try:
            metadata = api.model_info(base).card_data
            of_base = licence_of_card(metadata.to_dict()) if metadata else None
        except Exception:  # gated, renamed, removed: what the user states counts
            of_base = None
    if of_base and of_base.link and base and "://" not in of_base.link:  # a file of the base's
        of_base = of_base._replace(link=f"https://huggingface.co/{base}/blob/main/{of_base.link}")
    of_user = Licence(stated.lower()) if stated else None
    return (of_base if of_user is None or (of_base and of_base.id == of_user.id) else of_user), of_base or of_user


def send(prepared: PreparedPush, api: Any, *, allow: Collection[str] = (), force: bool = False) -> PushResult:
    """Send a prepared push in one commit; RefusedError before that where something not allowed speaks against it.

    `force`: also into a repository that holds something else. What an earlier push of this run left there and is no
    part of this one is taken away.
    """
    require_none(prepared.objections, allow)
    run, repo, contents = prepared.run, prepared.repo, prepared.contents
    record = (run.manifest().get("pushed") or {}).get(repo) or {}
    with one_line_hub_errors():
        existing = read_repo(api, repo)
        state = existing or create_repo(api, repo, private=prepared.private)
        _require_privacy(repo, state, prepared.private, created=existing is None)
        if record.get("commit") != state.commit and not force:
            _require_own_files(repo, state, contents)
        removed = [name for name in record.get("files", ()) if name in state.files and name not in contents]
        changed = bool(removed) or not state.holds_all(contents)
        message = f"{prepared.artifact} of {run.path.name}, by govor"
        commit = commit_files(api, repo, contents, state.commit, removed, message) if changed else state.commit
    entry = {
        "what": prepared.artifact,
        "commit": commit,
        "files": sorted(contents),
        "private": state.private,
        "at": now(),
    }
    run.update_manifest(pushed={**(run.manifest().get("pushed") or {}), repo: entry})
    return PushResult(f"{api.endpoint}/{repo}", commit, changed)


def listing(prepared: PreparedPush) -> str:
    """Every file of the push with its size, in lines."""
    sizes = {name: len(c) if isinstance(c, bytes) else c.stat().st_size for name, c in prepared.contents.items()}
    width = max(map(len, sizes))
    lines = [f"{prepared.repo}, {'private' if prepared.private else 'public'}, {prepared.artifact}:"]
    lines += [f"  {name:{width}}  {format_bytes(number):>9}" for name, number in sizes.items()]
    return "\n".join([*lines, f"{len(sizes)} files, {format_bytes(sum(sizes.values()))}"])


def _notes(facts: CardFacts, samples: Sequence[Sample], complete: bool, *, private: bool) -> list[str]:
    """What the card lacks, and what the base's licence asks. `complete`: quotations were sought in all the rows."""
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
    if facts.artifact != "adapter" and facts.config.lora and (facts.manifest.get("merge") or {}).get("passed") is None:
        notes.append("the merged model was not compared with the adapter: govor merge RUN --force")
    if facts.base_licence and facts.base_licence.condition and not private:
        notes.append(f"the base's licence {facts.base_licence} asks: {facts.base_licence.condition}")
    return notes


def _require_privacy(repo: str, state: RepoState, private: bool, *, created: bool) -> None:
    """HubError where more or fewer would see the files than was asked for."""
    if state.private == private:
        return
    is_ = "private" if state.private else "public"
    if created:
        wanted = "private" if private else "public"
        raise HubError(f"{repo} was made {is_} by its owner's settings, nothing was sent: --{wanted} is not to be had")
    raise HubError(f"{repo} is {is_} on the Hub: push with --{is_}, change its settings, or choose another name")


def _require_own_files(repo: str, state: RepoState, contents: Mapping[str, Path | bytes]) -> None:
    """HubError where the repository holds anything that this push would change or that is no part of it."""
    other = [name for name in state.files if name not in contents or not state.holds(name, contents[name])]
    if other:
        shown = ", ".join(sorted(other)[:3]) + (", …" if len(other) > 3 else "")
        raise HubError(
            f"{repo} already holds something else ({shown}): choose another name, or --force writes over and beside it"
        )
