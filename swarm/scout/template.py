"""What a chat template does: probed in a child process with little memory, little time and no environment."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

from swarm.scout.source import Budget
from swarm.scout.views import TemplateView

MAX_TEMPLATE = 200_000
SECONDS = 4.0  # of the clock; what a template computes is bounded by its processor time, in the child
CHILD = Path(__file__).with_name("template_child.py")
_MARKERS = re.compile(r"<[^<>\s]{1,40}>|\[/?[A-Z_]{1,20}\]")


def probe_template(template: str, bos: str, eos: str, adds_bos: bool | None, budget: Budget) -> TemplateView:
    """The template's habits; `error` says why nothing is known."""
    if len(template) > MAX_TEMPLATE:
        return TemplateView(present=True, error=f"it has {len(template):,} characters")
    asked = json.dumps({"template": template, "bos": bos, "eos": eos})
    try:
        done = subprocess.run(
            # -I: neither the environment nor the working directory decides what is imported.
            [sys.executable, "-I", "-B", str(CHILD)],
            input=asked,
            capture_output=True,
            text=True,
            timeout=budget.left(SECONDS),
            env={"LC_ALL": "C.UTF-8"},
            cwd="/",
            check=False,
        )
        answer = cast("dict[str, Any]", json.loads(done.stdout)) if done.returncode == 0 else {}
    except subprocess.TimeoutExpired:
        return TemplateView(present=True)  # the machine is busy: nothing is known, also nothing bad
    except ValueError:
        answer = {}
    if "found" not in answer:
        return TemplateView(present=True, error=str(answer.get("error") or "it was ended for its memory or time"))
    found = cast("dict[str, Any]", answer["found"])
    if not found["has_user"]:
        return TemplateView(present=True, error="it leaves out what the user says")
    return TemplateView(
        present=True,
        system_role=found["system_role"],
        default_system=found["default_system"],
        strict_alternation=found["strict_alternation"],
        generation_prompt=shown(str(found["generation_prompt"])),
        thinking=found["thinking"],
        drops_thinking=found["drops_thinking"],
        ends_with_eos=found.get("ends_with_eos"),
        double_bos=None if adds_bos is None else adds_bos and bool(found["starts_with_bos"]),
    )


def shown(prompt: str) -> str:
    """A generation prompt of markers and a role as it is; anything with more words could be a message to the reader."""
    words = re.findall(r"\w+", _MARKERS.sub(" ", prompt))
    fits = len(prompt) <= 80 and len(words) <= 2 and all(len(word) <= 16 for word in words) and prompt.isascii()
    return prompt if fits else "(unusual)"


def from_registry(entry: dict[str, Any]) -> TemplateView:
    """What the registry says about a template."""
    said = cast("dict[str, Any]", entry.get("template") or {})
    thinking = str(said.get("thinking") or "unknown")
    note = str(said.get("note") or "")
    return TemplateView(
        present=True,
        system_role="kept" if said.get("system_role") else "refused",
        default_system="default_system" in said,
        strict_alternation="alternate" in note,
        generation_prompt=str(said.get("generation_prompt") or ""),
        thinking=cast("Any", thinking if thinking in ("never", "always", "on", "off") else "unknown"),
    )
