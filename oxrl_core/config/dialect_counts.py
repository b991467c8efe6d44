"""The old dialect's counts and data: GPUs, epochs of steps, batches per GPU, files and their columns."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

from oxrl_core.config.dialect_keys import COLUMNS, PAIR_COLUMNS
from oxrl_core.config.dialect_work import Work

DATA_SUFFIXES = (".parquet", ".jsonl", ".json", ".csv")


class Counts(Work):
    """The rules that compute a number of today out of several old ones."""

    def workers(self) -> None:
        if "run.training_gpus" in self.old:
            if self.old["run.training_gpus"] is None:
                self.drop("run.training_gpus", "null: not set; train.num_workers is 1 unless you set it")
            else:
                self.put(
                    "train.num_workers", self.whole("run.training_gpus", 1), "run.training_gpus", "one rank per GPU"
                )
        if "run.rollout_gpus" in self.old:
            if self.old["run.rollout_gpus"] is None:
                self.drop("run.rollout_gpus", "null: not set; rollout.num_workers is 1 unless you set it")
                return
            gpus, parallel = self.whole("run.rollout_gpus", 1), self.now("rollout.tensor_parallel") or 1
            if not isinstance(parallel, int) or gpus % parallel:
                self.refuse(
                    "run.rollout_gpus",
                    f"{gpus} GPUs do not divide into workers of {parallel} GPUs",
                    "make it a multiple of rollout.tensor_parallel_size",
                )
                return
            self.put(
                "rollout.num_workers",
                gpus // parallel,
                "run.rollout_gpus",
                f"{gpus} GPUs / {parallel} per worker",
            )

    def steps(self) -> None:
        epochs_key, rl_key, sl_key = (
            "train.total_number_of_epochs",
            "train.train_steps_per_epoch",
            "train.micro_batches_per_epoch",
        )
        accumulation = self.whole("train.gradient_accumulation_steps", 1)
        per_epoch: int | None = None
        used, unused = (rl_key, sl_key) if self.is_rl else (sl_key, rl_key)
        if self._was_supervised():
            used, unused = sl_key, rl_key
        if self.old.get(used) is not None:
            per_epoch = self.whole(used, 1)
            words = f"{per_epoch} steps per epoch"
            if used == sl_key:
                per_epoch = max(1, per_epoch // accumulation)
                words = f"{self.old[used]} micro-batches / {accumulation} accumulated = {per_epoch} steps per epoch"
            epochs = self.whole(epochs_key, 1)
            reason = f"{epochs} epochs x {words}; an epoch was a number of steps, not a pass over the data"
            if self.is_rl:
                reason += "; every step now draws its own rollouts, see train.updates_per_step"
            self.put("train.steps", epochs * per_epoch, f"{epochs_key} x {used}", reason)
            self.result.sources["train.steps"] = used
        elif epochs_key in self.old and self.old[epochs_key] is not None:
            self.put(
                "train.epochs",
                self.old[epochs_key],
                epochs_key,
                f"passes over the data, because {used} is not given",
            )
        if unused in self.old:
            self.drop(unused, f"not used by {'RL' if self.is_rl else 'supervised training'}")
        if used in self.old and self.old[used] is None:
            self.drop(used, "null: not set")
        self._warmup(per_epoch)
        self._saving(per_epoch)

    def _was_supervised(self) -> bool:
        """Whether the file counts as supervised training did: rft, spin and online_dpo drew nothing then."""
        return self.algorithm.lesson != "advantages" and self.old.get("train.train_steps_per_epoch") is None

    def _warmup(self, per_epoch: int | None) -> None:
        old = "train.warmup_steps_ratio"
        if old not in self.old:
            return
        ratio = self.old[old]
        if ratio is None:
            self.drop(old, "null: not set")
        elif isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 <= ratio <= 1:
            self.refuse(old, f"{ratio!r} is not a share between 0 and 1", "set it to a share such as 0.1")
        else:
            steps = self.now("train.steps")
            updates = self.now("train.updates_per_step") or 1
            if ratio == 0 or isinstance(steps, int):
                total = (steps or 0) * updates if self.is_rl else (steps or 0)
                self.put("train.warmup_steps", round(ratio * total), old, f"{ratio} x {total} updates")
            else:
                self.drop(old, "a share of an unknown number of steps; set train.warmup_steps")

    def _saving(self, per_epoch: int | None) -> None:
        old = "run.checkpoint_every_n_epochs"
        if old not in self.old:
            return
        if per_epoch is None:
            self.drop(old, "the steps of an epoch are not given; set train.save_every")
        else:
            epochs = self.whole(old, 1)
            self.put("train.save_every", epochs * per_epoch, old, f"{epochs} epochs x {per_epoch} steps")

    def batches(self) -> None:
        rows_key, accumulation_key = "train.train_batch_size_per_gpu", "train.gradient_accumulation_steps"
        if rows_key not in self.old and accumulation_key not in self.old:
            return
        rows, accumulation = self.whole(rows_key, 2), self.whole(accumulation_key, 1)
        ranks = self.now("train.num_workers") or 1
        if not isinstance(ranks, int):
            return  # reported by the schema
        batch = rows * accumulation * ranks
        words = f"{rows} rows x {accumulation} accumulated x {ranks} ranks"
        both = f"{rows_key} x {accumulation_key}"
        if self.is_rl and self.algorithm.lesson != "advantages":
            self.put("train.prompts_per_step", batch, both, f"{words}; each row is a prompt to draw for")
        elif self.is_rl:
            group = self.now("rollout.group_size") or 8
            prompts = max(1, math.ceil(batch / group)) if isinstance(group, int) and group > 0 else batch
            exact = "" if isinstance(group, int) and batch == prompts * group else "; rounded up to whole groups"
            self.put("train.prompts_per_step", prompts, both, f"{words} = {batch} rollouts / {group} per prompt{exact}")
        else:
            self.put("train.rows_per_step", batch, both, words)
        self.result.sources[f"train.{'prompts' if self.is_rl else 'rows'}_per_step"] = rows_key
        if rows_key in self.old:
            length = self.old.get("data.max_seq_len") or (1024 if self.is_rl else 2048)
            if self.is_rl:
                length += self.now("rollout.max_completion_tokens") or 512
            self.put(
                "train.micro_batch_tokens",
                rows * length,
                rows_key,
                f"{rows} rows of up to {length} tokens; short rows share a forward pass",
            )

    def data(self) -> None:
        if "data.max_seq_len" in self.old:
            new, reason = "data.max_length", "prompt and completion"
            if self.is_rl:
                new, reason = "data.max_prompt_tokens", "the prompt alone; completions have max_completion_tokens"
            self.put(new, self.old["data.max_seq_len"], "data.max_seq_len", reason)
        columns: dict[str, str] = {}
        for key in ("data.prompt_key", "data.answer_key", *PAIR_COLUMNS):
            column = COLUMNS[self.algorithm.lesson].get(key)
            if self.old.get(key) and column:
                columns[column] = str(self.old[key])
                self.result.notes.append(f"{key} -> {column} of each dataset that is a file (same meaning)")
            elif key in self.old:
                self.drop(key, f"not read by {self.algorithm.name}" if self.old[key] else "not set")
        train = self._train_sets(columns)
        if train:
            source = next(k for k in ("data.train_files_path", "data.train_dnames", "data.dataset") if self.old.get(k))
            self.put("data.train", train, source, "one entry per dataset, with its ratio and columns")
            told = any(note.startswith("data.train_dnames ") for note in self.result.notes)
            if "data.train_dnames" in self.old and not told:
                self.result.notes.append("data.train_dnames -> the entries of data.train (same meaning)")
        held_out = self.old.get("data.val_files_path")
        if held_out:
            held_out_sets = [_dataset(file, None, columns) for file in _as_list(held_out)]
            self.put("data.eval", held_out_sets, "data.val_files_path", "held-out data")
        elif "data.val_files_path" in self.old:
            self.drop("data.val_files_path", "not set")

    def _train_sets(self, columns: dict[str, str]) -> list[dict[str, Any]]:
        names = [str(name) for name in _as_list(self.old.get("data.train_dnames"))]
        files = [str(file) for file in _as_list(self.old.get("data.train_files_path"))]
        ratios: Any = self.old.get("data.train_ratios")
        if isinstance(ratios, list | tuple):
            ratios = dict(zip(names, cast("list[Any]", ratios), strict=False))
        shares = cast("dict[str, Any]", ratios) if isinstance(ratios, dict) else {}
        for name in shares:
            if name not in names:
                self.refuse(
                    "data.train_ratios", f"'{name}' is not among data.train_dnames {names}", "make the names agree"
                )
        if shares:
            self.result.notes.append("data.train_ratios -> ratio of each entry of data.train (same meaning)")
        if self.old.get("data.dataset"):
            built_in = [_dataset(str(name), None, columns) for name in _as_list(self.old["data.dataset"])]
            if not files:
                if names:
                    self.drop("data.train_dnames", "data.dataset names the data")
                return built_in
            self.drop("data.dataset", "data.train_files_path names the data")
        if not files:
            return [_dataset(name, shares.get(name), columns) for name in names]
        if len(files) == 1 and not Path(files[0]).suffix:
            folder = Path(files[0])
            found = [_file_in(folder, name) for name in names] if names else [str(folder)]
            return [_dataset(file, shares.get(name), columns) for file, name in zip(found, names or [""], strict=True)]
        if len(files) == len(names):
            return [_dataset(file, shares.get(name), columns) for file, name in zip(files, names, strict=True)]
        if names:
            self.drop(
                "data.train_dnames",
                f"{len(names)} names for {len(files)} files: give one file per dataset to mix them by ratio",
            )
        return [_dataset(file, None, columns) for file in files]


def _as_list(value: Any) -> list[Any]:
    if value is None or value == "":
        return []
    return list(cast("list[Any]", value)) if isinstance(value, list | tuple) else [value]


def _dataset(name: str, ratio: Any, columns: dict[str, str]) -> dict[str, Any]:
    is_file = Path(name).suffix in DATA_SUFFIXES or "/" in name or name.startswith("hub:")
    # Built-in datasets have their own columns.
    entry: dict[str, Any] = {"name": name} | (columns if is_file else {})
    return entry if ratio is None else entry | {"ratio": ratio}


def _file_in(folder: Path, name: str) -> str:
    candidates = [folder / f"{name}{suffix}" for suffix in DATA_SUFFIXES]
    return str(next((path for path in candidates if path.exists()), candidates[0]))
