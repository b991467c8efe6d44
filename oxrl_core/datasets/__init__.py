"""One dataset, one file: a function that gives rows. Nothing heavy is imported before rows are asked for."""
