"""The canonical configuration. One description per field: it is the documentation, the JSON schema and the help text.

Only `run.name`, `model.path` and `data.train` have no default. A default is a decision; where the number is not obvious
the description says why. The seeds' dialect is translated in dialect.py, task presets live in presets.py.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, field_validator

from oxrl_core.config.section import NonNegative, Positive, Section
from oxrl_core.config.tripwires import TripwiresConfig

AveragingCoefficient = Annotated[float, Field(ge=0, lt=1)]


class RunConfig(Section):
    name: Annotated[str, Field(min_length=1, max_length=80, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Name of the experiment; the run id is made of it."""
    seed: NonNegative = 0
    """Seed of everything random: model init, data order, sampling (per step, prompt and sample)."""
    backend: Literal["ray", "local"] = "ray"
    """`ray`: learner and sampler are Ray actors; `local`: the same classes in the driver's own process."""
    ray_address: str | None = None
    """Address of an existing Ray cluster (`host:port` or `auto`); none starts one on this machine for the run."""
    start_timeout_seconds: Annotated[float, Field(gt=0)] = 600.0
    """Deadline for every actor to be placed, loaded and ready."""
    call_timeout_seconds: Annotated[float, Field(gt=0)] = 1800.0
    """Deadline of one call of the learner or sampler (a step, a generation, a weight sync)."""
    max_hours: Annotated[float, Field(gt=0)] | None = None
    """Budget of hours, over all restarts; the supervisor stops the run cleanly when it is spent."""
    max_gpu_hours: Annotated[float, Field(gt=0)] | None = None
    """Budget of GPUs x hours, over all restarts; the run stops cleanly when it is spent. The CPU costs nothing."""
    max_tokens: Positive | None = None
    """Budget of trained tokens; the run saves and stops after the step that passes it."""
    max_restarts: NonNegative = 2
    """Times that a driver which was killed, crashed or lost a worker is started again, from its last checkpoint."""
    on_stall: Literal["alert", "stop", "restart"] = "alert"
    """What follows the alert when nothing is achieved any more; `restart` counts as one of `max_restarts`."""
    stall_seconds: Annotated[float, Field(gt=0)] = 300.0
    """Least time without progress that is a stall; ten usual steps, if longer; start-up: 3 x start_timeout_seconds."""
    stop_grace_seconds: Annotated[float, Field(ge=0)] = 10.0
    """Time between asking the run's processes to leave and killing them."""


class LoraConfig(Section):
    enabled: bool = False
    """Train low-rank adapters instead of all weights."""
    rank: Positive = 16
    """Rank of the adapters."""
    alpha: Positive = 32
    """Scale of the adapters; the update is multiplied by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the adapters' input; 0 for RL, where dropout would break the log-prob ratio."""
    target_modules: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Names of the modules to adapt, or `all-linear` for every linear layer but the output head."""


class ModelConfig(Section):
    path: Annotated[str, Field(min_length=1)]
    """A local folder, a hub id, `miniature:chars`, `miniature:<registry name>` or `run:<id>` (its final weights)."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Compute precision; master weights and optimizer state are always float32. `auto`: bfloat16 on a GPU."""
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    """Attention implementation of the trained model."""
    gradient_checkpointing: bool = False
    """Recompute activations in backward: less memory, about a third more time."""
    train_towers: bool = False
    """Train (or adapt, with LoRA) vision and audio towers and their projectors as well as the language model."""
    action_tokens: bool = False
    """Robot actions: give the vocabulary a token for each action of the data's code, kept in actions.json (VLA)."""
    lora: LoraConfig = LoraConfig()
    """Low-rank adapters."""


class AlgorithmConfig(BaseModel):
    """The loss and its switches. Keys that are not listed here are parameters of the loss itself (`clip_low`, ...)."""

    model_config = ConfigDict(
        frozen=True, extra="allow", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )

    name: str = "sgrpo"
    """Name of the algorithm, or a dotted path `package.module:function` of your own loss."""
    advantage: Literal["group_zscore", "group_centered", "leave_one_out", "returns", "gae"] = "group_zscore"
    """(r - mean) / (std + 1e-4) of the group, r - mean, r - mean of the others, discounted return, GAE (critic)."""
    advantage_scale: Annotated[float, Field(gt=0)] = 1.0
    """Factor on every advantage."""
    whiten: bool = False
    """Whiten the advantages over all completion tokens of the step, all ranks (REINFORCE++, PPO)."""
    discount: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Discount per token (the gamma of the papers), of `returns` and `gae`."""
    gae_lambda: Annotated[float, Field(ge=0, le=1)] = 0.95
    """Lambda of `gae`: 1 is the whole return minus the value, 0 one step of bootstrapping."""
    aggregation: Literal["token", "sequence", "sequence_sum", "constant"] = "token"
    """Loss of a step: token mean, mean of sequence means, mean of sequence sums, or sum / (sequences x max tokens)."""
    kl_coef: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the KL to the reference policy; 0 loads no reference for it."""
    kl_estimator: Literal["k1", "k2", "k3", "unbiased"] = "k3"
    """d = ref - logprob: k1 = -d, k2 = d^2 / 2, k3 = e^d - d - 1 (Schulman 2020), unbiased = k3 x policy ratio."""
    kl_place: Literal["loss", "reward"] = "loss"
    """Where the KL counts: a term of the loss, or taken off the reward of each token (PPO, RLOO, REINFORCE++)."""
    entropy_coef: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the entropy bonus."""
    mismatch: Literal["off", "tis", "icepop", "mis"] = "off"
    """Trainer / sampler ratio w as weight: off, min(w, high), w inside [low, high] else 0, or w up to high else 0."""
    mismatch_level: Literal["token", "sequence"] = "token"
    """w of each token, or of the whole completion (the product of its tokens)."""
    mismatch_low: Annotated[float, Field(ge=0)] = 0.5
    """Lower end of the band of `icepop`."""
    mismatch_high: Annotated[float, Field(gt=0)] = 2.0
    """Upper end: cap of `tis`, band of `icepop` and `mis`."""
    critic: Literal["separate", "shared"] = "separate"
    """Advantage `gae`: a second model with an optimizer of its own, or a value head on the policy's last state."""
    critic_lr: Annotated[float, Field(gt=0)] | None = None
    """Peak learning rate of a separate critic; none: train.lr."""
    value_coef: Annotated[float, Field(gt=0)] = 0.1
    """Weight of the value loss beside the policy's, where the critic is shared."""
    value_clip: Annotated[float, Field(gt=0)] = 0.2
    """A value may move this far from the measured one before its loss is clipped."""
    reference: Literal["initial", "synced"] = "initial"
    """The reference: the policy as it came, or as it was at the last weight sync (SPIN: the previous iteration)."""
    precompute_reference: bool = False
    """Preference losses: log-probs of the reference for all rows before step 0, kept in the run; then it is freed."""
    teacher: str | None = None
    """Distillation: the model to learn from; a folder, a hub id, or `run:<id>`, with the student's vocabulary."""

    @property
    def params(self) -> dict[str, Any]:
        """The parameters of the loss itself."""
        return dict(self.__pydantic_extra__ or {})


class DatasetConfig(BaseModel):
    """One dataset. Keys that are not listed here are parameters of a built-in dataset (`levels`, ...)."""

    model_config = ConfigDict(
        frozen=True, extra="allow", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )

    name: Annotated[str, Field(min_length=1)]
    """A built-in dataset (`oxrl datasets`), a local .jsonl/.json/.csv/.parquet file or folder, or `hub:<id>`."""
    split: str = "train"
    """Split of a built-in or hub dataset."""
    ratio: Annotated[float, Field(gt=0)] = 1.0
    """Share of this dataset in the mix, relative to the others."""
    limit: Positive | None = None
    """Use the first rows only."""
    prompt_column: str | None = None
    """Column of the prompt (text or messages); none: prompt, question, instruction, problem, input or messages."""
    completion_column: str | None = None
    """Column of the completion; none: the first of completion, response, output, answer, solution."""
    answer_column: str | None = None
    """Column of the reference answer; none: the first of answer, solution, label, target."""
    chosen_column: str | None = None
    """Preference losses: column of the preferred completion (text or messages); none: chosen."""
    rejected_column: str | None = None
    """Preference losses: column of the other completion; none: rejected."""
    label_column: str | None = None
    """KTO and its like: column that says whether the completion is desirable; none: label."""
    margin_column: str | None = None
    """Column of how much better the chosen completion is; none: margin, where the rows have it."""
    text_column: str | None = None
    """Continued pre-training: column of the text; none: text, else prompt and completion together."""

    @property
    def params(self) -> dict[str, Any]:
        """The parameters of the dataset itself."""
        return dict(self.__pydantic_extra__ or {})


def as_datasets(value: object) -> object:
    """The list of mappings behind the shorthands of `data.train`: a name, a mapping, or a list of either."""
    if value is None:
        return []
    items = cast("list[object]", list(value)) if isinstance(value, list | tuple) else [value]  # pyright: ignore[reportUnknownArgumentType]
    return [{"name": item} if isinstance(item, str) else item for item in items]


class DataConfig(Section):
    train: Annotated[tuple[DatasetConfig, ...], Field(min_length=1)]
    """Training datasets; a name, a path, or a mapping with ratio and columns."""
    eval: tuple[DatasetConfig, ...] = ()
    """Held-out datasets; empty: no evaluation."""
    system_prompt: str | None = None
    """System message before every prompt that has none."""
    apply_chat_template: bool | None = None
    """Render prompts with the model's chat template; none: wherever the tokenizer has one."""
    max_prompt_tokens: Positive = 1024
    """Longer prompts are handled by `overlong`."""
    max_length: Positive = 2048
    """Most tokens of a supervised example (prompt and completion)."""
    overlong: Literal["drop", "left", "right", "error"] = "drop"
    """Too long: `drop` it, cut the prompt's beginning (`left`) or the completion's end (`right`), or stop the run."""
    strict: bool = False
    """Stop at the first row that cannot be used; off: such rows are left out, counted, and the first five are said."""
    train_on: Literal["last", "all"] = "last"
    """SFT and its like, conversations: learn the last answer of the assistant, or each of them."""
    packing: bool = True
    """Put several supervised examples in one row; positions restart and attention does not cross their borders."""
    shuffle: bool = True
    """Draw rows in a seeded random order."""

    @field_validator("train", "eval", mode="before")
    @classmethod
    def _expand_shorthand(cls, value: object) -> object:
        return as_datasets(value)


class RewardConfig(BaseModel):
    """The verdict and its shaping. Keys that are not listed here are parameters of the reward itself (`url`, ...)."""

    model_config = ConfigDict(
        frozen=True, extra="allow", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )

    name: str = "default"
    """A built-in reward (`oxrl rewards`), your own at `package.module:function` or `file.py:function`, or `none`."""
    timeout_seconds: Annotated[float, Field(gt=0)] = 30.0
    """Deadline of one step's rewards; a verdict that does not come is status `timeout`."""
    self_test_rows: NonNegative = 16
    """First rows whose references must get full marks before step 0 (of your own reward: doubts alert); 0: no test."""
    overlong_buffer: NonNegative = 0
    """The last tokens before max_completion_tokens cost up to 1, linearly (DAPO); 0: none do."""
    missing_eos_penalty: Annotated[float, Field(ge=0)] = 0.0
    """Taken off the reward of a completion that did not end by itself; in deviations, where rewards are normalized."""
    normalize: Literal["none", "running"] = "none"
    """`running`: reward minus the mean, over the std, of all rewards of the run so far (reward models)."""
    clip: Annotated[float, Field(gt=0)] | None = None
    """The verdict, after normalisation and before penalties, is kept within plus and minus this."""

    @property
    def params(self) -> dict[str, Any]:
        """The parameters of the reward itself."""
        return dict(self.__pydantic_extra__ or {})


class SelectionConfig(Section):
    reward_threshold: float = 1.0
    """rft: completions with at least this reward are learned from."""
    max_per_prompt: Positive = 4
    """rft: at most so many completions of one prompt, else easy prompts crowd out the others."""
    min_margin: Annotated[float, Field(ge=0)] = 0.0
    """online_dpo: best and worst of a prompt make a pair if their rewards differ by more than this; ties never do."""


class RolloutConfig(Section):
    engine: Literal["auto", "vllm", "transformers"] = "auto"
    """Sampler; `auto`: vLLM where it is installed, else transformers."""
    num_workers: Positive = 1
    """Sampler workers, each with a whole copy of the model (or `tensor_parallel` GPUs of it)."""
    tensor_parallel: Positive = 1
    """GPUs a sampler worker spreads one copy over."""
    colocate: bool = False
    """Sampler and learner share each GPU in turns (vLLM sleeps during training); off: GPUs of their own."""
    memory_fraction: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of a GPU's memory that vLLM takes; on the CPU the KV cache takes `cpu_kv_cache_gib`."""
    cpu_kv_cache_gib: Positive = 1
    """KV cache of a CPU sampler."""
    group_size: Positive = 8
    """Completions drawn for each prompt."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Sampling temperature; the trainer computes its log-probs at the same one."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Draw from the smallest set of tokens with this probability; below 1 it biases ratios (algorithm.mismatch)."""
    top_k: NonNegative = 0
    """Draw from the k likeliest tokens; 0: from all. Above 0 it biases ratios (algorithm.mismatch)."""
    dynamic_sampling: bool = False
    """Draw again until every prompt of the step has rewards that differ, before any shaping (DAPO)."""
    drop_truncated: bool = False
    """Completions that were cut off are compared with the others of their prompt, but not trained on (DAPO)."""
    max_draws: Positive = 10
    """Dynamic sampling: most rounds of drawing in one step; then it goes on with what it has."""
    sync_every: Positive = 1
    """Steps between weight syncs to the sampler; above 1 the rollouts are stale by that much (SPIN: an iteration)."""
    pipeline: Annotated[int, Field(ge=0, le=1)] = 0
    """1: draw the next step while this one is learned from, with weights one step older; `staleness` says how old."""
    drawn_share: Annotated[float, Field(ge=0, le=1)] = 1.0
    """gkd: share of a step's rows whose completion the student draws; the others keep that of the data."""
    retries: NonNegative = 2
    """Sampler workers that may die and be replaced in a run on Ray; above 0 Ray keeps a copy of the synced weights."""
    max_completion_tokens: Positive = 512
    """Most tokens of a completion."""
    stop_at_eos: bool = True
    """End a completion at EOS; off: always draw max_completion_tokens."""
    logprob_gap_limit: Annotated[float, Field(gt=0)] | None = None
    """Largest allowed mean |trainer - sampler| log-prob of a step's tokens; none: 1e-4 in float32, 0.05 in bfloat16."""
    fingerprint_limit: Annotated[float, Field(gt=0)] | None = None
    """Largest allowed |trainer - sampler| log-prob of a probe row after a sync; none: 1e-3 in float32, 0.5 in bf16."""
    record: bool = True
    """Write every rollout of every step to rollouts/step-*.parquet in the run directory."""
    record_max_gib: Annotated[float, Field(gt=0)] | None = 20.0
    """Size of the record from which on every second of the older steps is let go, again and again; none: no bound."""

    @field_validator("top_k", mode="before")
    @classmethod
    def _read_minus_one(cls, value: object) -> object:
        return 0 if value == -1 and not isinstance(value, bool) else value  # how other tools write "from all"


class TrainConfig(Section):
    num_workers: Positive = 1
    """Training ranks; each has one GPU, or CPU cores where there is none."""
    steps: Positive | None = None
    """Optimizer steps; none: `epochs` over the data."""
    epochs: Annotated[float, Field(gt=0)] = 1.0
    """Passes over the training data, where `steps` is not given."""
    prompts_per_step: Positive = 32
    """RL: prompts of one step (each with rollout.group_size completions), all ranks together."""
    rows_per_step: Positive = 32
    """Supervised: examples of one step, all ranks together."""
    updates_per_step: Positive = 1
    """RL: optimizer updates among which a step's rollouts are divided; above 1 the ratio to the old policy clips."""
    passes_per_step: Positive = 1
    """RL: passes over a step's rollouts, each divided into updates_per_step updates (PPO: 4)."""
    micro_batch_tokens: Positive = 8192
    """Most tokens (padding included) of one forward pass on one rank; longer rows go alone."""
    lr: Annotated[float, Field(gt=0)] = 1e-6
    """Peak learning rate."""
    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Learning rate after the warm-up: constant, or falling to `lr_floor` x lr over the run."""
    lr_floor: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Fraction of the peak learning rate at the end of a falling schedule."""
    warmup_steps: NonNegative = 0
    """Steps of linear warm-up from 0."""
    betas: tuple[AveragingCoefficient, AveragingCoefficient] = (0.9, 0.999)
    """AdamW's averaging coefficients."""
    eps: Annotated[float, Field(gt=0)] = 1e-8
    """AdamW's epsilon."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW's decoupled weight decay, on matrices only."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradients are clipped to this global norm."""
    stop_at_reward: float | None = None
    """RL: finish early once the mean reward of the last 10 steps reaches this."""
    eval_every: NonNegative = 0
    """Steps between evaluations; 0: at the start and at the end only."""
    eval_rows: Positive = 256
    """Most held-out rows of one evaluation."""
    save_every: NonNegative = 0
    """Steps between checkpoints; 0: at the end only."""
    save_minutes: Annotated[float, Field(gt=0)] | None = None
    """Minutes after which a step is followed by a checkpoint, beside those of save_every."""
    keep_checkpoints: Positive = 2
    """Newest checkpoints that are kept."""
    keep_best: NonNegative = 0
    """Best checkpoints that are kept beside them, by held-out reward, else by held-out loss."""
    async_save: bool = False
    """Write checkpoints while training goes on: each rank first copies its state to host memory (12 bytes a weight)."""
    resume: bool = True
    """Go on from the newest valid checkpoint of the run directory, where there is one."""


class DeepSpeedConfig(Section):
    zero_stage: Annotated[int, Field(ge=0, le=3)] = 2
    """ZeRO: 0 nothing, 1 optimizer state, 2 and gradients, 3 and weights are sharded over the ranks."""
    offload_optimizer: bool = False
    """Keep optimizer state in host memory (a GPU run only)."""
    offload_params: bool = False
    """Keep sharded weights in host memory (a GPU run with ZeRO 3 only)."""
    bucket_size: Positive = 50_000_000
    """Elements of one reduce or gather bucket."""


class ReportConfig(Section):
    metrics_every: Positive = 1
    """Steps between rows of metrics.jsonl."""
    samples_every: NonNegative = 10
    """RL: steps between samples shown in the log; 0: none."""
    sinks: tuple[Literal["auto", "trackio", "tensorboard", "mlflow", "wandb"], ...] = ("auto",)
    """Where metrics go beside metrics.jsonl; `auto`: trackio where it is installed, but not in CI or under pytest."""
    project: Annotated[str, Field(min_length=1, max_length=80, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "oxrl"
    """Project (MLflow: experiment) that the sinks file the run under."""


class ExportConfig(Section):
    push_to_hub: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")] | None = None
    """Hub repository (`owner/name`) that the final model is pushed to, with its card; the token is $HF_TOKEN."""
    private: bool = True
    """Whether a repository that is made for it is private."""


class Config(Section):
    run: RunConfig
    """The run itself: name, seed, placement, budgets."""
    model: ModelConfig
    """The model to train."""
    data: DataConfig
    """What it trains on."""
    algorithm: AlgorithmConfig = AlgorithmConfig()
    """The loss and its switches."""
    reward: RewardConfig = RewardConfig()
    """RL: the verdict on a completion."""
    selection: SelectionConfig = SelectionConfig()
    """What is kept of the judged completions, where the algorithm selects."""
    rollout: RolloutConfig = RolloutConfig()
    """RL: the sampler."""
    train: TrainConfig = TrainConfig()
    """Steps, batches, optimizer, checkpoints."""
    deepspeed: DeepSpeedConfig = DeepSpeedConfig()
    """Sharding and offloading."""
    report: ReportConfig = ReportConfig()
    """What is written how often."""
    tripwires: TripwiresConfig = TripwiresConfig()
    """What is watched at every step."""
    export: ExportConfig = ExportConfig()
    """Where the final model goes."""
