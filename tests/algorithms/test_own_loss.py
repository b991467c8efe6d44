"""A loss from outside: one function in a file of its own, named by its path, trains for real in one process."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from oxrl_core.algorithms.base import check_params, get_algorithm
from oxrl_core.config.load import load_config
from oxrl_core.config.presets import preset_for
from oxrl_core.errors import ConfigError

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "algorithms.md").read_text(encoding="utf-8")
OTHERS = '''
from oxrl_core.types import Pairs, Rollouts, Tokens

def focal(tokens: Tokens, *, power: float = 1.0):
    """-(1 - p)^power log p of every completion token."""
    logprobs = tokens.logprobs.masked_fill(~tokens.completion_mask, 0.0)
    return -((1 - logprobs.exp()) ** power) * logprobs

def hinge(pairs: Pairs, *, margin: float = 0.5):
    """max(0, margin - chosen / |chosen| + rejected / |rejected|)."""
    return (margin - pairs.chosen_mean + pairs.rejected_mean).clamp(min=0)

def reinforce(rollouts: Rollouts, *, scale: float = 1.0):
    """-scale A log p of every token."""
    logprobs = rollouts.logprobs.masked_fill(~rollouts.completion_mask, 0.0)
    return -scale * rollouts.advantages * logprobs
'''
RECIPE_OF = {"focal": "sft", "hinge": "simpo", "my_loss": "dpo", "reinforce": "sgrpo"}  # rows that each can take
PRESET_OF = {"focal": "sft", "hinge": "simpo", "my_loss": "dpo", "reinforce": "sgrpo"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package my_pkg, whose first loss is the one of the guide."""
    examples = re.findall(r"^```python\n(.*?)^```", GUIDE, flags=re.DOTALL | re.MULTILINE)
    (example,) = [text for text in examples if "def my_loss" in text]
    package = tmp_path_factory.mktemp("outside") / "my_pkg"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "my_mod.py").write_text(example + OTHERS)
    return package.parent


@pytest.mark.parametrize("name", sorted(PRESET_OF))
def test_its_signature_says_what_it_learns_from(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(folder)
    algorithm = get_algorithm(f"my_pkg.my_mod:{name}")
    assert algorithm.kind == get_algorithm(RECIPE_OF[name]).kind
    assert preset_for(algorithm, {}, lora=False).name == PRESET_OF[name]
    assert algorithm.summary.endswith(".")


def test_its_arguments_are_checked_like_those_of_any_other(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(folder)
    algorithm = get_algorithm("my_pkg.my_mod:my_loss")
    assert check_params(algorithm, {}) == {"beta": 0.1}
    assert check_params(algorithm, {"beta": "2e-1"}) == {"beta": 0.2}
    with pytest.raises(ConfigError, match=r"Did you mean 'beta'\?"):
        check_params(algorithm, {"betta": 0.2})
    with pytest.raises(ConfigError, match=r"algorithm\.beta"):
        check_params(algorithm, {"beta": "large"})
    (example,) = re.findall(r"^```yaml\n(algorithm: .*?my_loss.*?)^```", GUIDE, flags=re.DOTALL | re.MULTILINE)
    rows = "run: {name: own}\nmodel: {path: 'miniature:chars'}\ndata: {train: reverse3-pairs}\n"
    assert load_config(rows + example).config.algorithm.params == {"beta": 0.2}


@pytest.mark.engine
def test_each_trains_for_two_steps(folder: Path, tmp_path: Path) -> None:
    jobs = [
        {
            "recipe": recipe,
            "overrides": [f"algorithm={{name: 'my_pkg.my_mod:{name}'}}", "train.steps=2", f"run.name={name}"],
        }
        for name, recipe in RECIPE_OF.items()
    ]
    # A process of its own: the package is on the path that the run's own process starts with.
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "whole" / "in_process.py"), str(tmp_path)],
        input=json.dumps(jobs), capture_output=True, text=True, timeout=240,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    ends = [json.loads(line) for line in done.stdout.splitlines()]
    assert [end.get("error") for end in ends] == [None] * len(jobs)
    for end in ends:
        rows = [json.loads(line) for line in (Path(end["path"]) / "metrics.jsonl").read_text().splitlines()]
        assert rows[-1]["step"] == 2
        assert rows[-1]["grad_norm"] > 0
