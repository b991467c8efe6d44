"""The two tables of the diagnosis as checked data: causes.yaml and signatures.yaml."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from oxrl_core.diagnose.plans import Patch, PatchRule, PlanFacts, Risk, patches, value_at
from oxrl_core.errors import ConfigError

FOLDER = Path(__file__).parent


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Cause(_Entry):
    """What a finding means, which others it explains, and what can be done."""

    id: str
    title: str
    next: str
    explains: tuple[str, ...] = ()
    pains: tuple[int, ...] = ()
    plan: tuple[PatchRule, ...] = ()


class Origin(_Entry):
    """Where a text comes from, and of which kind it is."""

    scope: str
    kind: Literal["root", "wrapper", "data", "env"]
    risk: Risk
    source: str


class Signature(_Entry):
    """A text by which a failure is known."""

    id: str
    what: Origin
    regex: str
    cause: str
    remedy: str
    plan: tuple[PatchRule, ...] = ()

    @field_validator("regex")
    @classmethod
    def _compiles(cls, text: str) -> str:
        re.compile(text)
        return text

    @property
    def is_wrapper(self) -> bool:
        return self.what.kind == "wrapper"


def plan_for(signature: Signature | str, settings: Mapping[str, Any], facts: PlanFacts | None = None) -> list[Patch]:
    """The patches for a failure, in the order in which to try them; none where no key of ours helps.

    Of class N nothing is ever patched; the patches of the others are at least as risky as their signature.
    """
    entry = all_signatures()[signature] if isinstance(signature, str) else signature
    return patches(entry.plan, settings, facts or PlanFacts(), entry.what.risk)


@cache
def all_causes() -> dict[str, Cause]:
    """Every cause by its id."""
    return {name: Cause(**_mapping(value), id=name) for name, value in _table("causes.yaml", Cause).items()}


@cache
def all_signatures() -> dict[str, Signature]:
    """Every signature by its id, in the order of the file."""
    return {name: Signature(**_mapping(value), id=name) for name, value in _table("signatures.yaml", Signature).items()}


def _table(name: str, model: type[BaseModel]) -> dict[str, Any]:
    import yaml

    raw: Any = yaml.safe_load((FOLDER / name).read_text())
    if not isinstance(raw, dict):
        raise ConfigError("it is no mapping of ids", name, "write one entry per id")
    table = cast("dict[str, Any]", raw)
    for key, value in table.items():
        try:
            model(**_mapping(value), id=key)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ConfigError(f"{key}: {where}: {first['msg']}", name, "mend the entry") from None
    return table


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, dict) else {}  # pyright: ignore[reportUnknownArgumentType]


__all__ = ["Cause", "Patch", "PlanFacts", "Signature", "all_causes", "all_signatures", "plan_for", "value_at"]
