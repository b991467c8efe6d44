"""Values of the configuration that people get wrong."""

from __future__ import annotations

from benchmarks.faults.define import Fault

FAULTS = [
    Fault(  # VLM-R1#163: rank 8 with alpha 128, and more
        "alpha_for_rank",
        "alpha is 256 times the rank: the adapters count far too much",
        {"lr_too_high"},
        "rloo",
        ["model.lora.enabled=true", "model.lora.rank=8", "model.lora.alpha=2048", "train.lr=1e-2", "train.steps=30"],
    ),
    Fault(  # open-r1#436, #257: full training at the rate of adapters
        "rate_of_adapters",
        "all weights are trained at a learning rate that was meant for adapters",
        {"lr_too_high"},
        "sapo",
        ["train.lr=0.05", "train.steps=30"],
    ),
    Fault(  # a folder with all splits is given as training data
        "all_splits_in_training",
        "the training data are the train and the eval split together",
        {"train_eval_leak"},
        "ppo",
        ["data.train=[{name: reverse3}, {name: reverse3, split: eval}]", "train.steps=16"],
    ),
]
