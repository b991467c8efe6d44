"""Merging adapters: which ones, into what, and where the whole model goes. The work is done below the torch line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from oxrl_core.errors import CheckpointError, ModelError, NotFoundError, OxrlError, RunFailure, UserError
from oxrl_core.runs.launch import find_run
from oxrl_core.runs.records import last_json_line
from oxrl_core.runs.rundir import RunDir, oxrl_home
from oxrl_core.runs.views import View

MERGE_MODULE = "oxrl_core.engine.merge"  # spawned by name: it imports torch
MERGE_DEADLINE_SECONDS = 3600.0  # a large model is read and written twice
ADAPTER_SETTINGS = "adapter_config.json"


class MergeView(View):
    """A model that was merged."""

    model: str
    """Folder of the merged model (Hugging Face layout)."""
    adapter: str
    base: str
    tensors: int
    """Tensors of the merged model, each read again and compared."""


def merge_adapter(name: str, out: str = "", base: str = "", home: Path | None = None) -> MergeView:
    """The merged model of a run, or of a folder with an adapter; it is what PEFT's merge_and_unload gives."""
    adapter, run = _find_adapter(name, home or oxrl_home())
    target = Path(out).expanduser().absolute() if out else (run.path if run else adapter) / "merged"
    if target.exists():
        raise UserError("the folder is there already", str(target), "name another one: --out")
    command = [sys.executable, "-m", MERGE_MODULE, str(adapter), str(target)]
    command += ["--run-dir", str(run.path)] if run is not None else []
    command += ["--base", base] if base else []
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=MERGE_DEADLINE_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise RunFailure(f"no merged model within {MERGE_DEADLINE_SECONDS:g} s", str(adapter), "try again") from error
    answer = last_json_line(done.stdout)
    if "error" in answer:
        said = answer["error"]
        kinds: dict[str, type[OxrlError]] = {"ModelError": ModelError, "CheckpointError": CheckpointError}
        raise kinds.get(said["code"], RunFailure)(said["what"], said["where"], said["next"])
    if "tensors" not in answer:
        last = (done.stderr.strip().splitlines() or [f"it ended with exit code {done.returncode}"])[-1]
        raise RunFailure(f"the adapter cannot be merged: {last}", str(adapter), "oxrl doctor")
    return MergeView(model=str(target), adapter=str(adapter), base=answer["base"], tensors=answer["tensors"])


def _find_adapter(name: str, home: Path) -> tuple[Path, RunDir | None]:
    """The folder of the adapter, and the run that trained it where it is known."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        for place in (folder, folder / "adapter", folder / "final" / "adapter"):
            if (place / ADAPTER_SETTINGS).is_file():
                run = place.parent.parent
                is_run = place.name == "adapter" and (run / "spec.json").is_file()
                return place.absolute(), RunDir(run) if is_run else None
        raise NotFoundError("the folder holds no adapter", str(folder), f"name one with {ADAPTER_SETTINGS}")
    run = find_run(home, name)
    adapter = run.path / "final" / "adapter"
    if (adapter / ADAPTER_SETTINGS).is_file():
        return adapter, run
    if (run.path / "final").is_dir():
        raise NotFoundError("the run trained all weights, there is nothing to merge", run.run_id, "its model is whole")
    raise NotFoundError("the run has no final model yet", run.run_id, f"oxrl run watch {run.run_id}")
