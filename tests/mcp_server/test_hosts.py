"""A wait stays below the limit of the host that asked."""

from __future__ import annotations

import pytest

from mcp_server.hosts import longest_wait


@pytest.mark.parametrize(
    ("client", "host_limit"), [("claude-code", 1800), ("gemini-cli-mcp-client", 600), ("somebody", 60), ("", 60)]
)
def test_each_host_gets_less_than_its_limit(client: str, host_limit: float) -> None:
    assert host_limit / 2 < longest_wait(client, {}) < host_limit


def test_the_operator_has_the_last_word_and_nonsense_is_ignored() -> None:
    assert longest_wait("claude-code", {"OXRL_MCP_MAX_WAIT_SECONDS": "7.5"}) == 7.5
    assert longest_wait("claude-code", {"OXRL_MCP_MAX_WAIT_SECONDS": "-1"}) == 0
    assert longest_wait("claude-code", {"OXRL_MCP_MAX_WAIT_SECONDS": "soon"}) == longest_wait("claude-code", {})
