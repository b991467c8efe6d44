"""Whether a model can be trained here, why, and which failures a run would meet: before the run."""

from __future__ import annotations

from collections.abc import Sequence

from swarm.scout.facts import Facts
from swarm.scout.views import MemoryView, ModelProblem, Verdict

SHOWN_RISKS = 6


def find_problems(facts: Facts, memory: Sequence[MemoryView]) -> list[ModelProblem]:
    """What would go wrong, each with the id of its failure signature; errors first."""
    problems = [*_of_files(facts), *_of_engines(facts), *_of_chat(facts), *_of_memory(memory)]
    order = ("error", "warning", "info")
    return sorted(problems, key=lambda problem: order.index(problem.severity))


def decide(facts: Facts, problems: Sequence[ModelProblem]) -> tuple[Verdict, list[str]]:
    """yes, maybe or no, and the reasons: blocking risks and errors make a no, warnings a maybe."""
    blocks = [risk for risk in facts.risks if risk.level == "block"]
    errors = [problem.what for problem in problems if problem.severity == "error"]
    if blocks or errors:
        reasons = [f"{risk.where}: {risk.what}" if risk.where else risk.what for risk in blocks[:SHOWN_RISKS]]
        return "no", list(dict.fromkeys([*reasons, *errors]))
    doubts = [risk.what for risk in facts.risks if risk.level == "warning"]
    doubts += [problem.what for problem in problems if problem.severity == "warning"]
    if facts.note and "not everything" in facts.note:
        doubts.append(facts.note)
    if doubts:
        return "maybe", list(dict.fromkeys(doubts))
    return "yes", ["the installed engines know it, its files are harmless, and it fits"]


def _of_files(facts: Facts) -> list[ModelProblem]:
    found: list[ModelProblem] = []
    for what in facts.unread:
        found.append(_error("hub_corrupt", what, "take another repository: it cannot be looked at safely"))
    if facts.place == "registry":
        if facts.repository.gated:
            found.append(
                _note("gated", "its owner asks for consent to a licence", "accept it on the hub, set HF_TOKEN")
            )
        return found
    if "config.json" not in facts.repository.sizes:
        found.append(_error("unknown_type", "it has no config.json", "give the repository of a transformers model"))
    if facts.weights.torn:
        found.append(_error("ckpt_torn", "its weight files are torn or lie about themselves", "download them again"))
    elif not facts.weights.files:
        code = "weights_only" if any(risk.code == "weights_only" for risk in facts.risks) else "hub_corrupt"
        found.append(_error(code, "it has no safetensors weights", "convert them where a pickle may run, not here"))
    if not facts.has_tokenizer:
        found.append(_error("slow_tok", "it has no tokenizer", "copy tokenizer.json and its config beside it"))
    elif "tokenizer.json" not in facts.repository.sizes:
        found.append(_warning("slow_tok", "it has no tokenizer.json; another package must read its tokenizer", ""))
    if facts.repository.gated:
        found.append(_warning("gated", "its owner asks for consent to a licence", "accept it on the hub, set HF_TOKEN"))
    vocabulary = facts.shape.vocabulary if facts.shape else 0
    rows = _embedding_rows(facts)
    if vocabulary and rows and rows < vocabulary:
        what = f"its embedding has {rows:,} rows and config.json says {vocabulary:,}"
        found.append(_error("device_assert", what, "its files do not belong together: take another revision"))
    return found


def _embedding_rows(facts: Facts) -> int:
    shapes = [shape for name, shape in facts.weights.shapes.items() if name.endswith("embed_tokens.weight")]
    return max((shape[0] for shape in shapes if shape), default=0)


def _of_engines(facts: Facts) -> list[ModelProblem]:
    found: list[ModelProblem] = []
    if not facts.config:
        return found
    support = facts.support
    if support.transformers is False:
        code = "remote_code" if any(risk.code == "remote_code" for risk in facts.risks) else "unknown_type"
        what = f"transformers {support.transformers_version} has no generating model of type {facts.model_type or '?'}"
        found.append(_error(code, what, "a newer transformers may have it; the repository's own code is never run"))
    elif support.transformers is None:
        found.append(_warning("unknown_type", "transformers is not installed: nobody knows the architecture", ""))
    elif support.vllm is False:
        what = f"vLLM {support.vllm_version} does not know {facts.architecture or 'its architecture'}"
        found.append(_warning("vllm_arch", what, "set rollout.engine: transformers"))
    if facts.shape is None and not any(risk.code == "absurd_config" for risk in facts.risks):
        found.append(_warning("unknown_type", "config.json does not say its sizes, so its memory is unknown", ""))
    return found


def _of_chat(facts: Facts) -> list[ModelProblem]:
    template = facts.template
    if not facts.config:
        return []
    if template.error:
        return [_error("chat_template", f"its chat template is not usable: {template.error}", "take another revision")]
    if not template.present:
        next_step = "prompts are given as plain text (data.apply_chat_template: false)"
        return [_note("chat_template", "it has no chat template: a base model, or one without turns", next_step)]
    found: list[ModelProblem] = []
    if template.system_role == "unknown":
        found.append(_warning("chat_template", "its chat template could not be looked at in time", "ask once more"))
    if template.system_role != "kept" and template.system_role != "unknown":
        what = f"its chat template has no system role ({template.system_role})"
        found.append(_note("system_role", what, "oxRL puts the system's words into the first message of the user"))
    if template.strict_alternation:
        found.append(_note("roles_alternate", "its turns must alternate", "merge two turns of one role in the data"))
    if template.ends_with_eos is False:
        what = "its chat template does not end an answer with the EOS token of the tokenizer"
        found.append(_warning("no_eos", what, "check generation_config.json: its eos_token_id must end a turn"))
    if template.double_bos:
        what = "template and tokenizer both write BOS; oxRL renders the template and adds nothing"
        found.append(_note("double_bos", what, "other programs have to leave one out"))
    if facts.place != "registry" and not facts.tokens.get("pad"):
        found.append(_note("pad_token", "its tokenizer names no padding token", "oxRL masks padding and takes EOS"))
    return found


def _of_memory(memory: Sequence[MemoryView]) -> list[ModelProblem]:
    """Nothing fits, or only some ways of training do."""
    if not memory or any(view.fits for view in memory):
        return []
    code = "vllm_kv_none" if all("sampler" in view.why for view in memory) else "cuda_oom"
    what = "; ".join(dict.fromkeys(f"{view.strategy}: {view.why}" for view in memory))
    return [_error(code, what, "more or larger GPUs (--gpus N --gpu-memory G), or a smaller model")]


def _error(code: str, what: str, next_step: str) -> ModelProblem:
    return ModelProblem(code=code, severity="error", what=what, next=next_step)


def _warning(code: str, what: str, next_step: str) -> ModelProblem:
    return ModelProblem(code=code, severity="warning", what=what, next=next_step)


def _note(code: str, what: str, next_step: str) -> ModelProblem:
    return ModelProblem(code=code, severity="info", what=what, next=next_step)
