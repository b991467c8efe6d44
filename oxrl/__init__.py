"""oxRL: post-training of language models, for people and AI agents.

    from oxrl import Trainer
    result = Trainer(model="miniature:chars").train(task="reverse3")

Nothing is imported before it is used: `import oxrl` costs a few milliseconds and loads no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oxrl.trainer import RunResult, Trainer
    from oxrl_core.config.load import load_config

    __version__: str

__all__ = ["RunResult", "Trainer", "__version__", "load_config"]


def __getattr__(name: str) -> Any:
    """The public names, imported at their first use (PEP 562)."""
    if name in ("Trainer", "RunResult"):
        from oxrl import trainer

        value: Any = getattr(trainer, name)
    elif name == "load_config":
        from oxrl_core.config.load import load_config

        value = load_config
    elif name == "__version__":
        from importlib.metadata import version

        value = version("oxrl")
    else:
        raise AttributeError(f"module 'oxrl' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
