"""The real engine in real rank processes against plain torch: one model, one loss, one AdamW, nothing sharded."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from rank_jobs import STAGES, Job, loss_sum, make_batch, make_config, make_rows, num_items
from safetensors.torch import load_file
from start_ranks import run_ranks
from transformers import AutoModelForCausalLM, AutoTokenizer

from oxrl_core.engine.policy import PolicyEngine
from oxrl_core.engine.state import masters
from oxrl_core.errors import CheckpointError, ConfigError, NumericsError
from oxrl_core.models.load import load_policy
from oxrl_core.models.logprobs import unpack
from oxrl_core.models.miniature import make_miniature

pytestmark = pytest.mark.engine
MATRIX = [(world, micro, form) for world in (1, 2) for micro in (1, 2, 4) for form in ("tight", "padded")]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict]]:
    """A folder with what one rank computed here and two ranks in processes of their own; two starts serve all tests."""
    folder = tmp_path_factory.mktemp("ranks")
    make_miniature("qwen2.5-0.5b-instruct", folder / "model", seed=1)
    alone = Job(folder, rank=0, world_size=1)
    alone.gradients()
    results: dict[str, dict] = dict(alone.results)
    results |= run_ranks("gradients,losses,reference,straight", folder, world_size=2)
    results["resumed"] = run_ranks("resumed", folder, world_size=2)
    return folder, results


class Plain:
    """The reference: whole logits, one batch, torch's own AdamW and clipping."""

    def __init__(self, folder: Path) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
        train = make_config(0).train
        self.max_grad_norm = train.max_grad_norm
        matrices = [p for p in self.model.parameters() if p.ndim >= 2]
        vectors = [p for p in self.model.parameters() if p.ndim < 2]
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": train.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
            lr=train.lr,
            eps=train.eps,
        )
        self.step_count = 0

    def backward(self, rows: list[list[int]]) -> float:
        batch = make_batch(rows)
        logits = self.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits / 0.7
        distribution = torch.log_softmax(logits, -1)
        logprobs = torch.zeros(batch.input_ids.shape)
        entropy = torch.zeros(batch.input_ids.shape)
        logprobs[:, 1:] = distribution[:, :-1].gather(-1, batch.input_ids[:, 1:, None])[..., 0]
        entropy[:, 1:] = -(distribution.exp() * distribution).sum(-1)[:, :-1]
        loss = loss_sum(logprobs, entropy, batch) / num_items(rows)
        self.model.zero_grad()
        loss.backward()
        return float(loss.detach())

    def step(self) -> float:
        """The gradient norm before clipping; the learning rate falls linearly over ten steps, as configured."""
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.max_grad_norm))
        for group in self.optimizer.param_groups:
            group["lr"] = 1e-2 * (1 - self.step_count / 10)
        self.optimizer.step()
        self.step_count += 1
        return norm


@pytest.fixture(scope="module")
def plain(ranks: tuple[Path, dict[str, dict]]) -> dict[str, object]:
    reference = Plain(ranks[0])
    loss = reference.backward(make_rows())
    gradients = {name: p.grad.clone() for name, p in reference.model.named_parameters()}
    norm = reference.step()
    weights = {name: p.detach().clone() for name, p in reference.model.named_parameters()}
    return {"loss": loss, "gradients": gradients, "norm": norm, "weights": weights}


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], limit: float) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        difference = float((found[name] - value).abs().max())
        assert difference <= limit, f"{name} differs by {difference}"


@pytest.mark.parametrize(("world", "micro", "form"), MATRIX)
def test_the_gradient_does_not_depend_on_ranks_micro_batches_or_padding(
    ranks: tuple[Path, dict[str, dict]], plain: dict, world: int, micro: int, form: str
) -> None:
    name = f"world{world}-zero2-micro{micro}-{form}"
    assert_close(load_file(ranks[0] / f"{name}.gradients.safetensors"), plain["gradients"], 1e-5)


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("stage", STAGES)
def test_one_step_of_every_stage_is_the_step_of_plain_torch(
    ranks: tuple[Path, dict[str, dict]], plain: dict, stage: int, world: int
) -> None:
    folder, results = ranks
    name = f"world{world}-zero{stage}-micro2-tight"
    assert_close(load_file(folder / f"{name}.gradients.safetensors"), plain["gradients"], 1e-5)
    assert plain["norm"] > 0.5, "else nothing would be clipped here"
    assert results[name]["grad_norm"] == pytest.approx(plain["norm"], rel=1e-5)
    assert results[name]["lr"] == 1e-2
    assert_close(load_file(folder / f"{name}.weights.safetensors"), plain["weights"], 1e-5)


def test_every_stage_gives_the_losses_of_plain_torch(ranks: tuple[Path, dict[str, dict]]) -> None:
    folder, results = ranks
    reference = Plain(folder)
    losses = []
    for step in range(3):
        losses.append(reference.backward(make_rows(step)))
        reference.step()
    for stage in STAGES:
        assert results[f"world2-zero{stage}-full"]["losses"] == pytest.approx(losses, abs=1e-5), stage


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_the_stages_agree_with_each_other(ranks: tuple[Path, dict[str, dict]], kind: str) -> None:
    folder, results = ranks
    first = results[f"world2-zero0-{kind}"]
    weights = load_file(folder / f"world2-zero0-{kind}.weights.safetensors")
    for stage in STAGES[1:]:
        other = results[f"world2-zero{stage}-{kind}"]
        assert other["losses"] == pytest.approx(first["losses"], abs=1e-5)
        assert other["norms"] == pytest.approx(first["norms"], rel=1e-4)
        assert_close(load_file(folder / f"world2-zero{stage}-{kind}.weights.safetensors"), weights, 1e-5)


def test_adapters_train_and_the_exported_weights_have_plain_names(ranks: tuple[Path, dict[str, dict]]) -> None:
    folder, results = ranks
    start = load_file(folder / "model" / "model.safetensors")
    merged = load_file(folder / "world2-zero2-lora.weights.safetensors")
    assert merged.keys() == start.keys()
    assert "lm_head.weight" not in merged, "tied: the embeddings are the head"
    changed = {name for name, value in merged.items() if not torch.equal(value, start[name])}
    assert "model.layers.0.self_attn.q_proj.weight" in changed
    assert "model.embed_tokens.weight" not in changed, "the base is frozen"
    losses = results["world2-zero2-lora"]["losses"]
    assert losses[0] != losses[2]


@pytest.mark.parametrize("name", ["reference-zero2", "reference-zero3"])
def test_the_reference_stays_where_the_policy_began(ranks: tuple[Path, dict[str, dict]], name: str) -> None:
    seen = ranks[1][name]
    assert seen["at_start"] <= 1e-6
    assert seen["moved_reference"] <= 1e-6
    assert seen["moved_policy"] > 1e-3
    assert seen["needs_gradient"] is False


@pytest.mark.parametrize("stage", STAGES)
def test_a_resumed_run_is_bitwise_the_run_that_was_not_interrupted(
    ranks: tuple[Path, dict[str, dict]], stage: int
) -> None:
    folder, results = ranks
    straight = load_file(folder / f"straight-zero{stage}.safetensors")
    resumed = load_file(folder / f"resumed-zero{stage}.safetensors")
    assert straight.keys() == resumed.keys()
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    assert results["resumed"][f"draw-zero{stage}"] == results[f"draw-zero{stage}"], "the next random number as well"


def test_a_saved_state_holds_no_pickle_and_is_sharded(ranks: tuple[Path, dict[str, dict]]) -> None:
    files = {path.name for path in (ranks[0] / "saved-zero2").iterdir()}
    assert files == {f"rank-0000{rank}.{kind}" for rank in (0, 1) for kind in ("safetensors", "json", "ok")}
    sizes = [(ranks[0] / "saved-zero2" / f"rank-0000{rank}.safetensors").stat().st_size for rank in (0, 1)]
    whole = (ranks[0] / "saved-zero0" / "rank-00000.safetensors").stat().st_size
    assert max(sizes) < 0.6 * whole, "each rank writes its own half"


@pytest.mark.parametrize("lora", [False, True])
def test_an_exported_model_loads_with_transformers_and_gives_equal_logprobs(
    ranks: tuple[Path, dict[str, dict]], lora: bool
) -> None:
    folder = ranks[0] / f"exported-{lora}"
    expected = load_file(ranks[0] / f"exported-{lora}.logprobs.safetensors")["logprobs"]
    assert_same_logprobs(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), expected)
    assert AutoTokenizer.from_pretrained(folder)("hello").input_ids
    if lora:
        from peft import PeftModel

        base = AutoModelForCausalLM.from_pretrained(ranks[0] / "model", dtype=torch.float32)
        assert_same_logprobs(PeftModel.from_pretrained(base, folder / "adapter"), expected)


def assert_same_logprobs(model: torch.nn.Module, expected: torch.Tensor) -> None:
    batch = make_batch(make_rows())
    with torch.no_grad():
        logits = model.eval()(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    found = torch.log_softmax(logits[:, :-1], -1).gather(-1, batch.input_ids[:, 1:, None])[..., 0]
    mask = batch.completion_mask[:, 1:]
    assert float((found - expected[:, 1:])[mask].abs().max()) <= 2e-6


# ---- in this process, one rank -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    return make_miniature("qwen2.5-0.5b-instruct", tmp_path_factory.mktemp("one") / "model", seed=2)


def one_rank(folder: Path, stage: int = 2, **options: object) -> PolicyEngine:
    return PolicyEngine(make_config(stage, **options), folder, rank=0, world_size=1, total_steps=10)


def packed_batch():
    rows = make_rows()
    ids = torch.tensor([rows[1] + rows[2] + rows[3] + [0, 0]])
    lengths = [12, 9, 3]
    segments = torch.tensor([[1] * 12 + [2] * 9 + [3] * 3 + [0, 0]])
    places = torch.tensor([[*(i for length in lengths for i in range(length)), 0, 0]])
    mask = (segments > 0) & (places > 1)
    return type(make_batch(rows))(ids, segments > 0, places, mask, segments)


def test_packed_rows_are_found_exact_and_a_leak_between_examples_is_found(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = one_rank(model_folder)
    batch = packed_batch()
    assert engine.packing_is_exact(batch)
    # A model that disregards the borders: the plain padding mask lets every example see the ones before it.
    monkeypatch.setattr(type(engine.policy), "_mask", lambda self, attention_mask, segment_ids: attention_mask)
    assert not engine.packing_is_exact(batch)


def test_unpacking_gives_each_example_its_own_row() -> None:
    rows, source = unpack(packed_batch())
    assert rows.input_ids.tolist()[1] == make_rows()[2] + [0, 0, 0]
    assert rows.attention_mask.sum(1).tolist() == [12, 9, 3]
    assert source[2].tolist() == [21, 22, 23, *[-1] * 9]


def test_bfloat16_keeps_float32_master_weights_and_small_updates_add_up(model_folder: Path) -> None:
    train = {"lr": 1e-6, "eps": 1e-8, "weight_decay": 0.0, "lr_schedule": "constant"}
    engine = one_rank(model_folder, stage=2, precision="bfloat16", **train)
    assert {parameter.dtype for parameter in engine.policy.parameters()} == {torch.bfloat16}
    tables = [buffer for name, buffer in engine.policy.named_buffers() if "inv_freq" in name]
    assert tables and all(table.dtype == torch.float32 for table in tables)
    before = [master.detach().clone() for master in masters(engine)]
    assert all(master.dtype == torch.float32 for master in before)
    rows = make_rows()
    for _ in range(3):
        batch = make_batch(rows)
        engine.backward(loss_sum(engine.logprobs(batch, 1.0)[0], None, batch) / num_items(rows), last=True)
        engine.step()
    moved = torch.cat([(now.detach() - then).abs() for now, then in zip(masters(engine), before, strict=True)])
    # 3 steps of 1e-6: lost in bfloat16, whose neighbours at 0.02 are 1e-4 apart, kept in the master weights.
    assert 1e-6 < float(moved.median()) < 4e-6


@pytest.mark.parametrize("stage", STAGES)
def test_bfloat16_trains_on_every_stage(model_folder: Path, stage: int) -> None:
    engine = one_rank(model_folder, stage=stage, precision="bfloat16", lr=1e-3)
    rows = make_rows()
    batch = make_batch(rows)
    losses = []
    for _ in range(4):
        loss = -engine.logprobs(batch, 1.0)[0][batch.completion_mask].sum() / num_items(rows)
        engine.backward(loss, last=True)
        norm = engine.step()["grad_norm"]
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.05
    assert 0 < norm < 100
    weights = engine.export_weights()
    assert weights is not None
    assert weights["model.norm.weight"].dtype == torch.bfloat16


def test_gradient_checkpointing_changes_no_gradient(model_folder: Path) -> None:
    rows = make_rows()
    batch = make_batch(rows)
    norms = []
    for checkpointing in (False, True):
        config = make_config(3)
        config = config.model_copy(
            update={"model": config.model.model_copy(update={"gradient_checkpointing": checkpointing})}
        )
        engine = PolicyEngine(config, model_folder, rank=0, world_size=1, total_steps=10)
        assert engine.policy.base.is_gradient_checkpointing is checkpointing
        engine.backward(loss_sum(engine.logprobs(batch, 1.0)[0], None, batch) / num_items(rows), last=True)
        norms.append(engine.step()["grad_norm"])
    assert norms[0] == pytest.approx(norms[1], rel=1e-6)


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_a_gradient_that_is_not_finite_stops_the_run(model_folder: Path, stage: int) -> None:
    engine = one_rank(model_folder, stage=stage)
    batch = make_batch(make_rows())
    engine.backward(engine.logprobs(batch, 1.0)[0].sum() * float("nan"), last=True)
    with pytest.raises(NumericsError, match="gradient norm"):
        engine.step()


def test_exported_weights_are_copies_and_leave_the_training_weights_alone(model_folder: Path) -> None:
    engine = one_rank(model_folder, lora=True)
    for name, parameter in engine.policy.named_parameters():
        if "lora_B" in name:
            parameter.data.fill_(0.01)
    before = {name: value.clone() for name, value in engine.policy.state_dict().items()}
    first = engine.export_weights()
    assert first is not None
    for value in first.values():
        value.zero_()
    assert all(torch.equal(value, before[name]) for name, value in engine.policy.state_dict().items())
    batch = make_batch(make_rows())
    expected = engine.logprobs(batch, 1.0)[0].detach()
    merged = load_policy(model_folder, engine.config.model, torch.float32)
    merged.load_state_dict(engine.export_weights(), strict=False)
    assert_same_logprobs(merged, expected)


def test_a_checkpoint_of_another_stage_is_refused_with_the_reason(model_folder: Path, tmp_path: Path) -> None:
    one_rank(model_folder, stage=2).save(tmp_path / "state")
    with pytest.raises(CheckpointError, match="zero_stage = 2, this run has 3"):
        one_rank(model_folder, stage=3).load(tmp_path / "state")
    (tmp_path / "state" / "rank-00000.json").unlink()
    with pytest.raises(CheckpointError, match="rank 0 has no part"):
        one_rank(model_folder, stage=2).load(tmp_path / "state")


def test_a_reference_that_was_not_loaded_is_an_error(model_folder: Path) -> None:
    with pytest.raises(ConfigError, match="no reference policy"):
        one_rank(model_folder).reference_logprobs(make_batch(make_rows()), 1.0)


@pytest.mark.parametrize("stage", STAGES)
def test_asking_the_reference_between_forward_and_backward_changes_no_gradient(model_folder: Path, stage: int) -> None:
    batch = make_batch(make_rows())
    norms = []
    for asks in (False, True):
        engine = one_rank(model_folder, stage=stage, lora=True)
        for _ in range(2):  # the second step has moved B away from 0, so A has a gradient as well
            logprobs = engine.logprobs(batch, 1.0)[0]
            if asks:
                engine.reference_logprobs(batch, 1.0)
            engine.backward(loss_sum(logprobs, None, batch) / 58, last=True)
            norms.append(engine.step()["grad_norm"])
    assert norms[:2] == norms[2:]
    assert norms[0] > 0


def test_offloading_without_a_gpu_is_refused(model_folder: Path) -> None:
    config = make_config(2)
    config = config.model_copy(update={"deepspeed": config.deepspeed.model_copy(update={"offload_optimizer": True})})
    with pytest.raises(ConfigError, match="offload_optimizer needs a GPU"):
        PolicyEngine(config, model_folder, rank=0, world_size=1, total_steps=1)
