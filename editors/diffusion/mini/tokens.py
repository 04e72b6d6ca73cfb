"""Words as numbers: the tokenizer of canon-mini, and the text encoder's configuration that goes with it."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from torch import Tensor

from canon.editors.diffusion.mini.vocabulary import words

LONGEST = 40
"""Tokens of a prompt."""


def load_tokenizer(folder: Path) -> Any:
    """A CLIP tokenizer that has every known word as one token; made if it is not there."""
    from transformers import CLIPTokenizer

    if folder.exists():
        return CLIPTokenizer.from_pretrained(folder)
    vocabulary, merges = _byte_pairs(sorted(words()))
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=LONGEST)


def text_config(tokenizer: Any, width: int, inner: int, layers: int) -> Any:
    """Of a CLIP text encoder for a tokenizer's words, with four heads."""
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=LONGEST,
        projection_dim=width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _byte_pairs(known: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges in which every known word is one token (byte pair encoding; Sennrich et al., 2016)."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,'-!?"
    tokens = [letter + end for end in ("", "</w>") for letter in letters]
    split = {word: [*word[:-1], word[-1] + "</w>"] for word in known}
    merges: list[tuple[str, str]] = []
    while any(len(parts) > 1 for parts in split.values()):
        counts: dict[tuple[str, str], int] = {}
        for parts in split.values():
            for pair in itertools.pairwise(parts):
                counts[pair] = counts.get(pair, 0) + 1
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(best)
        tokens.append("".join(best))
        for word, parts in split.items():
            split[word] = _merged(parts, best)
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    return {token: number for number, token in enumerate(tokens)}, merges


def _merged(parts: list[str], pair: tuple[str, str]) -> list[str]:
    found: list[str] = []
    for part in parts:
        if found and (found[-1], part) == pair:
            found[-1] += part
        else:
            found.append(part)
    return found


def tokenized(tokenizer: Any, captions: list[str]) -> Tensor:
    """Token numbers [N, LONGEST]."""
    found = tokenizer(captions, padding="max_length", truncation=True, max_length=LONGEST, return_tensors="pt")
    return found.input_ids  # type: ignore[no-any-return]
