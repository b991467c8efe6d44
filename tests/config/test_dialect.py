"""The seeds' dialect: a whole file, and every key with what becomes of it."""

from __future__ import annotations

import pytest
import yaml

from oxrl_core.config.dialect_keys import COMPUTED, DROPPED_BRANCHES, DROPS, LOSS_PARAMETERS, REFUSALS, RENAMES
from oxrl_core.config.load import load_config
from oxrl_core.errors import ConfigError

OLD_RL = """
run:
  experiment_id: "my first run"
  project_name: oxrl-exp
  tracking_uri: ""
  training_gpus: 2
  rollout_gpus: 2
  ray_address: null
  ray_master_port: 29500
  distributed_training_strategy: deepspeed-zero3
  checkpoint_dir: ./checkpoints
  checkpoint_every_n_epochs: 2
  keep_last_n_checkpoints: 3
  ray_task_timeout_sec: 900
  seed: 42
train:
  alg_name: sgrpo
  optimizer_name: adamw
  lr: 1e-5
  adam_epsilon: 1e-8
  betas: [0.9, 0.95]
  weight_decay: 0.01
  warmup_steps_ratio: 0.1
  clip_grad_norm: 1.0
  lr_scheduler: WarmupCosineLR
  kl_coeff: 0.04
  clip_low: -0.2
  clip_high: 0.28
  entropy_coeff: null
  update_after_full_replay: true
  total_number_of_epochs: 30
  train_steps_per_epoch: 5
  train_batch_size_per_gpu: 2
  gradient_accumulation_steps: 8
  val_batch_size_per_gpu: 16
  normalize_loss: true
  beta: 0.1
reward:
  broadcast: false
  eps_reward_norm: 1e-8
  reward_func: gsm8k_reward_func
rollout:
  temperature: 1.0
  max_tokens: 256
  n_samples: 4
  top_p: 1.0
  top_k: -1
  ignore_eos: false
  stop: ""
  gpu_memory_utilization: 0.4
  stop_token_ids: []
  prompt_logprobs: false
  force_strict_on_policy: true
  tensor_parallel_size: 1
  rollout_batch_size_per_gpu: 64
model:
  name: Qwen/Qwen2.5-0.5B-Instruct
  dtype: bfloat16
  ref_model: ""
  ref_model_offload_to_cpu: true
  trust_remote_code: false
  use_cache: false
  model_class: llm
  gradient_checkpointing: true
  attn_implementation: flash_attention_2
data:
  train_dnames: [easy, hard]
  train_ratios: {easy: 1.0, hard: 3.0}
  train_files_path: ./data
  val_files_path: ./data/val.parquet
  num_workers: 4
  max_seq_len: 512
  prompt_key: question
  answer_key: solution
lora:
  enabled: true
  r: 8
  lora_alpha: 16
  lora_dropout: 0.05
  target_modules: [q_proj, v_proj]
  bias: none
  task_type: CAUSAL_LM
deepspeed:
  zero_optimization:
    stage: 2
    stage3_param_persistence_threshold: 100000.0
    offload_optimizer: {device: none, pin_memory: true}
    offload_param: {device: none}
    overlap_comm: true
    reduce_bucket_size: 500000000.0
  activation_checkpointing: {partition_activations: true}
  steps_per_print: 100
  wall_clock_breakdown: false
  flops_profiler: {enabled: false, output_file: null}
inference_engine:
  name: vllm
"""


def test_a_file_written_entirely_in_the_old_dialect_loads():
    loaded = load_config(OLD_RL)
    config = loaded.config
    assert config.run.name == "my-first-run" and config.run.seed == 42 and config.run.call_timeout_seconds == 900
    assert (config.model.path, config.model.precision, config.model.attention) == (
        "Qwen/Qwen2.5-0.5B-Instruct",
        "bfloat16",
        "flash_attention_2",
    )
    lora = config.model.lora
    assert (lora.enabled, lora.rank, lora.alpha, lora.target_modules) == (True, 8, 16, ("q_proj", "v_proj"))
    assert lora.dropout == 0  # 0.05 would break the ratio in RL
    params = config.algorithm.params
    assert (config.algorithm.name, params["clip_low"], params["clip_high"]) == ("sgrpo", 0.2, 0.28)
    assert (config.algorithm.kl_coef, config.algorithm.entropy_coef) == (0.04, 0.0)
    train = config.train
    assert train.steps == 30 * 5
    assert train.prompts_per_step == 2 * 8 * 2 // 4  # rows x accumulation x ranks / completions of a prompt
    assert train.micro_batch_tokens == 2 * (512 + 256)
    assert train.warmup_steps == 15 and train.lr_schedule == "cosine" and train.max_grad_norm == 1.0
    assert (train.lr, train.eps, train.betas, train.weight_decay) == (1e-5, 1e-8, (0.9, 0.95), 0.01)
    assert (train.num_workers, train.save_every, train.keep_checkpoints) == (2, 10, 3)
    rollout = config.rollout
    assert (rollout.group_size, rollout.max_completion_tokens, rollout.num_workers) == (4, 256, 2)
    assert (rollout.top_p, rollout.top_k) == (1.0, 0)
    assert (rollout.memory_fraction, rollout.stop_at_eos, rollout.engine) == (0.4, True, "vllm")
    assert config.reward.name == "gsm8k"
    easy, hard = config.data.train
    assert (easy.name, easy.ratio, hard.name, hard.ratio) == ("data/easy.parquet", 1.0, "data/hard.parquet", 3.0)
    assert (easy.prompt_column, easy.answer_column) == ("question", "solution")
    assert config.data.eval[0].name == "./data/val.parquet" and config.data.max_prompt_tokens == 512
    assert config.deepspeed.zero_stage == 2 and config.deepspeed.bucket_size == 500_000_000
    assert not config.deepspeed.offload_optimizer and not config.deepspeed.offload_params


def test_every_old_key_of_the_file_leaves_a_note():
    notes = load_config(OLD_RL).notes
    assert all("->" in note for note in notes[:-1]) and "today's defaults" in notes[-1]
    same = {"run.seed", "run.ray_address", "train.lr", "train.betas", "train.weight_decay"}
    same |= {"rollout.temperature", "rollout.top_p", "rollout.top_k", "model.gradient_checkpointing"}
    for section, keys in yaml.safe_load(OLD_RL).items():
        for key in keys:
            path = f"{section}.{key}"
            assert path in same or any(path in note for note in notes), path


def test_what_changed_its_meaning_says_how():
    notes = "\n".join(load_config(OLD_RL).notes)
    assert "train.total_number_of_epochs x train.train_steps_per_epoch -> train.steps = 150" in notes
    assert "30 epochs x 5 steps per epoch; an epoch was a number of steps, not a pass over the data" in notes
    assert "2 rows x 8 accumulated x 2 ranks = 32 rollouts / 4 per prompt" in notes
    assert "lora.lora_dropout -> model.lora.dropout = 0.0 (was 0.05" in notes


def test_a_supervised_file_counts_micro_batches():
    text = """
run: {experiment_id: sl, distributed_training_strategy: deepspeed-zero1}
train: {alg_name: sft, total_number_of_epochs: 3, micro_batches_per_epoch: 100, train_batch_size_per_gpu: 4,
        gradient_accumulation_steps: 8, warmup_steps_ratio: 0.25, lr_scheduler: WarmupDecayLR, clip_low: 0.2}
model: {name: x/y, dtype: float32, attn_impl: eager}
data: {train_dnames: [d], train_files_path: d.jsonl, val_files_path: v.jsonl, max_seq_len: 256, answer_key: response}
"""
    config = load_config(text).config
    assert config.train.steps == 3 * (100 // 8) and config.train.rows_per_step == 4 * 8
    assert config.train.warmup_steps == 9 and config.train.lr_schedule == "linear"
    assert config.data.max_length == 256 and config.train.micro_batch_tokens == 4 * 256
    assert config.data.train[0].completion_column == "response" and config.data.train[0].answer_column is None
    assert config.deepspeed.zero_stage == 1 and config.model.attention == "eager"


def old_file(algorithm: str, **sections) -> dict:
    """A file of the old dialect with what every one of them had."""
    mapping = {
        "run": {"experiment_id": "old"},
        "train": {"alg_name": algorithm, "total_number_of_epochs": 2, "kl_coeff": 0.0, "beta": 0.2},
        "model": {"name": "a/b", "ref_model": "a/b"},
        "data": {"train_dnames": ["d"], "train_files_path": "d.jsonl", "prompt_key": "q", "answer_key": "a"},
    }
    for name, section in sections.items():
        mapping.setdefault(name, {}).update(section)
    return mapping


SEEDS = [
    *("sgrpo", "cispo", "ppo", "rlhf", "rlaif", "sft", "dpo", "orpo", "kto"),
    *("cpt", "kd", "rm", "online_dpo", "rft", "spin", "ipo", "simpo"),
]


@pytest.mark.parametrize("algorithm", SEEDS)
def test_every_algorithm_of_the_seeds_has_its_name_today(algorithm):
    sections = {"model": {"ref_model": "big/teacher"}} if algorithm == "kd" else {}
    assert load_config(old_file(algorithm, **sections)).config.algorithm.name == algorithm


def test_old_names_of_losses_have_no_underscore():
    assert load_config(old_file("betadpo")).config.algorithm.name == "beta_dpo"
    assert load_config(old_file("robust_dpo")).config.algorithm.name == "robust_dpo"


def test_a_preference_file_names_its_columns_and_its_beta():
    config = load_config(old_file("dpo", data={"chosen_key": "good", "rejected_key": "bad"})).config
    (source,) = config.data.train
    assert (source.prompt_column, source.chosen_column, source.rejected_column) == ("q", "good", "bad")
    assert source.completion_column is None and config.algorithm.params["beta"] == 0.2
    told = load_config(old_file("dpo", train={"kl_coeff": 0.1})).notes
    assert "train.kl_coeff -> dropped (not used by dpo)" in told


def test_in_distillation_the_reference_was_the_teacher():
    train = {"kd_alpha": 0.3, "kd_temperature": 4.0, "cpo_alpha": 1.0}
    config = load_config(old_file("kd", model={"ref_model": "big/teacher"}, train=train)).config
    assert config.algorithm.teacher == "big/teacher"
    assert config.algorithm.params == {"alpha": 0.3, "temperature": 4.0}  # cpo_alpha is another loss's


def test_a_parameter_goes_to_the_loss_that_its_name_begins_with():
    assert load_config(old_file("simpo", train={"simpo_gamma": 0.7})).config.algorithm.params["gamma"] == 0.7
    loaded = load_config(old_file("robust_dpo", train={"robust_dpo_label_smoothing": 0.2}))
    assert 0.2 in loaded.config.algorithm.params.values()


def test_switches_of_ppo_go_to_ppo_alone():
    train = {"ppo_gamma": 0.99, "ppo_tau": 0.9, "ppo_vf_clip": 0.1, "cliprange": 0.3}
    algorithm = load_config(old_file("ppo", train=train)).config.algorithm
    assert (algorithm.discount, algorithm.gae_lambda, algorithm.value_clip) == (0.99, 0.9, 0.1)
    assert (algorithm.params["clip_low"], algorithm.params["clip_high"]) == (0.3, 0.3)
    assert load_config(old_file("sgrpo", train=train)).config.algorithm.discount == 1.0


def test_the_clip_of_cispo_was_a_distance_and_is_a_cap():
    algorithm = load_config(old_file("cispo", train={"clip_low": 0.2, "clip_high": 0.3})).config.algorithm
    assert algorithm.params["ratio_cap"] == pytest.approx(1.3)
    assert algorithm.params["ratio_floor"] == pytest.approx(0.8)


def test_what_drew_nothing_then_counts_micro_batches_and_rows():
    train = {"micro_batches_per_epoch": 100, "train_batch_size_per_gpu": 2, "gradient_accumulation_steps": 4}
    config = load_config(old_file("rft", train={**train, "reward_threshold": 0.5})).config
    assert config.train.steps == 2 * (100 // 4) and config.train.prompts_per_step == 2 * 4
    assert config.selection.reward_threshold == 0.5
    spin = load_config(old_file("spin", train=train, data={"chosen_key": "good"})).config
    assert spin.data.train[0].completion_column == "good" and spin.algorithm.reference == "synced"


def test_learned_rewards_keep_their_model_and_a_judge_its_address():
    reward = {"reward_func": "rm_reward_func", "reward_model_path": "./rm"}
    config = load_config(old_file("rlhf", reward=reward)).config
    assert (config.reward.name, config.reward.params["path"]) == ("reward_model", "./rm")
    judge = {"api_base": "http://localhost:1/v1", "model": "m", "max_retries": 3, "fallback_score": 0.0}
    loaded = load_config(old_file("rlaif", reward={"llm_judge": judge}))
    assert loaded.config.reward.name == "judge"
    assert loaded.config.reward.params == {
        "url": "http://localhost:1/v1",
        "model": "m",
        "retries": 3,
        "mode": "score",
    }
    assert any(note.startswith("reward.llm_judge.fallback_score -> dropped") for note in loaded.notes)
    with pytest.raises(ConfigError, match="a key does not belong in a file"):
        load_config(old_file("rlaif", reward={"llm_judge": {**judge, "api_key": "s3cret"}}))


def nested(path: str, value) -> dict:
    for part in reversed(path.split(".")):
        value = {part: value}
    return value


def load_old(path: str, value, algorithm: str = "sgrpo"):
    """A loaded configuration with one old key in it."""
    mapping = {"run": {"name": "r"}, "model": {"path": "a/b"}, "data": {"train": "reverse3"}}
    mapping["algorithm"] = {"name": algorithm}
    if path in ("run.experiment_id", "model.name", "train.alg_name", "data.dataset"):
        del mapping[{"train": "algorithm"}.get(path.split(".")[0], path.split(".")[0])]
    if path.startswith("data.train_") or path == "data.dataset":
        mapping.pop("data", None)
    section, key = path.split(".", 1)
    mapping[section] = {**mapping.get(section, {}), **nested(key, value)}
    return load_config(mapping)


@pytest.mark.parametrize(
    ("old", "value", "new", "expected"),
    [
        ("run.experiment_id", "a b", "run.name", "a-b"),
        ("run.ray_task_timeout_sec", 60, "run.call_timeout_seconds", 60.0),
        ("run.keep_last_n_checkpoints", 4, "train.keep_checkpoints", 4),
        ("run.distributed_training_strategy", "deepspeed-zero3", "deepspeed.zero_stage", 3),
        ("run.training_gpus", 3, "train.num_workers", 3),
        ("run.rollout_gpus", 3, "rollout.num_workers", 3),
        ("train.alg_name", "sft", "algorithm.name", "sft"),
        ("train.adam_epsilon", 1e-6, "train.eps", 1e-6),
        ("train.clip_grad_norm", 0.5, "train.max_grad_norm", 0.5),
        ("train.lr_scheduler", "WarmupLR", "train.lr_schedule", "constant"),
        ("train.kl_coeff", 0.1, "algorithm.kl_coef", 0.1),
        ("train.entropy_coeff", 0.1, "algorithm.entropy_coef", 0.1),
        ("train.clip_low", -0.3, "algorithm.clip_low", 0.3),
        ("train.clip_high", 0.3, "algorithm.clip_high", 0.3),
        ("train.total_number_of_epochs", 3, "train.epochs", 3.0),
        ("train.train_steps_per_epoch", 7, "train.steps", 7),
        ("train.train_batch_size_per_gpu", 16, "train.prompts_per_step", 2),
        ("train.gradient_accumulation_steps", 12, "train.prompts_per_step", 3),
        ("train.warmup_steps_ratio", 0, "train.warmup_steps", 0),
        ("model.name", "c/d", "model.path", "c/d"),
        ("model.dtype", "bf16", "model.precision", "bfloat16"),
        ("model.attn_impl", "eager", "model.attention", "eager"),
        ("model.attn_implementation", "sdpa", "model.attention", "sdpa"),
        ("data.dataset", "copy3", "data.train.0.name", "copy3"),
        ("data.train_dnames", ["copy3"], "data.train.0.name", "copy3"),
        ("data.train_files_path", "x.jsonl", "data.train.0.name", "x.jsonl"),
        ("data.val_files_path", "v.jsonl", "data.eval.0.name", "v.jsonl"),
        ("data.max_seq_len", 99, "data.max_prompt_tokens", 99),
        ("reward.reward_func", "default_reward_func", "reward.name", "default"),
        ("reward.reward_func", "mine.rewards:score", "reward.name", "mine.rewards:score"),
        ("lora.enabled", True, "model.lora.enabled", True),
        ("lora.r", 4, "model.lora.rank", 4),
        ("lora.lora_rank", 4, "model.lora.rank", 4),
        ("lora.lora_alpha", 4, "model.lora.alpha", 4),
        ("lora.target_modules", ["q_proj"], "model.lora.target_modules", ("q_proj",)),
        ("rollout.n_samples", 4, "rollout.group_size", 4),
        ("rollout.max_tokens", 4, "rollout.max_completion_tokens", 4),
        ("rollout.tensor_parallel_size", 2, "rollout.tensor_parallel", 2),
        ("rollout.gpu_memory_utilization", 0.7, "rollout.memory_fraction", 0.7),
        ("rollout.ignore_eos", True, "rollout.stop_at_eos", False),
        ("inference_engine.name", "hf", "rollout.engine", "transformers"),
        ("deepspeed.zero_optimization.stage", 1, "deepspeed.zero_stage", 1),
        ("deepspeed.zero_optimization.offload_optimizer", {"device": "cpu"}, "deepspeed.offload_optimizer", True),
        ("deepspeed.zero_optimization.offload_param", {"device": "none"}, "deepspeed.offload_params", False),
        ("deepspeed.zero_optimization.reduce_bucket_size", 1e6, "deepspeed.bucket_size", 1_000_000),
        ("deepspeed.gradient_clipping", 0.5, "train.max_grad_norm", 0.5),
    ],
)
def test_an_old_key_becomes_a_new_one(old, value, new, expected):
    loaded = load_old(old, value)
    found = loaded.config
    for part in new.split("."):
        found = (
            found[int(part)]
            if part.isdecimal()
            else found.params[part]
            if part[:5] == "clip_"
            else getattr(found, part)
        )
    assert found == expected
    note = next(note for note in loaded.notes if note.startswith(old) or f"x {old}" in note)
    assert "->" in note and "(" in note


@pytest.mark.parametrize("old", sorted(DROPS))
def test_a_harmless_key_is_dropped_with_its_reason(old):
    value = {"enabled": True} if DROPS[old].startswith("follows from model.precision") else 3
    assert f"{old} -> dropped ({DROPS[old]})" in load_old(old, value).notes


@pytest.mark.parametrize("old", sorted(REFUSALS))
def test_a_key_that_would_change_the_run_is_refused_unless_it_says_nothing(old):
    rule = REFUSALS[old]
    for harmless in rule.harmless:
        assert any(note.startswith(f"{old} -> dropped") for note in load_old(old, harmless).notes)
    wrong = {"model.trust_remote_code": True, "train.normalize_loss": False}.get(old, "something")
    with pytest.raises(ConfigError) as caught:
        load_old(old, wrong)
    assert rule.reason in str(caught.value) and rule.next_step in str(caught.value) and old in str(caught.value)


@pytest.mark.parametrize(
    ("old", "value", "message"),
    [
        ("model.dtype", "float16", "loss scaling"),
        ("deepspeed.fp16", {"enabled": True}, "loss scaling"),
        ("model.ref_model", "other/model", "the initial policy itself"),
        ("train.lr_scheduler", "OneCycle", "constant, linear and cosine"),
        ("train.train_batch_size_per_gpu", 0, "not a positive whole number"),
        ("train.warmup_steps_ratio", 5, "not a share between 0 and 1"),
        ("run.ray_task_timeout_sec", 0, "every call has a deadline"),
        ("deepspeed.zero_optimization.offload_param", {"device": "nvme"}, "offloading to nvme is not built"),
        ("data.train_ratios", {"x": 1}, "is not among data.train_dnames"),
    ],
)
def test_an_old_value_without_counterpart_says_why(old, value, message):
    with pytest.raises(ConfigError, match=message):
        load_old(old, value)


def test_parameters_of_other_losses_are_dropped_and_named():
    assert "train.beta -> dropped (not a parameter of sgrpo)" in load_old("train.beta", 0.1).notes
    assert "train.clip_low -> dropped (not a parameter of sft)" in load_old("train.clip_low", 0.1, "sft").notes


def test_old_and_new_name_of_one_thing_must_agree():
    both = {"rollout": {"n_samples": 4, "group_size": 5}}
    with pytest.raises(ConfigError, match="group_size is already 5; both say the same thing"):
        load_config({"run": {"name": "r"}, "model": {"path": "a/b"}, "data": {"train": "reverse3"}, **both})


def test_an_override_may_speak_the_old_dialect():
    source = {"run": {"name": "r"}, "model": {"path": "a/b"}, "data": {"train": "reverse3"}}
    loaded = load_config(source, ["rollout.n_samples=4", "train.alg_name=sgrpo", "train.kl_coeff=0.1"])
    assert loaded.config.rollout.group_size == 4 and loaded.origins["algorithm.kl_coef"] == "override"
    assert any(note.startswith("rollout.n_samples -> rollout.group_size = 4") for note in loaded.notes)


def test_a_wrong_old_value_is_named_at_its_old_place(tmp_path):
    file = tmp_path / "old.yaml"
    file.write_text("run: {name: r}\nmodel: {path: a/b}\ndata: {train: reverse3}\nrollout:\n  n_samples: many\n")
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert f"{file}, line 5" in str(caught.value) and "rollout.group_size = 'many'" in str(caught.value)


def test_no_old_key_has_two_rules_and_none_is_a_key_of_today():
    from oxrl_core.config.keys import all_keys

    tables = [set(RENAMES), set(DROPS), set(REFUSALS), set(COMPUTED), {f"train.{name}" for name in LOSS_PARAMETERS}]
    for i, one in enumerate(tables):
        for other in tables[i + 1 :]:
            assert not one & other
    old = set().union(*tables) | set(DROPPED_BRANCHES)
    assert not old & set(all_keys())
    assert {rule.new for rule in RENAMES.values()} <= set(all_keys()) | {"algorithm.clip_low", "algorithm.clip_high"}
