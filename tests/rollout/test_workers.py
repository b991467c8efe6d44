from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from oxrl_core.config.schema import Config
from oxrl_core.errors import ConfigError, ModelError, RunFailure, WeightSyncError
from oxrl_core.rollout.hf_worker import TransformersWorker, truncated
from oxrl_core.rollout.sampler import Sampler
from oxrl_core.rollout.verify import check_fingerprint, probe_row
from oxrl_core.rollout.vllm_worker import VllmWorker, check_head_size
from oxrl_core.rollout.worker import check_names, checkpoint_names, eos_token_ids, window
from oxrl_core.train.cluster import Cluster
from oxrl_core.train.groups import start_group
from oxrl_core.types import Prompt, Rollout

VOCABULARY, EOS = 64, 1
ROW = probe_row(VOCABULARY, 300)  # longer than a block of the prefix cache
PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12], [13]]


def config_of(folder: Path, **rollout: Any) -> Config:
    return Config.model_validate(
        {
            "run": {"name": "workers", "call_timeout_seconds": 120, "start_timeout_seconds": 240},
            "model": {"path": str(folder), "precision": "float32"},
            "data": {"train": [{"name": "copy3"}], "max_prompt_tokens": 200},
            "rollout": {"max_completion_tokens": 100, "num_workers": 2, **rollout},
        }
    )


def make_model(folder: Path, *, is_tied: bool) -> Path:
    """A tiny Qwen2 whose next token is far from uniform; its generation_config asks for what would bias sampling."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(1)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=VOCABULARY,
            hidden_size=128,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            tie_word_embeddings=is_tied,
            bos_token_id=None,
            eos_token_id=EOS,
            pad_token_id=0,
        )
    )
    shake(model)
    model.generation_config.eos_token_id = EOS
    model.save_pretrained(folder)
    asked = json.loads((folder / "generation_config.json").read_text())
    asked |= {"do_sample": True, "top_k": 3, "top_p": 0.5, "repetition_penalty": 5.0, "temperature": 0.1}
    (folder / "generation_config.json").write_text(json.dumps(asked))
    return folder


def shake(model: Any, size: float = 0.05) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * size)


def weights_of(model: Any, *, with_twin: bool = False) -> dict[str, torch.Tensor]:
    """Whole weights as a learner exports them; the head of a tied model is its embedding and need not be named."""
    weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    if not with_twin:
        weights.pop("lm_head.weight")
    return weights


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("tied") / "model", is_tied=True)


@pytest.fixture
def hf(tied: Path) -> TransformersWorker:
    return TransformersWorker(config_of(tied), tied)


def scored(model: Any, prompt: list[int], completion: list[int], temperature: float) -> list[float]:
    """What a trainer computes: the whole row read at once, log-softmax at the sampling temperature."""
    row = torch.tensor([prompt + completion])
    with torch.no_grad():
        scores = (model(row).logits[0].float() / temperature).log_softmax(-1)
    return scores[len(prompt) - 1 : -1].gather(-1, torch.tensor(completion)[:, None])[:, 0].tolist()


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_transformers_logprobs_are_those_of_the_whole_row_at_the_temperature(
    hf: TransformersWorker, temperature: float
) -> None:
    prompts = [prompt for prompt in PROMPTS for _ in range(20)]
    completions = hf.generate(prompts, list(range(60)), temperature, 15, False)
    assert {completion.finish_reason for completion in completions} == {"stop", "length"}
    for prompt, completion in zip(prompts, completions, strict=True):
        assert completion.logprobs == pytest.approx(
            scored(hf.model, prompt, completion.token_ids, temperature), abs=1e-5
        )
        assert (completion.token_ids[-1] == EOS) == (completion.finish_reason == "stop")
        assert EOS not in completion.token_ids[:-1]
        assert completion.finish_reason == "stop" or len(completion.token_ids) == 15


def test_transformers_samples_do_not_depend_on_their_neighbours(hf: TransformersWorker) -> None:
    prompts = [prompt for prompt in PROMPTS for _ in range(20)]
    together = hf.generate(prompts, list(range(60)), 1.0, 15, False)
    for index in (0, 25, 59):
        assert hf.generate([prompts[index]], [index], 1.0, 15, False)[0].token_ids == together[index].token_ids
    assert hf.generate([], [], 1.0, 15, False) == []


def test_transformers_draws_each_token_as_often_as_its_probability_says(hf: TransformersWorker) -> None:
    draws = 20_000
    drawn = Counter(c.token_ids[0] for c in hf.generate([PROMPTS[0]] * draws, list(range(draws)), 0.7, 1, False))
    with torch.no_grad():
        probabilities = (hf.model(torch.tensor([PROMPTS[0]])).logits[0, -1] / 0.7).softmax(-1).tolist()
    for token, probability in enumerate(probabilities):
        error = (probability * (1 - probability) / draws) ** 0.5
        assert abs(drawn[token] / draws - probability) < 5 * error + 1e-9


def test_transformers_greedy_takes_the_likeliest_token_and_no_seed(hf: TransformersWorker) -> None:
    first, second = (hf.generate([PROMPTS[1]], [seed], 1.0, 8, True)[0] for seed in (1, 2))
    assert first == second
    with torch.no_grad():
        logits = hf.model(torch.tensor([PROMPTS[1] + first.token_ids])).logits[0, len(PROMPTS[1]) - 1 : -1]
    assert first.token_ids == logits.argmax(-1).tolist()


def next_probabilities(model: Any, prompt: list[int], temperature: float = 1.0) -> list[float]:
    with torch.no_grad():
        return (model(torch.tensor([prompt])).logits[0, -1].double() / temperature).softmax(-1).tolist()


@pytest.mark.parametrize(("top_p", "top_k"), [(1.0, 5), (0.5, 0), (0.5, 12)])
def test_transformers_draws_within_top_k_and_top_p_and_says_the_renormalised_logprobs(
    tied: Path, hf: TransformersWorker, top_p: float, top_k: int
) -> None:
    """By hand: the k likeliest, of these the fewest whose probabilities reach p, each over the sum of those left."""
    likeliest = sorted(enumerate(next_probabilities(hf.model, PROMPTS[0], 0.7)), key=lambda pair: -pair[1])
    inside = likeliest[: top_k or None]
    whole, kept, mass = sum(p for _, p in inside), [], 0.0
    for token, probability in inside:
        if mass >= top_p * whole:
            break
        kept.append((token, probability))
        mass += probability
    assert 1 < len(kept) < VOCABULARY
    worker = TransformersWorker(config_of(tied, top_p=top_p, top_k=top_k), tied)
    draws = 3000
    drawn = worker.generate([PROMPTS[0]] * draws, list(range(draws)), 0.7, 1, False)
    assert {completion.token_ids[0] for completion in drawn} <= {token for token, _ in kept}
    told = {completion.token_ids[0]: completion.logprobs[0] for completion in drawn}
    for token, probability in kept:
        share = probability / mass
        seen = sum(completion.token_ids[0] == token for completion in drawn) / draws
        assert abs(seen - share) < 5 * (share * (1 - share) / draws) ** 0.5 + 1e-9
        assert token not in told or told[token] == pytest.approx(math.log(share), abs=1e-4)


def test_transformers_cut_samples_depend_neither_on_neighbours_nor_on_the_number_of_workers(tied: Path) -> None:
    config = config_of(tied, top_p=0.7, top_k=20)

    def drawn(size: int) -> list[Rollout]:
        group = start_group(TransformersWorker, [(config, tied)] * size, config=config, cluster=None, name="sampler")
        prompts = [Prompt(id=str(index), token_ids=prompt, text="") for index, prompt in enumerate(PROMPTS)]
        return Sampler(group, config).generate(prompts, group_size=5, temperature=1.0, max_tokens=10, step=3)

    one, three = drawn(1), drawn(3)
    assert [rollout.token_ids for rollout in one] == [rollout.token_ids for rollout in three]
    for left, right in zip(one, three, strict=True):
        assert left.rollout_logprobs == pytest.approx(right.rollout_logprobs, abs=1e-5)


def test_transformers_greedy_ignores_top_k_and_top_p(tied: Path, hf: TransformersWorker) -> None:
    worker = TransformersWorker(config_of(tied, top_p=0.1, top_k=2), tied)
    assert worker.generate(PROMPTS, [1, 2, 3], 1.0, 8, True) == hf.generate(PROMPTS, [4, 5, 6], 1.0, 8, True)


def test_a_cut_distribution_sums_to_one_and_keeps_its_likeliest_token() -> None:
    scores = torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.97, 0.01, 0.01, 0.01]]).log()
    assert torch.equal(truncated(scores, 1.0, 0), scores) and torch.equal(truncated(scores, 1.0, 4), scores)
    by_k = truncated(scores, 1.0, 2).exp()
    assert by_k[0].tolist() == pytest.approx([4 / 7, 3 / 7, 0, 0])
    by_p = truncated(scores, 0.6, 0).exp()
    assert by_p[0].tolist() == pytest.approx([4 / 7, 3 / 7, 0, 0]) and by_p[1].tolist() == pytest.approx([1, 0, 0, 0])
    assert truncated(scores, 1e-9, 0).exp()[0].tolist() == pytest.approx([1, 0, 0, 0])
    # Of the two that top_k leaves, the first has 4/7 = 0.571 of the probability: enough for 0.55, not for 0.6.
    assert truncated(scores, 0.55, 2).exp()[0].tolist() == pytest.approx([1, 0, 0, 0])
    assert truncated(scores, 0.6, 2).exp()[0].tolist() == pytest.approx([4 / 7, 3 / 7, 0, 0])


def test_transformers_without_stop_draws_all_tokens(tied: Path) -> None:
    worker = TransformersWorker(config_of(tied, stop_at_eos=False), tied)
    completions = worker.generate([PROMPTS[0]] * 30, list(range(30)), 1.0, 15, False)
    assert {(len(c.token_ids), c.finish_reason) for c in completions} == {(15, "length")}
    assert any(EOS in c.token_ids for c in completions)


@pytest.mark.parametrize("with_twin", [True, False])
def test_transformers_takes_new_weights_in_place(hf: TransformersWorker, tied: Path, with_twin: bool) -> None:
    trainer = TransformersWorker(config_of(tied), tied)
    shake(trainer.model)
    before = hf.probe(ROW)
    hf.load_weights(weights_of(trainer.model, with_twin=with_twin), 4)
    assert hf.version() == 4
    assert hf.generate([PROMPTS[0]], [1], 1.0, 2, False)[0].policy_version == 4
    assert check_fingerprint(trainer.probe(ROW), [hf.probe(ROW)], 1e-6) < 1e-6
    with pytest.raises(WeightSyncError):
        check_fingerprint(before, [hf.probe(ROW)], 1e-3)


def test_transformers_refuses_weights_that_are_not_its_own(hf: TransformersWorker) -> None:
    weights = weights_of(hf.model, with_twin=True)
    name = "model.layers.0.mlp.up_proj.weight"
    for wrong, words in [
        ({key: value for key, value in weights.items() if key != name}, f"1 missing ({name})"),
        (weights | {"base_model.lora_A": torch.zeros(1)}, "1 unknown (base_model.lora_A)"),
        (weights | {name: torch.zeros(2, 2)}, "shape (2, 2)"),
        (weights | {"lm_head.weight": weights["lm_head.weight"] + 1}, "tied to"),
    ]:
        with pytest.raises(WeightSyncError) as caught:
            hf.load_weights(wrong, 9)
        assert words in caught.value.what
    assert hf.version() == 0


def test_a_prompt_and_completion_beyond_the_window_are_refused(hf: TransformersWorker, tied: Path) -> None:
    assert window(config_of(tied), tied) == 256  # 300 are allowed, the model reads 256
    with pytest.raises(ConfigError, match="200 tokens and a completion of 100 do not fit in the sampler's 256"):
        hf.generate([[5] * 200], [1], 1.0, 100, False)


def test_eos_is_read_from_the_generation_config_before_the_config(tied: Path, tmp_path: Path) -> None:
    assert eos_token_ids(tied) == [EOS]
    (tmp_path / "config.json").write_text('{"text_config": {"eos_token_id": 7}}')
    assert eos_token_ids(tmp_path) == [7]
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [8, 9]}')
    assert eos_token_ids(tmp_path) == [8, 9]


def test_names_are_compared_with_those_of_the_checkpoint(tied: Path, hf: TransformersWorker) -> None:
    names = checkpoint_names(tied)
    assert names - {"lm_head.weight"} == set(hf.model.state_dict()) - {"lm_head.weight"}
    check_names(weights_of(hf.model), names, optional=["lm_head.weight"])
    with pytest.raises(WeightSyncError, match=r"1 missing \(lm_head.weight\)"):
        check_names(weights_of(hf.model), names | {"lm_head.weight"})


class TamperedWorker(VllmWorker):
    """The real worker, with a way to change what it does."""

    def tamper(self, name: str, value: Any) -> None:
        setattr(self, name, value)

    def check_heads(self, size: int) -> None:
        check_head_size(size, "folder")


@pytest.fixture(scope="module")
def vllm(local_ray: None, tied: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One vLLM worker as a Ray actor, for all tests: the engine takes half a minute to load."""
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    config = config_of(tied)
    cluster = Cluster.start(config, tmp_path_factory.mktemp("run") / "logs")
    group = start_group(TamperedWorker, [(config, tied, [EOS])], config=config, cluster=cluster, name="sampler")
    yield group
    cluster.close()


@pytest.fixture
def trainer(tied: Path) -> TransformersWorker:
    """Stands for the learner: the same weights in transformers."""
    return TransformersWorker(config_of(tied), tied)


def draw(group: Any, tied: Path, version: int, **options: Any) -> list[Rollout]:
    sampler = Sampler(group, config_of(tied))
    sampler.policy_version = version
    prompts = [Prompt(id=str(index), token_ids=prompt, text="") for index, prompt in enumerate(PROMPTS)]
    options = {"group_size": 20, "temperature": 1.0, "max_tokens": 15, "step": 3} | options
    return sampler.generate(prompts, **options)


def sync(group: Any, trainer: TransformersWorker, version: int) -> None:
    import ray

    group.call("load_weights", ray.put(weights_of(trainer.model)), version)


@pytest.mark.engine
def test_vllm_logprobs_are_the_trainers_whatever_the_folder_asks_for(
    vllm: Any, tied: Path, trainer: TransformersWorker
) -> None:
    sync(vllm, trainer, 1)
    for temperature in (1.0, 0.6):
        rollouts = draw(vllm, tied, 1, temperature=temperature)
        assert {rollout.finish_reason for rollout in rollouts} == {"stop", "length"}
        for rollout in rollouts:
            told = scored(trainer.model, rollout.prompt.token_ids, rollout.token_ids, temperature)
            assert rollout.rollout_logprobs == pytest.approx(told, abs=1e-5)
            assert (rollout.token_ids[-1] == EOS) == (rollout.finish_reason == "stop")
            assert EOS not in rollout.token_ids[:-1]
    # top_k 3 and a repetition penalty of 5, as generation_config.json has them, would leave few tokens to draw.
    assert len({token for rollout in draw(vllm, tied, 1) for token in rollout.token_ids}) > 30


@pytest.mark.engine
def test_vllm_draws_within_top_k_and_top_p_and_says_the_renormalised_logprobs(
    vllm: Any, tied: Path, trainer: TransformersWorker
) -> None:
    sync(vllm, trainer, 1)
    vllm.call("tamper", "top_k", 6)
    vllm.call("tamper", "top_p", 0.8)
    rollouts = draw(vllm, tied, 1, temperature=0.7)
    greedy = draw(vllm, tied, 1, group_size=1, greedy=True)
    vllm.call("tamper", "top_k", 0)
    vllm.call("tamper", "top_p", 1.0)
    for rollout in rollouts:
        row = torch.tensor([rollout.prompt.token_ids + rollout.token_ids])
        with torch.no_grad():
            scores = (trainer.model(row).logits[0].float() / 0.7).log_softmax(-1)
        cut = truncated(scores[len(rollout.prompt.token_ids) - 1 : -1], 0.8, 6)
        told = cut.gather(-1, torch.tensor(rollout.token_ids)[:, None])[:, 0].tolist()
        assert rollout.rollout_logprobs == pytest.approx(told, abs=1e-4)
    assert greedy[0].rollout_logprobs == pytest.approx(
        scored(trainer.model, greedy[0].prompt.token_ids, greedy[0].token_ids, 1.0), abs=1e-5
    )


@pytest.mark.engine
def test_vllm_draws_the_same_tokens_with_one_worker_and_with_two(
    vllm: Any, tied: Path, trainer: TransformersWorker
) -> None:
    sync(vllm, trainer, 2)
    halves = replace(vllm, names=vllm.names * 2, hosts=vllm.hosts * 2)  # each draws its share in a batch of its own
    one, two = draw(vllm, tied, 2), draw(halves, tied, 2)
    assert [rollout.token_ids for rollout in two] == [rollout.token_ids for rollout in one]
    assert [rollout.token_ids for rollout in two] != [rollout.token_ids for rollout in draw(vllm, tied, 2, step=4)]


@pytest.mark.engine
def test_vllm_and_transformers_agree_on_the_greedy_completion(
    vllm: Any, tied: Path, trainer: TransformersWorker
) -> None:
    sync(vllm, trainer, 3)
    rollouts = draw(vllm, tied, 3, group_size=1, greedy=True)
    own = trainer.generate(PROMPTS, [0, 0, 0], 1.0, 15, True)
    assert [rollout.token_ids for rollout in rollouts] == [completion.token_ids for completion in own]
    for rollout, completion in zip(rollouts, own, strict=True):
        assert rollout.rollout_logprobs == pytest.approx(completion.logprobs, abs=1e-5)


@pytest.mark.engine
def test_the_fingerprint_sees_a_stale_tied_head_and_passes_after_the_repair(
    vllm: Any, trainer: TransformersWorker
) -> None:
    shake(trainer.model)
    vllm.call("tamper", "_repairs_tied_head", False)
    sync(vllm, trainer, 4)
    with pytest.raises(WeightSyncError, match="after the weight sync"):
        check_fingerprint(trainer.probe(ROW), vllm.call("probe", ROW), 1e-3)
    vllm.call("tamper", "_repairs_tied_head", True)
    sync(vllm, trainer, 4)
    assert check_fingerprint(trainer.probe(ROW), vllm.call("probe", ROW), 1e-4) < 1e-4


@pytest.mark.engine
def test_the_fingerprint_sees_a_stale_prefix_cache(vllm: Any, trainer: TransformersWorker) -> None:
    sync(vllm, trainer, 5)
    vllm.call("probe", ROW)  # fills the cache with values of these weights
    shake(trainer.model)
    vllm.call("tamper", "_resets_cache", False)
    sync(vllm, trainer, 6)
    ours = trainer.probe(ROW)
    with pytest.raises(WeightSyncError, match=f"probe token {len(ROW) - 1}"):
        check_fingerprint(ours, vllm.call("probe", ROW), 1e-3)
    vllm.call("tamper", "_resets_cache", True)
    sync(vllm, trainer, 6)
    assert check_fingerprint(ours, vllm.call("probe", ROW), 1e-4) < 1e-4


@pytest.mark.engine
def test_vllm_refuses_half_the_weights_and_answers_to_sleep_and_wake(vllm: Any, trainer: TransformersWorker) -> None:
    half = dict(list(weights_of(trainer.model).items())[::2])
    with pytest.raises(WeightSyncError, match="missing"):
        vllm.call("load_weights", half, 7)
    vllm.call("sleep")
    vllm.call("wake")
    assert vllm.call("ready") == [{"engine": "vllm", "device": "cpu", "precision": "float32"}]
    with pytest.raises(ConfigError, match="do not fit"):
        vllm.call("generate", [[5] * 250], [1], 1.0, 100, False)
    with pytest.raises(RunFailure, match="sampler"):
        vllm.call("generate", [[VOCABULARY + 7]], [1], 1.0, 5, False)  # no such token


@pytest.mark.engine
def test_heads_that_vllm_cannot_compute_on_the_cpu_are_named(vllm: Any) -> None:
    vllm.call("check_heads", 64)
    with pytest.raises(ModelError, match="this model has 16") as caught:
        vllm.call("check_heads", 16)
    assert caught.value.next_step == "set rollout.engine: transformers"
