"""What govor made, in the forms of other tools: LLaMA-Factory's folder, llama.cpp's GGUF, Ollama's Modelfile.

Each exporter takes a run (or, where that makes sense, a config), writes aside, renames, and names what it wrote.
"""
