"""Failures of torch, safetensors, pydantic and the operating system, made to happen."""

from __future__ import annotations

import os
from pathlib import Path

from provocations import folder, provokes


@provokes("torch", "index_range")
def _():
    import torch

    torch.nn.Embedding(4, 2)(torch.tensor([7]))


@provokes("torch", "nan_probs")
def _():
    import torch

    torch.multinomial(torch.tensor([float("nan"), 1.0]), 1)


@provokes("torch", "no_grad_fn")
def _():
    import torch

    torch.ones(2).sum().backward()


@provokes("torch", "eaddrinuse")
def _():
    import socket

    from torch.distributed import TCPStore

    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    TCPStore("127.0.0.1", taken.getsockname()[1], is_master=True, wait_for_workers=False)


@provokes("torch", "store_timeout")
def _():
    import socket
    from datetime import timedelta

    from torch.distributed import TCPStore

    free = socket.socket()
    free.bind(("127.0.0.1", 0))  # bound and deaf: nobody accepts
    TCPStore("127.0.0.1", free.getsockname()[1], is_master=False, timeout=timedelta(seconds=1))


@provokes("torch", "no_cuda")
def _():
    import torch

    torch.zeros(1, device="cuda")


@provokes("torch", "weights_only")
def _():
    import pickle

    import torch

    path = folder() / "model.bin"
    path.write_bytes(pickle.dumps(Path("/")))
    torch.load(path)


@provokes("torch", "ckpt_torn")
def _():
    import torch

    path = folder() / "model.pt"
    torch.save(torch.zeros(1000), path)
    path.write_bytes(path.read_bytes()[:2000])
    torch.load(path)


@provokes("torch", "size_mismatch")
def _():
    import torch

    torch.nn.Linear(2, 2).load_state_dict(torch.nn.Linear(3, 2).state_dict())


@provokes("torch", "tied")
def _():
    import torch
    from safetensors.torch import save_file

    weight = torch.zeros(4, 4)
    save_file({"embed": weight, "head": weight}, folder() / "model.safetensors")


@provokes("torch", "dl_shm")
def _():
    import torch

    class Dies(torch.utils.data.Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            os._exit(1)

    next(iter(torch.utils.data.DataLoader(Dies(), num_workers=1)))


@provokes("torch", "too_many_files")
def _():
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        while True:
            held.append(os.open("/dev/null", os.O_RDONLY))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for one in held:
            os.close(one)


@provokes("torch", "disk_full")
def _():
    with Path("/dev/full").open("w") as full:
        full.write("x")
        full.flush()


@provokes("torch", "ds_2d")
def _():
    import torch

    torch.nn.functional.embedding(torch.tensor([0]), torch.zeros(0))  # a weight that ZeRO 3 has sharded away


@provokes("torch", "pyd")
def _():
    import pydantic

    pydantic.create_model("Settings", lr=(float, ...))(lr="fast")
