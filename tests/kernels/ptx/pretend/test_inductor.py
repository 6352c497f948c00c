"""The kernels that torch.compile's inductor writes for a pretended GPU, against torch itself."""

import pytest
import torch
import torch.nn.functional as F

from kvproof.kernels import ptx
from kvproof.kernels.ptx.pretend import inductor

CASES = {
    "sum": lambda a, b: torch.relu(a * 2 + b).sum(-1),
    "softmax": lambda a, b: torch.softmax(a - b, -1),
    "two": lambda a, b: (F.layer_norm(a, (70,)), (a * b).amax(0)),
    "transposed": lambda a, b: torch.where(a > b, a, b).t() * 3 + b.t(),
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("default")  # torch's own, of packages that inductor looks for
def test_inductor_s_kernels_compute_what_torch_does(case, target):
    function, generator = CASES[case], torch.Generator().manual_seed(0)
    a, b = (torch.randn(16, 70, generator=generator) for _ in range(2))
    truth = function(a.double(), b.double())
    with ptx.route(target, pretend=True) as reports:
        out = inductor.compiled(function, a, b)(a, b)
    assert reports
    assert all(report.name.startswith("triton_") for report in reports)
    torch.testing.assert_close(out, truth, check_dtype=False, rtol=1e-5, atol=1e-5)


def test_without_a_pretence_it_says_what_to_open():
    with pytest.raises(ptx.Refused, match=r"open ptx.route\(pretend=True\) around it"):
        inductor.compiled(torch.relu, torch.zeros(3))
