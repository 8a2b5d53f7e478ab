"""A folder that LLaMA-Factory 0.9.5 trains, merges and serves from without changes: rows, settings, adapter."""
