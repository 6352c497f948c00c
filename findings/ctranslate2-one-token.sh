#!/usr/bin/env bash
# What: CTranslate2's generate_batch(include_prompt_in_result=False) prefills the tokens that all prompts of a batch share
# in number, all but the last of the shortest. Beside a prompt of one token it prefills nothing, and each longer prompt's
# own tokens then come back as new ones, and count towards max_length.
# Surprise: the same prompt gives other "new" tokens according to its neighbours, with no error and no warning.
# With a KV cache: a batch of requests of any lengths is told to be independent; here one short request makes the others
# return their prompts. Keep prompts of one token in a batch of their own, or cut the prompt off yourself.
# Seen 2026-11-29, Python 3.11.7, CPU:
#   ctranslate2 4.8.5: the prompt 5 6 7 8 9 10 is followed by the same four tokens alone and beside two tokens, and by 6 7
#   8 9 beside one
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile ctranslate2==4.8.5 numpy==2.4.6
cat > "$dir/batch.py" <<'EOF'
import tempfile

import ctranslate2
import numpy as np
from ctranslate2.specs import TransformerDecoderModelSpec, common_spec

V, E, T = 64, 32, 32  # vocabulary, width, positions of a model with two layers of random weights
rng = np.random.default_rng(0)


def drawn(*shape):
    return (rng.normal(size=shape) * 0.5).astype(np.float32)


def linear(place, n_in, n_out):
    place.weight, place.bias = drawn(n_out, n_in), drawn(n_out)


def norm(place):
    place.gamma, place.beta = np.ones(E, np.float32), np.zeros(E, np.float32)


spec = TransformerDecoderModelSpec.from_config(2, 2, pre_norm=True, activation=common_spec.Activation.GELUTanh)
decoder = spec.decoder
decoder.scale_embeddings = False
decoder.embeddings.weight, decoder.position_encodings.encodings = drawn(V, E), drawn(T, E)
decoder.projection.weight = drawn(V, E)
norm(decoder.layer_norm)
for layer in decoder.layer:
    norm(layer.self_attention.layer_norm)
    linear(layer.self_attention.linear[0], E, 3 * E)
    linear(layer.self_attention.linear[1], E, E)
    norm(layer.ffn.layer_norm)
    linear(layer.ffn.linear_0, E, 4 * E)
    linear(layer.ffn.linear_1, 4 * E, E)
spec.register_vocabulary([str(i) for i in range(V)])
spec.config.bos_token = spec.config.eos_token = spec.config.unk_token = "0"
spec.config.layer_norm_epsilon = 1e-5
spec.validate()
spec.optimize()
with tempfile.TemporaryDirectory() as folder:
    spec.save(folder)
    generator = ctranslate2.Generator(folder, "cpu", compute_type="float32")
prompt = [str(i) for i in range(5, 11)]


def follows(*others):
    batch = [prompt, *others]
    found = generator.generate_batch(batch, max_length=4, include_prompt_in_result=False, end_token=[])
    return found[0].sequences_ids[0]


alone = follows()
print(follows(["3", "4"]) == alone, follows(["3"]), follows(["3"]) == alone)
EOF
seen=$("$dir/venv/bin/python" -I "$dir/batch.py")
[ "$seen" = "True [6, 7, 8, 9] False" ] || { echo "changed: $seen"; exit 1; }
version=$("$dir/venv/bin/python" -I -c "import ctranslate2; print(ctranslate2.__version__)")
echo "ctranslate2 $version: the prompt 5 6 7 8 9 10 is followed by the same four tokens alone and beside two tokens, and by 6 7 8 9 beside one"
