"""One module per group of tools; every function marked with `@tool` is offered."""
