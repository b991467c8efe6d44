"""A trained model on the hub: private unless asked otherwise, with the token of the environment and no other."""

from __future__ import annotations

import os
from pathlib import Path

from oxrl_core.config.machine import is_offline
from oxrl_core.errors import MachineError, NotFoundError, OxrlError, RunFailure, UserError
from oxrl_core.redact import Redactor
from oxrl_core.runs.launch import find_run
from oxrl_core.runs.rundir import oxrl_home
from oxrl_core.runs.views import View

TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


class PushView(View):
    """A model on the hub."""

    repo: str
    url: str
    commit: str
    """Hash of the commit; the same as before where nothing changed."""
    private: bool
    """Whether the repository is private; one that was there already stays as it was."""
    model: str
    """The folder that was pushed."""


def push_model(name: str, repo: str, *, private: bool = True, home: Path | None = None) -> PushView:
    """The final model of a run, or a model folder, pushed to a repository that is made where there is none."""
    folder = _model_folder(name, home or oxrl_home())
    if is_offline():
        raise MachineError("HF_HUB_OFFLINE is set: nothing goes to the hub", repo, "unset HF_HUB_OFFLINE")
    token = next((os.environ[variable] for variable in TOKENS if os.environ.get(variable)), None)
    if token is None:
        raise UserError(
            "there is no token for the hub", repo, "set HF_TOKEN to a token that may write (hub, settings, tokens)"
        )
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    try:
        made = api.create_repo(repo, private=private, exist_ok=True)
        message = f"Trained with oxRL ({folder.parent.name})"
        commit = api.upload_folder(repo_id=made.repo_id, folder_path=folder, commit_message=message)
        is_private = bool(api.model_info(made.repo_id).private)
    except Exception as error:  # whatever the transport of this huggingface_hub raises: httpx, requests, ...
        raise _refused(error, repo, token) from None  # the chain would show the request, and its token with it
    return PushView(repo=made.repo_id, url=str(made), commit=commit.oid, private=is_private, model=str(folder))


def _model_folder(name: str, home: Path) -> Path:
    folder = Path(name).expanduser()
    if not (folder.is_dir() and (folder / "config.json").is_file()):
        run = folder if (folder / "spec.json").is_file() else find_run(home, name).path
        folder = run / "final"
        if not (folder / "config.json").is_file():
            raise NotFoundError("the run has no final model yet", run.name, f"oxrl run watch {run.name}")
    return folder.absolute()


def _refused(error: Exception, repo: str, token: str) -> OxrlError:
    """Why the hub has not taken it, without the token."""
    text = Redactor.of_this_machine(os.environ).text(str(error).replace(token, "[token]")).strip()
    reason = (text.splitlines() or [type(error).__name__])[0]
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return UserError(f"the hub refused: {reason}", repo, "HF_TOKEN must be allowed to write to this name")
    if status is None:
        return MachineError(f"the hub cannot be reached: {reason}", repo, "see to the network, then push again")
    return RunFailure(f"the hub did not take it: {reason}", repo, "push again later")
