"""Result objects that only the command line has: catalogues, configuration keys, documents."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


class Entry(BaseModel):
    """One thing that a configuration can name."""

    name: str
    summary: str = ""
    kind: str = ""
    params: dict[str, Any] = {}
    paper: str = ""
    splits: list[str] = []
    path: str = ""


class Catalogue(BaseModel):
    """Things that a configuration can name."""

    entries: list[Entry]
    next: str = ""


class FieldEntry(BaseModel):
    """One configuration key."""

    key: str
    type: str
    default: str
    description: str


class FieldList(BaseModel):
    """Configuration keys with their meaning."""

    fields: list[FieldEntry]


class ClientFile(BaseModel):
    """What was done to a settings file of an agent's program."""

    client: str
    file: str
    action: str
    backup: str = ""
    next: str = ""
