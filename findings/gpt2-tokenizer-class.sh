#!/usr/bin/env bash
# What: tokenizer_config.json with "tokenizer_class": "GPT2Tokenizer" makes AutoTokenizer build GPT-2's own
# normalizer and pre-tokenizer; those in tokenizer.json beside it are dropped without a word. The class
# PreTrainedTokenizerFast keeps them.
# Surprise: one folder, one tokenizer.json, two tokenizations; the name of a class in another file decides.
# With a KV cache: a server that reads tokenizer.json and one that asks transformers fill their caches with
# different ids, and a prefix cache shared by both never matches. Compare ids before comparing logits.
# Seen 2026-11-28, Python 3.11.7, CPU:
#   transformers 5.24.0, tokenizers 0.23.3: 'AB 12' is [256, 220, 16, 17]; as GPT2Tokenizer [32, 33, 220, 257]
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile transformers==5.24.0 tokenizers==0.23.3
cat > "$dir/find.py" <<'EOF'
import json
import pathlib
import sys

import tokenizers
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

transformers.logging.set_verbosity_error()
vocab = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))} | {"ab": 256, "12": 257}
made = Tokenizer(models.BPE(vocab=vocab, merges=[("a", "b"), ("1", "2")]))
made.normalizer = normalizers.Lowercase()
digits = pre_tokenizers.Digits(individual_digits=True)
made.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
folder = pathlib.Path("tokenizer")
folder.mkdir()
made.save(str(folder / "tokenizer.json"))

ids = {}
for name in ("GPT2Tokenizer", "PreTrainedTokenizerFast"):
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name}))
    ids[name] = transformers.AutoTokenizer.from_pretrained(folder)("AB 12").input_ids
kept = made.encode("AB 12").ids  # lower case, one digit at a time
if ids["PreTrainedTokenizerFast"] != kept:
    sys.exit(f"changed: PreTrainedTokenizerFast gives {ids['PreTrainedTokenizerFast']}, tokenizer.json {kept}")
if ids["GPT2Tokenizer"] == kept:
    sys.exit(f"changed: GPT2Tokenizer now keeps tokenizer.json's normalizer and pre_tokenizer: {kept}")
versions = f"transformers {transformers.__version__}, tokenizers {tokenizers.__version__}"
print(f"{versions}: 'AB 12' is {kept}; as GPT2Tokenizer {ids['GPT2Tokenizer']}")
EOF
cd "$dir" && HF_HOME="$dir/hf" HF_HUB_OFFLINE=1 TRANSFORMERS_NO_ADVISORY_WARNINGS=1 "$dir/venv/bin/python" -I find.py
