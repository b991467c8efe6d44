"""What is missing is said before anything heavy is loaded."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from oxrl_core.config import check_data, check_model
from oxrl_core.config.check import check_config
from oxrl_core.config.check_model import count_parameters, read_vocabulary
from oxrl_core.config.load import load_config
from oxrl_core.config.machine import Machine, this_machine

MINIMAL = {"run": {"name": "r"}, "model": {"path": "miniature:chars"}, "data": {"train": "reverse3"}}
# Completions of 4 tokens: the miniature reads 64.
SMALL = ["rollout.max_completion_tokens=4", "reward.name=positions"]
ROOMY = Machine(cpus=4, memory_gib=64, free_memory_gib=60, free_disk_gib=500)
TWO_GPUS = Machine(cpus=16, memory_gib=128, free_memory_gib=120, free_disk_gib=500, gpu_memory_gib=(24.0, 24.0))


@pytest.fixture(autouse=True)
def online(monkeypatch):
    """The hub may be asked, whatever the environment of the tests says (nothing here asks it)."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


def needs(overrides=(), machine=ROOMY, home=Path("/nowhere"), small=True):
    config = load_config(MINIMAL, [*(SMALL if small else []), *overrides]).config
    return check_config(config, home=home, machine=machine)


def errors(*args, **kwargs) -> str:
    found = needs(*args, **kwargs)
    assert not found.ok
    return "\n".join(f"{p.where}: {p.what} | {p.next}" for p in found.problems if p.severity == "error")


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_config_that_can_run_has_sizes_and_no_problem():
    found = needs()
    assert found.ok and found.problems == [] and found.downloads == []
    assert (found.gpus, found.cpu_workers, found.num_rows, found.num_parameters) == (0, 2, 180, 400_000)
    assert found.steps == 6  # 180 rows / 32 prompts a step, rounded up
    assert 2 < found.memory_gib < 8 and 0 < found.disk_gib < 1
    assert found.model_dump()["ok"] is True


def test_this_machine_is_read_without_a_heavy_import(tmp_path):
    code = (
        "import sys; from pathlib import Path; from oxrl_core.config.load import load_config; "
        "from oxrl_core.config.check import check_config; "
        f"check_config(load_config('demo').config, home=Path({str(tmp_path)!r})); "
        "heavy = {'torch', 'ray', 'vllm', 'deepspeed', 'transformers', 'numpy', 'datasets'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    machine = this_machine(tmp_path / "not" / "there")
    assert machine.cpus >= 1 and machine.memory_gib > 0.5 and machine.free_disk_gib > 0


# --- GPUs, memory, disk, ports ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "overrides",
    [
        ["rollout.tensor_parallel=2", "rollout.engine=vllm"],
        ["deepspeed.offload_optimizer=true"],
        ["model.attention=flash_attention_2"],
    ],
)
def test_a_gpu_config_on_a_machine_without_gpu_is_answered_at_once(overrides):
    assert "asks for GPUs; this machine has 0 GPUs and 4 CPU cores" in errors(overrides)


def test_more_workers_than_cores_could_ever_serve_are_refused_and_a_few_too_many_are_slow():
    text = errors(["train.num_workers=64", "train.prompts_per_step=64"])
    assert "asked are 65 workers; this machine has 4 CPU cores and no GPU" in text
    found = needs(["train.num_workers=8"])
    assert found.ok and [p.code for p in found.problems] == ["slow"]


def test_more_gpus_than_there_are_is_refused():
    assert needs(machine=TWO_GPUS).gpus == 2
    assert "asked are 4 GPUs (2 for the learner, 2 for the sampler); this machine has 2" in errors(
        ["train.num_workers=2", "rollout.num_workers=2"], TWO_GPUS
    )
    assert needs(["train.num_workers=2", "rollout.num_workers=2", "rollout.colocate=true"], TWO_GPUS).gpus == 2


def test_too_little_memory_and_a_full_disk_are_said_before_the_run():
    machine = Machine(cpus=4, memory_gib=1.0, free_memory_gib=0.5, free_disk_gib=0.01)
    text = errors(machine=machine)
    assert "of memory; this machine has 1.0 GiB" in text
    assert "of disk; 0.01 GiB are free" in text and "OXRL_HOME" in text
    tight = Machine(cpus=4, memory_gib=64, free_memory_gib=0.5, free_disk_gib=50)
    assert [p.code for p in needs(machine=tight).problems] == ["memory"]


def test_a_model_that_does_not_fit_on_a_gpu_is_refused(tmp_path):
    small = Machine(cpus=16, memory_gib=128, free_memory_gib=120, free_disk_gib=500, gpu_memory_gib=(4.0,) * 2)
    overrides = ["model.path=Qwen/Qwen2.5-0.5B-Instruct", "data.train=reverse4"]
    assert "this machine's GPUs have 4 GiB" in errors(overrides, small)
    assert needs([*overrides, "model.gradient_checkpointing=true"], TWO_GPUS).ok


def test_a_cluster_that_does_not_answer_is_refused_and_one_that_does_is_not():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        assert "nothing answers there" in errors([f"run.ray_address=127.0.0.1:{port}"])
        server.listen()
        found = needs([f"run.ray_address=127.0.0.1:{port}", "train.num_workers=8"])
        assert found.ok and found.ports == [f"127.0.0.1:{port}"] and found.gpus == 9


def test_a_taken_port_is_refused(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        monkeypatch.setenv("MASTER_PORT", str(server.getsockname()[1]))
        assert "the port is taken" in errors(["run.backend=local"])


# --- data ------------------------------------------------------------------------------------------------------------


def test_a_missing_file_a_missing_column_and_an_empty_file_are_named(tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", [{"q": "1+1", "a": "2"}])
    (tmp_path / "empty.jsonl").write_text("")
    assert str(tmp_path / "nothing.jsonl") in errors([f"data.train={tmp_path / 'nothing.jsonl'}"])
    assert "rows.jsonl" in errors([f"data.train={rows}"])  # no column is a prompt
    text = errors([f"data.train={{name: {rows}, prompt_column: qq, answer_column: a}}"])
    assert "there is no column 'qq'" in text and "Did you mean 'q'?" in text
    assert "the dataset has no rows" in errors([f"data.train={tmp_path / 'empty.jsonl'}"])
    assert needs([f"data.train={{name: {rows}, prompt_column: q, answer_column: a}}"]).num_rows == 1


def test_all_bad_datasets_are_named_at_once(tmp_path):
    text = errors([f"data.train=[{tmp_path}/a.jsonl, {tmp_path}/b.jsonl]", f"data.eval={tmp_path}/c.jsonl"])
    assert all(name in text for name in ("a.jsonl", "b.jsonl", "c.jsonl"))


def test_supervised_rows_need_completions_and_rewards_need_answers(tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", [{"prompt": "a"}, {"prompt": "b", "completion": "c"}])
    some = needs([f"data.train={rows}", "algorithm.name=sft"])
    assert some.ok and "1 of 2 rows have no completion to learn from, first" in some.problems[0].what
    assert some.problems[0].what.endswith("they are left out") and some.num_rows == 1
    strict = [f"data.train={rows}", "algorithm.name=sft", "data.strict=true"]
    assert "1 of 2 rows have no completion to learn from" in errors(strict)
    none = write_rows(tmp_path / "none.jsonl", [{"prompt": "a"}, {"prompt": "b", "completion": ""}])
    assert "2 of 2 rows have no completion to learn from" in errors([f"data.train={none}", "algorithm.name=sft"])
    assert "no row has a reference answer for the reward 'positions'" in errors([f"data.train={rows}"])


def test_prompts_that_do_not_fit_are_counted(tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", [{"prompt": "1" * n, "answer": "1"} for n in (5, 20, 70)])
    some = needs([f"data.train={rows}", "data.max_prompt_tokens=10"])
    assert some.ok and "2 of 3 prompts have more than data.max_prompt_tokens = 10 tokens" in some.problems[0].what
    assert "2 of 3 prompts" in errors([f"data.train={rows}", "data.max_prompt_tokens=10", "data.overlong=error"])
    assert "3 of 3 prompts" in errors([f"data.train={rows}", "data.max_prompt_tokens=4"])


def test_a_prompt_longer_than_the_model_is_refused(tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", [{"prompt": "1" * 62, "answer": "1"}])
    text = errors([f"data.train={rows}"])
    assert "a prompt of 62 tokens and a completion of 4 do not fit into the model, which reads 64 tokens" in text
    assert "leaves a prompt no room: the model reads 64 tokens" in errors(small=False)


def test_held_out_rows_that_are_training_rows_are_reported():
    found = needs(["data.eval={name: reverse3, split: train}"])
    assert found.ok and [p.code for p in found.problems] == ["leak"]
    assert needs(["data.eval={name: reverse3, split: eval}"]).problems == []


def test_hub_data_is_announced_and_not_fetched(monkeypatch):
    monkeypatch.delenv("OXRL_GSM8K_DIR", raising=False)
    found = needs(["data.train=[gsm8k, 'hub:some/rows']"])
    assert found.downloads == ["gsm8k", "hub:some/rows"] and found.num_rows is None and found.steps is None


def test_of_a_very_large_file_only_the_first_rows_are_read(tmp_path, monkeypatch):
    rows = write_rows(tmp_path / "rows.jsonl", [{"prompt": "a", "answer": "b"}] * 3000)
    monkeypatch.setattr(check_data, "BIG_FILE_BYTES", 1000)
    assert needs([f"data.train={rows}"]).num_rows is None


def test_an_unknown_reward_is_named():
    assert "there is no reward 'positoins'" in errors(["reward.name=positoins"])


def test_a_group_of_one_in_a_config_made_by_hand_is_found():
    config = load_config(MINIMAL, SMALL).config
    by_hand = config.model_copy(update={"rollout": config.rollout.model_copy(update={"group_size": 1})})
    found = check_config(by_hand, home=Path("/nowhere"), machine=ROOMY)
    assert not found.ok and found.problems[0].where == "rollout.group_size"


def test_a_warm_up_that_outlasts_the_run_is_reported():
    found = needs(["train.steps=3", "train.warmup_steps=10"])
    assert found.ok and [p.code for p in found.problems] == ["warm-up"]


# --- models ----------------------------------------------------------------------------------------------------------


def make_safetensors(path: Path, shapes: dict[str, list[int]], cut: int = 0) -> None:
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 4
        for dimension in shape:
            size *= dimension
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(offset - cut))


@pytest.fixture
def model_folder(tmp_path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 32, "hidden_size": 8}))
    make_safetensors(folder / "model.safetensors", {"a": [3, 5], "b": [7]})
    vocab = {"[UNK]": 0, "one": 1, "two": 2}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]"},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder


def test_parameters_are_counted_from_the_headers(model_folder):
    assert count_parameters(model_folder / "model.safetensors") == 3 * 5 + 7
    assert needs([f"model.path={model_folder}"]).num_parameters == 22


def one_row(folder: Path) -> Path:
    return write_rows(folder / "one.jsonl", [{"prompt": "one", "completion": "two", "answer": "two"}])


def test_a_local_models_own_tokenizer_decides_what_is_too_long(model_folder, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", [{"prompt": "one two " * 10, "answer": "1"}])
    assert needs([f"data.train={rows}", f"model.path={model_folder}"]).ok  # 80 characters, 20 tokens
    rows = write_rows(tmp_path / "rows.jsonl", [{"prompt": "one two " * 15, "answer": "1"}])
    assert "a prompt of 30 tokens" in errors([f"data.train={rows}", f"model.path={model_folder}"])


def test_a_torn_or_incomplete_model_folder_is_refused(model_folder):
    make_safetensors(model_folder / "model.safetensors", {"a": [3, 5]}, cut=4)
    assert "its weights are torn" in errors([f"model.path={model_folder}"])
    (model_folder / "model.safetensors").unlink()
    assert "no safetensors weights" in errors([f"model.path={model_folder}"])
    (model_folder / "tokenizer.json").write_text("{}")
    assert "is no tokenizer" in errors([f"model.path={model_folder}"])
    (model_folder / "config.json").unlink()
    assert "no config.json" in errors([f"model.path={model_folder}"])


def test_a_teacher_has_to_be_there_and_to_know_the_students_tokens(model_folder, tmp_path):
    kd = ["algorithm.name=kd", f"model.path={model_folder}", f"data.train={one_row(tmp_path)}"]
    assert "algorithm.teacher = ./nowhere" in errors([*kd, "algorithm.teacher=./nowhere"])
    assert needs([*kd, f"algorithm.teacher={model_folder}"]).ok
    other = tmp_path / "other"
    shutil.copytree(model_folder, other)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] = {"[UNK]": 0, "one": 1, "three": 2}
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    text = errors([*kd, f"algorithm.teacher={other}"])
    assert "its vocabulary is not the student's: of 3 tokens 2 are the same, the student has 3" in text


def test_a_vocabulary_is_read_from_either_kind_of_tokenizer_file(tmp_path):
    file = tmp_path / "tokenizer.json"
    added = [{"id": 7, "content": "<end>"}]
    file.write_text(json.dumps({"model": {"vocab": {"a": 0}}, "added_tokens": added}))
    assert read_vocabulary(file) == {"a": 0, "<end>": 7}
    file.write_text(json.dumps({"model": {"vocab": [["a", -1.0], ["b", -2.0]]}, "added_tokens": added}))
    assert read_vocabulary(file) == {"a": 0, "b": 1, "<end>": 7}
    assert read_vocabulary(tmp_path / "none.json") == {}


def test_a_reward_model_has_to_be_there_and_a_reward_gets_its_parameters(model_folder):
    rlhf = ["algorithm.name=rlhf", "reward.name=reward_model"]
    assert "reward_model needs reward.path" in errors(rlhf)
    assert "reward.path = ./nowhere" in errors([*rlhf, "reward.path=./nowhere"])
    found = needs([*rlhf, f"reward.path={model_folder}"])
    assert found.ok and found.cpu_workers == 3  # learner, sampler, scorer


def test_a_judge_without_its_key_is_missed_before_the_run(monkeypatch):
    judge = ["algorithm.name=rlaif", "reward.name=judge", "reward.url=http://127.0.0.1:9/v1", "reward.model=m"]
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    assert "JUDGE_KEY" in errors([*judge, "reward.api_key_env=JUDGE_KEY"])
    monkeypatch.setenv("JUDGE_KEY", "x")
    assert needs([*judge, "reward.api_key_env=JUDGE_KEY"]).ok


def test_models_beside_the_policy_count_in_memory(tmp_path):
    big = ["model.path=Qwen/Qwen2.5-0.5B-Instruct", "data.train=reverse4", "train.micro_batch_tokens=16"]

    def memory(*overrides: str) -> float:
        return needs([*big, *overrides]).memory_gib

    weights = 494_032_768 * 4 / 1024**3  # in float32
    plain = memory()
    assert memory("algorithm.kl_coef=0.1") - plain == pytest.approx(weights, abs=0.2)
    adapters = memory("model.lora.enabled=true")
    assert memory("algorithm.kl_coef=0.1", "model.lora.enabled=true") == pytest.approx(adapters, abs=0.1)
    # The critic: weights, gradients, two moments and a master copy.
    ppo = ["algorithm.name=ppo", "algorithm.kl_coef=0"]
    assert memory(*ppo) - memory(*ppo, "algorithm.critic=shared", "algorithm.critic_lr=null") == pytest.approx(
        5 * weights, abs=0.3
    )
    path = "reward.path=Qwen/Qwen2.5-0.5B-Instruct"
    scored = memory("algorithm.name=rlhf", "algorithm.kl_coef=0", "reward.name=reward_model", path)
    assert scored - plain == pytest.approx(weights + 1.2, abs=0.3)  # and a process


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("./not/there", "the model folder does not exist"),
        ("a/b/c", "the model folder does not exist"),
        ("miniature:charz", "Did you mean 'chars'?"),
        ("run:never-was", "there is no run of that id"),
    ],
)
def test_a_model_that_does_not_exist_is_refused(path, message):
    assert message in errors([f"model.path={path}"])


def test_a_runs_final_weights_are_a_model(model_folder, tmp_path):
    run = tmp_path / "runs" / "first-run"
    run.mkdir(parents=True)
    assert "no final weights yet" in errors(["model.path=run:first-run"], home=tmp_path)
    assert "Did you mean 'first-run'?" in errors(["model.path=run:frist-run"], home=tmp_path)
    model_folder.rename(run / "final")
    assert needs(["model.path=run:first-run"], home=tmp_path).num_parameters == 22


def test_a_registered_hub_model_is_known_before_its_download(monkeypatch, tmp_path):
    found = needs(["model.path=Qwen/Qwen2.5-0.5B-Instruct"])
    assert found.ok and found.num_parameters == 494_032_768
    assert found.memory_gib > 10 and found.disk_gib > 15
    unknown = needs(["model.path=somebody/something-new"])
    assert unknown.ok and "unknown-model" in [p.code for p in unknown.problems]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE forbids" in errors(["model.path=somebody/something-new"])


def test_the_facts_about_the_character_model_are_those_of_the_model_itself():
    # Read, not imported: that would load torch.
    source = Path(check_model.__file__).parents[1] / "models" / "miniature.py"
    assert f'"max_position_embeddings": {check_model.CHARS_CONTEXT},' in source.read_text(encoding="utf-8")
