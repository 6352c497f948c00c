#!/usr/bin/env bash
# What: transformers' own sdpa attention and its own sdpa mask, registered under another name, give other logits.
# DeepSeek-V3.2 (and others with an indexer) puts the chosen slots into the mask only if the implementation is called
# "eager" or "sdpa"; under any other name they come as a keyword, `indices`, which a function with **kwargs swallows,
# and every slot is attended to. Gemma 4 with shared layers and a StaticCache cuts the prompt's queries down to those
# whose logits are kept; under "sdpa" it leaves that be where a mask is None, under another name it cuts all the same,
# and the last query attends to the cache's unfilled slots.
# Surprise: nothing raises; the function is the same, only its name is not.
# With a KV cache: an attention function of your own must take `indices`, and its mask must not be None over a buffer
# with unfilled slots; refuse keywords that you do not know.
# Near relatives: huggingface/transformers #45811 (no mask where none is registered), #46132.
# Seen 2026-11-29, Python 3.11.7, CPU:
#   transformers 5.24.0: of the logits' spread, DeepSeek-V3.2 differs by 2.3, Gemma 4 with a StaticCache by 0.26
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile torch==2.14.1 transformers==5.24.0
cat > "$dir/find.py" <<'EOP'
import sys
import warnings

import torch
import transformers
from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForCausalLM, StaticCache
from transformers import DeepseekV32Config, Gemma4TextConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

warnings.simplefilter("ignore")
transformers.logging.set_verbosity_error()
AttentionInterface.register("mine", sdpa_attention_forward)
AttentionMaskInterface.register("mine", sdpa_mask)
sizes = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_attention_heads=4, num_key_value_heads=4)
latent = dict(q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=8)
indexer = dict(index_topk=4, index_n_heads=2, index_head_dim=16)
shared = dict(num_kv_shared_layers=2, layer_types=["sliding_attention", "full_attention"] * 2, sliding_window=64)
per_layer = dict(vocab_size_per_layer_input=64, hidden_size_per_layer_input=8, head_dim=8, global_head_dim=8)
deepseek = DeepseekV32Config(
    **sizes, **latent, **indexer, num_hidden_layers=2, first_k_dense_replace=2, initializer_range=0.3
)
gemma = Gemma4TextConfig(**sizes, **shared, **per_layer, num_hidden_layers=4, initializer_range=0.3)
ids = torch.randint(0, 64, (1, 12), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def apart(config, static=False, **more):
    torch.manual_seed(0)
    model, found = AutoModelForCausalLM.from_config(config).eval(), []
    for name in ("sdpa", "mine"):
        model.set_attn_implementation(name)
        cache = StaticCache(config=model.config, max_cache_len=24) if static else None
        found.append(model(ids, cache=cache, use_cache=static, **more).logits[:, -1])
    return ((found[0] - found[1]).abs().max() / found[0].std()).item()


if apart(gemma) > 0 or apart(gemma, static=True) > 0:
    sys.exit("changed: Gemma 4 differs without a StaticCache, or with all logits kept")
indexed, cut = apart(deepseek), apart(gemma, static=True, logits_to_keep=1)
if min(indexed, cut) < 0.01:
    sys.exit(f"changed: DeepSeek-V3.2 differs by {indexed:.1e}, Gemma 4 with a StaticCache by {cut:.1e}")
print(
    f"transformers {transformers.__version__}: of the logits' spread, DeepSeek-V3.2 differs by {indexed:.1f}, Gemma 4 "
    f"with a StaticCache by {cut:.2f}"
)
EOP
cd "$dir" && HF_HOME="$dir/hf" HF_HUB_OFFLINE=1 "$dir/venv/bin/python" -I find.py
