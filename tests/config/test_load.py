"""The five layers, their order, and everything that can be wrong with a configuration."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from oxrl_core.algorithms.base import all_algorithms, get_algorithm
from oxrl_core.config.load import config_hash, config_to_yaml, load_config, read_resolved
from oxrl_core.config.schema import AlgorithmConfig, RewardConfig
from oxrl_core.errors import ConfigError
from oxrl_core.rewards.base import all_rewards

MINIMAL = {"run": {"name": "r"}, "model": {"path": "miniature:chars"}, "data": {"train": "reverse3"}}


def with_(**sections) -> dict:
    """The minimal configuration with more keys in some sections."""
    merged = {name: dict(section) for name, section in MINIMAL.items()}
    for name, section in sections.items():
        merged.setdefault(name, {}).update(section)
    return merged


def refusal(source, overrides=(), **kwargs) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(source, overrides, **kwargs)
    text = str(caught.value)
    assert len(text.splitlines()) <= 30 and all(len(line) < 400 for line in text.splitlines()), "more than one screen"
    return text


# --- layers ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def registry(tmp_path) -> Path:
    """A registry with one model whose entry sets the weight decay."""
    (tmp_path / "registry" / "models").mkdir(parents=True)
    (tmp_path / "registry" / "examples").mkdir()
    (tmp_path / "registry" / "models" / "tiny-model.yaml").write_text(
        "hub: Org/Tiny-Model\nconfig:\n  train: {weight_decay: 0.3, lr: 0.3}\n"
    )
    return tmp_path / "registry"


# train.lr is set by every layer: the default is 1e-6, the preset of sft says 2e-5.
LAYERS = ["preset sft", "model tiny-model", "file r.yaml", "override"]
VALUES = {"preset sft": 2e-5, "model tiny-model": 0.3, "file r.yaml": 0.4, "override": 0.5}


@pytest.mark.parametrize("present", [c for n in range(5) for c in itertools.combinations(LAYERS, n)])
def test_the_highest_layer_that_speaks_wins_and_is_named(present, registry, tmp_path):
    text = "run: {name: r}\ndata: {train: reverse3}\n"
    text += f"model: {{path: {'Org/Tiny-Model' if LAYERS[1] in present else 'other/model'}}}\n"
    text += f"algorithm: {{name: {'sft' if LAYERS[0] in present else 'oxrl_core.algorithms.supervised:sft'}}}\n"
    if LAYERS[2] in present:
        text += "train: {lr: 0.4}\n"
    file = tmp_path / "r.yaml"
    file.write_text(text)
    loaded = load_config(file, ["train.lr=0.5"] if LAYERS[3] in present else [], registry=registry)
    highest = [layer for layer in LAYERS if layer in present][-1:] or ["preset sft"]  # a loss of one's own: its kind's
    assert (loaded.config.train.lr, loaded.origins["train.lr"]) == (VALUES[highest[0]], highest[0])


def test_a_value_that_no_layer_sets_is_a_default():
    loaded = load_config(MINIMAL)
    assert loaded.origins["train.eps"] == "default" and loaded.origins["algorithm.clip_low"] == "default"
    assert loaded.origins["run.name"] == "mapping" and loaded.origins["rollout.group_size"] == "preset sgrpo"


def test_every_leaf_of_the_config_has_an_origin_and_nothing_else_has():
    loaded = load_config(MINIMAL, ["data.train=[reverse3, {name: copy3, ratio: 2}]"])

    def leaves(value, prefix=""):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            is_section = isinstance(inner, dict) or (isinstance(inner, list) and inner and isinstance(inner[0], dict))
            yield from leaves(inner, f"{prefix}{key}.") if is_section else [f"{prefix}{key}"]

    assert set(loaded.origins) == set(leaves(loaded.config.model_dump(mode="json")))


def test_the_preset_follows_the_algorithm_that_an_override_names():
    assert load_config(MINIMAL).config.train.lr == 1e-6
    loaded = load_config(MINIMAL, ["algorithm.name=sft"])
    assert loaded.config.train.lr == 2e-5 and loaded.origins["train.lr"] == "preset sft"


def test_adapters_start_at_ten_times_the_learning_rate():
    loaded = load_config(MINIMAL, ["model.lora.enabled=true"])
    assert loaded.config.train.lr == pytest.approx(1e-5) and loaded.origins["train.lr"] == "preset sgrpo+lora"


def test_lists_are_replaced_and_sections_are_merged(registry):
    loaded = load_config(with_(model={"path": "Org/Tiny-Model"}, train={"betas": [0.8, 0.9]}), registry=registry)
    assert loaded.config.train.betas == (0.8, 0.9) and loaded.config.train.weight_decay == 0.3


def test_a_fork_of_a_registered_model_is_another_model(registry):
    assert load_config(with_(model={"path": "me/Tiny-Model"}), registry=registry).config.train.weight_decay == 0.0
    miniature = load_config(with_(model={"path": "miniature:tiny-model"}), registry=registry)
    assert miniature.config.train.weight_decay == 0.3


# --- sources and shorthands ------------------------------------------------------------------------------------------


def test_a_name_a_path_text_and_a_mapping_are_sources(tmp_path):
    by_name = load_config("demo").config
    path = tmp_path / "mine.yaml"
    path.write_text(config_to_yaml(by_name))
    assert load_config(str(path)).config == load_config(path).config == by_name
    assert load_config(config_to_yaml(by_name)).config == by_name
    assert load_config(by_name.model_dump()).config == by_name
    assert read_resolved(path) == by_name


@pytest.mark.parametrize(
    ("shorthand", "names"),
    [
        ("reverse3", ["reverse3"]),
        (["reverse3", "copy3"], ["reverse3", "copy3"]),
        ({"name": "reverse3"}, ["reverse3"]),
        ([{"name": "reverse3"}, "copy3"], ["reverse3", "copy3"]),
    ],
)
def test_datasets_have_shorthands(shorthand, names):
    config = load_config(with_(data={"train": shorthand})).config
    assert [source.name for source in config.data.train] == names


def test_overrides_reach_into_lists():
    source = with_(data={"train": ["reverse3", "copy3"]})
    loaded = load_config(source, ["data.train.1.ratio=2", "data.train.0.limit=5"])
    assert [(s.ratio, s.limit) for s in loaded.config.data.train] == [(1.0, 5), (2.0, None)]
    assert loaded.origins["data.train.1.ratio"] == "override" and loaded.origins["data.train.1.name"] == "mapping"
    assert load_config(source, ["data.train=copy3", "data.train.0.ratio=3"]).config.data.train[0].ratio == 3


def test_override_values_are_yaml():
    overrides = ["train.lr=1e-3", "train.betas=[0.5, 0.6]", "train.steps=null", "rollout.record=false", "run.name=no"]
    config = load_config(with_(train={"steps": 4}), overrides).config
    assert (config.train.lr, config.train.betas, config.train.steps) == (1e-3, (0.5, 0.6), None)
    assert config.rollout.record is False and config.run.name == "no"


def test_the_source_mapping_is_left_alone():
    source = with_(data={"train": ["reverse3"]})
    load_config(source, ["data.train.0.ratio=2", "train.lr=1"])
    assert source == with_(data={"train": ["reverse3"]})


def test_parameters_of_the_loss_are_written_out():
    config = load_config(MINIMAL, ["algorithm.clip_high=0.28"]).config
    assert config.algorithm.params["clip_high"] == 0.28 and config.algorithm.params["clip_low"] == 0.2
    assert set(config.algorithm.params) == set(get_algorithm("sgrpo").params)


def test_no_parameter_of_a_loss_has_the_name_of_a_switch_of_every_loss():
    """Its value would go to the switch and never reach the loss."""
    for algorithm in all_algorithms().values():
        assert not set(algorithm.params) & set(AlgorithmConfig.model_fields), algorithm.name
    for reward in all_rewards().values():
        assert not set(reward.parameters.names) & set(RewardConfig.model_fields), reward.name


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.lrr=1"], "unknown key 'train.lrr'. Did you mean 'train.lr'?"),
        (["trian.lr=1"], "unknown key 'trian'. Did you mean 'train'?"),
        (["model.lora.rnk=1"], "unknown key 'model.lora.rnk'. Did you mean 'model.lora.rank'?"),
        (["data.train.0.ratios=1"], "unknown key 'data.train.0.ratios'. Did you mean 'data.train.0.ratio'?"),
        (["train.group_size=4"], "unknown key 'train.group_size'. Did you mean 'rollout.group_size'?"),
        (["algorithm.clip_hihg=0.3"], "algorithm.clip_hihg is not a parameter of sgrpo. Did you mean 'clip_high'?"),
        (["algorithm.kl_coeff=0.3"], "algorithm.kl_coeff is not a parameter of sgrpo. Did you mean 'kl_coef'?"),
        (["algorithm.lr=0.3"], "algorithm.lr is not a parameter of sgrpo. Did you mean 'train.lr'?"),
        (["algorithm.clip_low=wide"], "algorithm.clip_low = 'wide'"),
        (["algorithm.name=sgrop"], "there is no algorithm 'sgrop'. Did you mean 'sgrpo'?"),
        (["train.lr=fast"], "train.lr = 'fast' should be a valid number"),
        (["train.lr=.inf"], "train.lr = inf should be a finite number"),
        (["train.lr=-1"], "train.lr = -1 should be greater than 0"),
        (["train.betas=[0.9, 1.0]"], "train.betas.1 = 1.0 should be less than 1"),
        (["train=3"], "train = 3 should be a section with keys of its own"),
        (["data.train=[]"], "data.train = [] needs at least one entry"),
        (["run.name=a b"], "run.name = 'a b' should start with a letter or digit"),
        (["deepspeed.zero_stage=4"], "deepspeed.zero_stage = 4 should be less than or equal to 3"),
        (["model.lora.target_modules=3"], "model.lora.target_modules = 3"),
        (["run.backend=slurm"], "run.backend = 'slurm' should be 'ray' or 'local'"),
        (["data.train.3.ratio=2"], "data.train is a list of 1; '3' is none of its positions"),
        (["train.lr.x=2", "train.lr=1"], "which has no keys of its own"),
        (["train.lr"], "an override is written key=value"),
        (["=3"], "an override is written key=value"),
        (["a..b=3"], "an override is written key=value"),
        (["train.betas=[1"], "is not a YAML value"),
    ],
)
def test_a_wrong_override_is_named_with_the_way_out(overrides, message):
    text = refusal(with_(train={"lr": 1.0}), overrides)
    assert message in text and "override" in text and "next:" in text


def test_a_wrong_key_in_a_file_is_named_with_its_line(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "run: {name: r}\nmodel: {path: x}\ndata: {train: reverse3}\ntrain:\n  betas: [0.9, 0.9]\n  lrr: 3\n"
    )
    assert f"{file}, line 6: unknown key 'train.lrr'" in refusal(file)


def test_all_problems_are_said_at_once(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "run: {name: r, sede: 1}\nmodel: {}\ndata: {train: reverse3}\nalgorithm: {bta: 1}\ntrain:\n  lr: x\n"
    )
    text = refusal(file, ["rollout.group_size=0"])
    for part in (
        "5 problems",
        "unknown key 'run.sede'. Did you mean 'run.seed'?",
        f"{file}, line 1",
        "model.path is required",
        "train.lr = 'x' should be a valid number",
        f"{file}, line 6",
        "rollout.group_size = 0 should be greater than 0",
        "override rollout.group_size=0",
        "algorithm.bta is not a parameter",
    ):
        assert part in text


def test_the_three_keys_without_default_are_required():
    text = refusal({})
    assert all(f"{key} is required" in text for key in ("run", "model", "data"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty"),
        ("- a\n", "the file holds a list"),
        ("a: 1\na: 2\n", "'a' stands twice"),
        ("a: [\n", "not readable as YAML"),
    ],
)
def test_a_file_that_is_no_config_is_refused(content, message, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(content)
    assert message in refusal(file) and str(file) in refusal(file)


def test_a_folder_a_missing_file_and_a_misspelt_recipe_are_told_apart(tmp_path):
    (tmp_path / "mine.yaml").write_text("a: 1")
    assert "this is a folder, not a config file" in refusal(tmp_path) and "mine.yaml" in refusal(tmp_path)
    assert "there is no such file. Did you mean 'mine.yaml'?" in refusal(tmp_path / "mien.yaml")
    assert "there is no such file or recipe. Did you mean 'demo'?" in refusal("dmeo")


def test_a_data_file_given_as_config_is_told_so(tmp_path):
    big, binary = tmp_path / "rows.yaml", tmp_path / "x.yaml"
    big.write_text("x" * 2_000_000)
    binary.write_bytes(b"\xff\xfe\x00")
    assert "is this a data file?" in refusal(big)
    assert "not UTF-8 text" in refusal(binary)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["rollout.group_size=1"], "a group of 1 has nothing to compare with"),
        (["rollout.group_size=1", "algorithm.advantage=leave_one_out"], "advantage leave_one_out compares"),
        (["deepspeed.offload_params=true"], "only ZeRO 3 shards the weights"),
        (["deepspeed.offload_optimizer=true", "deepspeed.zero_stage=0"], "ZeRO 0 shards no optimizer state"),
        (["model.lora.enabled=true", "model.lora.dropout=0.1"], "dropout makes the log-probs of training random"),
        (["model.attention=flash_attention_2", "model.precision=float32"], "computes in 16 bits"),
        (["run.backend=local", "run.ray_address=auto"], "the local backend uses no Ray cluster"),
        (["run.backend=local", "train.num_workers=2"], "one process is one training rank"),
        (["rollout.engine=transformers", "rollout.tensor_parallel=2"], "does not split a model over GPUs"),
        (["rollout.colocate=true", "rollout.num_workers=2"], "colocated, each GPU holds one training rank"),
        (["train.prompts_per_step=1", "rollout.group_size=2", "train.num_workers=4"], "do not reach every one"),
        (["train.lr_floor=0.1"], "a constant schedule never falls"),
        (["algorithm.name=sft", "algorithm.kl_coef=0.1"], "sft is supervised"),
        (["algorithm.name=sft", "train.stop_at_reward=1"], "sft is supervised"),
        (["algorithm.name=sft", "train.rows_per_step=1", "train.num_workers=2"], "do not reach every one of 2 ranks"),
    ],
)
def test_values_that_cannot_be_meant_together_are_refused_with_reason_and_way_out(overrides, message, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    text = refusal(MINIMAL, overrides)
    assert message in text and "contradicts the rest" in text and "next: " in text


def test_parameters_of_a_reward_are_checked_by_its_signature():
    assert "reward.pth is not a parameter of reward_model. Did you mean 'path'?" in refusal(
        MINIMAL, ["reward.name=reward_model", "reward.pth=x"]
    )
    assert "reward.max_length = 0" in refusal(MINIMAL, ["reward.name=reward_model", "reward.max_length=0"])
    assert "Did you mean 'timeout_seconds'?" in refusal(MINIMAL, ["reward.timeout_second=3"])
    loaded = load_config(MINIMAL, ["reward.name=reward_model", "reward.path=run:x"])
    assert loaded.config.reward.params == {"path": "run:x"}


def test_torchrun_may_start_the_ranks_of_the_local_backend(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    overrides = ["algorithm.name=sft", "run.backend=local", "train.num_workers=2"]
    assert load_config(MINIMAL, overrides).config.train.num_workers == 2


def test_dropout_of_adapters_is_fine_for_supervised_training():
    overrides = ["algorithm.name=sft", "model.lora.enabled=true", "model.lora.dropout=0.1"]
    assert load_config(MINIMAL, overrides).config.model.lora.dropout == 0.1


# --- identity --------------------------------------------------------------------------------------------------------


def test_the_hash_is_of_the_values_not_of_their_spelling():
    one = load_config(with_(train={"lr": "1e-3", "steps": 5.0}))
    two = load_config(MINIMAL, ["train.steps=5", "train.lr=0.001"])
    assert config_hash(one.config) == config_hash(two.config)
    assert len(config_hash(one.config)) == 12
    assert config_hash(load_config(MINIMAL).config) != config_hash(load_config(MINIMAL, ["run.seed=1"]).config)
