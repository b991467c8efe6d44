"""Tripwires: what a run says about itself when something goes wrong, at the step where it does. On by default.

| code | rings when |
|---|---|
| weight_sync | the sampler's weights, or their version, are not the trainer's after a sync (ends the run) |
| lora_unbound | adapters are asked for and none is bound, or the update left them as they were |
| logprob_gap | trainer and sampler disagree about tokens, in the test before step 0 or in a step (ends the run) |
| mask_coverage | not the completions' or the rows' tokens are trained on, or one of each, or all, or suddenly a fifth |
| no_eos | no completion of ten steps ended by itself; half of the supervised rows do not train their end token |
| double_bos | prompts begin with two BOS tokens |
| truncation | over ten steps more completions than truncation_limit were cut off |
| zero_variance | over ten steps 90 % of the groups have rewards that are all the same |
| verifier_errors | more completions of a step than verifier_error_limit were not judged (none judged: ends the run) |
| lost_updates | more updates than lost_update_limit leave the stored weights as they were |
| not_finite | NaN or infinity in a loss or gradient (ends the run), log-prob, reward, advantage or other metric |
| kl_high | the KL to the reference is over kl_limit, or ten times kl_target |
| entropy_low | entropy under 10 % of its start while the reward does not rise |
| entropy_high | entropy over 1.5 times its start while the reward falls |
| gradient_spike | a gradient norm 10 robust deviations and 4 times above the median of the 20 steps before |
| gradient_dead | parameters with a gradient of exactly zero for 5 updates |
| lr_floor | the learning rate at its floor with more than 5 % of the steps to go |
| slow_step | five steps at less than half of the usual tokens per second |
| reward_flat | no answer right for reward_flat_steps steps while the format reward is above 0 |

Each names the guilty samples (`step/prompt_id/sample_index`) or parameters, its numbers, and the next step. It is said
once, and again where it became twice as bad or comes back after quiet steps. Codes in `tripwires.stop_on` end the run.

`update/lost`: the optimizer adds its update to float32 weights, whatever the forward pass computes in. Of a sample of
those weights that have a gradient, it is the share that the addition left bit for bit as it was. With bfloat16 the
copies that compute may not change at once; the float32 weights remember, so nothing is lost there.
"""

from __future__ import annotations

from oxrl_core.train.tripwires.panel import CODES, Tripwires

__all__ = ["CODES", "Tripwires"]
