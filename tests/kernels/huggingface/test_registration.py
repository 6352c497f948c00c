"""The name "kvproof" among transformers' attention implementations: when asked for, again and again, or with advice."""

import subprocess
import sys

import pytest
import torch

import kvproof
import kvproof.gpt2
from kvproof.kernels.huggingface import IMPLS, decode, registration

from ._models import model, tokens


def test_importing_kvproof_imports_neither_torch_nor_transformers():
    program = (
        "import sys, kvproof\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules), 'imported'\n"
        "kvproof.register_with_transformers\n"
        "assert 'transformers' not in sys.modules\n"
        "assert 'numba' not in sys.modules\n"
        "assert 'triton' not in sys.modules, 'triton'\n"
        "try:\n    kvproof.register\nexcept AttributeError as error:\n    print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "it has __version__, register_with_transformers" in run.stdout


def test_registering_again_is_the_same_and_another_impl_takes_its_place(monkeypatch):
    made, seen = model("llama"), []
    monkeypatch.setattr(decode, "with_triton", lambda *given: seen.append("triton") or decode.with_numba(*given))
    made.set_attn_implementation("eager")
    for impl in ("auto", "auto", "triton", "numba"):
        kvproof.register_with_transformers(impl)
        made.set_attn_implementation("kvproof")
        with torch.no_grad():
            made(tokens()[0][None, :1], use_cache=False)
    assert seen == ["triton"] * len(made.model.layers)


def test_an_unknown_impl_is_refused():
    with pytest.raises(ValueError, match=f"impl is 'sdpa'; it must be one of {', '.join(IMPLS)}"):
        kvproof.register_with_transformers("sdpa")


def test_numba_is_refused_where_it_cannot_run(monkeypatch):
    monkeypatch.setattr(decode, "available", lambda variant: "impl 'numba' needs a CPU with avx2; use impl='sdpa'")
    with pytest.raises(ImportError, match='needs a CPU with avx2; use impl="triton", or attn_implementation="sdpa"'):
        kvproof.register_with_transformers("numba")
    kvproof.register_with_transformers("auto")


OLD = ("4.57.1", "5.9.0")
WITHOUT = [(None, "does not import here"), *((version, f"transformers {version} came") for version in OLD)]


@pytest.mark.parametrize(("version", "words"), WITHOUT)
def test_without_transformers_5_24_there_is_advice(monkeypatch, version, words):
    if version is None:
        monkeypatch.setitem(sys.modules, "transformers", None)
    else:
        monkeypatch.setattr(sys.modules["transformers"], "__version__", version)
    with pytest.raises(ImportError, match=rf"{words}.*pip install 'transformers>=5.24,<6'"):
        kvproof.register_with_transformers()


def test_what_is_registered_reaches_every_table_of_transformers():
    kvproof.register_with_transformers()
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    assert registration.NAME in ALL_ATTENTION_FUNCTIONS.valid_keys()
    assert registration.NAME in ALL_MASK_ATTENTION_FUNCTIONS.valid_keys()


def test_a_folder_of_another_architecture_names_the_way(tmp_path):
    model("llama").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"model_type is 'llama'.*kvproof.register_with_transformers\(\)"):
        kvproof.gpt2.load(tmp_path)
