"""Reading what runs have written: reports, comparisons, rollouts."""
