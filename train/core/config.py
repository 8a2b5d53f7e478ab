"""Every option once: its name, type, default and effect.

Default → YAML → `key=value` on the command line → one frozen `Config`. Names are the ecosystem's: `model` follows
transformers' `from_pretrained`, `lora` follows PEFT's `LoraConfig`, `generation` follows `GenerationConfig`, and
`training` takes every field of TRL's `SFTConfig` (those named here have a default of ours; train/README.md says why).
"""

import difflib
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    create_model,
    model_validator,
)

from train.core import compat
from train.core.bounded_yaml import BoundedLoader
from train.core.errors import ConfigError
from train.core.secrets import find_secrets, mask_secrets

Place = tuple[str | int, ...]
"""The path of an option: ("training", "learning_rate")."""


class Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=(), allow_inf_nan=False
    )


class Model(Section):
    """The base model and how it is loaded."""

    name_or_path: str
    """Hub id or local folder of the base model."""
    revision: str | None = None
    """Branch, tag or commit on the Hub; the commit really used goes into manifest.json."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Type of the base weights. auto: the best 16-bit type of the GPU (float32 for full tuning, with 16-bit autocast);
    float32 on a CPU."""
    load_in_4bit: bool = False
    """QLoRA: hold the base in NF4 with double quantisation, about 0.55 byte a parameter."""
    attn_implementation: str = "sdpa"
    """Attention code, as transformers names it: sdpa, eager, flash_attention_2, …"""
    trust_remote_code: bool = False
    """Run Python code that the model's repository brings along. A run folder cannot ask for it: verbs on a run have
    --trust-remote-code."""
    chat_template: str | None = None
    """Chat template for a base that has none: a name among TRL's, such as qwen3, or a .jinja file, relative to the
    working folder. It also replaces a template that the base has, which is said and recorded."""


class Data(Section):
    """The rows to train on and those held out."""

    train_file: Path
    """JSONL, one `{"messages": […]}` a line, relative to the working folder."""
    eval_file: Path | None = None
    """Held-out rows in a file of their own; without it they are taken from train_file."""
    eval_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of train_file that is held out. 0: nothing is held out and nothing is evaluated."""
    unreviewed: bool = False
    """Train also on rows that `govor generate` made and nobody has reviewed (`govor review`)."""
    too_long: Literal["error", "drop", "truncate", "split"] = "error"
    """What becomes of rows longer than training.max_length.

    error: refused, by line and length; drop: left out; truncate: cut behind the last answer that fits; split: made into
    several rows that fit, each answer trained once.
    """
    special_tokens: Literal["error", "strip"] = "error"
    """What becomes of special tokens of the base that stand typed in a message, such as <|im_end|>.

    error: refused, by line; strip: taken out of the text.
    """
    rewritten_history: Literal["last_turn", "split"] = "last_turn"
    """Rows whose earlier answers the chat template rewrites once others follow (it takes thoughts out of them, say).
    last_turn: their last answer is trained; split: each answer in a row of its own, after its prompt as served."""


PissaIterations = Annotated[str, Field(pattern=r"^pissa_niter_[1-9][0-9]*$")]


class Lora(Section):
    """The adapter. `lora: null` tunes every weight instead."""

    r: PositiveInt = 16
    """Rank: trainable parameters grow with it in proportion."""
    lora_alpha: PositiveInt = 32
    """The adapter's output is scaled by lora_alpha / r."""
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the adapter's inputs set to zero while training."""
    target_modules: str | list[str] = "all-linear"
    """Layers that get an adapter: names, a regular expression, or all-linear (every linear layer but the head).

    all-linear may stand among names; each name must fit a layer of the base.
    """
    use_rslora: bool = False
    """Scale by lora_alpha / √r instead, for large ranks."""
    use_dora: bool = False
    """Learn each weight's length apart from its direction: slower, at times better at small ranks."""
    init_lora_weights: Literal[True, "gaussian", "orthogonal", "olora", "pissa"] | PissaIterations = True
    """The adapter's first weights.

    True: B is zero. pissa (quicker: pissa_niter_16) and olora begin with the main part of each weight, which is learned
    faster; the adapter is saved over the unchanged base, with twice the rank.
    """

    start_from: Path | None = None
    """A finished run whose adapter training begins with: over the same base, with the same section lora."""

    @property
    def changes_base(self) -> bool:
        """Whether the initialization moves a part of the base's weights into the adapter."""
        return str(self.init_lora_weights).startswith(("olora", "pissa"))


LARGEST_RATE, LARGEST_FULL_RATE = 5e-3, 1e-3
"""The largest learning rates of adapters, and of tuning every weight; beyond them training ends in nonsense."""


def why_rate_ruins(rate: float, *, adapter: bool = True) -> str | None:
    """What is wrong with a learning rate, as the rest of a sentence that begins with its option; None where nothing is.

    The bounds are 25 times govor's default for adapters and 50 times transformers' for all weights; Adam moves a weight
    by about the rate in each step, whatever the loss.
    """
    largest = LARGEST_RATE if adapter else LARGEST_FULL_RATE
    if rate <= largest:
        return None
    return (
        f"{rate:g} is above {largest:g}, the most for {'an adapter' if adapter else 'tuning every weight'}: the model "
        "would answer nonsense. This is the rate itself, 2e-4 as a rule for an adapter; hosted services take a "
        "multiplier of their own rate, which may be 0.1 or 2"
    )


Kernel = Literal["varlen", "head", "lora_qkv", "lora_mlp", "norm"]


class Training(Section):
    """Fields of SFTConfig whose default we set or that govor itself reads; every other one is accepted as well."""

    learning_rate: PositiveFloat = 2e-4
    """Peak learning rate."""
    num_train_epochs: PositiveFloat = 3
    """Passes over the rows."""
    per_device_train_batch_size: PositiveInt = 4
    """Rows a step on each GPU."""
    per_device_eval_batch_size: PositiveInt = 4
    """Rows a forward pass on each GPU while evaluating."""
    gradient_accumulation_steps: PositiveInt = 1
    """Forward passes an optimizer step."""
    max_length: PositiveInt = 2048
    """Tokens a row may have; a longer row is an error, nothing is cut in silence."""
    lr_scheduler_type: str = "cosine"
    """Shape of the learning rate after the warm-up."""
    warmup_steps: NonNegativeFloat = 0.05
    """Steps of warm-up, or below 1 their share of all steps."""
    weight_decay: NonNegativeFloat = 0.0
    """Pull of the weights towards zero."""
    optim: str = "adamw_torch_fused"
    """Optimizer, as transformers names it: adamw_torch_fused, adamw_8bit, paged_adamw_8bit, …"""
    activation_checkpointing: bool = Field(
        True, validation_alias=AliasChoices("activation_checkpointing", "gradient_checkpointing")
    )
    """Compute activations anew in the backward pass: far less memory, about a third more time."""
    assistant_only_loss: bool = True
    """Learn the assistant's turns only. False: learn every token of the conversation."""
    bf16: bool | None = None
    """Autocast to bfloat16. Unset: on wherever the weights call for it."""
    fp16: bool | None = None
    """Autocast to float16. Unset: on for GPUs without bfloat16."""
    use_cpu: bool = False
    """Train on the CPU even if there is a GPU. Without a GPU and without this, training refuses to start."""
    logging_steps: PositiveFloat = 5
    """Steps between two lines of metrics.jsonl, or below 1 their share of all steps."""
    eval_strategy: Literal["no", "steps", "epoch"] = "epoch"
    """When the held-out loss is measured."""
    eval_on_start: bool = True
    """Whether the held-out loss is measured before the first step too, so that the curve has its beginning."""
    save_strategy: Literal["no", "steps", "epoch", "best"] = "epoch"
    """When a checkpoint is written."""
    save_total_limit: PositiveInt | None = 2
    """Checkpoints kept; older ones are deleted."""
    report_to: str | list[str] = "none"
    """Trackers: tensorboard, trackio, wandb. Each may use the network; none does by default."""
    seed: int = 42
    """Seed of the split, the order of rows, the adapter's first weights and the sampled answers."""
    fit: Literal["auto"] | None = None
    """Whether the run fits itself to the GPU at hand.

    auto: choose load_in_4bit, both batch sizes, accumulation and checkpointing, and keep the effective batch: 16-bit
    weights if they fit, then the least recomputation. The run's config.yaml has the choice.
    """
    kernels: Literal["auto", "off"] | list[Kernel] = "auto"
    """Code of ours that computes the same faster.

    auto: on a CPU all but norm; on a CUDA GPU varlen, lora_qkv and lora_mlp, kept if a step on that card is faster with
    them; off: none; or names: varlen (rows end to end instead of padded), head (the loss of trained positions alone),
    lora_qkv, lora_mlp, norm (less memory).
    """


PreferenceLoss = Literal[
    "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired",
    "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm",
]  # fmt: skip


class Dpo(Section):
    """Preference tuning: the rows have two answers each. Without this section rows of one answer are learned."""

    beta: PositiveFloat = 0.1
    """Pull towards the model that training begins with: larger keeps the answers nearer to what they were."""
    loss_type: list[PreferenceLoss] = Field(["sigmoid"], min_length=1)
    """Losses to add up. sigmoid is that of DPO; sft beside it learns the preferred answer as training on rows does."""
    loss_weights: list[NonNegativeFloat] | None = None
    """A factor for each loss; all 1 where none are given."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """For the losses robust and exo_pair: the share of the rows whose answers may stand the wrong way round."""
    ld_alpha: Annotated[float, Field(ge=0, le=1)] | None = None
    """How much the part of an answer counts that is longer than the other one, so that length alone is learned less."""


DPO_RATE, DPO_EPOCHS = 1e-5, 1
"""Defaults of training.learning_rate and training.num_train_epochs for preference tuning."""


class PromptMessage(Section):
    """One turn of a prompt."""

    role: Literal["system", "user", "assistant"]
    content: str


def _as_messages(prompt: object) -> object:
    """A prompt may be just its text."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


Prompt = Annotated[tuple[PromptMessage, ...], BeforeValidator(_as_messages), Field(min_length=1)]


class Generation(Section):
    """How answers are sampled."""

    max_new_tokens: PositiveInt = 400
    """Longest answer, in tokens."""
    do_sample: bool = True
    """False: always the likeliest token."""
    temperature: PositiveFloat = 0.8
    """Above 1 bolder, below 1 safer."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Sample from the likeliest tokens that hold this share of the probability."""
    repetition_penalty: PositiveFloat = 1.05
    """Above 1: a token already used becomes less likely."""


class Config(Section):
    """One experiment, as its YAML file and the command line say it."""

    name: Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
    """Name of the run folder, runs/NAME: letters, digits, `_`, `-`, `.`."""
    model: Model
    data: Data
    lora: Lora | None = Lora()
    training: Training = Training()
    dpo: Dpo | None = None
    generation: Generation = Generation()
    prompts: tuple[Prompt, ...] = ()
    """Questions answered before and after training: a text, or a list of messages where context is needed."""

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_dpo(cls, tree: Any) -> Any:
        """Preference tuning moves a model that can speak already: with a smaller rate, and once over the rows."""
        training = tree.get("training") or {} if isinstance(tree, dict) and tree.get("dpo") is not None else None
        if not isinstance(training, dict):
            return tree
        defaults = {"learning_rate": DPO_RATE, "num_train_epochs": DPO_EPOCHS}
        return {**tree, "training": {**defaults, **training}}


_ONE_MEASURE = "evaluation measures the held-out loss and nothing else"
_SHARDING = "the launcher decides it: govor train CONFIG -- --config_file configs/accelerate/fsdp2.yaml"
_PUSH = "govor push RUN OWNER/NAME sends a finished run, after a scan, and takes the token of `hf auth login`"
OWNED = {
    "output_dir": "checkpoints are kept in the run folder, runs/NAME",
    "model_init_kwargs": "the section model says how the base is loaded",
    "trust_remote_code": "it is model.trust_remote_code",
    "dataset_kwargs": "govor prepares the rows itself",
    "dataset_text_field": "govor reads chat rows",
    "dataset_num_proc": "govor prepares the rows itself",
    "chat_template_path": "it is model.chat_template",
    "eos_token": "the chat template says how a turn ends",
    "completion_only_loss": "assistant_only_loss says what is learned",
    "truncation_mode": "rows longer than max_length are an error, nothing is cut",
    "disable_tqdm": "govor draws its own progress",
    "label_names": "govor prepares the rows itself",
    "remove_unused_columns": "govor prepares the rows itself",
    "length_column_name": "govor measures the rows itself",
    "auto_find_batch_size": "training.fit=auto chooses the batch size before the first step",
    "logging_nan_inf_filter": "training stops at a loss that is not finite",
    "use_cache": "training keeps no cache",
    "enable_jit_checkpoint": "SIGTERM and Ctrl-C save after the step in any case",
    "resume_from_checkpoint": "--resume goes on from the last checkpoint",
    "restore_callback_states_from_checkpoint": "govor has no such state",
    **dict.fromkeys(("do_train", "do_eval", "do_predict"), "govor train trains, govor eval evaluates"),
    **dict.fromkeys(("bf16_full_eval", "fp16_full_eval"), "evaluation runs in the types of training"),
    **dict.fromkeys(("include_for_metrics", "batch_eval_metrics", "prediction_loss_only"), _ONE_MEASURE),
    **dict.fromkeys(("eval_do_concat_batches", "eval_use_gather_object"), _ONE_MEASURE),
    **dict.fromkeys(("fsdp", "fsdp_config", "deepspeed", "parallelism_config"), _SHARDING),
    "local_rank": "the launcher says it",
    **dict.fromkeys(("push_to_hub", "hub_token", "hub_model_id", "hub_strategy", "hub_private_repo"), _PUSH),
    **dict.fromkeys(("hub_always_push", "hub_revision"), _PUSH),
}
"""Fields of SFTConfig that a config may not set, and why."""


@cache
def config_class() -> type[Config]:
    """The class `Config` whose `training` also has every other field of the installed SFTConfig, unset unless given.

    They are read from the libraries' source, see `compat.sft_config_fields`.
    """
    owned = dict.fromkeys(OWNED, (Any, None))
    fields = {
        name: (annotation | None, None)
        for name, annotation in compat.sft_config_fields()
        if name not in Training.model_fields and name not in owned and name != "gradient_checkpointing"
    }
    training = create_model("Training", __base__=Training, **fields, **owned)  # type: ignore[call-overload]
    made: type[Config] = create_model("Config", __base__=Config, training=(training, training()))
    return made


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """The YAML file with `key=value` overrides applied, or a ConfigError that lists every problem and its place."""
    tree, places, problems = _read_yaml(path)
    for override in overrides:
        problems += _apply(override, tree, places)
    problems += _secrets(tree, (), places, path)
    _distrust_run_folder(tree, places, path)
    config = None
    try:
        config = config_class().model_validate(tree)
    except ValidationError as error:
        problems += _explain(error, places, path)
    else:
        problems += [f"{_place_of(at, places, path)}: {_dotted(at)}{text}" for at, text in _contradictions(config)]
    if problems or config is None:
        lines = [f"{len(problems)} problems:", *problems] if len(problems) > 1 else problems
        raise ConfigError(mask_secrets("\n  ".join(lines)))
    return config


def _distrust_run_folder(tree: dict[str, Any], places: dict[Place, str], path: Path) -> None:
    """Take model.trust_remote_code back where a run folder asks for it: the run may be a stranger's."""
    model, at = tree.get("model"), ("model", "trust_remote_code")
    from_folder = places.get(at, "").startswith(f"{path}:") and (path.parent / "manifest.json").exists()
    if from_folder and isinstance(model, dict):
        model["trust_remote_code"] = False


def _secrets(value: Any, at: Place, places: dict[Place, str], path: Path) -> Iterator[str]:
    """A line for each text in the tree that holds a token or a password: the run folder and exports would show it."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        yield from _secrets(inner, (*at, str(key) if isinstance(value, dict) else key), places, path)
    found = next(find_secrets(value), None) if isinstance(value, str) else None
    if found:
        text = f"holds a secret ({found.kind}), and the run folder keeps the config: leave it out and withdraw it"
        yield f"{_place_of(at, places, path)}: {_dotted(at)} {text}"


def _contradictions(config: Config) -> Iterator[tuple[Place, str]]:
    """Options that are valid each by itself but not here."""
    for name, why in OWNED.items():
        if getattr(config.training, name) is not None:
            yield ("training", name), f" cannot be set: {why}"
    yield from _useless(config)
    if config.dpo:
        yield from _against_dpo(config, config.dpo)
    if "/" in config.model.attn_implementation and not config.model.trust_remote_code:
        text = f": {config.model.attn_implementation} is code from the Hub, which model.trust_remote_code=true runs"
        yield ("model", "attn_implementation"), text
    if config.model.load_in_4bit and config.lora is None:
        yield ("model", "load_in_4bit"), ": 4-bit weights cannot be tuned whole: give a lora section"
    if config.model.dtype == "float16" and config.lora is None:
        text = "=float16: such weights cannot be tuned whole, most steps are too small to change them: leave it at auto"
        yield ("model", "dtype"), text
    targets = config.lora.target_modules if config.lora else []
    if isinstance(targets, str) and targets:
        try:
            re.compile(targets)
        except re.error as error:
            text = f" is no regular expression: {error}; names go in a list: [q_proj, v_proj]"
            yield ("lora", "target_modules"), text
    elif config.lora and not all(targets or [""]):
        yield ("lora", "target_modules"), " names no layer: name one, or write all-linear"
    if config.lora and config.lora.changes_base:
        place = ("lora", "init_lora_weights")
        if config.lora.start_from:
            yield place, " begins in the base's weights, lora.start_from in another run's adapter: choose one of them"
        if config.model.load_in_4bit:
            yield place, " changes the base's weights, which NF4 would round anew: use it without model.load_in_4bit"
        if config.lora.use_dora:
            yield place, " cannot be saved over the unchanged base together with lora.use_dora: choose one of them"


def _against_dpo(config: Config, dpo: Dpo) -> Iterator[tuple[Place, str]]:
    """Options that preference tuning cannot be combined with."""
    if config.lora is None:
        yield ("dpo",), ": the reference is the model without its new adapter: give a lora section"
    elif config.lora.changes_base:
        text = " begins in the base's weights, and dpo compares with the untouched base: leave it out"
        yield ("lora", "init_lora_weights"), text
    if config.data.too_long not in ("error", "drop"):
        yield ("data", "too_long"), f"={config.data.too_long}: both answers are compared whole: error or drop"
    if config.training.fit:
        yield ("training", "fit"), " counts rows of one answer: set the batch yourself"
    if isinstance(config.training.kernels, list) and config.training.kernels:
        yield ("training", "kernels"), " compute the loss of rows with one answer: leave them out beside dpo"
    if not config.training.assistant_only_loss:
        yield ("training", "assistant_only_loss"), ": dpo compares the answers alone: leave it out"
    if getattr(config.training, "label_smoothing_factor", None):
        yield ("training", "label_smoothing_factor"), " is of rows with one answer: set dpo.label_smoothing"
    if dpo.loss_weights is not None and len(dpo.loss_weights) != len(dpo.loss_type):
        yield ("dpo", "loss_weights"), f" needs a number for each of the {len(dpo.loss_type)} in dpo.loss_type"
    if "exo_pair" in dpo.loss_type and not dpo.label_smoothing:
        yield ("dpo", "label_smoothing"), " must be above 0 for exo_pair: 1e-3, say"


def _useless(config: Config) -> Iterator[tuple[Place, str]]:
    """Fields of SFTConfig that have no effect, or a late error, without another one or at all."""
    training = config.training

    def given(name: str) -> Any:
        return getattr(training, name, None)

    if given("padding_free") and not given("packing"):
        yield ("training", "padding_free"), ": rows end to end, not padded, are training.kernels=[varlen]"
    if given("packing_strategy") and not given("packing") and not given("eval_packing"):
        yield ("training", "packing_strategy"), " says how rows are packed: set training.packing too"
    for name in ("persistent_workers", "prefetch_factor", "multiprocessing_context"):
        if given(f"dataloader_{name}") and not given("dataloader_num_workers"):
            yield ("training", f"dataloader_{name}"), ": there are no workers: set training.dataloader_num_workers too"
    metric = given("metric_for_best_model")
    if metric not in (None, "loss", "eval_loss"):
        yield ("training", "metric_for_best_model"), f": the held-out loss is measured (eval_loss), not {metric}"
    if training.save_strategy == "best" and metric is None:
        yield ("training", "save_strategy"), ": best needs training.metric_for_best_model=eval_loss"
    if given("optim_target_modules") and not re.match(r"(galore|apollo)_", training.optim):
        yield (
            ("training", "optim_target_modules"),
            f" belongs to the optimizers galore_… and apollo_…, not {training.optim}",
        )
    if training.use_cpu:
        if training.fp16:
            yield ("training", "fp16"), " needs a GPU: on a CPU there is training.bf16"
        if given("activation_offloading"):
            yield ("training", "activation_offloading"), " moves activations off a GPU, and training.use_cpu is set"


def dump_config(config: Config) -> str:
    """The resolved config as YAML that `load_config` reads back to the same config."""
    tree = config.model_dump(mode="json")
    named = set(Training.model_fields) | config.training.model_fields_set
    tree["training"] = {key: value for key, value in tree["training"].items() if key in named}
    if config.dpo is None:
        del tree["dpo"]
    return yaml.dump(tree, Dumper=_Dumper, allow_unicode=True, sort_keys=False, width=120)


REPLACED = ("bool", "int", "float", "timestamp")
"""Kinds of scalars that YAML 1.1, and so PyYAML, sees in more texts than people mean."""


class _Loader(BoundedLoader):
    """YAML 1.2 scalars: `no` and `off` are words, `2e-4` is a number; a date, `1:30`, `1_000` and `010` are text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.rsplit(":", 1)[1] not in REPLACED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), "tTfF")
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][0-9]*)$"), "-+0123456789")
FLOAT = (
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.inf|\.nan)$"),
    list("-+.0123456789"),
)
_Loader.add_implicit_resolver(*FLOAT)


class _Dumper(yaml.SafeDumper):
    """Quotes a text that either this loader or one of YAML 1.1 would take for something else."""


_Dumper.add_implicit_resolver(*FLOAT)


def _read_yaml(path: Path) -> tuple[dict[str, Any], dict[Place, str], list[str]]:
    """The file's tree, the line of every key, and the keys written twice."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a text file: {error}") from None
    places: dict[Place, str] = {}
    problems: list[str] = []

    def walk(node: yaml.Node, at: Place) -> None:
        places[at] = f"{path}:{node.start_mark.line + 1}"
        if isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                walk(item, (*at, index))
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                here = (*at, str(key.value))
                if here in places:
                    line = key.start_mark.line + 1
                    problems.append(f"{path}:{line}: {_dotted(here)} stands here again, after {places[here]}")
                walk(value, here)
                places[here] = f"{path}:{key.start_mark.line + 1}"

    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        tree = None if node is None else loader.construct_document(node)
    except (yaml.YAMLError, ValueError) as error:  # the second: a number of more digits than Python reads
        line, problem = _yaml_problem(error)
        raise ConfigError(f"{path}:{line}: not valid YAML: {problem}") from None
    if not isinstance(tree, dict) or node is None:
        raise ConfigError(f"{path}:1: expected the keys name, model, data, …; found {_kind(tree)}")
    walk(node, ())
    for key, value in node.value:
        if isinstance(value, yaml.ScalarNode) and value.value == "" and tree.get(key.value) is None:
            tree[key.value] = {}  # `lora:` with nothing under it means its defaults; `lora: null` means none
    return tree, places, problems


def _yaml_problem(error: Exception) -> tuple[int, str]:
    """(line, what is wrong with a YAML text there)."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or " ".join(str(error).split())
    return (mark.line + 1 if mark else 1), problem


OF_SECRETS = re.compile(r"(?:token|key|secret|password)$", re.IGNORECASE)
"""How the names of options end whose values are never printed."""


def _apply(override: str, tree: dict[str, Any], places: dict[Place, str]) -> list[str]:
    """Write `section.key=value` into the tree; the problems, if it has no such form."""
    name, equals, text = override.partition("=")
    short = override if len(override) <= 200 else f"{override[:200]}…"
    source = f"override {name + equals + '…' if OF_SECRETS.search(name) else short!r}"
    if not equals or not name:
        return [f"{source}: expected key=value, for example training.max_steps=30"]
    try:
        value = yaml.load(text, _Loader)  # a SafeLoader
    except (yaml.YAMLError, ValueError) as error:
        return [f"{source}: not a YAML value: {_yaml_problem(error)[1]}"]
    at = tuple(name.split("."))
    here = tree
    for key in at[:-1]:
        if not isinstance(here.get(key), dict):
            here[key] = {}
        here = here[key]
    here[at[-1]] = value
    places[at] = source
    return []


def _explain(error: ValidationError, places: dict[Place, str], path: Path) -> list[str]:
    """One line an option, in the order of the file; the branches of a union that failed together are one problem."""
    lines: dict[Place, str] = {}
    for item in error.errors():
        at: Place = item["loc"]
        if item["type"] == "extra_forbidden":
            text = f"unknown option{_suggest(at)}"
        elif item["type"] == "missing":
            text = "required, but not given"
        elif item["type"] == "string_pattern_mismatch":
            text = f"may hold letters, digits, `_`, `-` and `.`, got {item['input']!r}"
        else:
            while at not in places and len(at) > 1:
                at = at[:-1]  # pydantic adds the branch of a union to the place
            if item["type"] == "model_type" and len(at) == 1 and at[0] in config_class().model_fields:
                main = MAIN.get(str(at[0]))
                hint = f"; did you mean {at[0]}.{main}={item['input']}?" if main else ""
                lines[at] = f"is a section, its options are {at[0]}.NAME{hint}"
                continue
            value = "a value" if OF_SECRETS.search(str(at[-1])) else repr(item["input"])
            text = f"{item['msg'][0].lower()}{item['msg'][1:]}, got {value}"
        earlier = lines.get(at)
        lines[at] = text if earlier is None else f"{earlier}, or {text}"
    return [f"{_place_of(at, places, path)}: {_dotted(at)}: {text}" for at, text in lines.items()]


def _place_of(at: Place, places: dict[Place, str], path: Path) -> str:
    """The line of the option, or of the nearest section that stands in the file."""
    while at and at not in places:
        at = at[:-1]
    return places[at] if at else str(path)


def _dotted(at: Place) -> str:
    return ".".join(str(part) for part in at)


GUESSES = {
    option: known
    for known, options in {
        "training.learning_rate": ("lr", "learningrate", "rate"),
        "training.num_train_epochs": ("epochs", "epoch", "num_epochs", "n_epochs", "nepochs", "train_epochs"),
        "training.max_steps": ("steps", "num_steps", "train_steps", "iters", "max_iters"),
        "training.per_device_train_batch_size": ("batch_size", "batch", "bs", "micro_batch_size", "train_batch_size"),
        "training.per_device_eval_batch_size": ("eval_batch_size",),
        "training.gradient_accumulation_steps": ("grad_accum", "accumulation_steps", "gradient_accumulation"),
        "training.max_length": ("max_seq_length", "max_seq_len", "seq_len", "seq_length", "sequence_len", "cutoff_len"),
        "training.warmup_steps": ("warmup", "warmup_ratio"),
        "training.lr_scheduler_type": ("scheduler", "lr_scheduler"),
        "training.optim": ("optimizer",),
        "training.use_cpu": ("cpu", "device", "no_cuda"),
        "training.neftune_noise_alpha": ("neftune", "noise_alpha"),
        "model.name_or_path": ("base", "base_model", "model_name", "model_name_or_path", "model_id", "model_path"),
        "model.load_in_4bit": ("qlora", "4bit", "load_4bit", "quantization", "quantization_bit", "load_in_8bit"),
        "model.dtype": ("torch_dtype", "precision"),
        "model.attn_implementation": ("flash_attn", "flash_attention", "attention"),
        "data.train_file": ("dataset", "train", "train_data", "training_file", "data_file", "data_path", "file"),
        "data.eval_file": ("eval", "eval_data", "eval_dataset", "validation_file", "val_file", "test_file"),
        "data.eval_fraction": ("val_size", "eval_size", "test_size", "val_fraction", "validation_split"),
        "lora.r": ("rank", "lora_r", "lora_rank"),
        "lora.lora_alpha": ("alpha",),
        "dpo.beta": ("pref_beta", "dpo_beta"),
        "lora.lora_dropout": ("dropout",),
        "lora.target_modules": ("lora_target", "targets", "modules"),
        "generation.max_new_tokens": ("max_tokens", "max_completion_tokens"),
        "name": ("run", "output", "out"),
    }.items()
    for option in options
}
"""What people write → the option that they mean."""
MAIN = {"model": "name_or_path", "data": "train_file", "lora": "r"}
"""Section → the option in it that is meant where the section itself is given a value."""


def _suggest(at: Place) -> str:
    """The nearest option that exists, as `; did you mean training.learning_rate?`; empty where none is near."""
    options = []
    for name, field in config_class().model_fields.items():
        section = _section_class(field.annotation)
        options += [name] if section is None else [name, *(f"{name}.{key}" for key in section.model_fields)]
    wanted = _dotted(at)
    if guessed := GUESSES.get(str(at[-1]).lower()):
        return f"; did you mean {guessed}?"
    same_name = [option for option in options if option.rsplit(".", 1)[-1] == wanted.rsplit(".", 1)[-1]]
    close = same_name or difflib.get_close_matches(wanted, options, n=1, cutoff=0.75)
    return f"; did you mean {close[0]}?" if close else ""


def _section_class(annotation: Any) -> type[Section] | None:
    """The section among the branches of an annotation: Lora for `Lora | None`."""
    branches = getattr(annotation, "__args__", (annotation,))
    return next(
        (b for b in branches if isinstance(b, type) and issubclass(b, Section) and b is not PromptMessage), None
    )


def _kind(value: object) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
