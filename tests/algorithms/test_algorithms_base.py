"""The catalogue of losses: what a signature says, what a configuration may set."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
import torch

from oxrl_core.algorithms.base import algorithm, all_algorithms, check_params, get_algorithm
from oxrl_core.errors import ConfigError
from oxrl_core.types import Tokens


@pytest.mark.parametrize(
    ("name", "kind", "signals", "lesson"),
    [
        ("sgrpo", "rl", "Rollouts", "advantages"),
        ("sft", "sl", "Tokens", "examples"),
        ("cpt", "sl", "Tokens", "documents"),
        ("rft", "rl", "Tokens", "kept"),
        ("dpo", "sl", "ReferencedPairs", "pairs"),
        ("online_dpo", "rl", "ReferencedPairs", "best_and_worst"),
        ("kto", "sl", "Labeled", "labeled"),
        ("rm", "sl", "ScoredPairs", "pairs"),
        ("gkd", "rl", "Distributions", "mixed"),
    ],
)
def test_signature_and_lesson_say_what_a_loss_needs(name: str, kind: str, signals: str, lesson: str) -> None:
    entry = get_algorithm(name)
    assert (entry.kind, entry.signals, entry.lesson) == (kind, signals, lesson)


def test_a_misspelt_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'sgrpo'") as caught:
        get_algorithm("sgrop")
    assert "`oxrl algorithms`" in caught.value.next_step


def test_a_misspelt_parameter_is_answered_with_what_the_loss_takes() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'clip_low'") as caught:
        check_params(get_algorithm("sgrpo"), {"clip_lo": 0.1})
    assert caught.value.where == "algorithm.clip_lo"
    assert "clip_high (default 0.2)" in caught.value.next_step


@pytest.mark.parametrize("value", ["much", True, None, [0.2], -0.1, 1.5])
def test_a_parameter_of_the_wrong_kind_or_range_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match=r"algorithm\.clip_low"):
        check_params(get_algorithm("sgrpo"), {"clip_low": value})


@pytest.mark.parametrize(("value", "number"), [(0, 0.0), (0.3, 0.3), ("3e-4", 3e-4), (1, 1.0)])
def test_numbers_are_taken_as_yaml_gives_them(value: object, number: float) -> None:
    entry = get_algorithm("sgrpo")
    assert check_params(entry, {"clip_low": value}) == entry.params | {"clip_low": number}


def test_a_loss_of_ones_own_is_found_by_its_dotted_path(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_losses.py").write_text(
        textwrap.dedent(
            '''
            from __future__ import annotations
            from oxrl_core.types import Tokens

            def scaled(tokens: Tokens, *, weight: float = 2.0):
                """Weighted likelihood."""
                return -weight * tokens.logprobs
            '''
        )
    )
    monkeypatch.syspath_prepend(tmp_path)
    entry = get_algorithm("own_losses:scaled")
    assert (entry.kind, entry.params, entry.summary) == ("sl", {"weight": 2.0}, "Weighted likelihood.")
    with pytest.raises(ConfigError, match="Did you mean 'scaled'"):
        get_algorithm("own_losses:scale")
    with pytest.raises(ConfigError, match="cannot be imported: ModuleNotFoundError"):
        get_algorithm("no_such_module:scaled")


def test_a_loss_whose_signature_says_nothing_is_refused() -> None:
    def unknown_signals(batch: dict) -> torch.Tensor:
        return batch["x"]

    def positional(tokens: Tokens, weight: float = 1.0) -> torch.Tensor:
        return weight * tokens.logprobs

    with pytest.raises(ConfigError, match="annotated with the signals"):
        algorithm("bad")(unknown_signals)
    with pytest.raises(ConfigError, match="must be keyword-only"):
        algorithm("bad")(positional)
    assert "bad" not in all_algorithms()


def test_two_losses_cannot_have_one_name() -> None:
    def impostor(tokens: Tokens) -> torch.Tensor:
        return tokens.logprobs

    with pytest.raises(ConfigError, match="two algorithms are called 'sft'"):
        algorithm("sft")(impostor)


def test_the_catalogues_import_nothing_heavy() -> None:
    program = """
    import sys
    from oxrl_core.algorithms.base import all_algorithms
    from oxrl_core.datasets.base import all_datasets
    from oxrl_core.rewards.base import all_rewards
    assert all_algorithms() and all_datasets() and all_rewards()
    heavy = {"torch", "numpy", "ray", "vllm", "deepspeed", "transformers", "datasets", "pyarrow", "matplotlib"}
    print(sorted(heavy & set(sys.modules)))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
