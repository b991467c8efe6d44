"""One supervisor a run: start again, stall, budget, outcome."""
