"""One module is one task; they are found by walking."""
