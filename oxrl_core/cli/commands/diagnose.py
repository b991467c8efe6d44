"""`oxrl diagnose`: why a run went wrong, and what to do about it."""

from __future__ import annotations

from oxrl_core.cli.command import command
from oxrl_core.cli.render import Output
from oxrl_core.cli.root import RunArgument, app


@command(app, "diagnose")
def diagnose(out: Output, run_id: RunArgument = "latest") -> None:
    """Why a run went wrong: ranked causes with evidence, and a patch that is ready to use."""
    from oxrl_core import api
    from oxrl_core.cli.diagnosis import draw_diagnosis

    out.show(api.diagnose_run(run_id), draw_diagnosis)
