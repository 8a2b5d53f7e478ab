"""Measures on one CUDA card what no test on a CPU can tell; README.md says how. Without a card: --rehearse."""
