"""Sizes of a tiny model by the names that configurations use, and the architectures that need more than that."""

from typing import Any

SIZES: dict[str, Any] = {
    # the vocabulary
    "vocab_size": 101, "decoder_vocab_size": 101, "type_vocab_size": 2, "vocab_size_per_layer_input": 101,
    "unpadded_vocab_size": 101,
    # widths
    "hidden_size": 32, "n_embd": 32, "d_model": 32, "embedding_size": 32, "emb_dim": 32, "embedding_dim": 32,
    "intermediate_size": 48, "ffn_dim": 48, "d_ff": 48, "dff": 48, "dim_ff": 48, "n_inner": 48, "ffn_hidden_size": 48,
    "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "word_embed_proj_dim": 32, "hidden_size_per_layer_input": 8,
    "hidden_size_global": 32, "d_inner": 48, "mlp_dim": 48, "intermediate_size_mlp": 48, "dense_intermediate_size": 48,
    # heads
    "num_attention_heads": 4, "n_head": 4, "n_heads": 4, "num_heads": 4, "attention_heads": 4,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "num_key_value_heads": 2, "num_kv_heads": 2,
    "head_dim": 8, "global_head_dim": 8, "rotary_dim": 4, "d_head": 8, "dim_head": 8, "kv_channels": 8,
    "swa_num_attention_heads": 4, "swa_num_key_value_heads": 2, "swa_head_dim": 8,
    # latent attention, and attention to chosen keys
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "qk_head_dim": 12,
    "v_head_dim": 8, "o_groups": 2, "o_lora_rank": 8, "index_head_dim": 8, "index_n_heads": 16, "index_topk": 6,
    "index_block_size": 2, "index_topk_blocks": 3, "keep_window_size": 8, "d_rel": 4, "rel_extent": 8,
    # layers
    "num_hidden_layers": 4, "n_layer": 4, "n_layers": 4, "num_layers": 4, "encoder_layers": 3, "decoder_layers": 3,
    "first_k_dense_replace": 1, "max_window_layers": 1, "is_decoder": True,
    # positions
    "max_position_embeddings": 128, "n_positions": 128, "n_ctx": 128, "max_seq_len": 128, "context_length": 128,
    "max_target_positions": 128, "model_max_length": 128, "mem_len": 128,
    # windows
    "sliding_window": 8, "sliding_window_size": 8, "attention_window_size": 8, "window_size": 8,
    "attention_chunk_size": 8, "local_attention": 8, "local_attention_window_len": 8, "use_sliding_window": True,
    # experts
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4, "zero_expert_num": 2,
    "num_experts_per_tok": 2, "num_experts_per_token": 2, "moe_topk": 2, "moe_k": 2, "n_group": 1, "topk_group": 1,
    "num_expert_group": 1, "moe_intermediate_size": 24, "n_shared_experts": 1, "moe_num_shared_experts": 1,
    "num_shared_experts": 1, "shared_expert_intermediate_size": 24, "expert_ffn_hidden_size": 24,
    "shared_intermediate_size": 24, "moe_shared_expert_intermediate_size": 24,
    "shared_experts_intermediate_size": 24, "router_hidden_size": 16,
    # states
    "mamba_d_state": 8, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 2, "mamba_dt_rank": 4,
    "mamba_chunk_size": 4, "mamba_d_conv": 4, "mamba_expand": 2, "mamba_d_ssm": 64, "mamba_num_heads": 8,
    "mamba_head_dim": 8, "ssm_state_size": 8, "state_size": 8, "time_step_rank": 4, "chunk_size": 4, "n_groups": 2,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "linear_head_dim": 8, "linear_num_heads": 4, "lru_width": 32,
    # images and sounds
    "image_size": 16, "patch_size": 8, "crop_size": 16, "num_channels": 3, "num_mel_bins": 8,
    "max_source_positions": 16, "output_channels": 8, "num_codebooks": 1,
}  # fmt: skip

# Fields that are None by default and get a size all the same.
MADE = {"sliding_window", "num_key_value_heads"}

WINDOWS = {"layer_types": ["sliding_attention", "full_attention"] * 2}, "by default every layer attends to all"
HEADS = {"head_dim": 8}, "its attention reads head_dim, which is None by default"
SHARED = {"layer_types": ["sliding_attention", "full_attention"] * 3, "num_hidden_layers": 6, "num_kv_shared_layers": 2}

# model_type: (fields, why)
EXCEPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "bamba": ({"attn_layer_indices": [1, 3]}, "by default no layer attends"),
    "blt": ({"encoder_hash_byte_group_vocab": 53}, "a table of 500,002 hashes"),
    "cohere_compass_text": (
        {
            **WINDOWS[0],
            "rope_parameters": {
                kind: {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
                for kind in ("full_attention", "sliding_attention")
            },
        },
        "its attention reads rotary parameters, and by default there are none",
    ),
    "dbrx": (
        {"attn_config": {"rope_theta": 1e4, "clip_qkv": 8.0, "kv_n_heads": 2}},
        "its attention reads rope_theta and clip_qkv, and by default there are none",
    ),
    "deepseek_v2": ({"num_experts_per_tok": 2}, "None by default"),
    "deepseek_v4": (
        {"compress_rates": {"compressed_sparse_attention": 2, "heavily_compressed_attention": 4}},
        "128 tokens are one compressed token by default, and prompts are shorter",
    ),
    "dory": (
        {
            "layer_types": ["sliding_attention", "full_attention"] * 2, "num_hidden_layers": 4,
            "n_input_layers": 1, "n_recurrent_layers": 2, "n_output_layers": 1,
        },
        "its to_dict() counts attention and MLP as layers of their own",
    ),
    "dots1": (
        {**WINDOWS[0], "num_experts_per_tok": 2, "n_routed_experts": 4, "n_shared_experts": 1},
        "by default there are no experts",
    ),
    "dots3_note_text": (
        {
            "num_key_value_heads": 4, "head_dim": 12, "layer_types": ["indexed_attention", "sliding_attention"] * 2,
            "swa_num_attention_heads": 4, "swa_num_key_value_heads": 4, "swa_q_lora_rank": 16, "swa_kv_lora_rank": 16,
            "swa_head_dim": 12, "swa_qk_nope_head_dim": 8, "swa_v_head_dim": 8,
        },
        "sizes of its sliding layers are keywords that no field names",
    ),
    "gemma3n_text": (
        {
            **SHARED, "intermediate_size": [48] * 6, "activation_sparsity_pattern": [0.5] + [0.0] * 5,
            "laurel_rank": 4,
        },
        "the last layers share the caches of earlier ones of their kind",
    ),
    "gemma4_text": (SHARED, "the last layers share the caches of earlier ones of their kind, in the small models"),
    "glm_moe_dsa": ({"indexer_types": ["full", "shared"] * 2}, "by default no layer takes another's choice of keys"),
    "got_ocr2_vision": ({"global_attn_indexes": [1], "window_size": 2}, "of twelve layers, in windows of 14 patches"),
    "granitemoehybrid": ({"layer_types": ["linear_attention", "full_attention"] * 2}, "by default no layer attends"),
    "hrm_text": ({"num_hidden_layers": 1}, "each layer is run eight times, with a cache for each"),
    "hunyuan_v1_dense": HEADS,
    "hunyuan_v1_moe": HEADS,
    "inkling2_loop_text": (
        {
            "n_layers_per_attn_res_block": 1, "loop_layer_index_start": 1, "loop_layer_index_end": 3,
            "loop_gate_rank": 4,
        },
        "layers 6 to 18 run three times by default",
    ),
    "inkling2_text": ({"n_layers_per_attn_res_block": 2}, "every sixth layer ends a block by default"),
    "jamba": ({"attn_layer_period": 2, "attn_layer_offset": 1}, "one layer in eight attends by default"),
    "laguna": (
        {**WINDOWS[0], "num_attention_heads_per_layer": [4, 8, 4, 8]},
        "by default every layer attends to all, with the same heads",
    ),
    "lfm2": (
        {"num_hidden_layers": 4, "layer_types": ["conv", "full_attention"] * 2, "full_attn_idxs": None},
        "by default it has no convolution",
    ),
    "lfm2_moe": ({"layer_types": ["conv", "full_attention"] * 2}, "None by default"),
    "mamba2": ({"num_heads": 8}, "num_heads * head_dim must be expand * hidden_size"),
    "mellum": WINDOWS,
    "minimax_m3_vl_text": (
        {"layer_types": ["full_attention", "minimax_m3_sparse"] * 2, "index_n_heads": 2},
        "by default no layer chooses its keys",
    ),
    "ministral": ({**HEADS[0], **WINDOWS[0]}, HEADS[1]),
    "phi4_multimodal_audio": (
        {
            "num_blocks": 1, "ext_pw_out_channel": 8, "depthwise_separable_out_channel": 8, "nemo_conv_channels": 8,
        },
        "widths of convolutions",
    ),
    "qwen2": WINDOWS,
    "qwen2_moe": WINDOWS,
    "qwen3": WINDOWS,
    "qwen4_exp_text": (
        {
            "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8, "indexer_budget": 8,
            "indexer_compress_ratio": 2, "hc_lowrank": 8,
        },
        "its layers choose their keys by an indexer, and by default there is none",
    ),
    "reformer": (
        {
            "num_hidden_layers": 2, "attn_layers": ["local", "lsh"], "axial_pos_shape": [8, 16],
            "axial_pos_embds_dim": [16, 16], "feed_forward_size": 48, "attention_head_size": 8,
            "local_attn_chunk_length": 8, "lsh_attn_chunk_length": 8, "hash_seed": 0,
        },
        "its positions are a grid, its attention is in chunks, its hashes are drawn at random",
    ),
    "roc_bert": (
        {
            "pronunciation_vocab_size": 11, "shape_vocab_size": 13, "pronunciation_embed_dim": 8,
            "shape_embed_dim": 8,
        },
        "tables of the sounds and shapes of Chinese characters",
    ),
    "smollm3": WINDOWS,
    "xlm": ({"causal": True}, "by default it is an encoder"),
    "xlnet": ({"attn_type": "uni"}, "by default it attends both ways"),
    "xlstm": ({"hidden_size": 128, "embedding_dim": 128}, "its state is rounded up to multiples of 64, its layers not"),
    "xmod": ({"default_language": "en_XX"}, "without a language it refuses to run"),
    "zamba": (
        {"num_hidden_layers": 4, "layers_block_type": ["linear_attention", "hybrid"] * 2},
        "it ties the weights of two hybrid layers, which must be there",
    ),
    "zamba2": (
        {"num_hidden_layers": 4, "layers_block_type": ["linear_attention", "hybrid"] * 2},
        "by default one layer in six is a hybrid",
    ),
    "zaya": ({"layer_types": ["hybrid", "hybrid_sliding"] * 2, "num_experts_per_tok": 1}, "it takes one expert only"),
}  # fmt: skip

# model_type: why no model of it can be run on token ids alone
NOT_BUILT = {
    "gemma4_assistant": "it drafts for another model, whose hidden states and caches it needs",
    "gemma4_unified_assistant": "it drafts for another model, whose hidden states and caches it needs",
}
# model_type: a package beyond transformers that its class needs
NEEDS = {"gemma3n": "timm"}
