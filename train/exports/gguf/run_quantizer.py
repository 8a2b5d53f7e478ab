"""A program of its own: what llama-quantize does, through llama-cpp-python.

python -P -m train.exports.gguf.run_quantizer IN OUT TYPE
"""

import importlib
import sys
from typing import Any


def main() -> None:
    source, target, kind = sys.argv[1:]
    llama: Any = importlib.import_module("llama_cpp")
    llama.llama_backend_init()
    settings = llama.llama_model_quantize_default_params()
    settings.ftype = getattr(llama, f"LLAMA_FTYPE_MOSTLY_{kind}")
    if llama.llama_model_quantize(source.encode(), target.encode(), settings) != 0:
        raise SystemExit(f"{source} cannot be written as {kind}")


if __name__ == "__main__":
    main()
