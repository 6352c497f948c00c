"""A job: all that its output depends on besides its input, in a form that travels."""

import json
import pickle
from dataclasses import fields, replace

import pytest
import torch

from kvproof.gpt2.jobs.job import Job, new_job

from ..._engine import ENGINE
from ..._refused import refused

JOB = Job("tiny", "ab", "float32", "cuda:1", "triton", None, None, 0, False)


def test_it_travels_to_another_process():
    assert pickle.loads(pickle.dumps(JOB)) == JOB
    assert json.loads(json.dumps(JOB.facts())) == JOB.facts()


def test_a_line_records_all_of_it_and_of_a_device_its_kind():
    assert set(JOB.facts()) == {"kvproof", *(field.name for field in fields(Job))}
    assert JOB.facts()["device"] == "cuda"
    assert JOB.facts() == replace(JOB, device="cuda:0").facts()


def test_its_digest_depends_on_each_part():
    other = {
        "model": "x", "files": None, "dtype": "float16", "device": "cpu", "impl": "numba", "weights": "int8",
        "kv_dtype": "int8", "seed": 1, "allow_special": True,
    }  # fmt: skip
    digests = {replace(JOB, **{name: value}).digest(b"a") for name, value in other.items()}
    digests |= {JOB.digest(b"a"), JOB.digest(b"b"), JOB.digest(b"a", b""), JOB.digest(b"", b"a"), JOB.digest()}
    assert len(digests) == len(other) + 5


@ENGINE
def test_a_new_job_says_what_computes_and_knows_the_files():
    made = new_job("tiny", dtype=torch.float64)  # type: ignore[arg-type]
    assert (made.model, made.dtype, made.device, made.impl, made.seed) == ("tiny", "float64", "cpu", "numba", 0)
    assert made.files == new_job("tiny", seed=3, kv_dtype="int8").files
    assert len(made.files or "") == 16
    assert new_job("random:gpt2").files is None


def test_a_wrong_setting_is_refused_before_anything_is_loaded():
    refused(ValueError, "seed is -1; it must be a whole number from 0", new_job, seed=-1)
    refused(ValueError, "kv_dtype is 'int4'", new_job, kv_dtype="int4")
    refused(ValueError, "weights is 'int4'", new_job, weights="int4")
    refused(ValueError, "did you mean 'tiny'", new_job, "tinny")
    with pytest.raises(ValueError, match="allow_special is 1; it must be True or False"):
        new_job(allow_special=1)  # type: ignore[arg-type]
