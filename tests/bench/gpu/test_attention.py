"""Decode attention timed against its peers: nothing wrong is believed, nothing missing is silent, nothing is lost."""

import json
import math
import sys
from itertools import pairwise
from types import ModuleType

import pytest
import torch

from kvproof.bench.gpu import attention as gpu_attention
from kvproof.bench.gpu import attention_peers
from kvproof.bench.gpu import page as gpu_page
from kvproof.bench.gpu.attention_peers import PEERS, Absent, Peer, Shape, draw

CPU = torch.device("cpu")
BANDWIDTH = {"bytes": 4096, "gb_per_s": 100.0, "datasheet": None, "limit": 120.0, "limit_is": "best measured"}
pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")

SHAPE = Shape(2, 16, 2, 16, "float16")


def measure(monkeypatch, tmp_path, peers, bandwidth=BANDWIDTH, seconds=1e-3):
    monkeypatch.setattr(gpu_attention, "PEERS", peers)
    monkeypatch.setattr(gpu_attention, "time_calls", lambda call, device, n, flush: [call() is None or seconds] * n)
    deaths = gpu_attention.Deaths(tmp_path / "a.jsonl")
    return gpu_attention.measure(SHAPE, CPU, bandwidth, 2, deaths)["peers"]


def scaled(factor):
    return Peer(lambda problem: lambda: factor * attention_peers.sdpa(problem)(), "torch", rounds_inside=True)


def turning_wrong(problem):
    right, calls = attention_peers.sdpa(problem), iter(range(100))
    return lambda: right() if next(calls) < 3 else 0.9 * right()


def raising(problem):
    raise RuntimeError("no kernel image is available\nfor this GPU")


def absent(problem):
    raise Absent("not installed")


def test_a_wrong_attention_is_never_believed_before_or_after_timing(monkeypatch, tmp_path):
    late = Peer(turning_wrong, "torch", rounds_inside=True)
    peers = {"sdpa": PEERS["sdpa"], "wrong": scaled(0.99), "nan": scaled(math.nan), "late": late}
    rows = measure(monkeypatch, tmp_path, peers)
    assert (rows["sdpa"]["refused"], rows["sdpa"]["wrong"]) == (None, False)
    assert rows["sdpa"]["median_us"] == pytest.approx(1e3)
    assert rows["sdpa"]["gb_per_s"] == pytest.approx(SHAPE.bytes / 1e6)
    assert rows["sdpa"]["share_measured"] == pytest.approx(SHAPE.bytes / 1e6 / 100)
    for name, when in (("wrong", "before"), ("nan", "before"), ("late", "after")):
        assert rows[name]["refused"].startswith(f"wrong {when} timing"), name
        assert rows[name]["wrong"]
        assert ("median_us" in rows[name]) == (when == "after")
    json.dumps(rows, allow_nan=False)


def test_a_figure_above_what_memory_can_do_is_refused(monkeypatch, tmp_path):
    at_limit = SHAPE.bytes / 1e9 / BANDWIDTH["limit"]
    for share, refused in ((1.09, False), (1.11, True)):
        rows = measure(monkeypatch, tmp_path, {"sdpa": PEERS["sdpa"]}, seconds=at_limit / share)
        assert bool(rows["sdpa"]["refused"]) == refused
        assert not rows["sdpa"]["wrong"]


def test_a_peer_that_is_absent_or_breaks_is_listed_with_the_reason(monkeypatch, tmp_path):
    peers = {name: Peer(how, "torch", rounds_inside=True) for name, how in (("absent", absent), ("breaks", raising))}
    rows = measure(monkeypatch, tmp_path, peers | {"sdpa": PEERS["sdpa"]})
    assert rows["absent"]["skipped"] == "not installed"
    assert rows["breaks"]["skipped"] == "it failed: RuntimeError: no kernel image is available"
    assert "median_us" in rows["sdpa"]


def test_a_peer_that_takes_the_gpu_down_twice_is_left_out_and_the_shape_is_done_without_it(monkeypatch, tmp_path):
    class Killer(Exception):
        pass

    def die(*_, **__):
        raise Killer

    monkeypatch.setattr(gpu_attention, "prepare", die)
    for _ in range(2):
        deaths = gpu_attention.Deaths(tmp_path / "a.jsonl")
        with pytest.raises(Killer):
            gpu_attention.measure(SHAPE, CPU, BANDWIDTH, 1, deaths)
    monkeypatch.undo()
    rows = measure(monkeypatch, tmp_path, {"kernel": PEERS["kernel"], "sdpa": PEERS["sdpa"]})
    assert rows["kernel"]["skipped"] == "the process died 2 times while it was at work"
    assert "median_us" in rows["sdpa"]
    assert gpu_attention.Deaths(tmp_path / "a.jsonl").of("sdpa") == 0


def plain(q, k, v):
    """One query per sequence over (B, T, H, D) caches, in float32: (B, H, D)."""
    p = torch.einsum("bhd,bthd->bht", q.float(), k.float()).mul(q.shape[-1] ** -0.5).softmax(-1)
    return torch.einsum("bht,bthd->bhd", p, v.float()).to(q.dtype)


def flash_attn_with_kvcache(q, k_cache, v_cache, *, cache_seqlens):
    """As flash-attn documents it: q (B, 1, H, D), caches (B, T, H, D), int32 lengths."""
    assert cache_seqlens.dtype == torch.int32
    assert q.shape[1] == 1
    assert (cache_seqlens == k_cache.shape[1]).all()
    return plain(q[:, 0], k_cache, v_cache)[:, None]


class BatchDecodeWithPagedKVCacheWrapper:
    """As FlashInfer documents it, layout NHD: pages (pages, page_size, H, D), a page table by starts and indices."""

    def __init__(self, float_workspace_buffer, kv_layout):
        assert (float_workspace_buffer.dtype, kv_layout) == (torch.uint8, "NHD")

    def plan(self, indptr, indices, last_page_len, num_qo_heads, num_kv_heads, head_dim, page_size, **dtypes):
        assert {indptr.dtype, indices.dtype, last_page_len.dtype} == {torch.int32}
        assert (last_page_len == page_size).all()
        self.pages = [indices[a:b].long() for a, b in pairwise(indptr)]
        self.page = (page_size, num_kv_heads, head_dim)
        assert set(dtypes) == {"q_data_type", "kv_data_type"}

    def run(self, q, caches):
        k, v = caches
        assert k.shape[1:] == v.shape[1:] == self.page
        return torch.cat([plain(q[b : b + 1], k[at].flatten(0, 1)[None], v[at].flatten(0, 1)[None])
                          for b, at in enumerate(self.pages)])  # fmt: skip


@pytest.mark.parametrize("name", ["flash-attn", "flashinfer"])
def test_a_library_that_keeps_its_documented_face_is_given_the_right_layout(monkeypatch, name):
    monkeypatch.setattr(attention_peers, "needs_gpu", lambda device, capability: None)
    for thing in (flash_attn_with_kvcache, BatchDecodeWithPagedKVCacheWrapper):
        module = ModuleType("flash_attn" if thing is flash_attn_with_kvcache else "flashinfer")
        setattr(module, thing.__name__, thing)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    problem = draw(Shape(3, 48, 2, 16, "float16"), CPU)
    call = PEERS[name].prepare(problem)
    assert gpu_attention.error_of(call(), problem, rounds_inside=False) <= 1


def test_the_judge_sees_the_first_and_the_last_head_and_no_more_than_it_can_afford():
    for B, H, T, D in [(1, 1, 16, 16), (1, 2, 16, 16), (128, 32, 16384, 128), (8, 12, 1024, 64), (1, 12, 128, 64)]:
        pairs = gpu_attention.heads_to_check(B, H, T, D)
        assert {(0, 0), (B - 1, H - 1)} <= set(pairs)
        assert len(set(pairs)) == len(pairs) <= 16
        assert all(b < B and h < H for b, h in pairs)
        assert len(pairs) == 2 or len(pairs) * T * D <= gpu_attention.CHECKED or B * H < 3


def test_the_bytes_of_a_shape_are_those_of_its_tensors():
    q, k, v, lengths = draw(SHAPE, CPU)
    assert SHAPE.bytes == 2 * q.nbytes + k.nbytes + v.nbytes + lengths.nbytes
    assert SHAPE.cache_bytes == k.nbytes + v.nbytes


def test_the_attention_part_resumes_after_half_a_line(tmp_path):
    path = tmp_path / "attention.jsonl"
    kept = [{"key": shape.key, "shape": vars(shape), "peers": {}} for shape in gpu_attention.shapes(CPU, True)]
    path.write_text(json.dumps(kept[0]) + "\n" + json.dumps(kept[1])[:9])
    assert gpu_attention.main([str(path), "--rehearse"]) == 0
    first, second = gpu_attention.read(path)
    assert first == kept[0]
    assert second["key"] == kept[1]["key"]
    assert second["peers"]["kernel"]["error_after"] <= 1
    assert path.read_text().count("\n") == 2


def test_the_page_tells_wins_losses_and_refusals():
    def row(us, refused=None):
        row = {"gb_per_s": 5.0, "share_measured": 0.5, "share_datasheet": None, "refused": refused, "skipped": None}
        return row | dict.fromkeys(gpu_page.QUANTILES, us) | {"error_before": 0.5, "error_after": us / 100}

    won = {"kernel": row(10.0), "sdpa": row(20.0), "flex": row(1, "wrong")}
    records = [
        {"key": "one", "shape": vars(SHAPE), "peers": won},
        {"key": "two", "shape": vars(SHAPE), "peers": {"kernel": row(10.0), "sdpa": row(5.0), "flex": row(40.0)}},
        {"key": "big", "shape": vars(SHAPE), "skipped": "needs 99 GB, 15 GB are free", "peers": {}},
    ]
    words = list(gpu_page.attention_words(records))
    assert words[0].startswith("Our decode attention is faster than sdpa in 1 of 2 shapes")
    assert "1.00 times our time in the geometric mean, from 0.50 to 2.00" in words[0]
    assert "faster than flex in 1 of 1" in words[1]
    assert words[-1] == "1 figures are refused: flex at one: wrong."
    assert "needs 99 GB" in "".join(gpu_page.attention_parts(records))
    (errors,) = gpu_page.accuracy(records)
    assert errors.endswith("up to 1: kernel 0.5, sdpa 0.5, flex 0.5.")
