"""Critics, reward models, students and moving references in the real engine, against plain transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from head_jobs import HEADS, KINDS, gradients, kl_to_student, one, score_sum, spare, step, value_sum, whole_weights
from rank_jobs import STAGES, loss_sum, make_batch, make_config, make_rows
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from oxrl_core.engine.checkpoint import CheckpointStore
from oxrl_core.engine.policy import PolicyEngine
from oxrl_core.errors import CheckpointError, ConfigError
from oxrl_core.models.miniature import make_miniature
from oxrl_core.types import Progress, TokenBatch

pytestmark = pytest.mark.engine


# ---- by hand: whole logits, plain transformers ---------------------------------------------------------------------


class Plain:
    """One head over a transformers model: whole tensors, one batch, torch's own AdamW."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.kind = kind
        self.model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
        self.teacher = AutoModelForCausalLM.from_pretrained(folder / "teacher", dtype=torch.float32)
        start = whole_weights(one(folder, kind, 0))
        parameters = dict(self.model.named_parameters())
        self.named = {f"model.{name}": parameter for name, parameter in parameters.items()}
        if kind == "value":  # a backbone has one level less
            self.named = {name.replace("model.model.", "model."): p for name, p in self.named.items()}
        self.head = {n: v.requires_grad_() for n, v in start.items() if "value_head" in n or "score" in n}
        self.named = {name: p for name, p in self.named.items() if name in start} | self.head
        assert self.named.keys() == start.keys()
        assert all(torch.equal(parameter, start[name]) for name, parameter in self.named.items())

    def loss(self, batch: TokenBatch) -> torch.Tensor:
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        output = self.model(**inputs, output_hidden_states=True)
        hidden = output.hidden_states[-1]
        lengths = batch.attention_mask.sum(1)
        if self.kind == "score":
            last = hidden[torch.arange(len(lengths)), lengths - 1]
            return score_sum((last @ self.head["model.score.weight"].T)[:, 0], batch)
        if self.kind == "distill":
            total = torch.zeros(())
            with torch.no_grad():
                teacher = self.teacher(**inputs).logits
            for row in range(len(lengths)):
                for column in batch.completion_mask[row].nonzero().flatten().tolist():
                    p = (teacher[row, column - 1] / 2).softmax(-1)
                    q = (output.logits[row, column - 1] / 2).softmax(-1)
                    weight = torch.sin(batch.input_ids[row, column].float()) + 2
                    total = total + weight * (p * (p / q).log()).sum()
            return total
        values = torch.zeros(batch.input_ids.shape)
        raw = (hidden @ self.head["value_head.weight"].T)[..., 0] + self.head["value_head.bias"]
        for row, length in enumerate(lengths.tolist()):
            for column in range(1, min(length + 1, values.shape[1])):
                values[row, column] = raw[row, column - 1]
        total = value_sum(values)
        if self.kind == "tokens+value":
            distribution = torch.log_softmax(output.logits / 0.7, -1)
            logprobs, entropy = torch.zeros(values.shape), torch.zeros(values.shape)
            logprobs[:, 1:] = distribution[:, :-1].gather(-1, batch.input_ids[:, 1:, None])[..., 0]
            entropy[:, 1:] = -(distribution.exp() * distribution).sum(-1)[:, :-1]
            total = total + loss_sum(logprobs, entropy, batch)
        return total

    def step(self) -> tuple[dict[str, torch.Tensor], float]:
        """The gradients of the step, and their norm; the weights have moved afterwards."""
        (self.loss(spare(make_rows(0))) / len(make_rows(0))).backward()
        found = {name: p.grad.clone() for name, p in self.named.items()}
        train = make_config(0).train
        groups = [[p for p in self.named.values() if p.ndim >= 2], [p for p in self.named.values() if p.ndim < 2]]
        optimizer = torch.optim.AdamW(
            [{"params": groups[0], "weight_decay": train.weight_decay}, {"params": groups[1], "weight_decay": 0.0}],
            lr=train.lr,
            eps=train.eps,
        )
        norm = float(torch.nn.utils.clip_grad_norm_(list(self.named.values()), train.max_grad_norm))
        optimizer.step()
        return found, norm


@pytest.fixture(scope="module")
def plain(folder: Path) -> dict[str, tuple]:
    found = {}
    for kind in KINDS:
        model = Plain(folder, kind)
        found[kind] = (*model.step(), {name: p.detach().clone() for name, p in model.named.items()})
    return found


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_one_step_of_every_head_is_the_step_of_plain_transformers(
    folder: Path, head_ranks: dict, plain: dict, kind: str, stage: int, world: int
) -> None:
    expected, norm, weights = plain[kind]
    name = f"{kind}-zero{stage}-world{world}"
    found = load_file(folder / f"{name}.gradients.safetensors")
    assert found.keys() == expected.keys()
    for part, gradient in expected.items():
        assert float((found[part] - gradient).abs().max()) <= 1e-5, part
    assert head_ranks[name]["grad_norm"] == pytest.approx(norm, rel=1e-5)
    for part, value in load_file(folder / f"{name}.weights.safetensors").items():
        assert float((value - weights[part]).abs().max()) <= 2e-5, part


# ---- values and scores ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tokens+value", "value"])
def test_values_stand_before_their_tokens_and_once_after_the_last(folder: Path, kind: str) -> None:
    engine = one(folder, kind)
    rows = make_rows()
    values = engine.values(spare(rows, 2)).detach()
    assert values.dtype == torch.float32
    for row, tokens in enumerate(rows):
        assert (values[row] != 0).tolist() == [1 <= column <= len(tokens) for column in range(values.shape[1])]
    tight = engine.values(make_batch(rows)).detach()
    assert torch.allclose(tight, values[:, : tight.shape[1]], atol=1e-6), "the longest row has no column for its end"


def test_values_of_packed_rows_are_those_of_separate_rows(folder: Path) -> None:
    engine = one(folder, "value")
    rows = make_rows()[:2]
    apart = engine.values(make_batch(rows)).detach()
    segments = torch.tensor([[1] * len(rows[0]) + [2] * len(rows[1])])
    places = torch.tensor([[*range(len(rows[0])), *range(len(rows[1]))]])
    batch = TokenBatch(torch.tensor([rows[0] + rows[1]]), segments > 0, places, places > 1, segments)
    packed = engine.values(batch)[0].detach()
    assert torch.allclose(packed[1 : len(rows[0])], apart[0, 1 : len(rows[0])], atol=1e-6)
    assert float(packed[len(rows[0])]) == 0, "nothing stands before the first token of a segment"
    assert torch.allclose(packed[len(rows[0]) + 1 :], apart[1, 1:], atol=1e-6)


def test_one_forward_pass_gives_what_two_give(folder: Path) -> None:
    engine = one(folder, "tokens+value")
    batch = spare(make_rows())
    logprobs, entropy, values = engine.logprobs_and_values(batch, 0.7, with_entropy=True)
    apart, entropy_apart = engine.logprobs(batch, 0.7, with_entropy=True)
    assert entropy is not None and entropy_apart is not None
    assert torch.equal(logprobs, apart) and torch.equal(entropy, entropy_apart)
    assert torch.equal(values, engine.values(batch))


@pytest.mark.parametrize("stage", STAGES)
def test_a_step_on_one_signal_leaves_the_other_head_without_gradient(folder: Path, stage: int) -> None:
    """Else ZeRO 3 would apply the gradient that the other head had in the step before."""
    engine = one(folder, "tokens+value", stage)
    batch = spare(make_rows())
    step(engine, "tokens+value", 0)
    engine.backward(engine.logprobs(batch, 1.0)[0].sum() / 100, last=True)
    found = gradients(engine)
    assert float(found["value_head.weight"].abs().max()) == 0 == float(found["value_head.bias"].abs().max())
    engine.step()
    engine.backward(engine.values(batch).sum() / 100, last=True)
    assert float(gradients(engine)["value_head.bias"]) == pytest.approx(sum(map(len, make_rows())) / 100)


def test_heads_start_small_from_the_seed_and_draw_no_ones_numbers(folder: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    engines = [one(folder, kind) for kind in (*HEADS, "value")]
    assert torch.equal(torch.rand(2), expected)
    weights = [
        engine.policy.base.score.weight if engine.value_head is None else engine.value_head.weight for engine in engines
    ]
    assert all(torch.equal(weight, weights[0]) for weight in weights)
    assert float(weights[0].detach().std()) == pytest.approx(1 / 129, rel=0.3), "hidden size 128"


def test_each_method_says_which_head_it_needs(folder: Path) -> None:
    batch = make_batch(make_rows())
    for kind, call in (
        ("tokens", lambda engine: engine.values(batch)),
        ("tokens", lambda engine: engine.scores(batch)),
        ("tokens", lambda engine: engine.distill(batch, kl_to_student)),
        ("value", lambda engine: engine.logprobs(batch, 1.0)),
        ("value", lambda engine: engine.refresh_reference()),
        ("score", lambda engine: engine.values(batch)),
    ):
        with pytest.raises(ConfigError) as caught:
            call(one(folder, kind))
        assert caught.value.next_step
    with pytest.raises(ConfigError, match="no reference"):
        one(folder, "value", with_reference=True)


def test_a_critic_has_a_learning_rate_of_its_own(folder: Path) -> None:
    assert step(one(folder, "value", lr=3e-3), "value", 0)["lr"] == 3e-3
    assert step(one(folder, "value"), "value", 0)["lr"] == 1e-2


def test_bfloat16_heads_speak_float32(folder: Path) -> None:
    config = make_config(2, precision="bfloat16")
    batch = make_batch(make_rows())
    for head in HEADS:
        engine = PolicyEngine(config, folder / "model", rank=0, world_size=1, total_steps=10, head=head)  # type: ignore[arg-type]
        values = engine.scores(batch) if head == "score" else engine.values(batch)
        assert values.dtype == torch.float32
        seen = values.detach()[values != 0]
        assert not torch.equal(seen, seen.bfloat16().float()), "not rounded to 8 bits"
        engine.backward(values.sum() / 100, last=True)
        assert 0 < engine.step()["grad_norm"] < 1e3


# ---- saved, resumed, exported --------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("kind", HEADS)
def test_every_head_resumes_bit_for_bit(folder: Path, tmp_path: Path, kind: str, stage: int, lora: bool) -> None:
    engine = one(folder, kind, stage, lora=lora)
    step(engine, kind, 0)
    engine.save(tmp_path / "state")
    step(engine, kind, 1)
    again = one(folder, kind, stage, lora=lora)
    again.load(tmp_path / "state")
    step(again, kind, 1)
    weights = whole_weights(engine)
    assert all(torch.equal(value, weights[name]) for name, value in whole_weights(again).items())
    start = whole_weights(one(folder, kind, stage, lora=lora))
    trained = [name for name in weights if "value_head" in name or "score" in name]
    assert trained and not any(torch.equal(weights[name], start[name]) for name in trained)


def test_a_checkpoint_of_another_head_is_refused_and_one_from_before_heads_is_not(folder: Path, tmp_path: Path) -> None:
    one(folder, "value").save(tmp_path / "critic")
    with pytest.raises(CheckpointError, match="head = value, this run has tokens"):
        one(folder, "tokens").load(tmp_path / "critic")
    engine = one(folder, "tokens")
    engine.save(tmp_path / "old")
    facts = json.loads((tmp_path / "old" / "rank-00000.json").read_text())
    for name in ("head", "running", "reference_is_refreshed"):
        del facts[name]
    (tmp_path / "old" / "rank-00000.json").write_text(json.dumps(facts))
    engine.load(tmp_path / "old")


@pytest.mark.parametrize("stage", STAGES)
def test_policy_and_critic_in_one_process_are_what_each_is_alone(folder: Path, head_ranks: dict, stage: int) -> None:
    alone = load_file(folder / f"alone-zero{stage}.safetensors")
    beside = load_file(folder / f"straight-zero{stage}.critic.safetensors")
    assert alone.keys() == beside.keys()
    assert all(torch.equal(value, beside[name]) for name, value in alone.items())


@pytest.mark.parametrize("stage", STAGES)
def test_policy_critic_and_refreshed_reference_resume_bit_for_bit(folder: Path, head_ranks: dict, stage: int) -> None:
    for part in ("policy", "critic"):
        straight = load_file(folder / f"straight-zero{stage}.{part}.safetensors")
        resumed = load_file(folder / f"resumed-zero{stage}.{part}.safetensors")
        assert straight.keys() == resumed.keys()
        assert all(torch.equal(value, resumed[name]) for name, value in straight.items())
    assert head_ranks["resumed"][f"running-zero{stage}"] == {"baseline": 0.1 + stage}
    assert head_ranks["resumed"][f"draw-zero{stage}"] == head_ranks[f"draw-zero{stage}"]
    names = {path.name for path in (folder / f"both-zero{stage}").iterdir()}
    assert names == {f"rank-0000{rank}.{kind}" for rank in (0, 1) for kind in ("safetensors", "json", "ok")} | {
        "critic",
        "reference.safetensors",
    }


def test_the_files_of_the_critic_are_part_of_what_a_checkpoint_vouches_for(folder: Path, tmp_path: Path) -> None:
    policy, critic = one(folder, "tokens"), one(folder, "value")
    for meddle in (False, True):
        store = CheckpointStore(tmp_path / str(meddle), keep=2)
        below = store.begin(1)
        policy.save(below)
        critic.save(below / "critic")
        file = below / "critic" / "rank-00000.json"
        if meddle:
            file.write_text(file.read_text() + " ")
            with pytest.raises(CheckpointError, match=r"critic/rank-00000\.json is not what rank-00000 wrote"):
                store.finish(Progress(step=1))
            continue
        saved = store.finish(Progress(step=1))
        critic.load(saved / "critic")
        found = store.newest()
        assert found is not None and "critic/rank-00000.safetensors" in found[1]["files"]
        (saved / "critic" / "rank-00000.safetensors").write_bytes(b"torn")
        assert store.newest() is None


@pytest.mark.parametrize("lora", [False, True])
def test_a_saved_reward_model_scores_in_transformers_what_it_scored_in_training(
    folder: Path, head_ranks: dict, lora: bool
) -> None:
    saved = folder / f"scorer-{lora}"
    expected = load_file(folder / f"scorer-{lora}.scores.safetensors")["scores"]
    batch = make_batch(make_rows())
    model = AutoModelForSequenceClassification.from_pretrained(saved, dtype=torch.float32).eval()
    assert (model.config.num_labels, model.config.pad_token_id) == (1, 0)
    assert AutoTokenizer.from_pretrained(saved).pad_token_id == 0
    with torch.no_grad():
        found = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[:, 0]
    assert "score.weight" in load_file(saved / "model.safetensors")
    if not lora:
        assert torch.equal(found, expected)
        return
    assert torch.allclose(found, expected, atol=1e-5)
    from peft import PeftModel

    torch.manual_seed(99)  # the base of the adapter has another score head until the adapter brings its own
    base = AutoModelForSequenceClassification.from_pretrained(
        folder / "model", dtype=torch.float32, num_labels=1, pad_token_id=0
    )
    adapted = PeftModel.from_pretrained(base, saved / "adapter").eval()
    with torch.no_grad():
        found = adapted(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[:, 0]
    assert torch.allclose(found, expected, atol=1e-5)


def test_a_reward_model_goes_on_from_its_folder(folder: Path, tmp_path: Path) -> None:
    engine = one(folder, "score")
    step(engine, "score", 0)
    engine.export_model(tmp_path / "model")
    batch = make_batch(make_rows())
    expected = engine.scores(batch).detach()
    again = one(tmp_path, "score")
    assert torch.equal(again.scores(batch).detach(), expected)
    values = one(tmp_path, "value").values(batch)
    assert float(values.detach().abs().max()) > 0, "a critic may start from the reward model's backbone"


@pytest.mark.parametrize("lora", [False, True])
def test_a_reward_model_that_is_not_written_as_trained_is_no_model(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lora: bool
) -> None:
    """A disk or a library that changes one number on the way is found before the run counts as done."""
    engine = one(folder, "score", lora=lora)
    engine.export_model(tmp_path / "model")
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    save = type(engine.policy.base).save_pretrained

    def save_wrongly(model: torch.nn.Module, target: Path, state_dict: dict[str, torch.Tensor]) -> None:
        changed = state_dict["model.norm.weight"].clone()
        changed[3] += 1e-3
        save(model, target, state_dict={**state_dict, "model.norm.weight": changed})

    monkeypatch.setattr(type(engine.policy.base), "save_pretrained", save_wrongly)
    step(engine, "score", 0)
    with pytest.raises(CheckpointError, match=r"another model\.norm\.weight"):
        engine.export_model(tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before, "the folder of before stays"


def test_a_value_head_is_exported_beside_the_model_and_never_to_the_sampler(folder: Path, tmp_path: Path) -> None:
    engine = one(folder, "tokens+value")
    step(engine, "tokens+value", 0)
    exported = engine.export_weights()
    assert exported is not None
    assert exported.keys() == load_file(folder / "model" / "model.safetensors").keys()
    engine.export_model(tmp_path / "model")
    AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    head = load_file(tmp_path / "model" / "value_head.safetensors")
    assert {name: tuple(value.shape) for name, value in head.items()} == {"weight": (1, 128), "bias": (1,)}
    batch = spare(make_rows())
    again = one(tmp_path, "tokens+value")
    assert torch.equal(again.values(batch), engine.values(batch)), "a run that goes on from it has its value head"


def test_a_critic_is_exported_as_a_backbone_with_its_head(folder: Path, tmp_path: Path) -> None:
    engine = one(folder, "value")
    assert not any("lm_head" in name for name, _ in engine.policy.named_parameters())
    step(engine, "value", 0)
    engine.export_model(tmp_path / "model")
    backbone = AutoModel.from_pretrained(tmp_path / "model", dtype=torch.float32)
    head = load_file(tmp_path / "model" / "value_head.safetensors")
    batch = spare(make_rows())
    with torch.no_grad():
        hidden = backbone(input_ids=batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
    values = (hidden @ head["weight"].T)[..., 0] + head["bias"]
    longest = max(range(len(make_rows())), key=lambda row: len(make_rows()[row]))
    found = engine.values(batch)[longest].detach()
    assert torch.allclose(found[1:], values[longest, :-1], atol=1e-6)


def test_an_untied_head_is_dropped_from_a_critic(tmp_path: Path) -> None:
    make_miniature("chars", tmp_path / "model", seed=0)
    whole = load_file(tmp_path / "model" / "model.safetensors")
    engine = one(tmp_path, "value")
    assert engine.num_parameters == sum(v.numel() for v in whole.values()) - whole["lm_head.weight"].numel() + 129


def test_packing_that_the_teacher_cannot_keep_apart_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = one(folder, "distill")
    first, second = make_rows()[:2]
    segments = torch.tensor([[1] * len(first) + [2] * len(second)])
    places = torch.tensor([[*range(len(first)), *range(len(second))]])
    batch = TokenBatch(torch.tensor([first + second]), segments > 0, places, places > 1, segments)
    assert engine.packing_is_exact(batch)
    monkeypatch.setattr(engine.teacher.model, "_mask", lambda attention_mask, segment_ids: attention_mask)
    assert not engine.packing_is_exact(batch)
