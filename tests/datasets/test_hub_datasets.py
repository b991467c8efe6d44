"""Datasets of the hub: small files in the layout of each, read from a local folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from oxrl_core.config.schema import DatasetConfig
from oxrl_core.datasets import files, gsm8k
from oxrl_core.datasets.base import all_datasets, load_rows, read_rows
from oxrl_core.datasets.math import last_boxed
from oxrl_core.errors import ConfigError, DataError, MachineError
from oxrl_core.rewards.reasoning_gym import reasoning_gym as reasoning_gym_reward
from oxrl_core.types import Prompt, Rollout


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(list(rows)), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def load(name: str, **settings: Any) -> list[dict[str, Any]]:
    return list(load_rows(DatasetConfig.model_validate({"name": name, **settings}), seed=0))


GSM8K = [
    {"question": "2 and 3?", "answer": "2+3=<<2+3=5>>5\n#### 5"},
    {"question": "Thousands?", "answer": "500*2\n#### 1,000"},
]


def test_gsm8k_is_the_same_from_the_hub_and_from_a_clone_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clone = tmp_path / "gsm8k"
    write(clone / "main" / "train-00000-of-00001.parquet", *GSM8K)
    write(clone / "socratic" / "train-00000-of-00001.parquet", {"question": "another", "answer": "#### 1"})
    (clone / "README.md").write_text(
        "---\nconfigs:\n- config_name: main\n  data_files:\n  - split: train\n    path: main/train-*\n---\n"
    )
    monkeypatch.setenv("OXRL_GSM8K_DIR", str(clone))
    local = load("gsm8k")
    monkeypatch.delenv("OXRL_GSM8K_DIR")
    monkeypatch.setattr(gsm8k, "HUB_ID", f"{clone}:main")  # the library reads a folder in the layout of the hub
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    assert load("gsm8k") == local
    assert [(row["prompt"], row["answer"]) for row in local] == [("2 and 3?", "5"), ("Thousands?", "1,000")]
    assert local[1]["completion"] == "500*2\n#### 1,000"


MATH = [
    {"problem": "p1", "level": "Level 2", "type": "Algebra", "solution": r"so $x=\boxed{\frac{1}{2}}$."},
    {"problem": "p2", "level": "Level 5", "type": "Geometry", "solution": r"first \boxed{1}, then \boxed{\{2, 3\}}"},
    {"problem": "p3", "level": "Level ?", "type": "Geometry", "solution": r"\boxed 7$ it is"},
    {"problem": "p4", "level": "Level 1", "type": "Algebra", "solution": "no box"},
]


def test_math_has_the_last_box_as_answer_and_can_be_cut_to_levels_and_subjects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "data" / "train-00000-of-00001.parquet", *MATH)
    monkeypatch.setenv("OXRL_MATH_DIR", str(tmp_path))
    loaded = read_rows(DatasetConfig(name="math"), 0, strict=False)
    assert [row["answer"] for row in loaded.rows] == [r"\frac{1}{2}", r"\{2, 3\}", "7"]
    assert loaded.rows[1]["completion"] == MATH[1]["solution"]
    assert [error.what for error in loaded.bad] == [r"not a row of MATH: its solution has no \boxed{} answer"]
    assert loaded.bad[0].where.endswith("train-00000-of-00001.parquet, row 3")
    assert [row["row"]["level"] for row in load("math", levels=[2, 5])] == [2, 5]
    assert [row["prompt"] for row in load("math", subjects=["Geometry"])] == ["p2", "p3"]
    with pytest.raises(ConfigError, match="levels"):
        load("math", levels=[6])
    with pytest.raises(ConfigError, match=r"Did you mean 'levels'"):
        load("math", level=[5])


@pytest.mark.parametrize(
    ("text", "boxed"),
    [
        (r"\boxed{a{b}c}", "a{b}c"),
        (r"\boxed{1} \boxed{2}", "2"),
        (r"\fbox{3}", "3"),
        (r"\boxed{open", None),
        (r"\boxed{}", None),
        (r"\boxed{\{1\}}", r"\{1\}"),
        ("none", None),
    ],
)
def test_the_last_box_is_read_with_its_braces(text: str, boxed: str | None) -> None:
    assert last_boxed(text) == boxed


def test_openr1_math_takes_the_first_whole_trace_that_was_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    traces = ["<think>wrong", "<think>cut", "<think>right</think>4", "<think>also"]
    row = {"problem": "2+2", "solution": "by hand", "answer": "4", "generations": traces}
    row |= {"is_reasoning_complete": [True, False, True, True]}
    checked = row | {"correctness_math_verify": [False, True, True, True], "correctness_llama": None}
    judged = row | {"correctness_math_verify": [False] * 4, "correctness_llama": [False, False, False, True]}
    neither = row | {"correctness_math_verify": [False] * 4, "correctness_llama": None}
    write(tmp_path / "train.jsonl", checked, judged, neither)
    monkeypatch.setenv("OXRL_OPENR1_MATH_DIR", str(tmp_path))
    assert [row["completion"] for row in load("openr1_math")] == ["<think>right</think>4", "<think>also", "by hand"]
    assert {row["completion"] for row in load("openr1_math", completion="solution")} == {"by hand"}
    assert load("openr1_math")[0]["answer"] == "4"


def gpqa_row(number: int) -> dict[str, Any]:
    wrong = {f"Incorrect Answer {at}": f"wrong {number}.{at}" for at in (1, 2, 3)}
    text = {"Question": f"question {number}", "Correct Answer": f"right {number}\n", "Explanation": "because"}
    return text | wrong | {"Subdomain": "Optics"}


def test_gpqa_shuffles_the_choices_of_a_row_by_the_row_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [gpqa_row(number) for number in range(40)]
    write(tmp_path / "gpqa_main.jsonl", *rows)
    write(tmp_path / "gpqa_diamond.jsonl", *rows[30:])
    monkeypatch.setenv("OXRL_GPQA_DIR", str(tmp_path))
    main = load("gpqa")
    for number, row in enumerate(main):
        assert f"({row['answer']}) right {number}\n" in row["prompt"]
        assert row["completion"] == f"because\n\nThe answer is ({row['answer']})"
        assert sorted(row["row"]["choices"])[0] == f"right {number}"
    assert {row["answer"] for row in main} == set("ABCD")
    assert [row["prompt"] for row in load("gpqa", subset="diamond")] == [row["prompt"] for row in main[30:]]
    other_seed = load_rows(DatasetConfig(name="gpqa"), seed=99)
    assert [row["prompt"] for row in other_seed] == [row["prompt"] for row in main]


def test_mbpp_in_both_its_forms_has_tests_that_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tests = ["assert add(1, 2) == 3", "assert add(0, 0) == 0"]
    code = "def add(a, b):\r\n    return a + b"
    full = {"task_id": 11, "text": "Add.", "code": code, "test_list": tests, "test_setup_code": "import math"}
    sanitized = {"task_id": 11, "prompt": "Add.", "code": code, "test_list": tests, "test_imports": ["import math"]}
    write(tmp_path / "full" / "train-00000-of-00001.parquet", full, full | {"test_list": []})
    write(tmp_path / "sanitized" / "train-00000-of-00001.parquet", sanitized)
    monkeypatch.setenv("OXRL_MBPP_DIR", str(tmp_path))
    loaded = read_rows(DatasetConfig(name="mbpp"), 0, strict=False)
    (row,) = loaded.rows
    assert "no tests" in loaded.bad[0].what
    assert row["prompt"] == f"Add.\nYour code should pass these tests:\n\n{tests[0]}\n{tests[1]}"
    assert json.loads(row["answer"]) == row["row"]["test_list"] == tests
    assert row["row"]["test_setup_code"] == "import math"
    source = row["completion"].removeprefix("```python\n").removesuffix("\n```")
    scope: dict[str, Any] = {}
    exec("\n".join([row["row"]["test_setup_code"], source, *tests]), scope)  # noqa: S102 - our own five lines
    (other,) = load("mbpp", subset="sanitized")
    assert {key: other[key] for key in ("prompt", "completion", "answer")} == {
        key: row[key] for key in ("prompt", "completion", "answer")
    }


def test_ultrafeedback_is_pairs_with_the_difference_of_their_ratings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def talk(answer: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": "hi"}, {"role": "assistant", "content": answer}]

    good = {"prompt": "hi", "chosen": talk("a"), "rejected": talk("b"), "score_chosen": 8.0, "score_rejected": 6.5}
    tie = good | {"score_rejected": 8.0}
    write(tmp_path / "data" / "train_prefs-00000-of-00001.parquet", good, tie)
    write(tmp_path / "data" / "train_sft-00000-of-00001.parquet", good | {"prompt": "not of the pairs"})
    write(tmp_path / "data" / "test_prefs-00000-of-00001.parquet", good | {"chosen": talk("t")})
    monkeypatch.setenv("OXRL_ULTRAFEEDBACK_DIR", str(tmp_path))
    rows = load("ultrafeedback")
    assert [(row["prompt"], row["chosen"], row["rejected"], row["margin"]) for row in rows] == [
        ("hi", "a", "b", 1.5),
        ("hi", "a", "b", 0.0),
    ]
    assert len(load("ultrafeedback", min_margin=1.0)) == 1
    assert load("ultrafeedback", split="test")[0]["chosen"] == "t"
    write(tmp_path / "data" / "test_prefs-00000-of-00001.parquet", good | {"chosen": talk("t")[:1]})
    with pytest.raises(DataError, match="does not end with a message of the assistant"):
        load("ultrafeedback", split="test")


def test_every_dataset_of_the_hub_has_a_local_alternative_and_says_so_where_it_cannot_be_had(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    from_hub = {name: entry for name, entry in all_datasets().items() if entry.hub_id}
    assert set(from_hub) >= {"gsm8k", "math", "openr1_math", "gpqa", "mbpp", "ultrafeedback"}
    for name, entry in from_hub.items():
        monkeypatch.delenv(entry.folder_variable, raising=False)
        with pytest.raises(DataError, match="cannot be loaded"):
            load(name)
        monkeypatch.setenv(entry.folder_variable, str(tmp_path / "nowhere"))
        with pytest.raises(DataError, match="no such file or folder"):
            load(name)


STAND_IN = """
def create_dataset(name, *, size, seed, **options):
    if name != "adding":
        raise ValueError(f"Dataset '{name}' not registered")
    base = options.get("base", 0)
    return [{"question": f"{base}+{seed}?", "answer": str(base + seed), "metadata": {"source_dataset": name}}] * size


def get_score_answer_fn(name):
    return lambda answer, entry: 1.0 if answer == entry["answer"] else 0.01
"""


def test_reasoning_gym_gives_tasks_without_end_or_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    if importlib.util.find_spec("reasoning_gym") is None:
        with pytest.raises(MachineError, match="needs the package reasoning-gym") as caught:
            load("reasoning_gym", task="adding", limit=3)
        assert "oxrl[reasoning]" in caught.value.next_step
    (tmp_path / "reasoning_gym").mkdir()
    (tmp_path / "reasoning_gym" / "__init__.py").write_text(STAND_IN)
    (tmp_path / "reasoning_gym" / "factory.py").write_text('DATASETS = {"adding": ()}\n')
    monkeypatch.syspath_prepend(tmp_path)
    rows = load("reasoning_gym", task="adding", limit=50, options={"base": 5})
    held_out = load("reasoning_gym", task="adding", limit=50, split="eval", options={"base": 5})
    assert all(str(eval(row["prompt"][:-1])) == row["answer"] for row in rows)  # noqa: S307 - sums of our own
    assert not {row["prompt"] for row in rows} & {row["prompt"] for row in held_out}
    assert len({row["prompt"] for row in rows}) == 50
    assert rows[0]["row"]["entry"]["metadata"] == {"source_dataset": "adding"}
    for text, score in (
        (f"<think>7 <answer>7</answer></think> <answer> {rows[0]['answer']} </answer>", 1.0),
        (f"<think>\n</think>\n{rows[0]['answer']}", 1.0),
        (f"<answer>{rows[0]['answer']}</answer> or <answer>7</answer>", 0.01),
    ):
        prompt = Prompt(id=rows[0]["id"], token_ids=[1], text="", row=rows[0]["row"])
        rollout = Rollout(prompt, 0, [1], [0.0], "stop", 0, 0, text=text)
        assert reasoning_gym_reward(rollout).value == score
    with pytest.raises(ConfigError, match=r"Did you mean 'adding'"):
        load("reasoning_gym", task="addin")
    with pytest.raises(ConfigError, match=r"needs reasoning_gym\.task"):
        load("reasoning_gym")


def test_a_split_of_two_words_is_not_another_one_that_begins_alike(tmp_path: Path) -> None:
    write(tmp_path / "train_sft.jsonl", {"prompt": "sft"})
    write(tmp_path / "train_prefs.jsonl", {"prompt": "prefs"})
    assert [row["prompt"] for row, _ in files.read_path(tmp_path, "train_prefs") if not isinstance(row, DataError)] == [
        "prefs"
    ]
