"""What is known of a failure that no text explains: the kind of its error, and the library that raised it."""

from __future__ import annotations

import re
from dataclasses import dataclass

_FRAME = re.compile(r'File "(?P<path>[^"\n]+)", line (?P<line>\d+), in (?P<function>\S+)')
_PACKAGE = re.compile(r"/(?:site|dist)-packages/(?P<name>[\w-]+)")
_LIBRARY = re.compile(r"/lib/python3(?:\.\d+)?/|<frozen |<string>")
_CARRIED = re.compile(r"(?:failed|raised|died)\b[^:\n]*: (?P<name>[A-Za-z_][\w.]*): ")
_CHAIN = re.compile(r"\n(?:The above exception was the direct cause|During handling of the above exception)")
CARRIERS = ("RunFailure", "RayTaskError", "WorkerError")  # errors that carry the text of another process's
OURS = "oxrl_core"
SURE, LIKELY, VAGUE = 0.75, 0.55, 0.45

# The class of an error -> a cause or a signature that errors of this class alone stand for.
KINDS: dict[str, tuple[str, float]] = {
    # memory and devices
    "MemoryError": ("host_out_of_memory", SURE),
    "OutOfMemoryError": ("cuda_oom", SURE),
    "DeferredCudaCallError": ("no_cuda", LIKELY),
    "AcceleratorError": ("ecc", LIKELY),
    # between processes
    "DistBackendError": ("nccl_timeout", SURE),
    "DistNetworkError": ("store_timeout", SURE),
    "DistStoreError": ("store_timeout", SURE),
    "BrokenPipeError": ("crashed", LIKELY),
    "ConnectionResetError": ("crashed", LIKELY),
    "ProcessExitedException": ("crashed", LIKELY),
    "BrokenProcessPool": ("crashed", LIKELY),
    "ActorDiedError": ("ray_sigkill", LIKELY),
    "ActorUnavailableError": ("ray_sigkill", LIKELY),
    "WorkerCrashedError": ("ray_sigkill", SURE),
    "RayActorError": ("ray_sigkill", LIKELY),
    "NodeDiedError": ("ray_sigkill", LIKELY),
    "LocalRayletDiedError": ("ray_sigkill", LIKELY),
    "ObjectStoreFullError": ("ray_host_oom", SURE),
    "OutOfDiskError": ("disk_full", SURE),
    "GetTimeoutError": ("ray_get_timeout", SURE),
    "RayChannelTimeoutError": ("ray_get_timeout", SURE),
    "RuntimeEnvSetupError": ("ray_env", SURE),
    "ActorUnschedulableError": ("placement", SURE),
    "TaskUnschedulableError": ("placement", SURE),
    "AuthenticationError": ("ray_auth", LIKELY),
    "EngineDeadError": ("vllm_core_dead", LIKELY),
    "EngineGenerateError": ("vllm_core_dead", LIKELY),
    # files of weights
    "SafetensorError": ("ckpt_torn", SURE),
    "BadZipFile": ("ckpt_torn", SURE),
    "UnpicklingError": ("ckpt_torn", LIKELY),
    "EOFError": ("ckpt_torn", LIKELY),
    # hub
    "GatedRepoError": ("gated", SURE),
    "RepositoryNotFoundError": ("gated", SURE),
    "LocalTokenNotFoundError": ("gated", SURE),
    "RevisionNotFoundError": ("wrong_request", SURE),
    "EntryNotFoundError": ("wrong_request", SURE),
    "RemoteEntryNotFoundError": ("wrong_request", SURE),
    "HFValidationError": ("wrong_request", SURE),
    "LocalEntryNotFoundError": ("hub_down", SURE),
    "OfflineModeIsEnabled": ("hub_down", SURE),
    "IncompleteSnapshotError": ("hub_corrupt", LIKELY),
    "CorruptedCacheException": ("hub_corrupt", SURE),
    "ConnectTimeout": ("hub_down", LIKELY),
    "ReadTimeout": ("hub_down", LIKELY),
    "ConnectError": ("hub_down", LIKELY),
    "ConnectionError": ("hub_down", LIKELY),
    "SSLError": ("hub_down", LIKELY),
    "ProxyError": ("hub_down", LIKELY),
    "NameResolutionError": ("hub_down", SURE),
    "MaxRetryError": ("hub_down", LIKELY),
    # rows
    "DatasetNotFoundError": ("ds_file", SURE),
    "DataFilesNotFoundError": ("ds_file", SURE),
    "DatasetGenerationError": ("wrong_request", LIKELY),
    "DatasetGenerationCastError": ("ds_cast", SURE),
    "CastError": ("ds_cast", SURE),
    "ArrowInvalid": ("ds_cast", LIKELY),
    "ArrowTypeError": ("ds_cast", LIKELY),
    "JSONDecodeError": ("wrong_request", LIKELY),
    "UnicodeDecodeError": ("wrong_request", LIKELY),
    # templates and text
    "TemplateError": ("chat_template", LIKELY),
    "TemplateSyntaxError": ("chat_template", SURE),
    "UndefinedError": ("chat_template", LIKELY),
    "TemplateAssertionError": ("chat_template", SURE),
    # what was asked for, or is installed
    "ImportError": ("wrong_request", LIKELY),
    "ModuleNotFoundError": ("wrong_request", LIKELY),
    "PackageNotFoundError": ("wrong_request", LIKELY),
    "PermissionError": ("wrong_request", LIKELY),
    "IsADirectoryError": ("wrong_request", LIKELY),
    "NotADirectoryError": ("wrong_request", LIKELY),
    "ValidationError": ("wrong_request", LIKELY),
    "StrictDataclassFieldValidationError": ("wrong_request", LIKELY),
    "DeepSpeedConfigError": ("wrong_request", LIKELY),
}

# The library whose code raised an error -> what an error of another class there is likely to be about.
LIBRARIES: dict[str, tuple[str, str]] = {
    "huggingface_hub": ("hub_down", "the download from the hub failed"),
    "requests": ("hub_down", "a request over the network failed"),
    "httpx": ("hub_down", "a request over the network failed"),
    "httpcore": ("hub_down", "a request over the network failed"),
    "urllib3": ("hub_down", "a request over the network failed"),
    "aiohttp": ("hub_down", "a request over the network failed"),
    "safetensors": ("ckpt_torn", "a file of weights could not be read"),
    "datasets": ("wrong_request", "the rows could not be read"),
    "pyarrow": ("wrong_request", "the rows could not be read"),
    "fsspec": ("wrong_request", "a file could not be opened"),
    "tokenizers": ("wrong_request", "the tokenizer could not be used"),
    "sentencepiece": ("wrong_request", "the tokenizer could not be used"),
    "jinja2": ("chat_template", "the chat template failed on a conversation"),
    "peft": ("lora_target", "the adapters could not be made"),
    "bitsandbytes": ("fa_abi", "a compiled library does not fit what is installed"),
    "flash_attn": ("fa_abi", "a compiled library does not fit what is installed"),
    "triton": ("no_kernel", "a kernel could not be compiled or started"),
    "xformers": ("fa_abi", "a compiled library does not fit what is installed"),
    "transformers": ("wrong_request", "the model could not be loaded or used as it is asked for"),
    "accelerate": ("wrong_request", "the model could not be placed as it is asked for"),
    "deepspeed": ("wrong_request", "the engine could not be set up as it is asked for"),
    "pydantic": ("pyd", "a value of the configuration is not allowed"),
    "yaml": ("wrong_request", "a YAML file could not be read"),
    "ray": ("crashed", "a worker of the cluster is gone"),
    "vllm": ("crashed", "the sampler's engine failed"),
}


@dataclass(frozen=True)
class Known:
    """What is known of a failure: a cause, how sure that is, and where it was raised, in words."""

    cause: str
    confidence: float
    place: str


def inner_of(code: str, what: str, traceback: str) -> tuple[str, str]:
    """The class and the traceback of the error that another one was raised from; its own where there is none."""
    named = _CARRIED.search(what) if code in CARRIERS else None
    first = _CHAIN.split(traceback, maxsplit=1)[0]
    return (named["name"].rpartition(".")[2] if named else code), first


def known_of(code: str, what: str, traceback: str) -> Known | None:
    """The cause that an error's class or its library stands for; None where neither says anything."""
    frame, library = _raised_in(traceback)
    place = f"{code} in {frame}" if frame else code
    kind = KINDS.get(code.rpartition(".")[2])
    if kind is not None:
        cause, confidence = kind
        if cause == "cuda_oom" and (library == "ray" or "Task was killed" in what or "node running low" in what):
            cause = "ray_host_oom"
        return Known(cause, confidence, place)
    if library in LIBRARIES and code not in ("KeyboardInterrupt", "SystemExit"):
        cause, words = LIBRARIES[library]
        return Known(cause, VAGUE, f"{words}: {place}")
    return None


def place_of(code: str, traceback: str) -> str:
    """The class of an error with the file, line and function that raised it."""
    frame, _ = _raised_in(traceback)
    return f"{code} in {frame}" if frame else code


def _raised_in(traceback: str) -> tuple[str, str]:
    """The innermost frame outside the language's own library, and whose code that is; empty for somebody's own."""
    frames = list(_FRAME.finditer(traceback))
    for match in reversed(frames):
        path = match["path"]
        package = _PACKAGE.search(path)
        if package is None and _LIBRARY.search(path):
            continue
        parts = path.replace("\\", "/").rsplit("/", 2)
        shown = f"{'/'.join(parts[-2:])}:{match['line']} ({match['function']})"
        return shown, package["name"] if package else OURS if f"/{OURS}/" in path else ""
    return "", ""
