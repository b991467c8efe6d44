"""Proofs by running: whether what stands here does what it says. Below the torch line."""
