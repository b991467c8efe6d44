"""One module for each group of commands; app.py finds them by walking this package."""
