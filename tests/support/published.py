"""The facts of published config.json files, as they are on the Hub: which load as what, and why others are refused.

Only what is read, or decides a refusal, is kept of each file. Copies are named where the model's own page was not to be
had.
"""

from typing import Any

CLIP_336 = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "image_size": 336,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "patch_size": 14,
    "projection_dim": 768,
}
SO400M_384 = {
    "model_type": "siglip_vision_model",
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_size": 1152,
    "image_size": 384,
    "intermediate_size": 4304,
    "layer_norm_eps": 1e-06,
    "num_attention_heads": 16,
    "num_hidden_layers": 27,
    "patch_size": 14,
}
LLAMA3 = {
    "model_type": "llama",
    "intermediate_size": 14336,
    "max_position_embeddings": 8192,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0,
}
LLAMA31_ROPE = {
    "factor": 8.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}
LLAMA31 = {**LLAMA3, "max_position_embeddings": 131072, "rope_scaling": LLAMA31_ROPE, "vocab_size": 128256}
VICUNA = {"model_type": "llama", "max_position_embeddings": 4096, "rms_norm_eps": 1e-05, "vocab_size": 32064}
LLAVA = {"model_type": "llava", "projector_hidden_act": "gelu", "vision_feature_layer": -2}
DEFAULT, FULL = {"vision_feature_select_strategy": "default"}, {"vision_feature_select_strategy": "full"}
ORIGINAL = {
    "model_type": "llava_llama",
    "hidden_act": "silu",
    "hidden_size": 4096,
    "image_aspect_ratio": "pad",
    "intermediate_size": 14336,
    "mm_patch_merge_type": "flat",
    "mm_projector_type": "mlp2x_gelu",
    "mm_use_im_start_end": False,
    "mm_vision_select_feature": "patch",
    "mm_vision_select_layer": -2,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
}
INTERLEAVE_TOWER = {**SO400M_384, "num_hidden_layers": 26, "vision_use_head": False}

LOADS: dict[str, tuple[dict[str, Any], str]] = {
    # its strategy is the one that gives image_seq_length, 729
    "fancyfeast/llama-joycaption-alpha-two-hf-llava": (
        {**LLAVA, **FULL, "image_seq_length": 729, "text_config": LLAMA31, "vision_config": SO400M_384},
        "siglip 1152 x 26, 729 tokens; 4096 x 32, 32/8 heads, 128256, llama3 rope",
    ),
    "aimagelab/LLaVA_MORE-llama_3_1-8B-siglip-finetuning": (
        {
            **ORIGINAL,
            "eos_token_id": [128001, 128008, 128009],
            "max_position_embeddings": 131072,
            "mm_vision_tower": "google/siglip-so400m-patch14-384",
            "rope_scaling": LLAMA31_ROPE,
            "vocab_size": 128256,
        },
        "siglip 1152 x 26, 729 tokens, pad; 4096 x 32, 32/8 heads, 128256, llama3 rope",
    ),
    "TIGER-Lab/Mantis-8B-siglip-llama3": (
        {**LLAVA, **DEFAULT, "text_config": {**LLAMA3, "vocab_size": 128258}, "vision_config": SO400M_384},
        "siglip 1152 x 26, 728 tokens; 4096 x 32, 32/8 heads, 128258",
    ),
    "cyberagent/llava-calm2-siglip": (
        {
            **LLAVA,
            **DEFAULT,
            "text_config": {
                "model_type": "llama",
                "max_position_embeddings": 32768,
                "rope_theta": 500000,
                "vocab_size": 65024,
            },
            "vision_config": SO400M_384,
        },
        "siglip 1152 x 26, 728 tokens; 4096 x 32, 32/32 heads, 65024",
    ),
    "tennant/llava-llama-3-8b-hqedit": (
        {
            **ORIGINAL,
            "max_position_embeddings": 8192,
            "mm_vision_tower": "openai/clip-vit-large-patch14-336",
            "vocab_size": 128256,
        },
        "clip 1024 x 23, 576 tokens, pad; 4096 x 32, 32/8 heads, 128256",
    ),
    "xtuner/llava-llama-3-8b-v1_1-transformers": (
        {**LLAVA, **DEFAULT, "text_config": {**LLAMA3, "vocab_size": 128320}, "vision_config": CLIP_336},
        "clip 1024 x 23, 576 tokens; 4096 x 32, 32/8 heads, 128320",
    ),
    "llava-hf/llava-1.5-7b-hf": (
        {**LLAVA, **DEFAULT, "text_config": VICUNA, "tie_word_embeddings": False, "vision_config": CLIP_336},
        "clip 1024 x 23, 576 tokens; 4096 x 32, 32/32 heads, 32064",
    ),
    "llava-hf/llava-1.5-13b-hf": (
        {
            **LLAVA,
            **DEFAULT,
            "text_config": {
                **VICUNA,
                "hidden_size": 5120,
                "intermediate_size": 13824,
                "num_attention_heads": 40,
                "num_hidden_layers": 40,
                "num_key_value_heads": 40,
            },
            "vision_config": CLIP_336,
        },
        "clip 1024 x 23, 576 tokens; 5120 x 40, 40/40 heads, 32064",
    ),
    "bczhou/tiny-llava-v1-hf": (
        {
            **LLAVA,
            **DEFAULT,
            "text_config": {
                "model_type": "llama",
                "hidden_size": 2048,
                "intermediate_size": 5632,
                "num_hidden_layers": 22,
                "num_key_value_heads": 4,
                "rms_norm_eps": 1e-05,
                "vocab_size": 32064,
            },
            "vision_config": CLIP_336,
        },
        "clip 1024 x 23, 576 tokens; 2048 x 22, 32/4 heads, 32064",
    ),
    # by a copy of its config in Mantis-VL/llava_bakllava_7b_v2_8192
    "llava-hf/bakLlava-v1-hf": (
        {
            **LLAVA,
            **DEFAULT,
            "text_config": {
                "model_type": "mistral",
                "intermediate_size": 14336,
                "max_position_embeddings": 32768,
                "num_key_value_heads": 8,
                "rms_norm_eps": 1e-05,
                "sliding_window": 4096,
                "vocab_size": 32064,
            },
            "vision_config": CLIP_336,
        },
        "clip 1024 x 23, 576 tokens; 4096 x 32, 32/8 heads, 32064",
    ),
    "llava-hf/llava-interleave-qwen-0.5b-hf": (
        {
            **LLAVA,
            **FULL,
            "vision_feature_layer": -1,
            "text_config": {
                "model_type": "qwen2",
                "hidden_size": 1024,
                "intermediate_size": 2816,
                "max_position_embeddings": 32768,
                "max_window_layers": 21,
                "num_attention_heads": 16,
                "num_hidden_layers": 24,
                "num_key_value_heads": 16,
                "rope_theta": 1000000.0,
                "sliding_window": 32768,
                "tie_word_embeddings": True,
                "use_sliding_window": False,
                "vocab_size": 152000,
            },
            "vision_config": INTERLEAVE_TOWER,
        },
        "siglip 1152 x 26, 729 tokens; 1024 x 24, 16/16 heads, 152000, biased, tied",
    ),
    "llava-hf/llava-interleave-qwen-7b-hf": (
        {
            **LLAVA,
            **FULL,
            "vision_feature_layer": -1,
            "text_config": {
                "model_type": "qwen2",
                "intermediate_size": 11008,
                "max_position_embeddings": 32768,
                "max_window_layers": 28,
                "rope_theta": 1000000.0,
                "sliding_window": None,
                "use_sliding_window": False,
                "vocab_size": 152000,
            },
            "vision_config": INTERLEAVE_TOWER,
        },
        "siglip 1152 x 26, 729 tokens; 4096 x 32, 32/32 heads, 152000, biased",
    ),
}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "John6666/llama-joycaption-alpha-two-hf-llava-nf4": (
        {
            **LLAVA,
            "quantization_config": {"load_in_4bit": True, "quant_method": "bitsandbytes"},
            "text_config": LLAMA31,
        },
        "its weights are quantized",
    ),
    "llava-hf/llava-v1.6-mistral-7b-hf": (
        {**LLAVA, "model_type": "llava_next", "architectures": ["LlavaNextForConditionalGeneration"]},
        "model_type 'llava_next' (LlavaNextForConditionalGeneration) is not supported",
    ),
    # by copies of its config, mgoin/llava-onevision-qwen2-7b-ov-hf-bnb-full-4bit without its quantization
    "llava-hf/llava-onevision-qwen2-7b-ov-hf": (
        {**LLAVA, "model_type": "llava_onevision", "architectures": ["LlavaOnevisionForConditionalGeneration"]},
        "model_type 'llava_onevision' (LlavaOnevisionForConditionalGeneration) is not supported",
    ),
    "llava-hf/vip-llava-7b-hf": (
        {**LLAVA, "model_type": "vipllava", "architectures": ["VipLlavaForConditionalGeneration"]},
        "model_type 'vipllava' (VipLlavaForConditionalGeneration) is not supported",
    ),
    "Lin-Chen/ShareGPT4V-7B": (
        {
            **ORIGINAL,
            "model_type": "share4v",
            "architectures": ["Share4VLlamaForCausalLM"],
            "mm_vision_tower": "Lin-Chen/ShareGPT4V-7B_Pretrained_vit-large336-l12",
        },
        "model_type 'share4v' (Share4VLlamaForCausalLM) is not supported",
    ),
    # by its copy PrunaAI/BAAI-Bunny-Llama-3-8B-V-HQQ-4bit-smashed
    "BAAI/Bunny-Llama-3-8B-V": (
        {
            "model_type": "bunny-llama",
            "architectures": ["BunnyLlamaForCausalLM"],
            "mm_projector_type": "mlp2x_gelu",
            "mm_vision_tower": "google/siglip-so400m-patch14-384",
        },
        "model_type 'bunny-llama' (BunnyLlamaForCausalLM) is not supported",
    ),
    "nyu-visionx/cambrian-8b": (
        {
            **ORIGINAL,
            "architectures": ["CambrianLlamaForCausalLM"],
            "mm_projector_type": "sva",
            "mm_vision_tower_aux_list": ["siglip/CLIP-ViT-SO400M-14-384", "openai/clip-vit-large-patch14-336"],
        },
        "mm_projector_type 'sva' is not supported, expected 'mlp2x_gelu'",
    ),
    "Seungyoun/llava-llama-3-8b-hf": (
        {**LLAVA, "projector_hidden_act": "silu", "text_config": LLAMA3, "vision_config": CLIP_336},
        "projector_hidden_act 'silu' is not supported, expected 'gelu'",
    ),
}
