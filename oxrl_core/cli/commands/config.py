"""`oxrl config`: check, explain, describe."""

from __future__ import annotations

from typing import Annotated

import typer

from oxrl_core.cli.command import command
from oxrl_core.cli.render import Format, Output
from oxrl_core.cli.root import ConfigArgument, Overrides, group

config_app = group("config", "Configurations: check, explain, describe.")


@command(config_app, "validate")
def config_validate(out: Output, config: ConfigArgument, overrides: Overrides = None) -> None:
    """Check a configuration and what it needs (files, columns, GPUs, disk) before anything is loaded."""
    from oxrl_core import api
    from oxrl_core.cli.tables import draw_config_report

    report = api.validate_config(config, overrides or [])
    # The resolved configuration is long; `config explain` shows it.
    out.show(report if out.format is Format.json else report.model_copy(update={"config_yaml": ""}), draw_config_report)
    if not report.ok:
        raise typer.Exit(2)


@command(config_app, "explain")
def config_explain(
    out: Output,
    config: ConfigArgument,
    overrides: Overrides = None,
    changed: Annotated[bool, typer.Option("--changed", help="Only what differs from the defaults.")] = False,
) -> None:
    """Every value with the layer that set it, and the batch arithmetic in words."""
    from oxrl_core.cli.tables import draw_explanation
    from oxrl_core.config.explain import explain
    from oxrl_core.config.load import load_config

    explanation = explain(load_config(config, overrides or []))
    if changed:
        rows = [row for row in explanation.rows if row.layer != "default"]
        explanation = explanation.model_copy(update={"rows": rows})
    if out.format is Format.agent:  # what a key means is long, and stands in `config schema`
        rows = [row.model_copy(update={"description": ""}) for row in explanation.rows]
        explanation = explanation.model_copy(update={"rows": rows})
    out.show(explanation, draw_explanation)


@command(config_app, "schema")
def config_schema(
    out: Output,
    key: Annotated[str, typer.Argument(help="A section or key, as train or train.lr; none: everything.")] = "",
) -> None:
    """Every configuration key with type, default and meaning (--json: the JSON schema)."""
    from oxrl_core.cli.catalogues import config_fields, config_json_schema
    from oxrl_core.cli.tables import draw_fields

    if out.format is Format.json and not key:
        out.json(config_json_schema())
    else:
        out.show(config_fields(key), draw_fields)
