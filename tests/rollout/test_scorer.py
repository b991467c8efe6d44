"""Reward models: what they read, where they score, and that nothing of them is made up."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from oxrl_core.config.schema import Config
from oxrl_core.errors import DataError, ModelError
from oxrl_core.models.miniature import make_miniature
from oxrl_core.rewards.reward_model import ENDING_KEY
from oxrl_core.rollout.scorer import RewardModelWorker, Scorer, load_reward_model
from oxrl_core.train.groups import start_group
from oxrl_core.train.host import free_port
from oxrl_core.types import FinishReason, Message, Prompt, Rollout

QUESTION: list[Message] = [{"role": "user", "content": "Who art thou?"}]


def make_reward_model(folder: Path, miniature: str, *, num_labels: int = 1, **facts: Any) -> Path:
    """A reward model by transformers' own hand, whose head is not as small as a fresh one."""
    make_miniature(miniature, folder, seed=1)
    torch.manual_seed(2)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=num_labels, dtype=torch.float32)
    with torch.no_grad():
        model.score.weight.normal_(0, 1)
    model.config.update(facts)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_reward_model(tmp_path_factory.mktemp("models") / "plain", "chars")


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_reward_model(tmp_path_factory.mktemp("models") / "chat", "qwen2.5-0.5b-instruct")


def config_of(folder: Path, **reward: Any) -> Config:
    return Config.model_validate(
        {
            "run": {"name": "scorer", "backend": "local"},
            "model": {"path": "miniature:chars"},
            "data": {"train": [{"name": "copy3"}]},
            "reward": {"name": "reward_model", "path": str(folder), **reward},
        }
    )


def worker_of(folder: Path, **reward: Any) -> RewardModelWorker:
    return RewardModelWorker(config_of(folder, **reward), folder)


def by_hand(folder: Path, token_ids: list[int]) -> float:
    """The score of one row, from the hidden state of its last token: no batch, no padding."""
    model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        hidden = model.model(input_ids=torch.tensor([token_ids])).last_hidden_state  # (1, T, H)
        return float(model.score(hidden[0, -1]))


def test_a_plain_model_reads_prompt_completion_and_the_eos_that_was_drawn(plain: Path) -> None:
    worker = worker_of(plain)
    ids = {token: index for index, token in enumerate(["<pad>", "<eos>", *"0123456789+-=:> ?"])}
    ended, cut = worker.score([("1+2=", "3", True), ("1+2=", "3", False)])
    row = [ids[character] for character in "1+2=3"]
    assert worker.render("1+2=", "3", True) == [*row, 1]
    assert ended == pytest.approx(by_hand(plain, [*row, 1]), abs=1e-5)
    assert cut == pytest.approx(by_hand(plain, row), abs=1e-5)
    assert abs(ended - cut) > 1e-3
    # Messages without a template are their text, as the policy of the same kind reads them.
    assert worker.render([{"role": "user", "content": "1+2="}], "3", True) == [*row, 1]
    with pytest.raises(DataError, match="no chat template"):
        worker.render([{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}], "3", True)


def test_scores_do_not_depend_on_the_batch_its_order_or_its_padding(plain: Path) -> None:
    items = [("1+2=", "3" * length, bool(length % 2)) for length in (1, 9, 2, 30, 5, 1, 17, 40)]
    together = worker_of(plain).score(items)
    assert together == pytest.approx([by_hand(plain, worker_of(plain).render(*item)) for item in items], abs=1e-5)
    for batch_tokens in (1, 12, 64, 100_000):
        assert worker_of(plain, batch_tokens=batch_tokens).score(items) == pytest.approx(together, abs=1e-5)
    assert worker_of(plain).score(items[::-1])[::-1] == pytest.approx(together, abs=1e-5)
    assert worker_of(plain).score([]) == []


def test_batches_keep_to_the_budget_of_padded_tokens(plain: Path) -> None:
    worker = worker_of(plain, batch_tokens=24)
    rows = [[2] * length for length in (3, 4, 5, 6, 7, 11, 30)]
    batches = worker._batches(range(7), rows)
    # 4 x 6 = 24, then 2 x 11 = 22, and the row of 30 alone.
    assert batches == [[0, 1, 2, 3], [4, 5], [6]]
    assert max(map(len, worker_of(plain)._batches(range(100), [[2]] * 100))) < worker.vocabulary


def test_where_padding_is_eos_the_eos_of_a_row_is_still_what_is_scored(plain: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(plain), AutoTokenizer.from_pretrained(plain)
    tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = 1
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    items = [("1+2=", "3", True), ("1+2=", "33333", True), ("1", "", True)]
    assert worker_of(folder).score(items) == pytest.approx(worker_of(plain).score(items), abs=1e-5)


def test_a_chat_model_reads_the_turn_as_its_own_template_writes_it(chat: Path) -> None:
    worker = worker_of(chat)
    before = "<|im_start|>user\nWho art thou?<|im_end|>\n<|im_start|>assistant\n"
    encode = worker.tokenizer

    def ids(text: str) -> list[int]:
        return encode(text, add_special_tokens=False)["input_ids"]

    # A model of the hub: everything that the template writes after a turn, the line break too.
    assert worker.ready()["ending"] == "template"
    assert worker.render(QUESTION, "I am.", True) == ids(before + "I am.<|im_end|>\n")
    assert worker.render(QUESTION, "I am.", False) == ids(before + "I am.")
    assert worker.render(QUESTION, "", False) == ids(before)
    assert worker.render("Who art thou?", "I am.", True) == ids(before + "I am.<|im_end|>\n")
    score = worker.score([(QUESTION, "I am.", True)])[0]
    assert score == pytest.approx(by_hand(chat, ids(before + "I am.<|im_end|>\n")), abs=1e-5)
    # A model that was trained on rows that end with EOS.
    worker = worker_of(chat, ending="eos")
    assert worker.render(QUESTION, "I am.", True) == ids(before) + ids("I am.") + [encode.eos_token_id]
    assert worker.render(QUESTION, "I am.", False) == ids(before) + ids("I am.")


def test_how_its_training_rows_ended_stands_in_the_models_own_config(chat: Path, tmp_path: Path) -> None:
    folder = make_reward_model(tmp_path / "marked", "qwen2.5-0.5b-instruct", **{ENDING_KEY: "eos"})
    assert json.loads((folder / "config.json").read_text())[ENDING_KEY] == "eos"
    assert worker_of(folder).ready()["ending"] == "eos"
    config = config_of(chat).model_copy(update={"reward": config_of(chat, path="run:x").reward})
    assert RewardModelWorker(config, chat).ready()["ending"] == "eos"


def test_the_policys_template_does_not_reach_the_reward_model(chat: Path) -> None:
    """The rollout's own text holds another model's marks; the messages are what is read."""
    prompt = Prompt("test/train/0", [1], "[INST] Who art thou? [/INST]", messages=QUESTION)
    group = start_group(
        RewardModelWorker, [(config_of(chat), chat)], config=config_of(chat), cluster=None, name="scorer"
    )
    scorer = Scorer(group)
    assert scorer.ready()[0]["precision"] == "float32"
    scores = scorer.score([rollout_of(prompt, "I am.")])
    assert scores[0].value == pytest.approx(worker_of(chat).score([(QUESTION, "I am.", True)])[0], abs=1e-6)
    scorer.close()


def rollout_of(prompt: Prompt, text: str, finish_reason: FinishReason = "stop") -> Rollout:
    return Rollout(prompt, 0, [1], [0.0], finish_reason, policy_version=0, seed=0, text=text)


def test_a_row_that_is_too_long_has_no_verdict_and_the_others_keep_theirs(plain: Path) -> None:
    config = config_of(plain, max_length=8)
    arguments = [(config, plain)] * 3
    scorer = Scorer(start_group(RewardModelWorker, arguments, config=config, cluster=None, name="scorer"))
    prompt = Prompt("test/train/0", [1], "1+2=")
    texts = ["3", "34", "345", "3456", "34567", "9"]
    scores = scorer.score([rollout_of(prompt, text) for text in texts])
    assert [score.status for score in scores] == ["ok", "ok", "ok", "error", "error", "ok"]  # 4 + 3 + EOS fit
    assert math.isnan(scores[3].value) and "reward.max_length" in scores[3].detail
    expected = worker_of(plain).score([("1+2=", text, True) for text in texts])
    assert [scores[index].value for index in (0, 1, 2, 5)] == pytest.approx(
        [expected[index] for index in (0, 1, 2, 5)], abs=1e-5
    )
    assert scorer.metrics() == {"reward_model/scored": 6.0, "reward_model/unscored": 2.0}
    assert worker_of(plain).ready()["max_length"] == 64  # what the model can read


def test_a_language_model_is_no_reward_model_with_a_random_head(tmp_path: Path) -> None:
    folder = make_miniature("chars", tmp_path / "policy", seed=1)
    with pytest.raises(ModelError, match=r"not in its files: score\.weight"):
        load_reward_model(folder)


def test_a_classifier_of_two_labels_is_no_reward_model(tmp_path: Path) -> None:
    folder = make_reward_model(tmp_path / "two", "chars", num_labels=2)
    with pytest.raises(ModelError, match="gives 2 numbers"):
        load_reward_model(folder)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_reward_model(tmp_path)


TRAIN_AND_EXPORT = """
import json, sys
from pathlib import Path
import torch
from oxrl_core.config.schema import Config
from oxrl_core.data.collate import collate_pairs
from oxrl_core.data.render import render_pair
from oxrl_core.engine.policy import PolicyEngine
from oxrl_core.models.load import load_tokenizer

config, folder, out, row = Config.model_validate_json(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
engine = PolicyEngine(config, folder, rank=0, world_size=1, total_steps=1, head="score")
with torch.no_grad():
    for parameter in engine.engine.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.05)  # a fresh head scores everything alike
tokenizer = load_tokenizer(folder)
pair = render_pair(json.loads(row), tokenizer, config.data)
with torch.no_grad():
    scores = engine.scores(collate_pairs([pair], tokenizer.pad_token_id)).tolist()
engine.export_model(out)
print(json.dumps([scores, pair.chosen.token_ids, pair.rejected.token_ids]))
"""


@pytest.mark.engine
def test_a_reward_model_trained_here_scores_the_same_rows_alike_when_it_serves(tmp_path: Path) -> None:
    """The same tokens as in training, and the same scores, though another process renders the messages again."""
    policy, trained = make_miniature("qwen2.5-0.5b-instruct", tmp_path / "policy", seed=1), tmp_path / "trained"
    row = {"id": "test/train/0", "prompt": "1+2=", "chosen": "3", "rejected": "4444"}
    arguments = [config_of(trained).model_dump_json(), str(policy), str(trained), json.dumps(row)]
    ranks = {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    done = subprocess.run(
        [sys.executable, "-c", TRAIN_AND_EXPORT, *arguments],
        env={**os.environ, **ranks, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    scores, chosen, rejected = json.loads(done.stdout.splitlines()[-1])
    worker = worker_of(trained)
    messages: list[Message] = [{"role": "user", "content": "1+2="}]
    assert worker.render(messages, "3", True) == chosen
    assert worker.render(messages, "4444", True) == rejected
    assert worker.score([(messages, "3", True), (messages, "4444", True)]) == pytest.approx(scores, abs=1e-5)
    assert abs(scores[0] - scores[1]) > 1e-3
