"""The adapter folded into the base: one model that every tool loads."""

import shutil
from pathlib import Path

from .errors import RunError
from .model import copy_tokenizer, load_base, load_tokenizer, quiet_libraries, resolve_precision, run_base
from .runs import Run, complete_folder, require_room


def merge(run: Run) -> Path:
    """Write runs/NAME/merged: W' = W + (lora_alpha / r) · B A in every adapted layer; returns the folder.

    The base is loaded in its own 16-bit type (or model.dtype), also where the adapter was trained over NF4, and on the
    CPU, where it always fits.
    """
    if not run.adapter.exists():
        raise RunError(f"{run.path} was tuned whole: {run.merged} already is the model")
    if run.merged.exists():
        raise RunError(f"{run.merged} is there already: move it away to merge again")
    quiet_libraries()
    config = run.config()
    base = run_base(run)
    require_room(run.path, sum(file.stat().st_size for file in base.glob("*.safetensors")), "the merged model")
    from peft import PeftModel

    precision = resolve_precision(config)
    if config.model.dtype == "auto":
        precision = precision._replace(weights="auto")  # the type of the base's own files
    whole = config.model.model_copy(update={"load_in_4bit": False})
    model = PeftModel.from_pretrained(load_base(whole, base, precision, use_cpu=True), run.adapter)
    merged = model.merge_and_unload(safe_merge=True)
    with complete_folder(run.merged) as folder:
        merged.save_pretrained(folder)
        if (base / "generation_config.json").is_file():
            shutil.copyfile(base / "generation_config.json", folder / "generation_config.json")
        copy_tokenizer(run.adapter, load_tokenizer(run.adapter), folder)
    return run.merged
