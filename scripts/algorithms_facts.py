"""What docs/algorithms.md knows beside the catalogue: identities that tests prove, and what was left out and why."""

from __future__ import annotations

# Algorithm -> what is true of it, and the test that shows it. Every algorithm without an oracle stands here.
IDENTITIES: dict[str, tuple[str, str]] = {
    "sgrpo": (
        "equal rewards teach nothing; at ratio 1 the gradient is that of REINFORCE",
        "test_at_ratio_one_the_gradient_is_that_of_reinforce",
    ),
    "dr_grpo": (
        "its advantages are those of rloo times (G - 1) / G",
        "test_grpo_without_deviation_is_rloo_times_the_share_of_the_others",
    ),
    "gspo": (
        "for completions of one token it is sgrpo",
        "test_gspo_of_one_token_completions_is_the_token_level_surrogate",
    ),
    "cispo": (
        "below the cap its gradient is that of REINFORCE with importance weights",
        "test_below_the_cap_cispo_has_the_gradient_of_reinforce_with_importance_weights",
    ),
    "dft": (
        "its gradient is that of REINFORCE with reward 1 for the token",
        "test_dft_pulls_at_the_logits_as_reinforce_with_reward_one_for_the_token_would",
    ),
    "kd": (
        "the size of its soft gradient does not depend on the temperature",
        "test_the_size_of_the_soft_gradient_does_not_depend_on_the_temperature",
    ),
    "dpo": ("log 2 where the policy is its reference", "test_dpo_is_log_two_where_the_policy_is_its_reference"),
    "simpo": (
        "without margin it is dpo without a reference, on equal lengths",
        "test_simpo_without_margin_is_dpo_without_reference_where_lengths_are_equal",
    ),
    "kto": (
        "half its weight where the policy is its reference",
        "test_kto_is_half_its_weight_where_the_policy_is_its_reference",
    ),
    "rlhf": (
        "the loss of sgrpo itself, under another preset",
        "test_the_recipes_take_the_parameters_of_their_loss_and_say_what_they_are",
    ),
    "rlaif": (
        "the loss of sgrpo itself, under another preset",
        "test_the_recipes_take_the_parameters_of_their_loss_and_say_what_they_are",
    ),
    "beta_dpo": ("with alpha 0 it is dpo", "test_beta_dpo_with_alpha_zero_is_dpo"),
    "dpop": (
        "it is dpo while the chosen completion has lost nothing",
        "test_dpop_is_dpo_while_the_chosen_completion_has_lost_nothing",
    ),
    "r_dpo": (
        "it rests at the best policy for a reward that pays for length",
        "test_r_dpo_rests_at_the_best_policy_for_a_reward_that_pays_for_length",
    ),
    "robust_dpo": (
        "over flipped labels it is on average dpo on the true ones",
        "test_robust_dpo_over_flipped_labels_is_on_average_dpo_on_the_true_ones",
    ),
    "f_dpo": (
        "at the reference every divergence has the gradient of dpo, up to its curvature",
        "test_every_f_divergence_has_the_gradient_of_dpo_at_the_reference_up_to_its_curvature",
    ),
    "aot": ("who was paired with whom does not matter", "test_aot_does_not_care_who_was_paired_with_whom"),
    "bco": (
        "on both completions of a pair it is an upper bound of dpo at any shift",
        "test_bco_of_both_completions_of_a_pair_is_an_upper_bound_of_dpo_at_any_shift",
    ),
    "dr_dpo": (
        "with a large beta_prime it is the mean of dpo",
        "test_dr_dpo_with_a_large_beta_prime_is_the_mean_of_dpo",
    ),
    "h_dpo": (
        "its best policy is the reference times the reward, to the power of 1 / alpha",
        "test_the_best_policy_of_h_dpo_is_the_reference_times_the_reward_to_the_power_of_one_over_alpha",
    ),
}

_NO_CHECK = "nothing to hold it against: TRL 1.16 has it not, and no property of the paper has been made a test yet"
_REFERENCE_TOKENS = "needs the reference's log-prob of each token; pairs carry its sums, which can be kept in a cache"

# Published losses and methods that are not here, and why.
LEFT_OUT: dict[str, str] = {
    "SamPO (down-sampled KL)": f"{_REFERENCE_TOKENS}; and its value is random",
    "LD-DPO": _REFERENCE_TOKENS,
    "TDPO": "needs whole distributions of policy and reference at each token of a pair, not the tokens' log-probs",
    "TR-DPO": "not a loss but a reference that moves while rows are trained on; drawn pairs have `reference: synced`",
    "AOT on paired data": "`aot` is the unpaired variant, which compares chosen with rejected completions of the step",
    "alpha-DPO (adaptive margin)": f"{_NO_CHECK}. `alpha_po` is another paper",
    "C2-DPO (arXiv:2502.17507)": _NO_CHECK,
    "BPO": f"two papers have the name (balanced, Bregman). Both: {_NO_CHECK}",
    "SPO": "two papers have the name: soft (arXiv:2405.00747) regularises with completions that the policy draws "
    "beside the pairs, stable (arXiv:2507.07723) is a bilevel problem; neither is a function of a pair",
    "TPO (triples)": "rows have one chosen and one rejected completion, not three",
    "BCO's weights (UDM)": "need an embedding model of the prompts; `bco` is the loss without them",
    "APO-zero on unpaired data": "`apo_zero` needs pairs; unpaired rows have `kto` and `bco`",
    "Nash-MD": "draws from a mixture of policy and reference, which no sampler here does",
    "XPO": "learns from completions of the reference beside those of the policy; one sampler holds one of them",
    "GMPO": "not written; `gspo` is the nearest: it clips the mean of a completion's ratios, GMPO each before the mean",
    "process rewards (PRM)": "rows and rewards judge whole completions, not steps of them",
    "distillation across vocabularies (GOLD)": "`kd` and `gkd` compare distributions entry by entry: one vocabulary",
    "MiniLLM": "a policy gradient with a teacher's log-probs as reward; `gkd` with beta 1 has that KL token by token",
}
