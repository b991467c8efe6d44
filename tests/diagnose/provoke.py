"""Makes known failures happen on the installed versions: `provoke.py GROUP`, one JSON line {id, text} for each.

A provocation is a true call of the library that fails truly; its text is what a log would show, the traceback.
Nothing is quoted: where a new version words a failure otherwise, the table of signatures has to learn it.

Not provoked, since they need what a machine without GPUs does not have:

cuda_oom, vllm_warmup_oom, device_assert, no_kernel, ecc, cuda_fork, dup_gpu, nccl_timeout   a CUDA device, or several
fa_abi                               a wheel of flash-attn that was built for another torch
vllm_core_init                       an engine whose process dies while it starts: half a minute, and only a wrapper
vllm_expandable                      a sleeping engine on a GPU; vLLM 0.32 does not raise it any more
vllm_pg_wait, ray_node_timeout       minutes of waiting that the libraries do not let anybody shorten
ray_host_oom, ray_disk               a machine whose memory or disk is full
ray_auth, ray_env                    a second cluster with another token; packages from a network
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from importlib import import_module

from provocations import GROUPS

for library in ("provoke_torch", "provoke_transformers", "provoke_engines"):
    import_module(library)  # each registers what it provokes


def main(group: str) -> None:
    """Every provocation of the group; one that does not fail has an empty text."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print belongs to the log
    for name, provoke in GROUPS[group].items():
        try:
            provoke()
            text = ""
        except BaseException:
            text = traceback.format_exc()
        print(json.dumps({"id": name, "text": text}), file=out, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
    os._exit(0)  # Ray's own end takes seconds, and its processes leave with this one
