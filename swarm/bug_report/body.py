"""The text of a report, from a template. Whatever a run said stands in a fence that it cannot leave."""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Mapping
from typing import Any, cast

from oxrl_core.errors import OxrlError
from oxrl_core.redact import Redactor
from oxrl_core.redact.personal import this_person, without_person
from oxrl_core.runs.records import read_json
from oxrl_core.runs.rundir import RunDir
from swarm.bug_report.failure import Failure

LONGEST_BODY = 60_000
LONGEST_LINK = 7_500
LONGEST_MESSAGE = 2_000
LONGEST_NOTES = 8_000
MOST_FRAMES = 24

# Numbers, switches and words of our own schema; no path, no name that somebody gave.
CONFIG_KEYS = (
    "run.backend", "model.precision", "model.attention", "model.gradient_checkpointing", "model.lora.enabled",
    "model.lora.rank", "data.max_prompt_tokens", "data.max_length", "data.packing", "algorithm.advantage",
    "algorithm.aggregation", "algorithm.kl_coef", "algorithm.kl_estimator", "algorithm.kl_place", "algorithm.mismatch",
    "algorithm.critic", "algorithm.reference", "rollout.engine", "rollout.num_workers", "rollout.tensor_parallel",
    "rollout.colocate", "rollout.memory_fraction", "rollout.group_size", "rollout.dynamic_sampling", "rollout.pipeline",
    "rollout.max_completion_tokens", "rollout.sync_every", "train.num_workers", "train.steps", "train.prompts_per_step",
    "train.rows_per_step", "train.updates_per_step", "train.passes_per_step", "train.micro_batch_tokens", "train.lr",
    "train.lr_schedule", "train.save_every", "train.async_save", "train.resume", "deepspeed.zero_stage",
    "deepspeed.offload_optimizer", "deepspeed.offload_params",
)  # fmt: skip
_WORD = re.compile(r"[A-Za-z0-9_.+-]{1,64}")


def marker_of(fingerprint: str) -> str:
    """The comment by which an issue is known to be about this failure."""
    return f"<!-- fp:{fingerprint} -->"


class Cleaner:
    """Makes a text fit to be published: secrets first, names of people and machines next, and only then is it cut."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._redactor = Redactor.of_this_machine(environment)
        self._person = this_person(environment)

    def clean(self, text: str, limit: int) -> str:
        """The text without secrets and names, at most so long, in which nothing calls anybody or refers to anything."""
        safe = without_person(self._redactor.text(text), self._person)
        safe = safe.replace("\u2028", "\n").replace("\u2029", "\n")
        if len(safe) > limit:
            safe = safe[:limit] + " [...]"
        return disarmed(safe)

    def is_clean(self, text: str) -> bool:
        """Whether nothing is left that this machine knows to be a secret or a name by now."""
        return without_person(self._redactor.masked(text), self._person) == text


def disarmed(text: str) -> str:
    """The text with mentions, references to issues and comments of HTML broken up."""
    text = re.sub(r"@(?=[\w-])", "@ ", text)
    text = re.sub(r"#(?=\d)", "# ", text)
    return re.sub(r"\bGH-(?=\d)", "GH ", text).replace("<!--", "<! --").replace("-->", "-- >")


def fenced(text: str) -> str:
    """The text between fences that are longer than any run of back-ticks inside."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text.strip()}\n{fence}"


def title_of(failure: Failure) -> str:
    """What failed and where, in our own words: no text of the run stands in it."""
    kind = failure.type if re.fullmatch(r"\w{1,60}", failure.type) else "An error"
    top = failure.top
    return (
        f"{kind} in {top.place}:{top.function}"[:200] if top is not None and top.owner == "oxrl" else f"{kind} in a run"
    )


def body_of(run: RunDir, failure: Failure, fingerprint: str, notes: str, cleaner: Cleaner) -> str:
    """The report in Markdown, at most 60,000 characters long."""
    status = run.status()
    parts = [
        marker_of(fingerprint),
        "A run of oxRL failed. This report was made by `oxrl bug-report` and confirmed before it was sent.",
    ]
    if notes.strip():
        parts += ["**What was done**", fenced(cleaner.clean(notes, LONGEST_NOTES))]
    message = cleaner.clean(f"{failure.type}: {failure.message}", LONGEST_MESSAGE)
    parts += [
        "**What happened**",
        fenced(f"{message}\nphase: {_word(status.phase)}, step {status.step}, {status.state}"),
    ]
    if failure.frames:
        parts += ["**Where**", fenced(cleaner.clean(minimal_traceback(failure), 12_000))]
    parts += ["**Versions**", fenced(cleaner.clean(_versions(run), 4_000))]
    settings = config_subset(run)
    if settings:
        lines = "\n".join(f"{key}: {value}" for key, value in settings.items())
        parts += ["**Configuration** (a selection)", fenced(cleaner.clean(lines, 6_000))]
    body = "\n\n".join(parts) + "\n"
    assert len(body) <= LONGEST_BODY
    return body


def minimal_traceback(failure: Failure) -> str:
    """The frames, ours with their line of code; of others' only the nearest to ours and the last."""
    lines: list[str] = []
    skipped = 0
    frames = list(failure.frames)
    kept = {i for i, frame in enumerate(frames) if frame.owner == "oxrl"} | {len(frames) - 1}
    kept |= {i + 1 for i, frame in enumerate(frames) if frame.owner == "oxrl" and i + 1 < len(frames)}
    kept = set(sorted(kept)[-MOST_FRAMES:])
    for index, frame in enumerate(frames):
        if index not in kept:
            skipped += 1
            continue
        if skipped:
            lines.append(f"  ... {skipped} frames")
            skipped = 0
        lines.append(f"  {frame.place}:{frame.line} in {frame.function}")
        if frame.source:
            lines.append(f"    {frame.source[:200]}")
    return "\n".join(lines)


def config_subset(run: RunDir) -> dict[str, Any]:
    """The values of the allow-listed keys, and names only where they are of our own catalogues."""
    from oxrl_core.config.yaml_text import read_mapping

    try:
        settings = read_mapping((run.path / "config.yaml").read_text(), "config.yaml").mapping
    except (OSError, UnicodeDecodeError, OxrlError):
        return {}
    found: dict[str, Any] = {}
    for key in ("model.path", "algorithm.name", "reward.name"):
        name = _at(settings, key)
        if isinstance(name, str):
            found[key] = name if _is_ours(key, name) else "(own)"
    for key in CONFIG_KEYS:
        value = _at(settings, key)
        if isinstance(value, (bool, int, float)) or (isinstance(value, str) and _WORD.fullmatch(value)):
            found[key] = value
    return found


def _is_ours(key: str, name: str) -> bool:
    from oxrl_core.algorithms.base import all_algorithms
    from oxrl_core.rewards.base import all_rewards

    if key == "algorithm.name":
        return name in all_algorithms()
    if key == "reward.name":
        return name in all_rewards()
    return re.fullmatch(r"miniature:[a-z0-9._-]{1,64}", name) is not None


def _at(settings: Mapping[str, Any], key: str) -> Any:
    value: Any = settings
    for part in key.split("."):
        value = cast("Mapping[str, Any]", value).get(part) if isinstance(value, Mapping) else None
    return value


def _versions(run: RunDir) -> str:
    from oxrl_core.runs.machine.environment import FILE, environment_of_now

    facts = read_json(run.path / FILE) or environment_of_now()
    packages = cast("dict[str, Any]", facts.get("packages") or {})
    lines = [
        f"python {facts.get('python', '')}",
        f"system {facts.get('system', '')}",
        f"gpus {facts.get('gpus') or 'none'}",
    ]
    lines += [f"{name} {version}" for name, version in packages.items()]
    return "\n".join(lines)


def _word(text: str) -> str:
    return text if re.fullmatch(r"[\w ]{1,40}", text) else "unknown"


def prefilled_link(web: str, repo: str, title: str, body: str) -> str:
    """Opens a new issue with this text; a body that is too long for an address is cut at a line, its fence closed."""
    base = f"{web}/{repo}/issues/new?"
    lines = body.split("\n")
    for count in range(len(lines), 0, -1):
        text = "\n".join(lines[:count])
        if count < len(lines):
            opened = [line for line in lines[:count] if line.startswith("```")]
            closing = "" if len(opened) % 2 == 0 else "\n" + re.sub(r"[^`]", "", opened[-1])
            text += f"{closing}\n\nThe rest stands in bug_report.md of the run: attach it."
        link = base + urllib.parse.urlencode({"title": title, "body": text})
        if len(link) <= LONGEST_LINK:
            return link
    return base + urllib.parse.urlencode({"title": title})


def own_version() -> str:
    """The version of oxRL that runs here."""
    from oxrl_core.runs.machine.packages import installed_version

    return installed_version("oxrl") or "0.0"


def cleaner_of_this_machine() -> Cleaner:
    """A cleaner that knows the secrets of this process."""
    return Cleaner(os.environ)
