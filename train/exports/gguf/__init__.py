"""One GGUF file for llama.cpp from the merged model of a run, compared with that model."""
