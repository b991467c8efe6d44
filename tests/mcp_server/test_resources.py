"""Resources, and the completion of every id that a prompt or an address takes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
import yaml
from mcp import Client, MCPError
from mcp.types import PromptReference, ResourceTemplateReference

from mcp_server.completions import values_of
from mcp_server.server import build_server
from oxrl_core.runs.rundir import RunDir

sys.path.insert(0, str(Path(__file__).parent))  # talking.py, beside this file

from talking import ERAS, RESOURCES, answer, links_of, talk

SMALL = {"model": "miniature:chars", "gpus": 0}


def with_client(step: Callable[[Client], Any], era: str = "auto") -> Any:
    async def go() -> Any:
        async with Client(build_server(), mode=era) as client:  # pyright: ignore[reportArgumentType]
            return await step(client)

    return anyio.run(go)


def read(uri: str, era: str = "auto") -> str:
    async def step(client: Client) -> str:
        return (await client.read_resource(uri)).contents[0].text  # pyright: ignore[reportAttributeAccessIssue]

    return with_client(step, era)


def refuses_to_read(uri: str) -> bool:
    async def step(client: Client) -> bool:
        try:
            await client.read_resource(uri)
        except MCPError:
            return True
        return False

    return with_client(step)


@pytest.mark.parametrize("era", ERAS)
def test_a_generated_configuration_is_read_by_its_id_and_by_no_other_name(home: Path, era: str) -> None:
    made = answer("generate_config", **SMALL)
    text = read(f"oxrl://configs/{made['config_id']}", era)
    assert yaml.safe_load(text)["model"]["path"] == "miniature:chars"
    assert read(f"oxrl://configs/{made['config_id'].removesuffix('.yaml')}") == text
    (home / "secret.yaml").write_text("token: x")
    (home / "configs" / "link.yaml").symlink_to(home / "secret.yaml")
    for name in ("link.yaml", "..%2Fsecret.yaml", "secret.yaml", "nothing.yaml", "demo"):
        assert refuses_to_read(f"oxrl://configs/{name}"), name


@pytest.mark.parametrize("era", ERAS)
def test_every_argument_of_prompts_and_addresses_is_completed(
    start: Callable[..., RunDir], monkeypatch: pytest.MonkeyPatch, era: str
) -> None:
    run = start(steps=1)
    config_id = answer("generate_config", **SMALL)["config_id"]
    expected = {"run_id": run.run_id, "config_id": config_id, "section": "rollout", "model": "qwen2.5-0.5b-instruct"}

    async def step(client: Client) -> int:
        asked = 0
        templates = (await client.list_resource_templates()).resource_templates
        references: list[tuple[Any, str]] = [
            (ResourceTemplateReference(type="ref/resource", uri=one.uri_template), part.partition("}")[0])
            for one in templates
            for part in one.uri_template.split("{")[1:]
        ]
        references += [
            (PromptReference(type="ref/prompt", name=one.name), argument.name)
            for one in (await client.list_prompts()).prompts
            for argument in one.arguments or []
        ]
        for reference, name in references:
            if name == "draft_id":
                continue  # there is no draft here
            found = (await client.complete(reference, {"name": name, "value": expected.get(name, "")[:6]})).completion
            assert found.values and expected.get(name, found.values[0]) in found.values, (reference, name)
            asked += 1
        return asked

    assert with_client(step, era) >= 8


def test_what_is_newest_is_offered_first_and_nothing_is_made_up(home: Path) -> None:
    assert values_of("config_id") == values_of("draft_id") == values_of("run_id") == values_of("anything") == []
    first = answer("generate_config", **SMALL)["config_id"]
    second = answer("generate_config", **SMALL, overrides=["train.steps=3"])["config_id"]
    assert values_of("config_id") == [second, first]


def test_the_links_of_an_answer_can_be_read(start: Callable[..., RunDir]) -> None:
    run = start(steps=3)
    talk(("watch_run", {"run_id": run.run_id, "wait_seconds": 30}))
    measured, made, planned = talk(
        ("get_metrics", {"run_id": run.run_id}),
        ("generate_config", dict(SMALL)),
        ("launch_run", {"config": "demo", "dry_run": True}),
    )
    assert links_of(measured) == [f"oxrl://runs/{run.run_id}/metrics.jsonl"]
    assert links_of(planned) == [], "a plan has no log yet"
    for uri in (*links_of(measured), *links_of(made), f"oxrl://runs/{run.run_id}/log"):
        assert RESOURCES.fullmatch(uri) and read(uri)
