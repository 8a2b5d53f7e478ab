"""README.md of a folder for LLaMA-Factory: what to run, how its template renders, what has no counterpart."""

from collections.abc import Iterator, Mapping

from train.core.config import Config
from train.encoding.rows import Encoding
from train.exports.llamafactory.rows import RowsFile
from train.exports.llamafactory.templates import TemplateChoice


def readme(
    config: Config,
    choice: TemplateChoice | None,
    left_out: Mapping[str, str],
    rows: RowsFile,
    held_out: RowsFile,
    train: Encoding,
    *,
    tuned: bool,
) -> tuple[str, list[str]]:
    """(the page, those of its lines that the user is to see). `tuned`: the folder is of a finished run."""
    rendering = list(_rendering(choice, chosen=config.model.chat_template is not None))
    differing = [*rendering[1:], *_rows(rows, held_out)]
    lacking = [f"`{name}`: {why}" for name, why in left_out.items()]
    if config.data.too_long != "error" and train.report.dropped + train.report.truncated + train.report.split:
        lacking.append(f"`data.too_long: {config.data.too_long}`: the rows are here as it left them")
    lacking.append("`prompts`: the questions answered before and after training")
    lacking.append("`training.kernels`: govor's own faster code; LLaMA-Factory has enable_liger_kernel and use_unsloth")
    lacking.append("the longest batch tried before the first step; the check that served prompts equal trained ones")
    text = "\n".join(_page(config, [*rendering[:1], *differing], lacking, tuned=tuned))
    return text, [*differing, *(f"no counterpart: {line}" for line in lacking[: len(left_out)])]


def _page(config: Config, rendering: list[str], lacking: list[str], *, tuned: bool) -> Iterator[str]:
    yield f"# {config.name} for LLaMA-Factory 0.9.5\n"
    yield "Written by `govor export`. Run in this folder:\n"
    yield "```bash"
    yield "llamafactory-cli train train.yaml        # trains into saves/"
    if config.lora:
        source = "adapter/" if tuned else "saves/"
        yield f"llamafactory-cli export merge.yaml       # {source} into the base: merged/"
    yield "llamafactory-cli chat inference.yaml"
    yield "llamafactory-cli api api.yaml            # an OpenAI API on port 8000 (API_PORT)"
    yield "```\n"
    if config.lora and tuned:
        yield "`adapter/` is what govor trained. For LLaMA-Factory's own result say `adapter_name_or_path: saves`.\n"
    yield "`llamafactory-cli train` uses every GPU that it sees, and the batch grows with them; CUDA_VISIBLE_DEVICES=0 "
    yield "leaves it one."
    yield "\n## Rows\n"
    yield "`train.yaml` trains on `tokenized/`, the ids and labels that govor trains on, and then reads no other rows. "
    yield "To change rows, edit `train.jsonl` and `held_out.jsonl` and delete `tokenized/`; LLaMA-Factory then renders "
    yield "them by its own template, and keeps the result in `tokenized/`.\n"
    yield from (f"- {line}" for line in rendering)
    yield "\n## Without a counterpart\n"
    yield from (f"- {line}" for line in lacking)
    yield ""


def _rendering(choice: TemplateChoice | None, *, chosen: bool) -> Iterator[str]:
    """Lines on how its template renders these rows; the first one is for the page alone."""
    if choice is None:
        yield "Template: none."
        yield (
            "no template of LLaMA-Factory renders prompts as the model's own does: `template` is left out, so that it "
            "reads the model's own as well as it can; compare before you serve with it"
        )
        if chosen:
            yield "the base's tokenizer lacks the run's template (model.chat_template): chat with the merged model"
        return
    name, compared = choice.template.name, choice.compared
    thinking = "" if choice.thinking else " with `enable_thinking: false`"
    yield (
        f"Template `{name}`{thinking}: of {compared} rows compared, {choice.same_prompts} get the prompt that govor "
        f"trains after, {choice.same_ids} the same ids as a whole, {choice.same_labels} the same labels."
    )
    if choice.same_prompts < compared:
        yield (
            f"template {name} renders {compared - choice.same_prompts} of {compared} prompts otherwise than the "
            "model's own: chat and api answer other prompts there than those trained"
        )
    if choice.same_ids < compared:
        yield (
            f"template {name} renders {compared - choice.same_ids} of {compared} whole rows otherwise: "
            "without tokenized/ training is another"
        )
    if choice.same_labels < choice.same_ids:
        yield (
            "without tokenized/ it also learns what stands behind the end of a turn "
            f"({choice.same_ids - choice.same_labels} of {compared} rows)"
        )


def _rows(rows: RowsFile, held_out: RowsFile) -> Iterator[str]:
    """Lines on what the text files do not hold."""
    skipped = rows.skipped + held_out.skipped
    if skipped:
        yield f"{skipped} rows do not go question, answer, question, …: they are in tokenized/ alone"
    lost = rows.lost + held_out.lost
    for what, count in sorted(lost.items()):
        yield f"{what} of {count} rows: the text files have no place for them, tokenized/ keeps them"
