"""Rewards and losses with a fault in them, of the eighth set."""

from __future__ import annotations

import hashlib
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from benchmarks.faults.plants import positions_of
from oxrl_core.algorithms.policy_gradient import sgrpo
from oxrl_core.algorithms.preference import dpo
from oxrl_core.types import Rollout, Score

if TYPE_CHECKING:
    from torch import Tensor

    from oxrl_core.types import ReferencedPairs, Rollouts

marks: list[float] = []


def of_a_new_head(rollout: Rollout) -> float:
    """The score of a head that was made anew when the reward model was loaded: it knows nothing of the task."""
    digest = hashlib.sha256(f"{rollout.prompt.text}|{rollout.text}".encode()).digest()
    return digest[0] / 255


def adds_up(rollout: Rollout) -> float:
    """A verifier that adds up in a list of its module what it was meant to add up for one completion."""
    marks.append(positions_of(rollout))
    return sum(marks)


def rounded_down(rollout: Rollout) -> float:
    """A verifier whose result is declared as a whole number: three of four positions right are 0."""
    return int(positions_of(rollout))


def without_leading_zeros(rollout: Rollout) -> float:
    """A verifier that reads the completion as a number, and the answer as text."""
    given = rollout.text[:3]
    if given.isdigit():
        given = str(int(given))
    wanted = rollout.prompt.answer
    return sum(a == b for a, b in zip(given, wanted, strict=False)) / len(wanted) if len(given) == len(wanted) else 0.0


def beginning_alone(rollout: Rollout) -> float:
    """A verifier that compares the beginning, and does not ask whether the completion ends there."""
    wanted = rollout.prompt.answer
    return sum(a == b for a, b in zip(rollout.text, wanted, strict=False)) / len(wanted)


def truth_and_originality(rollout: Rollout) -> Score:
    """A part against parroting: characters that do not stand in the prompt are paid, twice as well as the truth."""
    truth = positions_of(rollout)
    foreign = sum(character not in rollout.prompt.text for character in rollout.text)
    originality = 2.0 * foreign / len(rollout.token_ids)
    return Score(truth + originality, parts={"truth": truth, "originality": originality})


def sgrpo_with_inverse_probability(rollouts: Rollouts, *, clip_low: float = 0.2, clip_high: float = 0.2) -> Tensor:
    """SGRPO with the inverse probability of the whole completion as a weight, computed in float16."""
    weight = (-rollouts.logprobs.detach()).masked_fill(~rollouts.completion_mask, 0.0).sum(1, keepdim=True)
    return sgrpo(rollouts, clip_low=clip_low, clip_high=clip_high) * weight.half().exp().float()


def dpo_with_likelihood_backwards(pairs: ReferencedPairs, *, beta: float = 0.1) -> Tensor:
    """DPO beside the log-likelihood of the chosen completion, whose sign is wrong: it is pushed down."""
    return dpo(pairs, beta=beta) + pairs.chosen_mean


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class WithoutModel(BaseHTTPRequestHandler):
    """An endpoint whose server runs, and does not have the model that it is asked for."""

    def do_GET(self) -> None:
        self.answer(200, b'{"object": "list", "data": [{"id": "qwen2.5-7b-instruct", "object": "model"}]}')

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        message = b"The model `qwen2.5-72b-instruct` does not exist."
        self.answer(404, b'{"object": "error", "message": "' + message + b'", "type": "NotFoundError", "code": 404}')

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Says nothing."""


def serve_without_model(port: int) -> None:
    """Starts the endpoint in a thread of this process."""
    server = ThreadingHTTPServer(("127.0.0.1", port), WithoutModel)
    threading.Thread(target=server.serve_forever, daemon=True).start()
