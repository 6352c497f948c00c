"""What a checkpoint calls a tensor -> GPT-2's own name for it, without the wrappers that training put around it."""

import re

# Modules that wrap another and add their name to the path: torch.compile (of the model or of one block), DataParallel,
# FSDP, activation checkpointing, Lightning's Fabric.
WRAPPERS = {"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
# Where GPT-2's own path begins. What stands before it holds the model: "transformer.", Lightning's
# "model.transformer.", PEFT's "base_model.model.transformer.".
ROOT = re.compile(r"(?:^|\.)((?:wte|wpe|ln_f|lm_head|h\.\d+)\..*)", re.DOTALL)
MASK_BUFFER = re.compile(r"h\.\d+\.attn\.(masked_)?bias")  # a causal mask some versions saved; not c_attn.bias
ADAPTER = re.compile(r"(?:^|\.)(lora_\w+|base_layer|modules_to_save|original_module|prompt_encoder|ia3_\w+)(?:\.|$)")


def canonical_name(name: str) -> str | None:
    """The tensor's name without its wrappers, e.g. "h.0.attn.c_attn.weight"; None for a mask buffer."""
    name = ".".join(part for part in name.split(".") if part not in WRAPPERS)
    root = ROOT.search(name)
    name = root[1] if root else name
    return None if MASK_BUFFER.fullmatch(name) else name


def is_adapter_s(name: str) -> bool:
    """Whether a tensor belongs to an adapter of PEFT, or to a layer that still carries one."""
    return ADAPTER.search(name) is not None
