"""The command line: parse, import the verb, call it."""

import os
import re
import sys
from contextlib import nullcontext
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from train.core.errors import GovorError, MachineError, one_line_errors
from train.remote.verbs import BUDGET, JUDGE, VERBS

if TYPE_CHECKING:
    from train.exports import ExportTarget
    from train.exports.hub.card_facts import Artifact
    from train.exports.hub.objections import ObjectionKind
    from train.merging.drift import Target
    from train.merging.merge import Device
    from train.serving.choose_engine import EngineName

TARGETS = ("openai", "alpaca", "sharegpt", "gemini")


class Govor(click.Group):
    """Every verb's errors become one line and an exit code."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        with one_line_errors():
            return super().main(*args, **kwargs)


PATH = click.Path(path_type=Path)
TRUST = click.option(
    "--trust-remote-code", is_flag=True, help="Run Python code that the model brings along: read it before."
)


def _read_key(_: click.Context, __: click.Parameter, file: Path | None) -> str | None:
    """The key of --api-key-file, or else of GOVOR_API_KEY. There is no option for the key itself: all users of a
    machine see the command lines of its processes."""
    if file is None:
        return os.environ.get("GOVOR_API_KEY") or None
    try:
        key = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise GovorError(f"--api-key-file {file}: cannot be read: {error}") from None
    if not key:
        raise GovorError(f"--api-key-file {file}: the file is empty")
    return key


KEY = click.option(
    "--api-key-file",
    "key",
    type=PATH,
    metavar="FILE",
    callback=_read_key,
    help="File with the key that clients must show.  [default: the key in GOVOR_API_KEY]",
)


def _server(command: Any) -> Any:
    """Options of the servers: where they listen, and who may talk to them."""
    options = (
        click.option(
            "--host", default="127.0.0.1", show_default=True, help="Address; beyond loopback with a key only."
        ),
        click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0: any free one."),
        KEY,
        click.option("--allow-host", multiple=True, metavar="NAME", help="Another name of this machine in Host."),
        click.option("--allow-origin", multiple=True, metavar="URL", help="A web page that may talk to it."),
        click.option(
            "--system",
            type=click.Choice(["run", "none"]),
            default="run",
            show_default=True,
            help="What a conversation without a system message gets: the one that the run's rows share, or none.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


class RowsFile(click.Path):
    """A file of rows; `-` is standard input, and a URL is refused as what it is."""

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Any:
        if re.match(r"[a-z][a-z0-9+]*://", str(value)):
            raise GovorError(f"{value}: a URL: download the file and give its path")
        if str(value) != "-":
            return Path(value)
        from train.core.files import standard_input

        return standard_input()


ROWS = RowsFile()


@click.group(cls=Govor, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="govor")
def main() -> None:
    """Tune an open model on a person's chats.

    \b
    govor validate data/natasha.jsonl
    govor train configs/natasha.yaml
    govor eval runs/natasha
    govor chat runs/natasha
    govor merge runs/natasha
    """
    for stream in (sys.stdin, sys.stdout, sys.stderr):  # Cyrillic also where the terminal's own encoding lacks it
        stream.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]


for verb in VERBS:
    main.add_command(verb)


@main.command()
@click.argument("files", nargs=-1, required=True, type=ROWS)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, nothing else.")
def validate(files: tuple[Path, ...], as_json: bool) -> None:
    """Check JSONL files of chat rows: every problem with its line; - is standard input.

    A file in another format is named as what it is, with what to do.
    """
    from train.chats.checks import validate as check

    raise SystemExit(0 if check(files, as_json=as_json) else 1)


@main.command()
@click.argument("file", type=ROWS)
@click.option("--to", "target", required=True, type=click.Choice(TARGETS), help="Format to write.")
@click.option("-o", "--output", required=True, type=PATH, help="File to write.")
@click.option(
    "--when-lossy",
    type=click.Choice(["refuse", "drop", "split"]),
    default="refuse",
    show_default=True,
    help="What the format cannot say: refuse; drop it and count; split into one row for each trained answer.",
)
@click.option("--columns", metavar="Q,A", help="Names of the columns, or keys, with question and answer.")
@click.option(
    "--template", metavar="TEXT", help="How texts in `text` are made: '<s>[INST] {question} [/INST] {answer}</s>'."
)
@click.option("--force", is_flag=True, help="Replace the file.")
def convert(
    file: Path, target: str, output: Path, when_lossy: str, columns: str | None, template: str | None, force: bool
) -> None:
    """Rows of any known format, written in another; - is standard input.

    Reads OpenAI chat, ShareGPT, Alpaca, prompt-completion, question-answer, Gemini and preference rows as JSONL, JSON
    array, CSV, TSV or .xlsx, also gzip and zstd.
    """
    from train.chats.readers import ReadAs
    from train.chats.writers import convert_file

    names = [name.strip() for name in columns.split(",")] if columns is not None else None
    if names is not None and (len(names) != 2 or not all(names)):
        raise GovorError(f"--columns {columns!r}: expected two names, of question and answer: --columns Вопрос,Ответ")
    if names and template:
        raise GovorError("--columns names two columns, --template takes one apart: give one of them")
    read_as = ReadAs((names[0], names[1]) if names else None, template)
    convert_file(file, target, output, when_lossy=when_lossy, force=force, read_as=read_as)


@main.command()
@click.argument("name", metavar="OWNER/NAME")
@click.option("--from", "source", type=click.Choice(["hub", "modelscope"]), default="hub", show_default=True)
@click.option("--endpoint", metavar="URL", help="A mirror of the Hub; it is sent no token.  [default: HF_ENDPOINT]")
@click.option("--revision", help="Branch, tag or commit, as model.revision.")
@click.option("--trust-remote-code", "code", is_flag=True, help="Also Python files, for model.trust_remote_code.")
def fetch(name: str, source: str, endpoint: str | None, revision: str | None, code: bool) -> None:
    """Fetch a base, or what is missing of it, and compare every file's hash with the Hub's.

    \b
    govor fetch Qwen/Qwen3-0.6B
    govor fetch Qwen/Qwen3-0.6B --endpoint https://hf-mirror.com
    """
    from train.models.fetch import fetch as fetch_base

    if endpoint and source == "modelscope":
        raise GovorError("--endpoint is a mirror of the Hub: leave it out with --from modelscope")
    print(fetch_base(name, modelscope=source == "modelscope", endpoint=endpoint, revision=revision, code=code))


@main.command()
@click.argument("config", type=PATH)
@click.argument("arguments", nargs=-1, metavar="[key=value …] [-- ACCELERATE FLAGS]")
@click.option("--resume", is_flag=True, help="Go on with an unfinished run from its last checkpoint.")
def train(config: Path, arguments: tuple[str, ...], resume: bool) -> None:
    """Train as the YAML file CONFIG says: prints the accelerate command and runs it.

    \b
    govor train configs/natasha.yaml training.max_steps=30
    govor train configs/natasha.yaml -- --config_file configs/accelerate/ddp.yaml
    """
    from train.tuning.processes import launch

    if launch(config, arguments, resume=resume) != 0:
        raise SystemExit(2)  # sft.py has said why


@main.command()
@click.argument("exports", type=PATH, nargs=-1, required=True, metavar="EXPORT…")
@click.option(
    "--persona",
    multiple=True,
    required=True,
    metavar="NAME|ID",
    help="Whose answers are to be learned; again for another account of hers.",
)
@click.option("--slug", "--name", metavar="WORD", help="Beginning of the files' names.  [default: her first name]")
@click.option("--gap-hours", default=6.0, show_default=True, help="Silence after which a new dialogue begins.")
@click.option(
    "--answer-within",
    default=36.0,
    show_default=True,
    help="Hours within which, between two people, an answer is one also after such a silence.",
)
@click.option(
    "--media",
    type=click.Choice(["leave-out", "label"]),
    default="leave-out",
    show_default=True,
    help="Voice messages, photos, …: leave out what answers them, or keep it behind [голосовое], [фото].",
)
@click.option("--leave-out", type=PATH, metavar="FILE", help="Leave out messages with these words, one a line.")
@click.option("--since", type=click.DateTime(["%Y-%m-%d"]), help="The first day.")
@click.option("--until", type=click.DateTime(["%Y-%m-%d"]), help="The last day.")
@click.option("--most-per-chat", type=click.IntRange(1), help="Take so many exchanges of a chat, the latest.")
@click.option("--system", help="System message put before every row.")
@click.option("--scrub/--no-scrub", default=True, show_default=True, help="Replace personal data and others' names.")
@click.option("--placeholders", is_flag=True, help="Names become <ИМЯ_1>, … instead of invented names.")
@click.option("-o", "--output", type=PATH, default=Path(), help="Folder for the files.")
@click.option("--force", is_flag=True, help="Replace the files.")
def collect(
    exports: tuple[Path, ...],
    persona: tuple[str, ...],
    slug: str | None,
    gap_hours: float,
    answer_within: float,
    media: str,
    leave_out: Path | None,
    since: datetime | None,
    until: datetime | None,
    most_per_chat: int | None,
    system: str | None,
    scrub: bool,
    placeholders: bool,
    output: Path,
    force: bool,
) -> None:
    """Make training rows from exports of chats: files, folders, or zip archives.

    Telegram (result.json or messages.html), WhatsApp (text or zip), VK's archive, Discord (DiscordChatExporter's JSON),
    Instagram, ChatGPT's conversations.json.
    """
    from train.chats.telegram.collect_export import collect_exports, words_filter
    from train.chats.telegram.dialogues import Selection

    selection = Selection(
        gap_hours=gap_hours,
        answer_within=answer_within,
        media_labels=media == "label",
        since=since.date() if since else None,
        until=until.date() if until else None,
        leave_out=words_filter(leave_out) if leave_out else None,
        most_exchanges=most_per_chat,
    )
    options = {"scrub": scrub, "placeholders": placeholders, "force": force}
    collect_exports(exports, persona, output, selection, slug=slug, system=system, **options)


@main.command()
@click.argument("file", type=PATH)
@click.option("--name", "names", multiple=True, help="A name to replace in all its forms; may be repeated.")
@click.option("--keep", multiple=True, help="A name that stays, such as the persona's; may be repeated.")
@click.option("--placeholders", is_flag=True, help="Names become <ИМЯ_1>, … instead of invented names.")
@click.option("-o", "--output", type=PATH, help="File to write.  [default: FILE_scrubbed.jsonl]")
@click.option("--force", is_flag=True, help="Replace the file.")
def scrub(
    file: Path, names: tuple[str, ...], keep: tuple[str, ...], placeholders: bool, output: Path | None, force: bool
) -> None:
    """Replace personal data in rows by placeholders, names by invented ones of the same gender and form.

    What was replaced goes to a private file beside the rows.
    """
    from train.chats.scrub_rows import scrub_file

    scrub_file(file, output, names=names, keep=keep, placeholders=placeholders, force=force)


@main.command()
@click.argument("file", type=PATH)
@click.option("--base", help="Count tokens with this model's tokenizer: Hub id or folder.")
@click.option(
    "--chat-template", metavar="NAME|FILE", help="Template for a --base without one; see model.chat_template."
)
@click.option("--max-length", type=int, help="Count rows longer than this, in tokens; needs --base.")
@click.option(
    "--topics",
    type=PATH,
    help="Topics as lists of words, in YAML like train/chats/topics.yaml.  [default: from the rows themselves]",
)
@click.option(
    "--good",
    multiple=True,
    metavar="KEY=VALUE",
    help="What a good row is: min_answer, max_answer, min_letters or similar; may be repeated.",
)
@click.option("--lang", type=click.Choice(["ru", "en"]), help="Language of the page.  [default: by locale]")
@click.option("-o", "--output", type=PATH, default=Path(), help="Folder for dataset_stats.json and dataset_stats.html.")
@click.option("--force", is_flag=True, help="Replace the files.")
def analyze(
    file: Path,
    base: str | None,
    chat_template: str | None,
    max_length: int | None,
    topics: Path | None,
    good: tuple[str, ...],
    lang: Literal["ru", "en"] | None,
    output: Path,
    force: bool,
) -> None:
    """Lengths, topics, duplicates, personal data left and quality of training rows."""
    from train.chats.statistics import good_of
    from train.chats.statistics_page import analyze as analyze_file
    from train.encoding.token_counter import token_counter

    if base is None and (max_length is not None or chat_template):
        raise GovorError("--max-length and --chat-template are for counting tokens: give --base too")
    load_counter = partial(token_counter, base, chat_template) if base else None
    analyze_file(
        file,
        output,
        topics_file=topics,
        load_counter=load_counter,
        max_length=max_length,
        good=good_of(good),
        lang=lang,
        force=force,
    )


@main.command()
@click.argument("files", nargs=-1, type=ROWS)
@click.option("--run", type=PATH, metavar="RUN", help="The run to go on from: its held-out questions are left out.")
@click.option(
    "--answers",
    type=click.IntRange(min=1),
    metavar="N",
    help="Also N of RUN's training answers, preferred to what its model says.",
)
@click.option("--output", "-o", type=PATH, required=True, metavar="FILE", help="Where the preference rows go.")
@click.option("--liked", type=PATH, metavar="FILE", help="Where answers with 👍 go too, as rows to train on.")
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
def preferences(
    files: tuple[Path, ...], run: Path | None, answers: int | None, output: Path, liked: Path | None, force: bool
) -> None:
    """Make preference rows from votes, edited answers, 👍 and 👎, and from training answers.

    FILES hold what `govor bot` and `govor vote` keep. A config with a section dpo learns from the rows.

    \b
    govor preferences feedback.jsonl --run runs/natasha -o pairs.jsonl
    govor preferences --run runs/natasha --answers 200 -o pairs.jsonl
    """
    from train.evaluation.preferences import make_preferences

    for line in make_preferences(files, run, answers, output, liked=liked, force=force):
        print(line)


@main.command(name="inspect")
@click.argument("config", type=PATH)
@click.argument("overrides", nargs=-1, metavar="[key=value …]")
@click.option("--row", type=int, help="The row at this line of the training file; without it the first three.")
@click.option("--json", "as_json", is_flag=True, help="Ids, labels and tokens as JSON; of every row without --row.")
def inspect_rows(config: Path, overrides: tuple[str, ...], row: int | None, as_json: bool) -> None:
    """Show rows as the model sees them: trained tokens, context, what is cut, what the template adds."""
    from train.core.config import load_config
    from train.encoding.preview import inspect

    inspect(load_config(config, overrides), row, as_json=as_json)


@main.command()
@click.argument("config", type=PATH)
@click.argument("overrides", nargs=-1, metavar="[key=value …]")
@click.option("--gpu", metavar="GPU", help="Card to fit: its memory (8GB) or its name (RTX 4090).")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: bytes, tokens, seconds, US dollars.")
def plan(config: Path, overrides: tuple[str, ...], gpu: str | None, as_json: bool) -> None:
    """Parameters, memory, steps, time and price of a run, before anything runs. Needs no GPU and no network.

    Exit code 1 where it does not fit the given card.
    """
    from train.core.config import load_config
    from train.plan.show import show_plan

    raise SystemExit(0 if show_plan(load_config(config, overrides), gpu, as_json=as_json) else 1)


@main.command(name="eval")
@click.argument("run", type=PATH)
@click.option("--quick", is_flag=True, help="Losses and the config's prompts alone.")
@click.option("--samples", type=click.IntRange(min=1), help="Answers to each held-out prompt.  [default: 128 in all]")
@click.option("--via", metavar="URL", help="Judge what this OpenAI-compatible server answers (key: GOVOR_API_KEY).")
@click.option("--model", metavar="NAME", help="The server's model.  [default: the first that it lists]")
@click.option("--answers", type=PATH, help="Judge these answers: rows as in training, each with its prompt.")
@click.option("--checkpoints", is_flag=True, help="Judge each saved state as well, and name the one to keep.")
@click.option("--gate", is_flag=True, help="Exit code 1 where the model recites training rows, 2 where nobody can say.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, as in RUN/evaluation/evaluation.json.")
@click.option("--lang", type=click.Choice(["ru", "en"]), help="Language of report.html.  [default: by locale]")
@JUDGE
@click.option("--votes", metavar="NAME", help="Try the judge on the votes of this comparison, too.")
@BUDGET
@TRUST
def evaluate_run(
    run: Path,
    gate: bool,
    as_json: bool,
    trust_remote_code: bool,
    judge: str | None,
    rubric: Path | None,
    votes: str | None,
    budget: str | None,
    max_tokens: int | None,
    dry_run: bool,
    **how: Any,
) -> None:
    """What training changed: losses and answers before and after, manner, copies, what was forgotten.

    Answers are sampled to every held-out prompt and kept in RUN/evaluation; nothing is sent anywhere without --via or
    --judge. A judge gets the held-out prompts and all answers, scores them by a rubric, and compares tuned with base.
    """
    from train.core.runs import open_run
    from train.evaluation.show import show_evaluation
    from train.jobs.data_folder import models_of

    if judge and (how["quick"] or how["answers"] or as_json):
        raise GovorError("--judge does not go with --quick, --answers and --json: judge.json is for programs")
    if gate and how["quick"]:
        raise GovorError("--gate does not go with --quick, which looks for no copies")
    if not judge and (rubric or votes or budget or max_tokens or dry_run):
        raise GovorError("--rubric, --votes, --budget, --max-tokens and --dry-run are for a judge: give --judge too")
    opened = open_run(run, trust_remote_code=trust_remote_code)
    evaluation = show_evaluation(opened, **how, as_json=as_json)
    if judge:
        from train.remote.judge import judge_run

        limits = {"budget": budget, "max_tokens": max_tokens, "dry_run": dry_run}
        names = models_of(opened.path)
        judge_run(opened, evaluation, judge, names=names, rubric_file=rubric, votes=votes, **limits)  # type: ignore[arg-type]
    if gate and evaluation.recites is None:
        raise GovorError("--gate: nothing was measured that it asks for: above stands what is missing")
    raise SystemExit(1 if evaluation.recites and gate else 0)


@main.command()
@click.argument("run", type=PATH)
@click.option(
    "--target",
    type=click.Choice(["16bit", "nf4"]),
    default="16bit",
    show_default=True,
    help="What takes the adapter: the base's own weights, or what NF4 left of them in QLoRA training.",
)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="Where to compute.  [default: as the run was told]")
@click.option("--force", is_flag=True, help="Replace a merged model that is there.")
@click.option("--compare", is_flag=True, help="Measure the drift of the other target too, without keeping it.")
@click.option(
    "--max-drift",
    type=click.FloatRange(min=0),
    help="Mean KL that passes, in nats a token.  [default: 0.1, or half of what the adapter changed]",
)
@click.option("--no-drift", is_flag=True, help="Merge without measuring: the model is never loaded whole.")
@TRUST
def merge(
    run: Path,
    target: "Target",
    device: "Device | None",
    force: bool,
    compare: bool,
    max_drift: float | None,
    no_drift: bool,
    trust_remote_code: bool,
) -> None:
    """Fold the adapter into the base, one model in RUN/merged, and prove on held-out rows that it answers as before.

    Exit code 1 where it does not.
    """
    from train.core.locks import hold_folder
    from train.core.runs import open_run
    from train.merging.merge import merge as merge_run
    from train.merging.merge import report

    if no_drift and (compare or max_drift is not None):
        raise GovorError("--no-drift measures nothing: leave out --compare and --max-drift")
    opened = open_run(run, trust_remote_code=trust_remote_code)
    with hold_folder(run, "merge"):
        result = merge_run(
            opened,
            target,
            device=device,
            force=force,
            measure=not no_drift,
            compare=compare,
            max_drift=max_drift,
        )
    print(report(result, measured=not no_drift))
    raise SystemExit(1 if result.passed is False else 0)


@main.command()
@click.argument("source", type=PATH, metavar="RUN|CONFIG")
@click.argument("overrides", nargs=-1, metavar="[key=value …]")
@click.option(
    "--to", "target", required=True, type=click.Choice(["llamafactory", "gguf", "ollama"]), help="Tool to write for."
)
@click.option("-o", "--output", type=PATH, help="Folder or .gguf file.  [default: in RUN/exports]")
@click.option("--quantization", help="Type of the GGUF's weights: f16, bf16, q8_0, q4_k_m, …  [default: the model's]")
@click.option("--force", is_flag=True, help="Replace an earlier export.")
@TRUST
def export(
    source: Path,
    overrides: tuple[str, ...],
    target: "ExportTarget",
    output: Path | None,
    quantization: str | None,
    force: bool,
    trust_remote_code: bool,
) -> None:
    """Write a run for other tools: a folder for LLaMA-Factory, a GGUF file for llama.cpp, or one for Ollama.

    \b
    govor export runs/natasha --to llamafactory
    govor export runs/natasha --to ollama --quantization q4_k_m

    LLaMA-Factory's folder can also be written from a config that has not run yet.
    """
    from train.core.locks import hold_folder
    from train.exports import export as write_export

    with hold_folder(source, "export") if (source / "manifest.json").is_file() else nullcontext():
        passed = write_export(
            source,
            overrides,
            target,
            output,
            quantization=quantization,
            force=force,
            trust_remote_code=trust_remote_code,
        )
    raise SystemExit(0 if passed else 1)


@main.command()
@click.argument("run", type=PATH)
@click.argument("repo", metavar="OWNER/NAME")
@click.option(
    "--adapter", "artifact", flag_value="adapter", default=True, help="The adapter, for PEFT, vLLM.  [default]"
)
@click.option("--merged", "artifact", flag_value="merged", help="The merged model, for transformers and vLLM.")
@click.option("--gguf", "artifact", flag_value="gguf", help="The GGUF files of RUN/exports, for Ollama and llama.cpp.")
@click.option("--private/--public", default=True, show_default=True, help="Who sees the repository.")
@click.option("--base", metavar="OWNER/NAME", help="The base's name on the Hub, where the run was trained on a folder.")
@click.option("--license", "licence", metavar="ID", help="As the Hub writes it: apache-2.0, …  [default: the base's]")
@click.option("--language", "languages", metavar="CODE", multiple=True, help="Of the dialogues.  [default: as found]")
@click.option("--source", metavar="TEXT", help="Where the dialogues come from, for the card.")
@click.option("--samples/--no-samples", default=None, help="Answers in the card.  [default: those that quote no row]")
@click.option(
    "--allow",
    multiple=True,
    type=click.Choice(["secret", "personal-data", "path", "license", "gates"]),
    help="Send although this speaks against it; may be repeated.",
)
@click.option("--force", is_flag=True, help="Write into a repository that holds something else.")
@click.option("--dry-run", is_flag=True, help="List the files and show the card; no network.")
def push(
    run: Path,
    repo: str,
    artifact: "Artifact",
    private: bool,
    base: str | None,
    licence: str | None,
    languages: tuple[str, ...],
    source: str | None,
    samples: bool | None,
    allow: "tuple[ObjectionKind, ...]",
    force: bool,
    dry_run: bool,
) -> None:
    """Send a run to the Hugging Face Hub with a model card; into a private repository unless told otherwise.

    \b
    govor push runs/natasha ivan/natasha --dry-run
    govor push runs/natasha ivan/natasha-gguf --gguf --public --source "invented dialogues"

    Exit code 1 where something speaks against it: a secret, personal data, the base's licence, a failed gate.
    """
    from train.core.runs import open_run
    from train.exports.hub.push import CardOptions
    from train.exports.hub.push import push as send_run

    options = CardOptions(base, licence, languages, source, samples)
    send_run(open_run(run), repo, artifact, options, private=private, allow=allow, force=force, dry_run=dry_run)


@main.command()
@click.argument("arguments", nargs=-1, required=True, metavar="RUN… [-- VLLM FLAGS]")
@_server
@click.option(
    "--engine",
    type=click.Choice(["auto", "vllm", "transformers"]),
    default="auto",
    show_default=True,
    help="auto: vLLM where it is found, else transformers serve, which needs the merged model.",
)
@click.option("--vllm", "program", envvar="GOVOR_VLLM", help="vLLM's program; also from GOVOR_VLLM.  [default: vllm]")
@click.option("--merged", is_flag=True, help="Serve the merged model also where vLLM could take base + adapter.")
@click.option("--allow-template-drift", is_flag=True, help="Serve although prompts differ from training's.")
@TRUST
def serve(
    arguments: tuple[str, ...],
    host: str,
    port: int,
    key: str | None,
    allow_host: tuple[str, ...],
    allow_origin: tuple[str, ...],
    system: str,
    engine: "EngineName",
    program: str | None,
    merged: bool,
    allow_template_drift: bool,
    trust_remote_code: bool,
) -> None:
    """Serve runs by name over the OpenAI API, until Ctrl-C.

    \b
    govor serve runs/natasha
    govor serve runs/natasha runs/anton --port 8080 -- --gpu-memory-utilization 0.5
    """
    from train.core.launch import split_at_flags
    from train.core.runs import open_run
    from train.serving.guard import Access
    from train.serving.serve import serve as serve_runs

    runs, flags = split_at_flags(arguments)
    serve_runs(
        [open_run(Path(run), trust_remote_code=trust_remote_code) for run in runs],
        host=host,
        port=port,
        access=Access(key, (*allow_host, host.partition("%")[0]), allow_origin),
        engine=engine,
        merged=merged,
        program=program,
        allow_template_drift=allow_template_drift,
        system=system == "run",
        flags=flags,
    )


@main.command()
@click.argument("target")
@click.option("--prompt", help="Print one answer and leave.")
@click.option("--merged", is_flag=True, help="Use the merged model of the run, not base + adapter.")
@click.option("--system", help="System message.  [default: that of the run's rows, if they share one]")
@click.option("--model", help="Name of the model at a URL, where several are served.")
@KEY
@TRUST
def chat(
    target: str,
    prompt: str | None,
    merged: bool,
    system: str | None,
    model: str | None,
    key: str | None,
    trust_remote_code: bool,
) -> None:
    """Talk to a run, a model folder, or a model that is served at a URL."""
    from train.serving.chat import chat as talk

    if prompt is not None and not prompt.strip():
        raise GovorError("--prompt is empty")
    talk(
        target,
        merged=merged,
        prompt=prompt,
        system=system,
        model=model,
        key=key,
        trust_remote_code=trust_remote_code,
    )


@main.command()
@click.argument("url")
@click.option("--model", help="Name of the model at the URL, where several are served.")
@KEY
@click.option("--data-dir", type=PATH, default=Path("runs/bot"), show_default=True, help="Conversations, feedback.")
@click.option("--allow", multiple=True, metavar="ID|@NAME", help="Who may talk, or a group.  [default: everybody]")
@click.option(
    "--per-minute",
    default=20,
    show_default=True,
    type=click.IntRange(1),
    help="Messages and presses of one user that are answered a minute.",
)
@click.option(
    "--per-second", default=25.0, show_default=True, type=click.FloatRange(0.1), help="Messages and edits, all chats."
)
@click.option("--texts", type=PATH, help="The bot's own words.  [default: govor's texts.yaml]")
@click.option("--bot-api", metavar="URL", help="A Bot API server of your own.  [default: https://api.telegram.org]")
def bot(
    url: str,
    model: str | None,
    key: str | None,
    data_dir: Path,
    allow: tuple[str, ...],
    per_minute: int,
    per_second: float,
    texts: Path | None,
    bot_api: str | None,
) -> None:
    """Talk in Telegram as a model that is served at a URL, until Ctrl-C. The token is taken from TELEGRAM_BOT_TOKEN.

    \b
    govor serve runs/natasha
    govor bot http://127.0.0.1:8000
    """
    try:
        from train.bot.handlers import Rules
        from train.bot.model import ServedModel
        from train.bot.run import TEXTS, run_bot
    except ModuleNotFoundError as error:
        if error.name != "aiogram":
            raise
        raise MachineError("aiogram is not installed: pip install 'govor[bot]'") from None

    rules = Rules(allow, per_minute)
    run_bot(
        ServedModel(url, key, model),
        data_dir,
        rules=rules,
        texts=texts or TEXTS,
        per_second=per_second,
        bot_api=bot_api,
    )


FOLDERS = click.argument("folders", nargs=-1, type=PATH, metavar="[FOLDER…]")


@main.command()
@FOLDERS
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def runs(folders: tuple[Path, ...], as_json: bool) -> None:
    """List runs with state, losses, speed and time left: those in runs/ here, or in other project folders."""
    from train.studio.run_list import print_runs
    from train.studio.serve import require_folders

    require_folders(folders)
    print_runs(folders or (Path(),), as_json=as_json)


@main.command()
@FOLDERS
@click.option("--host", default="127.0.0.1", show_default=True, help="Address; beyond loopback with a key only.")
@click.option("--port", default=7860, show_default=True, type=click.IntRange(0, 65535), help="0: any free one.")
@click.option("--server", "servers", multiple=True, metavar="URL", help="An OpenAI API to talk to; may be repeated.")
@KEY
@click.option("--allow-host", multiple=True, metavar="NAME", help="Another name of this machine in Host.")
def studio(
    folders: tuple[Path, ...],
    host: str,
    port: int,
    servers: tuple[str, ...],
    key: str | None,
    allow_host: tuple[str, ...],
) -> None:
    """A page in the browser for the runs and rows of project folders: live curves, samples, chat, new trainings.

    \b
    govor studio
    govor studio --server http://127.0.0.1:8000/v1

    A project folder has runs/ and data/ in it, or runs and files of rows; without one it is the working folder.
    """
    from train.serving.guard import Access
    from train.studio.app import Studio
    from train.studio.serve import require_folders, serve

    require_folders(folders)
    access = Access(key, (*allow_host, host.partition("%")[0]))
    serve(Studio(folders or (Path(),), servers, key), host=host, port=port, access=access)


@main.group()
def jobs() -> None:
    """The OpenAI fine-tuning API on this machine: a server, and a look at its jobs."""


@jobs.command(name="serve")
@_server
@click.option("--data-dir", type=PATH, default=Path("runs/jobs"), show_default=True, help="Files, jobs, models.")
@click.option("--catalogue", type=PATH, help="YAML of the bases that clients may name.  [default: govor's]")
@click.option("--slots", type=click.IntRange(1), help="Jobs at once, one a GPU.  [default: 1; on a cluster 100]")
@click.option("--executor", default="local", show_default=True, type=click.Choice(["local", "ray"]), help="Who trains.")
@click.option("--ray-address", metavar="URL", help="Ray's dashboard, such as http://HEAD:8265.")
@click.option("--database-dir", type=PATH, help="Databases, on a disk of the server's own.  [default: --data-dir]")
def jobs_serve(
    host: str,
    port: int,
    key: str | None,
    allow_host: tuple[str, ...],
    allow_origin: tuple[str, ...],
    system: str,
    data_dir: Path,
    catalogue: Path | None,
    slots: int | None,
    executor: str,
    ray_address: str | None,
    database_dir: Path | None,
) -> None:
    """Take files and fine-tuning jobs from the openai SDK, train them in turn, answer chats with the result."""
    from train.jobs.bases import DEFAULT_CATALOGUE, load_catalogue
    from train.jobs.server import serve
    from train.serving.guard import Access
    from train.studio.app import Studio, add_studio

    if (executor == "ray") != bool(ray_address) or (executor == "ray" and not database_dir):
        raise click.UsageError("--executor ray, --ray-address and --database-dir go together: see train/jobs/README.md")
    bases = load_catalogue(catalogue or DEFAULT_CATALOGUE)
    access = Access(key, (*allow_host, host.partition("%")[0]), allow_origin)
    serve(
        data_dir,
        bases,
        host=host,
        port=port,
        access=access,
        slots=slots or (100 if ray_address else 1),
        system=system == "run",
        pages=partial(add_studio, studio=Studio([data_dir], jobs=True)),
        ray_address=ray_address,
        database_folder=database_dir,
    )


def _to_server(command: Any) -> Any:
    """Options that name the server."""
    url = click.option("--url", default="http://127.0.0.1:8000/v1", show_default=True, help="The server's base URL.")
    return url(KEY(command))


@jobs.command(name="list")
@_to_server
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 1000), help="How many, newest first.")
@click.option("--json", "as_json", is_flag=True, help="The jobs as JSON.")
def jobs_list(url: str, key: str | None, limit: int, as_json: bool) -> None:
    """The newest jobs: id, status, base, model."""
    from train.jobs.client import Client, list_jobs

    list_jobs(Client(url, key), limit, as_json=as_json)


@jobs.command(name="show")
@click.argument("job")
@_to_server
@click.option("--events", default=20, show_default=True, type=click.IntRange(1, 1000), help="How many of the last.")
@click.option("--json", "as_json", is_flag=True, help="The job as JSON, without events.")
def jobs_show(job: str, url: str, key: str | None, events: int, as_json: bool) -> None:
    """One job and its last events."""
    from train.jobs.client import Client, show_job

    show_job(Client(url, key), job, events, as_json=as_json)


@jobs.command(name="cancel")
@click.argument("job")
@_to_server
def jobs_cancel(job: str, url: str, key: str | None) -> None:
    """End a job; what it has learned so far stays in its run folder."""
    from train.jobs.client import Client, job_line

    print(job_line(Client(url, key).cancel(job)))


@jobs.command(name="nodes")
@_to_server
@click.option("--json", "as_json", is_flag=True, help="The nodes as JSON.")
def jobs_nodes(url: str, key: str | None, as_json: bool) -> None:
    """The machines that train: name, cards, jobs."""
    from train.jobs.client import Client, list_nodes

    list_nodes(Client(url, key), as_json=as_json)


if __name__ == "__main__":
    main()
