"""Renders a stranger's chat template: a program of its own, which its parent kills when it takes too long.

It reads {template, bos, eos} as JSON from standard input and writes what the probes found. Limits on memory and
processor time are set first; the environment is Jinja's immutable sandbox. It imports nothing of this project.
"""

from __future__ import annotations

import json
import re
import resource
import sys
from collections.abc import Callable
from typing import Any

MEMORY_BYTES = 384 << 20
CPU_SECONDS = 1
MAX_OUTPUT = 100_000
SYSTEM, USER, ANSWER, SECOND, THOUGHT = "QsystemQ", "QuserQ", "QanswerQ", "QsecondQ", "QthoughtQ"

Message = dict[str, Any]


class Refused(Exception):
    """The template's own raise_exception."""


def limit() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))


def renderer(template: str, bos: str, eos: str) -> Callable[..., str]:
    """A function from messages to text."""
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks an answer for masks; here it changes nothing."""

        tags = {"generation"}  # noqa: RUF012 - Jinja's own protocol

        def parse(self, parser: Any) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body).set_lineno(line)

    def refuse(message: str) -> None:
        raise Refused(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation]
    )
    environment.filters["tojson"] = lambda value, **_: json.dumps(value, ensure_ascii=False)  # pyright: ignore
    environment.globals["raise_exception"] = refuse  # pyright: ignore  # its stubs know the built-in globals alone
    environment.globals["strftime_now"] = lambda form: "2026-01-01"  # pyright: ignore  # the same text every day
    compiled = environment.from_string(template)

    def render(messages: list[Message], prompt: bool = False, **more: Any) -> str:
        text: list[str] = []
        size = 0
        values = {"messages": messages, "add_generation_prompt": prompt, "bos_token": bos, "eos_token": eos, **more}
        for part in compiled.generate(**values):
            text.append(part)
            size += len(part)
            if size > MAX_OUTPUT:
                raise OverflowError("the text grows without end")
        return "".join(text)

    return render


def said(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def attempt(render: Callable[..., str], *messages: Message, prompt: bool = False, **more: Any) -> str | None:
    """The text, or None where the template refuses the messages."""
    try:
        return render(list(messages), prompt, **more)
    except (MemoryError, OverflowError):
        raise
    except Exception:  # a template may fail in any way over messages that it does not know; that is the finding
        return None


def probe(template: str, bos: str, eos: str) -> dict[str, Any]:
    """What the template does."""
    render = renderer(template, bos, eos)
    user, answer = said("user", USER), said("assistant", ANSWER)
    plain = render([user])  # raises where not even this works
    if USER not in plain:
        listed = {"role": "user", "content": [{"type": "text", "text": USER}]}
        plain = render([listed])
    found: dict[str, Any] = {"has_user": USER in plain}
    prompted = attempt(render, user, prompt=True) or plain
    found["generation_prompt"] = prompted[len(plain) :] if prompted.startswith(plain) else ""
    with_system = attempt(render, said("system", SYSTEM), user)
    found["system_role"] = "refused" if with_system is None else "kept" if SYSTEM in with_system else "dropped"
    if with_system is not None and SYSTEM in with_system:
        head = with_system.partition(SYSTEM)[0]
        marked = len(head) > len(bos) and head != bos
        found["default_system"] = marked and plain.startswith(head) and not plain[len(head) :].startswith(USER)
    else:
        before = plain.partition(USER)[0]
        found["default_system"] = len(re.findall(r"[A-Za-z]{2,}", before)) > 8
    found["strict_alternation"] = attempt(render, user, said("user", SECOND)) is None
    whole = attempt(render, user, answer)
    if whole is not None and ANSWER in whole:
        found["ends_with_eos"] = bool(eos) and eos in whole.partition(ANSWER)[2]
    found["starts_with_bos"] = bool(bos) and plain.startswith(bos)
    on = attempt(render, user, prompt=True, enable_thinking=True)
    off = attempt(render, user, prompt=True, enable_thinking=False)
    has_tags = "<think>" in template or "</think>" in template
    opens = "<think>" in found["generation_prompt"]
    if on != off:
        found["thinking"] = "on" if prompted == on else "off"
    else:
        found["thinking"] = "always" if opens else "on" if has_tags and "enable_thinking" in template else "never"
    if has_tags and found["thinking"] == "never":
        found["thinking"] = "always"  # it knows thoughts and has no switch for them
    thought = said("assistant", f"<think>\n{THOUGHT}\n</think>\n\n{ANSWER}")
    history = attempt(render, user, thought, said("user", SECOND))
    found["drops_thinking"] = history is not None and ANSWER in history and THOUGHT not in history
    return found


def main() -> None:
    limit()
    asked = json.loads(sys.stdin.read())
    try:
        answer: dict[str, Any] = {"found": probe(asked["template"], asked["bos"], asked["eos"])}
    except MemoryError:
        answer = {"error": "it takes more memory than it may"}
    except OverflowError:
        answer = {"error": "it makes more text, or counts further, than any chat"}
    except Exception as error:  # whatever a stranger's template raises: its kind is the answer, its words are not
        answer = {"error": f"it fails on a single message of a user ({type(error).__name__})"}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
