"""The plugin as a project would use it: fixtures, failure texts, artefacts, and the example of its docstring."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from kvproof.bench.judge import pytest_plugin
from kvproof.bench.judge.contract.adapters import NumpyGPT2, small_model
from kvproof.bench.judge.contract.report import ContractBroken
from kvproof.bench.judge.pytest_plugin import DecodeDiffers, assert_attention, assert_cache_contract, assert_same_decode
from kvproof.reference import forward
from kvproof.reference.judge.faults import FAULTS, cached_logits, decode

from ... import _plugin

pytest_plugins = "pytester"
IDS = np.arange(48).reshape(2, 24)


def run(f):
    """A path of the small model, as the docstring's example makes it."""
    return lambda dtype, shift: f(IDS, *small_model(dtype, shift))


run_pytest, example = (
    partial(_plugin.run_pytest, pytest_plugin),
    _plugin.example(pytest_plugin, "in place of these two:"),
)


def test_the_module_imports_nothing_but_pytest_and_the_standard_library():
    assert _plugin.imported(pytest_plugin) == "['kvproof']"


def test_the_example_of_the_docstring_passes_and_has_ten_lines(pytester):
    program = example
    assert len([line for line in program.splitlines() if line.strip()]) == 10
    run_pytest(pytester, program).assert_outcomes(passed=2)
    readme = Path(pytest_plugin.__file__).with_name("README.md")
    assert f"```python\n{program}```" in readme.read_text(encoding="utf-8"), "the README shows another example"


def is_caught(fault) -> bool:
    """Whether the docstring's example goes red with this fault in place of the correct path."""
    try:
        if fault.kind == "attention":
            assert_attention(fault.apply)
        else:
            assert_same_decode(run(fault.apply), run(forward), question="against the oracle")
    except (DecodeDiffers, ContractBroken):
        return True
    return False


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_example_goes_red_on_every_fault_of_the_corpus(fault):
    assert is_caught(fault)


def test_the_failure_of_a_cache_reads_as_a_list_of_promises(pytester):
    program = """
        from kvproof.bench.judge.contract.adapters import NumpyGPT2, small_model

        class Forgetful(NumpyGPT2):
            def reset(self):
                self.cache.lengths[:] = 1

        def test_cache(assert_cache_contract):
            assert_cache_contract(lambda: Forgetful(*small_model()))
    """
    result = run_pytest(pytester, program)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*ContractBroken: Forgetful (float64): 10 promises held, 1 broken, 1 not checked",
            "*BROKEN       reset: after reset() logits are not a fresh cache's: something of the run before is left*",
            "*not checked  pages permuted: no permute_pages()",
        ]
    )
    assert "contract/report.py" not in result.stdout.str()  # the traceback ends at the user's own line


def test_a_pool_that_loses_a_block_fails_with_its_promises(pytester):
    program = """
        from kvproof.bench.judge.contract.adapters import small_model
        from kvproof.bench.judge.contract.pools.numpy_pool import NumpyPool

        class Leaky(NumpyPool):
            def free(self, sequence):
                sequence.blocks.pop()
                super().free(sequence)

        def test_pool(assert_pool_contract):
            assert_pool_contract(lambda: Leaky(*small_model()), page=4, only=["growing", "blocks back"])
    """
    result = run_pytest(pytester, program)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*ContractBroken: Leaky (float64): 1 promises held, 1 broken, 0 not checked",
            "*BROKEN       blocks back: blocks are lost or freed twice (early ends): 23 blocks are free where 24*",
        ]
    )


def test_a_folder_gets_one_json_file_per_test_with_what_was_found(pytester):
    program = """
        import pytest
        from kvproof.reference.judge.faults import decode

        def wrong(q, k, v, lengths):
            return decode(q, k, k, lengths)

        @pytest.mark.parametrize("dtype", ["float32", "float64"])
        def test_op(assert_attention, dtype):
            assert_attention(decode, dtype=dtype)
            assert_attention(wrong, dtype=dtype)

        def test_other():
            pass
    """
    run_pytest(pytester, program, "--kvproof-json", "found").assert_outcomes(failed=2, passed=1)
    paths = sorted((pytester.path / "found").iterdir())
    records = [json.loads(path.read_text()) for path in paths]
    assert [record["test"] for record in records] == ["test_it.py::test_op[float32]", "test_it.py::test_op[float64]"]
    for path, record in zip(paths, records, strict=True):
        assert path.name.startswith("test_it.py-test_op-float")
        assert [(found["assertion"], found["passed"]) for found in record["found"]] == [
            ("assert_attention", True), ("assert_attention", False),
        ]  # fmt: skip
        assert record["found"][1]["subject"].startswith("wrong (float")


def test_no_folder_no_files(pytester):
    program = (
        "def test_op(assert_attention):\n"
        "    from kvproof.reference.judge.faults import decode as f; assert_attention(f)"
    )
    run_pytest(pytester, program).assert_outcomes(passed=1)
    assert [path.name for path in pytester.path.iterdir() if path.suffix == ".json"] == []


def test_a_verdict_is_returned_and_recorded():
    records = []
    same = pytest_plugin.recording(assert_same_decode, records)
    verdict = same(run(cached_logits), run(forward))
    assert verdict.verdict == "ROUNDING"
    assert records[0]["verdict"] == "ROUNDING"
    assert json.loads(json.dumps(records[0], allow_nan=False))["passed"]


def test_the_failure_of_a_decode_names_verdict_question_and_rungs():
    (fault,) = [fault for fault in FAULTS if fault.name == "positions_off_by_one"]
    with pytest.raises(DecodeDiffers) as failure:
        assert_same_decode(run(fault.apply), run(forward))
    text = str(failure.value)
    assert text.startswith("BUG: In float64 the paths differ by")
    assert "Asked: cached against uncached" in text
    assert "float64" in text.splitlines()[1]
    assert "<-- more than rounding" in text


def unshifted(f, factor=1.0):
    return lambda dtype: factor * f(IDS, *small_model(dtype))


def test_functions_without_a_shift_are_held_to_roundings_of_their_logits():
    verdict = assert_same_decode(unshifted(cached_logits), unshifted(forward))
    assert [rung.dtype for rung in verdict.rungs] == ["float64", "float32"]
    assert "their noise was not measured but assumed" in verdict.rungs[0].note
    for wrong in (1.01, 1.0003):
        with pytest.raises(DecodeDiffers, match="BUG: In float64 the paths differ by"):
            assert_same_decode(unshifted(cached_logits, wrong), unshifted(forward))


def test_arrays_are_compared_in_their_own_dtype():
    a, b = (f(IDS, *small_model("float32")) for f in (cached_logits, forward))
    verdict = assert_same_decode(torch.from_numpy(a), b)
    assert [rung.dtype for rung in verdict.rungs] == ["float32"]
    for wrong in (a + 0.5, np.where(a > 0, np.nan, a)):
        with pytest.raises(DecodeDiffers, match="BUG"):
            assert_same_decode(wrong, b)


def test_bfloat16_arrays_alone_are_inconclusive_and_fail_unless_allowed():
    b = torch.from_numpy(forward(IDS, *small_model("float32"))).to(torch.bfloat16)
    with pytest.raises(
        DecodeDiffers, match=r"INCONCLUSIVE: The paths differ by 0.* in bfloat16; .*: run them in float64"
    ):
        assert_same_decode(1.01 * b, b)
    assert assert_same_decode(1.01 * b, b, allow_inconclusive=True).verdict == "INCONCLUSIVE"
    with pytest.raises(DecodeDiffers, match="BUG: In bfloat16 path A gives NaN"):
        assert_same_decode(b * float("nan"), b, allow_inconclusive=True)


def test_a_dtype_that_is_no_float_is_refused():
    with pytest.raises(ValueError, match="dtype is 'int64'; choose one of float64, float32, bfloat16, float16"):
        assert_same_decode(IDS, IDS)


def test_the_assertions_are_functions_that_return_what_they_found():
    assert assert_attention(decode).green
    assert assert_cache_contract(lambda: NumpyGPT2(*small_model())).green


LLAMA = """
    import numpy as np, torch, transformers
    from kvproof.bench.judge.contract.adapters import HuggingFace
    from kvproof.bench.measure.peers import cache_name

    CONFIG = transformers.LlamaConfig(
        vocab_size=61, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, bos_token_id=0, eos_token_id=0)
    IDS = torch.arange(24).reshape(2, 12)

    def llama(dtype, shift=0.0):
        torch.manual_seed(0)
        model = transformers.LlamaForCausalLM(CONFIG).eval()
        with torch.no_grad():
            model.to(getattr(torch, dtype)).model.embed_tokens.weight.mul_(1 + shift)
        return model

    @torch.no_grad()
    def uncached(dtype, shift):
        return llama(dtype, shift)(IDS, use_cache=False).logits

    @torch.no_grad()
    def cached(dtype, shift, positions=0):
        model, cache, logits = llama(dtype, shift), transformers.DynamicCache(), []
        for t in range(IDS.shape[1]):
            at = torch.full((2, 1), max(0, t - positions))
            kept = {cache_name(model): cache, "position_ids": at, "attention_mask": torch.ones(2, t + 1)}
            out = model(IDS[:, t : t + 1], **kept)
            logits.append(out.logits)
        return torch.cat(logits, 1)

    def test_float32(assert_same_decode):
        assert_same_decode(cached, uncached)

    def test_bfloat16(assert_same_decode):
        assert_same_decode(cached, uncached, "bfloat16")

    def test_late_positions(assert_same_decode):
        assert_same_decode(lambda dtype, shift: cached(dtype, shift, positions=1), uncached)

    def test_cache(assert_cache_contract):
        assert_cache_contract(lambda: HuggingFace(llama("float32")))
"""


def test_an_unmodified_random_llama_is_rounding_its_cache_keeps_the_contract_and_a_bug_is_red(pytester):
    pytest.importorskip("transformers", reason="transformers is not here; python -m pip install -e '.[hf]'")
    pytester.makepyfile(test_it=LLAMA)
    # A process of its own: pytester forgets what an inner run imports, and half of transformers is none.
    result = pytester.runpytest_subprocess(*_plugin.options(pytest_plugin))
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(["*DecodeDiffers: BUG: In float64*", "FAILED *test_late_positions - *"])
