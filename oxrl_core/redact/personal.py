"""Who and where: e-mail addresses, home folders, user names, hosts and addresses, for texts that leave this machine."""

from __future__ import annotations

import getpass
import ipaddress
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# Names that say nothing about a person and are ordinary words of logs.
COMMON = frozenset(
    {
        "root", "user", "admin", "ubuntu", "runner", "nobody", "test", "docker", "jovyan", "vscode",
        "work", "agent", "oxrl", "localhost", "host", "node", "main", "build", "worker",
        "data", "model", "train", "local", "python", "cluster", "head",
    }
)  # fmt: skip
_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,6}(?![\w-])")
_ANY_HOME = re.compile(r"(?:/home/|/Users/|[A-Za-z]:\\{1,2}Users\\{1,2}|/root(?=/))[^\s/\\\"':,;]*")
_IPV4 = re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.]*\d)")
_IPV6 = re.compile(r"(?<![\w:.])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:])")
_HARMLESS = frozenset({"127.0.0.1", "0.0.0.0", "::1", "::"})


@dataclass(frozen=True)
class Person:
    """The names that must not leave this machine."""

    home: str
    users: tuple[str, ...]
    hosts: tuple[str, ...]


def this_person(environment: Mapping[str, str]) -> Person:
    """Who this process belongs to, and on which machine."""
    users = {environment.get("USER", ""), environment.get("LOGNAME", ""), Path.home().name}
    try:
        users.add(getpass.getuser())
    except (OSError, KeyError):  # a container's user without a name
        users.discard("")
    host = socket.gethostname()
    hosts = {host, host.split(".")[0], environment.get("HOSTNAME", "")}
    return Person(
        str(Path.home()),
        tuple(sorted((one for one in users if len(one) >= 3 and one.lower() not in COMMON), key=len, reverse=True)),
        tuple(sorted((one for one in hosts if len(one) >= 3 and one.lower() not in COMMON), key=len, reverse=True)),
    )


def without_person(text: str, person: Person) -> str:
    """The text without names of people and machines."""
    if len(person.home) > 1:
        text = re.sub(re.escape(person.home) + r"(?![\w-])", "~", text)
    text = _ANY_HOME.sub("~", text)
    text = _EMAIL.sub("[e-mail]", text)
    for names, mask in ((person.hosts, "[host]"), (person.users, "[user]")):
        for name in names:
            text = re.sub(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])", mask, text, flags=re.IGNORECASE)
    return _IPV6.sub(_address, _IPV4.sub(_address, text))


def _address(match: re.Match[str]) -> str:
    try:
        address = str(ipaddress.ip_address(match[0]))
    except ValueError:  # a version or a time
        return match[0]
    is_short = ":" in address and len(address) < 7  # a::b is a name of C++
    return match[0] if is_short or address in _HARMLESS else "[address]"
