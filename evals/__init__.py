"""Agent evaluation: ten tasks that a client plays against the MCP server, graded by what it did and what it says.

    python -m evals --list
    python -m evals --task not_learning                                 the scripted reference player
    python -m evals --task not_learning --client claude                 Claude Code (gemini: gemini-cli)
    python -m evals --all --client command --command "my-agent --mcp {mcp_config} {prompt}"

A task sets up a home with planted runs in a folder of its own, starts the client there, and grades. The client gets the
prompt and a file of MCP settings (`.mcp.json`, also as `.gemini/settings.json`); what it prints is its answer. It meets
the server through a proxy that counts calls and characters. The reference player is no model: it proves for each task
that the tools suffice, and gives the number of calls to compare with.
"""
