"""Adapters merged into their base as PEFT does it: `python -m oxrl_core.engine.merge`, one line of JSON at the end."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path

import peft
import torch
from transformers import AutoModelForSequenceClassification

from oxrl_core.engine.checkpoint import sync_below, sync_folder
from oxrl_core.engine.export import PROCESSOR_FILES
from oxrl_core.errors import CheckpointError, ModelError, OxrlError
from oxrl_core.models.load import causal_class, load_tokenizer, resolve_model
from oxrl_core.models.multimodal import mend_names
from oxrl_core.runs.machine.disk import disk_errors
from oxrl_core.runs.rundir import RunDir, oxrl_home


def merge(adapter: Path, base: Path, out: Path) -> int:
    """How many tensors the merged model in `out` has; it was read again and is bit for bit what PEFT merged."""
    try:
        settings = peft.PeftConfig.from_pretrained(str(adapter))
        is_scorer = settings.task_type == peft.TaskType.SEQ_CLS
        loader = AutoModelForSequenceClassification if is_scorer else causal_class(base)
        options = {"num_labels": 1} if is_scorer else {}
        options |= {"dtype": "auto", "use_safetensors": True, "trust_remote_code": False, "local_files_only": True}
        adapted = peft.PeftModel.from_pretrained(loader.from_pretrained(base, **options), str(adapter))
        merged = adapted.merge_and_unload()
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(
            f"the adapter does not fit its base: {reason}", str(adapter), "name its base: --base"
        ) from error
    unfinished = out.parent / f".{out.name}-{uuid.uuid4().hex[:8]}"
    with disk_errors(out.parent):
        try:
            unfinished.mkdir(parents=True)
            merged.save_pretrained(unfinished)
            mend_names(unfinished)
            load_tokenizer(base).save_pretrained(unfinished)
            for name in PROCESSOR_FILES:
                if (base / name).is_file():
                    shutil.copy(base / name, unfinished / name)
            found, weights = loader.from_pretrained(unfinished, **options).state_dict(), merged.state_dict()
            wrong = [name for name, weight in weights.items() if not torch.equal(found[name], weight)]
            if wrong:
                raise CheckpointError(f"what was written differs in {wrong[0]}", str(unfinished), "look at the disk")
            sync_below(unfinished)
            unfinished.rename(out)
            sync_folder(out.parent)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return len(weights)


def base_of(adapter: Path, run: RunDir | None, named: str) -> Path:
    """The folder of the adapter's base: as named, as the run says, or as the adapter's own settings say."""
    if run is not None and not named:
        model, seed = run.config().model, run.config().run.seed
        return resolve_model(model.path, run_folder=run.path, home=run.home, seed=seed, revision=model.revision)
    settings = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    path = named or str(settings.get("base_model_name_or_path") or "")
    try:
        return resolve_model(path, run_folder=adapter, home=oxrl_home(), seed=0)
    except ModelError as error:
        where = "--base" if named else f"base_model_name_or_path of {adapter}"
        raise ModelError(f"the base is not found: {error.what}", where, "name its folder or hub id: --base") from error


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 0 merged, else that of the error."""
    parser = argparse.ArgumentParser(prog="python -m oxrl_core.engine.merge", description=__doc__)
    parser.add_argument("adapter", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--run-dir", type=Path, help="the run that trained the adapter")
    parser.add_argument("--base", default="", help="folder or hub id of the base model")
    arguments = parser.parse_args(argv)
    run = RunDir(arguments.run_dir) if arguments.run_dir else None
    try:
        base = base_of(arguments.adapter, run, arguments.base)
        answer = {"tensors": merge(arguments.adapter, base, arguments.out), "base": str(base)}
    except OxrlError as error:
        print(json.dumps({"error": error.as_dict(), "exit_code": error.exit_code}), flush=True)
        return error.exit_code
    print(json.dumps(answer), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
