"""Models and generated configurations as a person sees them on a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from oxrl_core.cli.tables import next_line, pairs, styled, table
from oxrl_core.cli.text import number

if TYPE_CHECKING:
    from swarm.configure.views import GeneratedConfig
    from swarm.scout.views import MemoryView, ModelList, ModelReport

VERDICTS = {"yes": "bold green", "maybe": "bold yellow", "no": "bold red"}
LEVELS = {"block": "red", "error": "red", "warning": "yellow", "info": "dim"}


def draw_report(report: ModelReport) -> Iterable[Any]:
    """A model: what it is, what its template does, what it takes, what is wrong with it, and the verdict."""
    template, support = report.chat_template, report.support
    billions = f"{report.parameters / 1e9:.3f}B ({report.parameters_from})" if report.parameters else "unknown"
    engines = [
        f"{name} {version} {'yes' if known else 'no'}"
        for name, version, known in (
            ("transformers", support.transformers_version, support.transformers),
            ("vLLM", support.vllm_version, support.vllm),
        )
        if known is not None
    ]
    chat = "none"
    if template.error:
        chat = f"unusable: {template.error}"
    elif template.present:
        chat = f"system role {template.system_role}, thinking {template.thinking}"
        chat += ", turns alternate" if template.strict_alternation else ""
        chat += f", answers begin after {template.generation_prompt!r}" if template.generation_prompt else ""
    rows = [
        ("model", report.model),
        ("known from", f"{report.source}{f': {report.source_note}' if report.source_note else ''}"),
        ("commit", report.revision),
        ("architecture", f"{report.architecture} ({report.model_type})" if report.model_type else ""),
        ("parameters", billions),
        ("reads", f"{', '.join(report.modality)}; {number(report.context)} tokens"),
        ("licence", f"{report.license}{', gated' if report.gated else ''}"),
        ("engines", ", ".join(engines)),
        ("chat", chat),
        ("adapters on", ", ".join(report.lora_targets)),
    ]
    yield pairs((name, value) for name, value in rows if value)
    for view in report.memory:
        yield styled(_memory_line(view), "" if view.fits else "red")
    for risk in report.risks:
        yield styled(f"{risk.level} {risk.code} {risk.where}: {risk.what}", LEVELS[risk.level])
    for problem in report.problems:
        yield styled(f"{problem.severity} {problem.code}: {problem.what}", LEVELS[problem.severity])
        if problem.next:
            yield styled(f"  {problem.next}", "dim")
    for proposal in report.proposals:
        reward = f" with reward {proposal.reward}" if proposal.reward else ""
        yield styled(f"task {proposal.task}: {proposal.dataset}{reward}; {proposal.why}", "dim")
    yield styled(f"{report.verdict}: {'; '.join(report.reasons)}", VERDICTS[report.verdict])
    yield next_line(report.next)


def _memory_line(view: MemoryView) -> str:
    """The memory plan as one sentence."""
    if view.layout == "cpu":
        return f"{view.strategy}: {view.host_gib:.1f} GiB of host memory"
    where = f"{view.gpus} x {view.gpu_memory_gib:g} GiB"
    if not view.fits:
        return f"{view.strategy} does not fit into {where}: {view.why}"
    drawn = f"; sampler {view.sampler_gib:.1f} GiB ({view.layout})" if view.sampler_gib else ""
    return f"{view.strategy}: {view.learner_gib:.1f} GiB on each of {where}{drawn}"


def draw_models(listing: ModelList) -> Iterable[Any]:
    """A page of models."""
    made = table("model", "B", "licence", "reads", "what", right=("B",), narrow=("B",))
    for row in listing.items:
        licence = f"{row.license}{', gated' if row.gated else ''}"
        what = row.why or (f"{row.downloads:,} downloads" if row.downloads else "")
        made.add_row(
            styled(row.id, "bold"), number(row.parameters_b), styled(licence), ", ".join(row.modality), styled(what)
        )
    yield made
    if listing.note:
        yield styled(listing.note, "dim")
    if listing.next_cursor:
        yield next_line(f"the same with --cursor {listing.next_cursor}")


def draw_generated(made: GeneratedConfig) -> Iterable[Any]:
    """A generated configuration: every value with its reason, where it was written, and what stands in its way."""
    rows = table("key", "value", "why", narrow=("value",))
    for choice in made.why:
        rows.add_row(styled(choice.key, "bold"), styled(choice.value[:24]), styled(choice.reason, "dim"))
    yield rows
    yield styled(_memory_line(made.memory))
    for note in made.notes:
        yield styled(f"note {note}", "dim")
    for problem in made.problems:
        yield styled(f"{problem.severity} {problem.where}: {problem.what}", LEVELS[problem.severity])
        if problem.next:
            yield styled(f"  {problem.next}", "dim")
    yield pairs([("written", made.path)])
    yield next_line(made.next)
