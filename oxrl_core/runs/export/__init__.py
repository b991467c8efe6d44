"""Models out of runs: merging, the model card, the hub."""
