#!/usr/bin/env bash
# What: config.time_step_limit clamps Mamba-2's step size dt in the scan over a prompt, but not in the decode step.
# With a limit that bites, cached decoding is another model than the whole forward pass. NemotronH and Zamba2 have
# the same step and always a limit, (time_step_min, inf): there it bites where dt is below 0.001.
# Surprise: prefill agrees to rounding, generate() raises nothing, and Mamba-2's default limit (0, inf) hides it. The
# step had clamped since huggingface/transformers#35154.
# With a recurrent cache: compare steps, not only the prefill, and with a time_step_limit that matters.
# Seen 2026-11-28, Python 3.11.7, CPU:
#   transformers 5.24.0: steps differ from the whole pass by 8.9e-07; with time_step_limit (0, 0.01) by 2.6e-02
# Seen 2026-11-29, same, in float64 with dt_bias -8:
#   NemotronH's steps differ by 1e-06 with time_step_min 1e-30, by 2.1e-02 with its default; Zamba2's by 4e-06, 4.1e-02
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile torch==2.14.1 transformers==5.24.0
cat > "$dir/find.py" <<'EOF'
import sys

import torch
import transformers
from transformers import (
    Mamba2Config,
    Mamba2ForCausalLM,
    NemotronHConfig,
    NemotronHForCausalLM,
    Zamba2Config,
    Zamba2ForCausalLM,
)

transformers.logging.set_verbosity_error()
sizes = dict(vocab_size=64, hidden_size=32, num_heads=8, head_dim=8, n_groups=2, state_size=8)


@torch.no_grad()
def difference(limit):
    torch.manual_seed(0)
    model = Mamba2ForCausalLM(Mamba2Config(**sizes, num_hidden_layers=2, chunk_size=8, time_step_limit=limit)).eval()
    ids = torch.randint(0, 64, (2, 16))
    whole = model(ids).logits
    out = model(ids[:, :4], use_cache=True)
    prefill, step = (out.logits - whole[:, :4]).abs().max().item(), 0.0
    for i in range(4, 16):
        logits = model(ids[:, i : i + 1], cache=out.cache, use_cache=True).logits
        step = max(step, (logits[:, 0] - whole[:, i]).abs().max().item())
    return prefill, step


@torch.no_grad()
def hybrid_difference(made, config):
    torch.manual_seed(0)
    model = made(config).eval().double()
    for name, x in model.named_parameters():
        if name.endswith("dt_bias"):
            x.fill_(-8.0)
    ids = torch.randint(1, 64, (1, 16))
    out = model(ids[:, :4], use_cache=True)
    steps = [model(ids[:, i : i + 1], cache=out.cache, use_cache=True).logits for i in range(4, 16)]
    return (torch.cat(steps, 1) - model(ids).logits[:, 4:]).abs().max().item()


default, limited = difference((0.0, float("inf"))), difference((0.0, 0.01))
if max(*default, limited[0]) > 1e-5:
    sys.exit(f"changed: prefill, steps differ by {default} without a limit; the prefill by {limited[0]} with one")
if limited[1] < 1e-3:
    sys.exit(f"changed: the decode step now clamps dt too; it differs from the whole pass by {limited[1]:.1e}")
print(
    f"transformers {transformers.__version__}: steps differ from the whole pass by {default[1]:.1e}; "
    f"with time_step_limit (0, 0.01) by {limited[1]:.1e}"
)

heads = dict(vocab_size=64, hidden_size=32, intermediate_size=32, num_attention_heads=4, num_key_value_heads=4)
state = dict(mamba_num_heads=8, mamba_head_dim=8, ssm_state_size=8, n_groups=2, head_dim=8)
nemotron = dict(**heads, **state, layers_block_type=["linear_attention", "full_attention"])
zamba = dict(**heads, num_hidden_layers=2, layers_block_type=["linear_attention", "hybrid"], mamba_d_state=8)
for made, kind, sizes in (
    (NemotronHForCausalLM, NemotronHConfig, nemotron),
    (Zamba2ForCausalLM, Zamba2Config, zamba | dict(n_mamba_heads=8, adapter_rank=4)),
):
    sizes |= dict(chunk_size=4, initializer_range=0.3)
    free, clamped = (hybrid_difference(made, kind(**sizes, time_step_min=least)) for least in (1e-30, 1e-3))
    if free > 1e-4 or clamped < 1e-3:
        sys.exit(f"changed: {made.__name__}'s steps differ by {free:.1e} without a limit, by {clamped:.1e} with one")
    print(f"{made.__name__}: steps differ by {free:.0e} with time_step_min 1e-30, by {clamped:.1e} with its default")
EOF
cd "$dir" && HF_HOME="$dir/hf" HF_HUB_OFFLINE=1 "$dir/venv/bin/python" -I find.py
