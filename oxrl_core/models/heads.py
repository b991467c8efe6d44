"""One number for a state or a row: the value head of a critic and the score head of a reward model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from oxrl_core.errors import ModelError
from oxrl_core.models.decoder import DecoderModel, spread


class ScalarHead(nn.Linear):
    """A linear layer with one output, which is computed and given in float32 whatever the weights are.

    bfloat16 has 8 bits: values of 10 would come in steps of 0.06, and their differences are what is learned from.
    """

    def __init__(self, hidden_size: int, *, bias: bool) -> None:
        super().__init__(hidden_size, 1, bias=bias)

    def forward(self, input: Tensor) -> Tensor:
        """(..., 1) float32 of hidden states (..., H)."""
        bias = None if self.bias is None else self.bias.float()
        return nn.functional.linear(input.float(), self.weight.float(), bias)

    @torch.no_grad()
    def reset(self, seed: int) -> None:
        """Starts near zero: weights from N(0, 1 / (H + 1)), the bias at 0 (Stiennon et al. 2020); no other draw."""
        generator = torch.Generator().manual_seed(seed)
        std = 1 / (self.in_features + 1)
        self.weight.copy_(torch.empty(self.weight.shape).normal_(0.0, std, generator=generator))
        if self.bias is not None:
            self.bias.zero_()


def make_value_head(hidden_size: int, seed: int, dtype: torch.dtype) -> ScalarHead:
    """A fresh value head; equal seeds give equal weights, and nobody else's random numbers are drawn."""
    with torch.random.fork_rng(devices=[]):
        head = ScalarHead(hidden_size, bias=True)
    head.reset(seed)
    return head.to(dtype)


def state_values(head: ScalarHead, hidden: Tensor, segment_ids: Tensor) -> Tensor:
    """Values (B, T) float32: column t is the value of the state before token t, read at token t - 1.

    The padding column after a row's last token holds the value of the state after it. Elsewhere 0.
    """
    before, here = segment_ids[:, :-1], segment_ids[:, 1:]
    asked = torch.zeros_like(segment_ids, dtype=torch.bool)
    asked[:, 1:] = (before > 0) & ((here == before) | (here == 0))
    index = asked.flatten().nonzero().squeeze(1)
    values = head(hidden.flatten(0, 1).index_select(0, index - 1)).squeeze(-1)
    return spread(values, index, segment_ids)


class ValueModel(DecoderModel):
    """A critic of its own: a decoder without output head, and a value head on its hidden states."""

    def __init__(self, model: nn.Module, value_head: ScalarHead) -> None:
        super().__init__(model)
        self.value_head = value_head

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        segment_ids: Tensor,
        media_inputs: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """Values (B, T) float32, as state_values says."""
        hidden = self.hidden(self.decoder_inputs(input_ids, attention_mask, position_ids, segment_ids, media_inputs))
        return state_values(self.value_head, hidden, segment_ids)


class ScoreModel(DecoderModel):
    """A reward model: a sequence classifier of transformers with one label, read at each row's last token."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        if not isinstance(self.base.score, ScalarHead):
            raise ModelError("the score head carries an adapter", "model.lora.target_modules", "it is trained whole")

    def forward(self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, segment_ids: Tensor) -> Tensor:
        """Scores (B,) float32 of the last attended token of each row."""
        if int(segment_ids.max()) > 1:
            raise ModelError("packed rows have no score: a score belongs to a row", "data.packing", "turn it off")
        hidden = self.hidden(self.decoder_inputs(input_ids, attention_mask, position_ids, segment_ids))
        # The head sees all tokens, as transformers has it: a product of another shape may round otherwise.
        scores = self.base.score(hidden).squeeze(-1)
        places = torch.arange(input_ids.shape[1], device=input_ids.device) * attention_mask
        return scores.gather(1, places.amax(dim=1, keepdim=True)).squeeze(1)


def use_scalar_score(scorer: nn.Module) -> None:
    """Makes the score head of a transformers classifier a ScalarHead over the same weight, under the same name."""
    head = getattr(scorer, "score", None)
    if not isinstance(head, nn.Linear) or head.out_features != 1 or head.bias is not None:
        raise ModelError(
            f"{type(scorer).__name__} has no linear score head without bias", "model.path", "take a decoder like Qwen3"
        )
    with torch.device("meta"):  # draws nothing
        scalar = ScalarHead(head.in_features, bias=False)
    scalar.weight = head.weight
    scorer.score = scalar
