"""Run directories, detached supervision, and what readers make of them. Nothing here imports torch."""
