"""registry/README.md: every model with its facts and what has been verified of it."""

from __future__ import annotations

from typing import Any

from oxrl_core.config.registry import entry_of_slug, model_slugs, registry_folder
from oxrl_core.runs.records import read_json
from swarm.registry.evidence import FOLDER, entry_hash

HEAD = """# Registry of models

<!-- Written by `python scripts/registry_docs.py` from registry/models and registry/evidence; do not edit. -->

`models/<slug>.yaml` says what is known of a model: its config.json, parameters, context, licence, what its chat
template does, where adapters go. `templates/<family>.jinja` are the chat templates, `evidence/<slug>.json` is what a
verification measured. `miniature:<slug>` is the same architecture and template with few random weights, made on the
spot.

```
oxrl registry verify --all --workers 2      # everything below once more; exit code 1 where one is not as stated
oxrl registry verify qwen3-0.6b --record    # after a change: measure, and keep the evidence
oxrl registry verify --all --facts          # without runs, half a minute
oxrl registry import FOLDER                 # entries out of the layout of earlier versions
```

Verified at level miniature means, with numbers and limits in the evidence: parameters counted on the empty architecture
equal those stated; the template, rendered in a sandbox, does what the entry says; a run of 12 steps ends with finite
losses and gradients, rewards that teach, trainer and sampler that agree, a mask that covers a part of the tokens, and a
final model that loads back bit for bit. It says nothing about the weights that are published.

Your own registry is `<home>/registry`: onboardings write there, and its entries lie over these.
"""


def page() -> str:
    """The page in Markdown."""
    rows = [_row(slug) for slug in model_slugs(registry_folder())]
    good = sum(row[-1] != "no" for row in rows)
    columns = ("Model", "Parameters", "Context", "Reads", "Licence", "Gated", "Template", "Verified")
    lines = [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}", *(f"| {' | '.join(row)} |" for row in rows)]
    return f"{HEAD}\n{good} of {len(rows)} are verified.\n\n" + "\n".join(lines) + "\n"


def _row(slug: str) -> list[str]:
    entry = entry_of_slug(slug, registry_folder()) or {}
    evidence: dict[str, Any] = read_json(registry_folder() / FOLDER / f"{slug}.json") or {}
    is_about_it = evidence.get("verified") is True and evidence.get("entry_hash") == entry_hash(entry)
    return [
        f"`{slug}`",
        f"{entry['parameters'] / 1e9:.2f}B",
        f"{entry['context_length']:,}",
        ", ".join(entry["modality"]),
        str(entry["license"]),
        "yes" if entry["gated"] else "no",
        str(entry["chat_template"]),
        str(evidence["level"]) if is_about_it else "no",
    ]
