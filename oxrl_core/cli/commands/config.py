"""`oxrl config`: check, explain, describe, generate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from oxrl_core.cli.command import command
from oxrl_core.cli.render import Format, Output
from oxrl_core.cli.root import ConfigArgument, Overrides, group

config_app = group("config", "Configurations: check, explain, describe, generate.")


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


@command(config_app, "generate")
def config_generate(
    out: Output,
    model: Annotated[str, typer.Argument(help="A folder, hub id, name in the registry, or miniature:<name>.")],
    overrides: Overrides = None,
    algorithm: Annotated[str, typer.Option(help="What to train it with (oxrl algorithms).")] = "sgrpo",
    dataset: Annotated[str, typer.Option(help="What to train it on; none: what suits the model.")] = "",
    reward: Annotated[str, typer.Option(help="The judge; none: the one of the dataset.")] = "",
    task: Annotated[str, typer.Option(help="math, code, image, audio or tiny; none: what suits the model.")] = "",
    gpus: Annotated[int, typer.Option("--gpus", help="GPUs to plan for; -1: those of this machine.")] = -1,
    gpu_memory: Annotated[float, typer.Option("--gpu-memory", help="GiB of each of them.")] = 0.0,
    target: Annotated[Path | None, typer.Option("--out", help="Also write it here.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file that is there.")] = False,
) -> None:
    """Write a configuration for a model and GPUs, every value with its reason."""
    from oxrl_core.cli.scouting import draw_generated
    from oxrl_core.errors import UserError
    from swarm.configure import generate_config

    if target is not None and target.exists() and not force:
        raise UserError("there is a file already", str(target), "name another target, or replace it with --force")
    made = generate_config(model, algorithm, dataset, reward, gpus, gpu_memory, overrides or [], task=task)
    if target is not None:
        try:
            target.write_text(made.config_yaml, encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot be written: {error.strerror}", str(target), "name another target") from error
        made = made.model_copy(update={"path": str(target), "next": made.next.replace(made.path, str(target))})
    # The file has it; what a reader wants to see is the reasons.
    out.show(made if out.format is Format.json else made.model_copy(update={"config_yaml": ""}), draw_generated)
    if not made.valid:
        raise typer.Exit(2)
