#!/usr/bin/env bash
# What: GPT2Tokenizer reads added_tokens.json only while tokenizer_config.json has no added_tokens_decoder.
# One entry there, and every other token of added_tokens.json is cut into bytes.
# Surprise: the two are not merged, nothing is logged, and len(tokenizer) shrinks below the embedding's rows.
# With a KV cache: a marker such as <eot> becomes five ids that no stop condition looks for, so decoding runs to
# the end of the cache. Look up the end token's id as text once, before serving.
# Seen 2026-11-28, Python 3.11.7, CPU:
#   transformers 5.24.0: '<tool><eot>' is [257, 258]; with <tool> in added_tokens_decoder [257, 27, 68, 78, 83,
#   29]
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile transformers==5.24.0 tokenizers==0.23.3
cat > "$dir/find.py" <<'EOF'
import json
import pathlib
import sys

import transformers
from tokenizers.pre_tokenizers import ByteLevel

transformers.logging.set_verbosity_error()
folder = pathlib.Path("tokenizer")
folder.mkdir()
vocab = {c: i for i, c in enumerate(sorted(ByteLevel.alphabet()))}
(folder / "vocab.json").write_text(json.dumps(vocab | {"<|endoftext|>": 256}))
(folder / "merges.txt").write_text("#version: 0.2\n")
(folder / "added_tokens.json").write_text(json.dumps({"<tool>": 257, "<eot>": 258}))
flags = dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized"), False)
decoder = {"257": {"content": "<tool>", "special": True, **flags}}

ids = []
for more in ({}, {"added_tokens_decoder": decoder}):
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer", **more}))
    ids.append(transformers.AutoTokenizer.from_pretrained(folder)("<tool><eot>").input_ids)
if ids[0] != [257, 258]:
    sys.exit(f"changed: added_tokens.json alone gives {ids[0]}, not [257, 258]")
if ids[1] == ids[0] or ids[1][0] != 257:
    sys.exit(f"changed: with added_tokens_decoder the ids are {ids[1]}; <eot> was cut into bytes")
version = transformers.__version__
print(f"transformers {version}: '<tool><eot>' is {ids[0]}; with <tool> in added_tokens_decoder {ids[1]}")
EOF
cd "$dir" && HF_HOME="$dir/hf" HF_HUB_OFFLINE=1 TRANSFORMERS_NO_ADVISORY_WARNINGS=1 "$dir/venv/bin/python" -I find.py
