"""Everything the Scout knows about one model, whichever place it comes from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, cast

from oxrl_core.config.mappings import integer_at, mapping_at
from oxrl_core.config.registry import known_entry, model_slugs
from oxrl_core.config.shape import Shape, shape_of
from oxrl_core.errors import ModelError
from oxrl_core.suggest import did_you_mean
from swarm.scout import risks as risk_scan
from swarm.scout.documents import UnreadableDocument, plain, read_document
from swarm.scout.source import Budget, OutOfTime, Repository, Source
from swarm.scout.support import look_up
from swarm.scout.template import from_registry, probe_template
from swarm.scout.views import Risk, SupportView, TemplateView
from swarm.scout.weights import Weights, linear_names, look_at_weights

TOKENIZER = "tokenizer_config.json"
TOKENIZER_BYTES = 4 << 20
MAX_DOCUMENTS = 16
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "tekken.json")
# Large tables without settings.
NOT_READ = ("tokenizer.json", "vocab.json", "merges.json", "added_tokens.json", "model.safetensors.index.json")
MINIATURE_PARAMETERS = 420_000
MINIATURE_SHAPE = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 256,
    "vocab_size": 336,
}
Place = Literal["hub", "folder", "registry"]


@dataclass
class Facts:
    """One model."""

    model: str
    place: Place
    note: str = ""
    slug: str = ""  # of its registry entry
    repository: Repository = field(default_factory=lambda: Repository(sizes={}))
    config: dict[str, Any] = field(default_factory=dict[str, Any])
    weights: Weights = field(default_factory=Weights)
    parameters: int | None = None
    parameters_from: str = ""
    shape: Shape | None = None
    context: int | None = None
    modality: list[str] = field(default_factory=lambda: ["text"])
    template: TemplateView = field(default_factory=TemplateView)
    tokens: dict[str, str] = field(default_factory=dict[str, str])  # bos, eos, pad
    has_tokenizer: bool = True
    support: SupportView = field(default_factory=SupportView)
    lora_targets: list[str] = field(default_factory=list[str])
    lora_from: str = ""
    risks: list[Risk] = field(default_factory=list[Risk])
    is_miniature: bool = False
    unread: list[str] = field(default_factory=list[str])  # documents that could not be read, and why

    @property
    def model_type(self) -> str:
        return plain(self.config.get("model_type"))

    @property
    def architecture(self) -> str:
        names = self.config.get("architectures")
        listed = cast("list[object]", names) if isinstance(names, list) else []
        return plain(listed[0]) if listed else ""


def registry_facts(model: str, note: str) -> Facts:
    """What the registry says about a model, or about the miniature of one."""
    if model == "miniature:chars":
        return _of_chars(note)
    found = known_entry(model)
    if found is None:
        near = did_you_mean(model.removeprefix("miniature:").rsplit("/", 1)[-1].lower(), model_slugs())
        raise ModelError(f"the registry has no such model.{near}", model, "oxrl scout --search lists what there is")
    slug, entry = found
    is_miniature = model.startswith("miniature:")
    config = cast("dict[str, Any]", entry["architecture"])
    parameters = MINIATURE_PARAMETERS if is_miniature else cast("int", entry["parameters"])
    facts = Facts(
        model=model if is_miniature else str(entry["hub"]),
        place="registry",
        note=note,
        slug=slug,
        config=config,
        parameters=parameters,
        parameters_from="estimated for the miniature" if is_miniature else "the registry",
        shape=shape_of(MINIATURE_SHAPE if is_miniature else config, parameters),
        context=integer_at(entry, "context_length"),
        modality=[str(kind) for kind in cast("list[Any]", entry["modality"])],
        template=from_registry(entry),
        support=look_up(str(config.get("model_type")), str((config.get("architectures") or [""])[0])),
        lora_targets=[str(name) for name in cast("list[Any]", entry["lora_target_modules"])],
        lora_from="the registry",
        is_miniature=is_miniature,
    )
    facts.repository.license = str(entry["license"])
    facts.repository.gated = bool(entry["gated"])
    if is_miniature and facts.modality != ["text"]:  # whatever the family's template does: its miniature has ChatML
        turn = "<|im_start|>assistant\n"
        facts.template = TemplateView(
            present=True, system_role="kept", default_system=False, strict_alternation=False, generation_prompt=turn,
            thinking="never", ends_with_eos=True, double_bos=False,
        )  # fmt: skip
    elif is_miniature:  # its own template, without the system prompt that it would add
        facts.template = facts.template.model_copy(update={"default_system": False})
    if is_miniature:
        facts.repository.gated = False
    return facts


def _of_chars(note: str) -> Facts:
    """The smallest miniature, which reads 19 characters and knows no chat."""
    config = {**MINIATURE_SHAPE, "intermediate_size": 384, "vocab_size": 21}
    config |= {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}
    return Facts(
        model="miniature:chars",
        place="registry",
        note=note,
        config=config,
        parameters=MINIATURE_PARAMETERS,
        parameters_from="estimated for the miniature",
        shape=shape_of(config, MINIATURE_PARAMETERS),
        context=64,
        support=look_up("qwen3", "Qwen3ForCausalLM"),
        lora_targets=["q_proj", "k_proj", "v_proj", "o_proj"],
        lora_from="the registry",
        is_miniature=True,
    )


def source_facts(model: str, place: Place, source: Source, budget: Budget) -> Facts:
    """What the files of a repository say. What cannot be read is noted; nothing in it is run."""
    facts = Facts(model=model, place=place, repository=source.repository)
    found = known_entry(model)
    facts.slug = found[0] if found else ""
    documents: dict[str, dict[str, Any]] = {}
    try:
        documents = _documents(source, facts)
        facts.config = documents.get("config.json", {})
        raw_type = facts.config.get("model_type")
        facts.support = look_up(raw_type if isinstance(raw_type, str) else "", facts.architecture)
        facts.weights = look_at_weights(source)
        facts.parameters = facts.weights.parameters or None
        facts.parameters_from = "the headers of the weights" if facts.parameters else ""
        _read_template(documents, source, facts, budget)
    except OutOfTime:
        facts.note = f"{facts.note} not everything could be read in time".strip()
    except OSError as error:
        facts.unread.append(f"a file could not be read: {error.strerror or type(error).__name__}")
    facts.risks = [
        *risk_scan.of_sizes(facts.config),
        *risk_scan.of_documents(documents, facts.support.transformers is True),
        *risk_scan.of_files(source.repository, bool(facts.weights.files)),
    ]
    if facts.weights.torn:
        torn = Risk(code="ckpt_torn", level="block", where="safetensors", what=facts.weights.torn)
        facts.risks.append(torn)
    if not any(risk.code == "absurd_config" for risk in facts.risks):
        facts.shape = shape_of(facts.config, facts.parameters)
    text = mapping_at(facts.config, "text_config") or facts.config
    facts.context = integer_at(text, "max_position_embeddings") or integer_at(facts.config, "max_position_embeddings")
    facts.modality = ["text"] + [
        kind for kind, key in (("image", "vision_config"), ("audio", "audio_config")) if key in facts.config
    ]
    facts.has_tokenizer = any(name in source.repository.sizes for name in TOKENIZER_FILES)
    facts.lora_targets = linear_names(facts.weights.shapes)
    facts.lora_from = "the headers of the weights" if facts.lora_targets else ""
    return facts


def _documents(source: Source, facts: Facts) -> dict[str, dict[str, Any]]:
    """The JSON files at the top of the repository, config.json first; what cannot be read stands in facts.unread."""
    sizes = source.repository.sizes
    names = [name for name in sizes if name.endswith(".json") and "/" not in name and name not in NOT_READ]
    names = [name for name in names if not name.endswith(".index.json")]
    first = [name for name in ("config.json", TOKENIZER) if name in names]
    documents: dict[str, dict[str, Any]] = {}
    for name in [*first, *sorted(set(names) - set(first))][:MAX_DOCUMENTS]:
        most = TOKENIZER_BYTES if name == TOKENIZER else 1 << 20
        size = sizes[name]
        try:
            if size is not None and size > most:
                raise UnreadableDocument(f"{plain(name)} has {size:,} bytes; at most {most:,} are read")
            documents[name] = read_document(source.read(name, most), plain(name), most)
        except UnreadableDocument as error:
            facts.unread.append(str(error))
    return documents


def _read_template(documents: dict[str, dict[str, Any]], source: Source, facts: Facts, budget: Budget) -> None:
    """Special tokens, and what the chat template does."""
    settings = documents.get(TOKENIZER, {})
    raw = {name: _token(settings.get(f"{name}_token")) for name in ("bos", "eos", "pad")}
    facts.tokens = {name: _shown_token(value) for name, value in raw.items()}
    template = _template_text(settings.get("chat_template"))
    for name, key in (("chat_template.json", "chat_template"), ("processor_config.json", "chat_template")):
        template = template or _template_text(documents.get(name, {}).get(key))
    if "chat_template.jinja" in source.repository.sizes:
        template = source.read("chat_template.jinja", 1 << 20).decode("utf-8", "replace")
    if template:
        adds = settings.get("add_bos_token")
        adds_bos = adds if isinstance(adds, bool) else None
        facts.template = probe_template(template, raw["bos"], raw["eos"], adds_bos, budget)


def _token(value: object) -> str:
    """A special token, which is a text or an object with one."""
    content = cast("dict[str, Any]", value).get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) else ""


def _shown_token(token: str) -> str:
    return token if len(token) <= 40 and token.isprintable() and " " not in token else "(unusual)"


def _template_text(value: object) -> str:
    """The template out of a text, or out of a list of named ones (the one called default)."""
    if isinstance(value, list):
        listed = [cast("dict[str, Any]", item) for item in cast("list[object]", value) if isinstance(item, dict)]
        chosen = [item.get("template") for item in listed if item.get("name") == "default"]
        value = chosen[0] if chosen else None
    return value if isinstance(value, str) else ""
