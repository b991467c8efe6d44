"""The keys of the schema, as dotted paths: which there are, in which section each stands, what it means."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel

from oxrl_core.config.schema import Config, DataConfig, DatasetConfig
from oxrl_core.suggest import closest

DOCS = "docs/config.md"


def _section_below(section: type[BaseModel], name: str) -> type[BaseModel] | None:
    """The section that a field holds (for a list of sections: that of its entries), or None for a value."""
    info = section.model_fields.get(name)
    if info is None:
        return None
    if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
        return info.annotation
    return DatasetConfig if section is DataConfig and name in ("train", "eval") else None


def section_of(key: str) -> type[BaseModel] | None:
    """The section in which a dotted key stands, or None where there is no such section."""
    section: type[BaseModel] | None = Config
    for part in key.split(".")[:-1]:
        if section is None:
            return None
        section = section if part.isdecimal() else _section_below(section, part)
    return section


def description_of(key: str) -> str:
    """What the schema says about a key in one line, or nothing."""
    section = section_of(key)
    info = section.model_fields.get(key.rpartition(".")[2]) if section else None
    return info.description or "" if info else ""


def all_keys() -> Iterator[str]:
    """Every dotted key of the schema; datasets stand as `data.train.*.name`."""

    def walk(section: type[BaseModel], prefix: str) -> Iterator[str]:
        for name in section.model_fields:
            inner = _section_below(section, name)
            if inner is None:
                yield f"{prefix}{name}"
            else:
                yield from walk(inner, f"{prefix}{name}.*." if inner is DatasetConfig else f"{prefix}{name}.")

    return walk(Config, "")


def what_is_unknown(key: str) -> tuple[str, str]:
    """What is wrong with an unknown key, and the key that was probably meant."""
    section, name = section_of(key), key.rpartition(".")[2]
    here = list(section.model_fields) if section else []
    prefix = key.rpartition(".")[0]
    elsewhere = [known for known in all_keys() if known.rpartition(".")[2] == name and "*" not in known]
    if elsewhere:
        return f"unknown key '{key}'. Did you mean '{elsewhere[0]}'?", f"write {elsewhere[0]}"
    near = closest(name, here)
    if near:
        meant = f"{prefix}.{near}" if prefix else near
        return f"unknown key '{key}'. Did you mean '{meant}'?", f"write {meant}"
    by_leaf = {known.rpartition(".")[2]: known for known in all_keys()}
    leaf = closest(name, by_leaf)
    if leaf:
        return f"unknown key '{key}'. Did you mean '{by_leaf[leaf]}'?", f"write {by_leaf[leaf]}"
    return f"unknown key '{key}'", f"{prefix or 'a config'} takes: {', '.join(here)}"


def known_part(loc: tuple[int | str, ...]) -> str:
    """The dotted key of a pydantic location, without the names of union members and validators."""
    parts: list[str] = []
    section: type[BaseModel] | None = Config
    for part in loc:
        if isinstance(part, int):
            parts.append(str(part))
            continue
        if section is None:
            break
        parts.append(part)
        section = _section_below(section, part)
    return ".".join(parts)
