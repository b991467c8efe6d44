"""Streamable HTTP: for hosts that cannot start a process. Loopback only unless asked otherwise, and never without a
token: whoever reaches the port could start runs.
"""

from __future__ import annotations

import hmac
import os
import secrets
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from oxrl_core.errors import ConfigError

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer

LOOPBACK = "127.0.0.1"
TOKEN_VARIABLE = "OXRL_MCP_TOKEN"
SHORTEST_TOKEN = 16

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]


def token_of_environment() -> tuple[str, bool]:
    """The token that callers must send, and whether it was made up now."""
    token = os.environ.get(TOKEN_VARIABLE, "")
    if not token:
        return secrets.token_urlsafe(24), True
    if len(token) < SHORTEST_TOKEN:
        raise ConfigError(
            f"it has {len(token)} characters", TOKEN_VARIABLE, f"set at least {SHORTEST_TOKEN}, or leave it unset"
        )
    return token, False


def with_token(app: App, token: str) -> App:
    """The application behind a bearer token: without it nothing is read and nothing is said."""
    expected = f"Bearer {token}".encode()

    async def guarded(
        scope: Scope, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        if scope["type"] == "http":
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, expected):
                headers = [(b"www-authenticate", b"Bearer"), (b"content-type", b"application/json")]
                body = b'{"error":"send the header Authorization: Bearer <OXRL_MCP_TOKEN>"}'
                await send({"type": "http.response.start", "status": 401, "headers": headers})
                await send({"type": "http.response.body", "body": body})
                return
        await app(scope, receive, send)

    return guarded


def without_blanks(app: App) -> App:
    """The application with the blanks around header values taken off, as RFC 9110 5.5 demands before a value is read:
    one of the two parsers that uvicorn may use leaves those behind a value, and the SDK compares them."""

    async def trimmed(
        scope: Scope, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        if scope["type"] == "http":
            scope = {**scope, "headers": [(name, value.strip(b" \t")) for name, value in scope["headers"]]}
        await app(scope, receive, send)

    return trimmed


def application(server: MCPServer[Any], token: str, host: str, port: int) -> App:
    """The ASGI application: the token, then the checks of Host and Origin against DNS rebinding, then the protocol."""
    from mcp.server.transport_security import TransportSecuritySettings

    names = [host] if host not in (LOOPBACK, "localhost") else [LOOPBACK, "localhost"]
    security = TransportSecuritySettings(
        allowed_hosts=[f"{name}:{port}" for name in names],
        allowed_origins=[f"http://{name}:{port}" for name in names],
    )
    app: App = server.streamable_http_app(host=host, transport_security=security)  # pyright: ignore[reportAssignmentType]
    return without_blanks(with_token(app, token))


def serve(server: MCPServer[Any], host: str, port: int) -> None:
    """Serves until the process is ended."""
    import uvicorn

    token, is_new = token_of_environment()
    print(f"oxrl-mcp: http://{host}:{port}/mcp", file=sys.stderr)
    if is_new:
        print(f"oxrl-mcp: {TOKEN_VARIABLE} is not set; the token of this process is {token}", file=sys.stderr)
    if host not in (LOOPBACK, "localhost"):
        print("oxrl-mcp: other machines can reach this port, and the token travels unencrypted", file=sys.stderr)
    sys.stderr.flush()
    uvicorn.run(application(server, token, host, port), host=host, port=port, log_level="warning")
