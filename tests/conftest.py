"""What several test files share: a tiny random checkpoint of the genuine class, and its graphs."""

import json
import os
import random
import signal
from pathlib import Path

import hypothesis
import pytest
import torch

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
CHAT_TEMPLATE = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' }}"
    "{%- if message.content is string %}{{- message.content }}{%- else %}{%- for part in message.content %}"
    "{%- if part.type == 'image' %}{{- '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{%- else %}{{- part.text }}{%- endif %}"
    "{%- endfor %}{%- endif %}{{- '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)


# A shell ignores Ctrl-C for what it runs in the background, and so would what tests start and stop with it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU that torch can use"))


# How long an example takes depends on what else the machine does. CI takes the same examples each time, people others.
hypothesis.settings.register_profile(
    "shipvlm",
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("shipvlm")

# The models of the tests are so small that a second thread only waits for the first.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the standard file set of Qwen3-VL: genuine class, random weights (fixed seed), about 1.5 MB."""
    folder = tmp_path_factory.mktemp("tiny") / "qwen3_vl"
    folder.mkdir()
    _write_tokenizer(folder)
    _write_processor(folder)
    _write_model(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_graphs(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The FP32 graph set of `tiny_checkpoint`. Not to be changed: it is shared."""
    from convert.export import export_graphs  # here: most tests need no onnx

    folder = tmp_path_factory.mktemp("graphs") / "fp32"
    export_graphs(tiny_checkpoint, folder, "fp32")
    return folder


def _write_tokenizer(folder: Path) -> None:
    from tokenizers import ByteLevelBPETokenizer
    from transformers import AddedToken, Qwen2Tokenizer

    letters = random.Random(0)
    words = ["red", "blue", "circle", "square", "yes", "no", "left", "right", "what", "is", "the", "total"]
    text = [" ".join(letters.choices(words, k=12)) for _ in range(64)]
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(text, vocab_size=320, show_progress=False)
    trained.save_model(str(folder))
    tokenizer = Qwen2Tokenizer(
        vocab=str(folder / "vocab.json"),
        merges=str(folder / "merges.txt"),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=[AddedToken(token, special=True) for token in SPECIAL_TOKENS],
        chat_template=CHAT_TEMPLATE,
    )
    tokenizer.save_pretrained(folder)


def _write_processor(folder: Path) -> None:
    common = {
        "patch_size": 16,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "processor_class": "Qwen3VLProcessor",
    }
    size = {"shortest_edge": 64 * 64, "longest_edge": 128 * 128}
    image = {**common, "size": size, "image_processor_type": "Qwen2VLImageProcessorFast"}
    video = {**common, "size": size, "video_processor_type": "Qwen3VLVideoProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(image, indent=2))
    (folder / "video_preprocessor_config.json").write_text(json.dumps(video, indent=2))


def _write_model(folder: Path) -> None:
    from transformers import AutoTokenizer, GenerationConfig, Qwen3VLConfig, Qwen3VLForConditionalGeneration

    tokenizer = AutoTokenizer.from_pretrained(folder)
    token = dict(zip(SPECIAL_TOKENS, tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)), strict=True))
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "max_position_embeddings": 2048,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5_000_000.0,
                "mrope_section": [4, 2, 2],
                "mrope_interleaved": True,
            },
        },
        vision_config={
            "depth": 3,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 64,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        },
        image_token_id=token["<|image_pad|>"],
        video_token_id=token["<|video_pad|>"],
        vision_start_token_id=token["<|vision_start|>"],
        vision_end_token_id=token["<|vision_end|>"],
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model = Qwen3VLForConditionalGeneration(config).eval()
    with torch.no_grad():
        # Random weights at the usual 0.02 give almost flat logits; wider ones make answers depend on the input.
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(4.0)
    model.generation_config = GenerationConfig(
        eos_token_id=[token["<|im_end|>"], token["<|endoftext|>"]],
        pad_token_id=token["<|endoftext|>"],
        do_sample=True,
        temperature=0.7,
        top_p=0.8,
        top_k=20,
    )
    model.save_pretrained(folder)
