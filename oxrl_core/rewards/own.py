"""Rewards of your own, in the forms in which they are written elsewhere. Each form has one adapter.

A function of a rollout, `def f(rollout, *, param=...)`, needs none. The others:

- a class with `__call__(completions, **kwargs) -> list[float]`, or a function of that signature: it sees the texts of
  all completions of a prompt; kwargs are `prompts`, `answer`, `completion_ids`, `finish_reason` and the row's columns,
  each a list as long. The arguments of the class's constructor are the reward's parameters, its `name` the name.
- `f(prompt_ids, response_ids, finish_reason[, metadata]) -> (tensor, is_per_token)`: the score is the tensor's sum.
  metadata holds the row's columns and `prompt`, `response`, `answer`. Torch is imported by that file alone.

An object is sent to the reward's process as its path, and loaded there again.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from oxrl_core.discover import Function, load_function
from oxrl_core.errors import ConfigError
from oxrl_core.types import Rollout

TENSOR_ARGUMENTS = ("prompt_ids", "response_ids", "finish_reason")
Kind = Literal["completions", "tensor"]


@dataclass(frozen=True)
class Form:
    """How an object of somebody's own wants to be called."""

    kind: Kind
    scope: Literal["rollout", "group"]
    name: str = ""  # what it calls itself


def form_of(target: Function) -> Form | None:
    """The form of an object that is called otherwise than with a rollout; None for a function of a rollout."""
    called: Function = target.__call__ if isinstance(target, type) or not inspect.isroutine(target) else target
    names = [name for name in inspect.signature(called).parameters if name != "self"]
    if tuple(names[:3]) == TENSOR_ARGUMENTS:
        return Form("tensor", "rollout")
    if "completions" in names[:2]:  # some write (prompts, completions, **kwargs)
        name = getattr(target, "name", "")
        return Form("completions", "group", name if isinstance(name, str) else "")
    if isinstance(target, type):
        raise ConfigError(
            f"the class {target.__name__} is no reward: its __call__ takes ({', '.join(names)})",
            where=f"{target.__module__}.{target.__qualname__}",
            next_step="write `def __call__(self, completions, **kwargs) -> list[float]`",
        )
    return None


def travelling(path: str, function: Function) -> Function:
    """The function as it can be sent to another process: itself where that can import it by name."""
    is_file = path.rpartition(":")[0].endswith(".py")
    return Travelling(path) if is_file or form_of(function) is not None else function


class Travelling:
    """An object at a path, called with a rollout, or with the rollouts of a prompt, whatever its own form is."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.target = load_function(path, "reward")
        self.form = form_of(self.target)
        self.__doc__ = inspect.getdoc(self.target) or f"The reward at {path}."
        self.__module__ = getattr(self.target, "__module__", "")
        self.__qualname__ = getattr(self.target, "__qualname__", path)
        self.__globals__ = getattr(self.target, "__globals__", {})
        self._object: Callable[..., Any] | None = None
        self.__signature__, self.__annotations__ = self._face()

    def __reduce__(self) -> tuple[type[Travelling], tuple[str]]:
        return Travelling, (self.path,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Travelling) and other.path == self.path

    def __hash__(self) -> int:
        return hash(self.path)

    def _face(self) -> tuple[inspect.Signature, dict[str, Any]]:
        """The signature that a function of a rollout would have, and the annotations of its parameters."""
        if self.form is None:
            signature = inspect.signature(self.target)
            return signature, dict(inspect.get_annotations(self.target))
        parameters = [inspect.Parameter("seen", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
        annotations: dict[str, Any] = {}
        if isinstance(self.target, type):
            constructor = self.target.__init__
            self.__globals__ = getattr(constructor, "__globals__", {})
            for argument in inspect.signature(self.target).parameters.values():
                if argument.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
                    continue
                parameters.append(argument.replace(kind=inspect.Parameter.KEYWORD_ONLY))
                if argument.annotation is not inspect.Parameter.empty:
                    annotations[argument.name] = argument.annotation
        return inspect.Signature(parameters), annotations

    def __call__(self, seen: Any, **params: Any) -> Any:
        if self.form is None:
            return self.target(seen, **params)
        if self._object is None:  # one object for all steps: it may keep a state
            self._object = cast(
                "Callable[..., Any]", self.target(**params) if isinstance(self.target, type) else self.target
            )
        if self.form.kind == "tensor":
            return call_with_tensors(self._object, cast("Rollout", seen))
        return call_with_completions(self._object, cast("Sequence[Rollout]", seen))


def call_with_completions(function: Callable[..., Any], rollouts: Sequence[Rollout]) -> list[Any]:
    """What `function(completions, **kwargs)` says of each completion of a prompt."""
    columns: dict[str, list[Any]] = {
        name: [rollout.prompt.row.get(name) for rollout in rollouts] for name in rollouts[0].prompt.row
    }
    columns |= {
        "prompts": [rollout.prompt.text for rollout in rollouts],
        "answer": [rollout.prompt.answer for rollout in rollouts],
        "completion_ids": [rollout.token_ids for rollout in rollouts],
        "finish_reason": [rollout.finish_reason for rollout in rollouts],
    }
    columns.pop("completions", None)
    takes = inspect.signature(function).parameters
    if not any(argument.kind is inspect.Parameter.VAR_KEYWORD for argument in takes.values()):
        columns = {name: values for name, values in columns.items() if name in takes}
    return list(function(completions=[rollout.text for rollout in rollouts], **columns))


def call_with_tensors(function: Callable[..., Any], rollout: Rollout) -> float:
    """The sum of the tensor that `function(prompt_ids, response_ids, finish_reason[, metadata])` returns."""
    prompt = rollout.prompt
    arguments: list[Any] = [list(prompt.token_ids), list(rollout.token_ids), rollout.finish_reason]
    takes = inspect.signature(function).parameters.values()
    if len(takes) > 3 or any(argument.kind is inspect.Parameter.VAR_POSITIONAL for argument in takes):
        arguments.append(
            prompt.row | {"prompt": prompt.text, "response": rollout.text, "answer": prompt.answer, "id": prompt.id}
        )
    result = function(*arguments)
    pair: tuple[Any, ...] = cast("tuple[Any, ...]", result) if isinstance(result, tuple) else ()
    if len(pair) != 2:
        raise TypeError("it did not return (tensor, is_per_token)")
    tensor, is_per_token = pair
    # A score per token adds up to that of the completion; one for all of it is a tensor with one entry that counts.
    if is_per_token and len(tensor) != len(rollout.token_ids):
        raise ValueError(f"it gave {len(tensor)} scores for {len(rollout.token_ids)} tokens")
    return float(tensor.sum())
