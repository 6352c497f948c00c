#!/usr/bin/env bash
# What: with echo=True and logprobs, where the tokenizer puts no BOS token before a text (SmolLM2, Qwen, GPT-2), each token of
# a prompt gets its log-probability from the row behind it: token i is looked up in row i, which is what follows token i,
# and not in row i - 1. With a BOS token, which the answer leaves out, both counts fit again.
# Surprise: the numbers are finite and the same each time, and every loglikelihood made of them is wrong. The same
# completion without echo is right. abetlen/llama-cpp-python#1471, "Fix logprobs when BOS is not present", is merged.
# With a KV cache: log-probabilities of decode steps and of a prompt differ by nats although the cache is right.
# Seen 2026-11-29, Python 3.11, CPU:
#   llama-cpp-python 0.3.36: 7 of 7 tokens behind the first are right with a BOS token, 0 of 7 without; those are row i's
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile llama-cpp-python==0.3.36 gguf==0.19.0 numpy==2.4.6
cat > "$dir/find.py" <<'EOF'
import sys

import gguf
import llama_cpp
import numpy as np

TOKENS = ["<unk>", "<s>", "</s>", "\u2581", *(chr(i) for i in range(33, 127))]
V, E = len(TOKENS), 32
rng = np.random.default_rng(0)


def write(path, begins):
    """A random GPT-2 of one layer whose tokens are characters."""
    w = gguf.GGUFWriter(path, "gpt2")
    w.add_block_count(1)
    w.add_context_length(256)
    w.add_embedding_length(E)
    w.add_feed_forward_length(2 * E)
    w.add_head_count(2)
    w.add_layer_norm_eps(1e-5)
    w.add_vocab_size(V)
    w.add_tokenizer_model("llama")
    w.add_token_list(TOKENS)
    w.add_token_scores([-float(i) for i in range(V)])
    w.add_token_types([2, 3, 3, *[1] * (V - 3)])
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.add_unk_token_id(0)
    w.add_add_bos_token(begins)
    w.add_add_space_prefix(False)
    shapes = {"attn_qkv": (3 * E, E), "attn_output": (E, E), "ffn_up": (2 * E, E), "ffn_down": (E, 2 * E)}
    tensors = {"token_embd.weight": (V, E), "position_embd.weight": (256, E)}
    tensors |= {f"blk.0.{name}.weight": shape for name, shape in shapes.items()}
    tensors |= {f"blk.0.{name}.bias": shape[:1] for name, shape in shapes.items()}
    arrays = {name: rng.normal(size=shape) / 2 for name, shape in tensors.items()}
    for norm in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        arrays |= {f"{norm}.weight": np.ones(E), f"{norm}.bias": np.zeros(E)}
    for name, array in arrays.items():
        w.add_tensor(name, array.astype(np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def counts(begins):
    """Of how many tokens behind the first the answer is row i - 1's, and of how many it is row i's; of all."""
    path = f"{begins}.gguf"
    write(path, begins)
    llama = llama_cpp.Llama(path, n_ctx=256, logits_all=True, verbose=False)
    text = "Romeo's!"
    ids = llama.tokenize(text.encode(), add_bos=True)
    llama.eval(ids)
    rows = llama.logits_to_logprobs(llama.scores[: len(ids)].copy())
    llama.reset()
    answer = llama.create_completion(text, max_tokens=1, echo=True, logprobs=1, temperature=0)
    own = answer["choices"][0]["logprobs"]["token_logprobs"][: len(text)]
    first = len(ids) - len(text)  # where the text begins
    right = [abs(own[i] - rows[first + i - 1][ids[first + i]]) < 1e-3 for i in range(1, len(text))]
    behind = [abs(own[i] - rows[first + i][ids[first + i]]) < 1e-3 for i in range(1, len(text))]
    return sum(right), sum(behind), len(right)


(with_right, _, of), (right, behind, _) = counts(True), counts(False)
if (with_right, right, behind) != (of, 0, of):
    sys.exit(f"changed: {with_right} of {of} are right with a BOS token; without, {right}, and {behind} are row i's")
print(
    f"llama-cpp-python {llama_cpp.__version__}: {with_right} of {of} tokens behind the first are right with a BOS token, "
    f"{right} of {of} without; those are row i's"
)
EOF
cd "$dir" && "$dir/venv/bin/python" -I find.py
