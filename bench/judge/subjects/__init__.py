"""What the judge compares: two ways to the same logits, in any dtype, and what each computes on the way.

A subject has
    name_a, name_b, question       who is under test, who is trusted, and what their agreement would prove
    paths(dtype, shift=0.0)        logits (B, n, V) of both at the same positions; `shift` multiplies the embedding by
                                   1 + shift in both. NotImplementedError for a dtype it cannot run in
    trace(dtype)                   the activations of both, see tracing/tape.py, at the same positions (B, n, ...); then
                                   ("cache"): each layer's live slots at the end, (B, T, 2 H_kv, D), keys before values.
                                   Those of tracing/module_tape.py where the operations have no names we know
    trace_one(which, dtype, shift) those of "a" or "b" alone
    positions                      (B, n) what positions these are; the first `prefilled` of them come from the prefill
"""
