"""Reinforcement learning in the foreground: python main_rl.py --config-file config.yaml [train.lr=1e-6 ...]

Ctrl-C stops the run cleanly; the exit code is the run's. Under torchrun this process is one of the training ranks.
"""

import sys

from oxrl_core.cli.entry import run_config_file

if __name__ == "__main__":
    sys.exit(run_config_file("rl", sys.argv[1:]))
