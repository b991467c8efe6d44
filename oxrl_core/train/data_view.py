"""Rows as the model will read them: `python -m oxrl_core.train.data_view`, a request on stdin, the answer on stdout.

`oxrl data inspect` spawns it with a deadline, for it imports torch. The answer is the last line that is a JSON object.
"""

from __future__ import annotations

import json
import sys
import tempfile
from base64 import b64decode
from functools import partial
from pathlib import Path
from typing import Any

from oxrl_core.config.schema import Config
from oxrl_core.data.chat import RenderNotes
from oxrl_core.data.media import open_media, render_with_media
from oxrl_core.data.render import RENDERERS, render_prompt
from oxrl_core.data.spans import examples_of, spans
from oxrl_core.errors import OxrlError
from oxrl_core.models.actions import code_of_rows, with_actions
from oxrl_core.models.load import load_tokenizer, resolve_model
from oxrl_core.types import Example, Media


def view(request: dict[str, Any]) -> dict[str, Any]:
    """Each row of the request as tokens: their number, and of the shown ones the text in runs."""
    config = Config.model_validate(request["config"])
    with tempfile.TemporaryDirectory() as folder:
        model = resolve_model(
            config.model.path,
            run_folder=Path(folder),
            home=Path(request["home"]),
            seed=config.run.seed,
            revision=config.model.revision,
        )
        if config.model.action_tokens:
            code = code_of_rows(request["rows"][0].get("row")) if request["rows"] else None
            model = with_actions(model, code, Path(folder) / "model-with-actions") if code else model
        tokenizer = load_tokenizer(model)
        notes = RenderNotes()
        lesson: str = request["lesson"]
        needs_completion: bool = request["needs_completion"]
        if lesson in RENDERERS:
            render = partial(RENDERERS[lesson], tokenizer=tokenizer, data=config.data, notes=notes)
        else:
            render = partial(
                render_prompt, tokenizer=tokenizer, data=config.data, needs_completion=needs_completion, notes=notes
            )
        reader = open_media(model, tokenizer)
        if reader is not None:
            render = partial(render_with_media, render=render.func, reader=reader, **render.keywords)
        rows: list[dict[str, Any]] = []
        for index, row in enumerate(request["rows"]):
            row["media"] = tuple(Media(**{**one, "data": b64decode(one["data"])}) for one in row.get("media", ()))
            try:
                item = render(row)
            except OxrlError as error:
                rows.append({"id": row["id"], "error": error.as_dict(), "examples": []})
                continue
            items = item if isinstance(item, list) else [] if item is None else [item]
            examples = [example for one in items for example in examples_of(one)]
            if lesson not in RENDERERS and not needs_completion:  # the sampler draws what is trained on
                examples = [Example(one.token_ids, [False] * len(one.token_ids)) for one in items]
            shown = index in request["shown"]
            rows.append({"id": row["id"], "examples": [_facts(example, tokenizer, shown) for example in examples]})
    return {"rows": rows, "notes": dict(notes.counts)}


def _facts(example: Example, tokenizer: Any, shown: bool) -> dict[str, Any]:
    facts: dict[str, Any] = {"tokens": len(example.token_ids), "trained": sum(example.completion_mask)}
    return facts | ({"spans": spans(example, tokenizer)} if shown else {})


def main() -> int:
    """0 where the rows could be rendered; else the answer is the error."""
    try:
        answer = view(json.load(sys.stdin))
    except OxrlError as error:
        print(json.dumps({"error": error.as_dict(), "user": error.exit_code == 2}), flush=True)
        return error.exit_code
    print(json.dumps(answer), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
