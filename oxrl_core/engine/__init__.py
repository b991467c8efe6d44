"""The trained policy under DeepSpeed, its learning-rate schedule and its checkpoints. Importing this loads no torch."""
