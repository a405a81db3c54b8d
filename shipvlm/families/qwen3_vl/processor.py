"""How the processor of a Qwen3-VL checkpoint is built, and how a prompt is written."""

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, Qwen2VLImageProcessorPil, Qwen3VLProcessor


class PictureProcessor(Qwen3VLProcessor):
    """transformers' own `Qwen3VLProcessor` with its video part left out.

    The video part exists only on top of torchvision, and so does the fast form of the image processor. Pictures need
    neither. The processor finds its parts by the names in this signature, so leaving `video_processor` out of it
    is all it takes; every method that handles text and pictures is inherited.
    """

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None) -> None:
        super().__init__(image_processor, tokenizer, None, chat_template=chat_template)


def load_processor(folder: Path) -> PictureProcessor:
    """Read tokenizer, picture settings and chat template of the checkpoint in `folder`.

    Pictures always go through Pillow, also where torchvision is installed: one way of resizing, the same on
    every machine. Prompts are padded on the left, as batched generation needs it.
    """
    settings, _ = PictureProcessor.get_processor_dict(folder, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False, padding_side="left"
    )
    return PictureProcessor(
        Qwen2VLImageProcessorPil.from_pretrained(folder, local_files_only=True),
        tokenizer,
        chat_template=settings.get("chat_template") or tokenizer.chat_template,
    )


def conversation(prompt: str, pictures: int) -> list[dict[str, Any]]:
    """One user message: `pictures` pictures, then the words. The form that `apply_chat_template` reads."""
    content: list[dict[str, Any]] = [{"type": "image"} for _ in range(pictures)]
    return [{"role": "user", "content": [*content, {"type": "text", "text": prompt}]}]
