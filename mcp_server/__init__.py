"""The MCP server: every operation of oxRL as a typed tool over stdio. It never imports the training stack."""
