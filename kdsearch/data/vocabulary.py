"""Pruned vocabularies: which of the teacher's subwords a student keeps, and a tokenizer that falls back to smaller ones.

In a small student most parameters are embeddings, most of them of subwords that its texts never use. A plan keeps the subwords that the training and
unlabelled text uses most. What is fixed before the search is the order of the subwords; the vocabulary of size n has its first n, so that sizes are
exact and a smaller vocabulary is a part of every larger one.

Tokens that were added to the tokenizer beside its WordPiece model ("[E1]") are subwords too: special ones are always kept, others by how often.
"""

from __future__ import annotations

import json
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from kdsearch.data.tokens import Tokens

SIZES = (1000, 2000, 4000, 8000, 16000)  # offered where the text has as many subwords; and the size that holds every subword of it
_PREFIX = "##"
_FILE = "tokenizer.json"


@dataclass(frozen=True)
class Vocabulary:
    """One pruned vocabulary, with the study's texts in it."""

    subwords: np.ndarray  # (V,) int64 the teacher's id of each kept subword, in the student's order
    tokenizer: Mapping[str, bytes]  # a folder that AutoTokenizer loads
    pad: int
    train_set: Tokens
    validation: Tokens


def order(tokenizer: PreTrainedTokenizerFast, parts: Sequence[Tokens]) -> tuple[np.ndarray, int]:
    """The teacher's ids in the order in which students keep them, and how many can be no fewer.

    First what nothing can be spelt without: special tokens, the single characters that the text uses, and ASCII letters and digits, at the start
    and inside of a word; then the other subwords that occur, by how often.

    Returns:
        (ids (N,) int64, minimum); (empty, 0) for a tokenizer that is not WordPiece: pruning BPE or unigram subwords changes how words split in
        ways that need their merges or scores fitted again.
    """
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    if state["model"]["type"] != "WordPiece" or state["model"]["continuing_subword_prefix"] != _PREFIX:
        return np.zeros(0, np.int64), 0
    vocab: dict[str, int] = state["model"]["vocab"]
    names = {index: subword for subword, index in tokenizer.get_vocab().items()}
    counts = np.zeros(max(names) + 1, np.int64)
    for part in parts:
        counts += np.bincount(part.ids, minlength=len(counts))
    special = set(tokenizer.all_special_ids)
    used = "".join(names[index].removeprefix(_PREFIX) for index in np.flatnonzero(counts).tolist() if index not in special)
    characters = sorted(set(used) | set(string.ascii_lowercase + string.digits))
    kept = sorted(special)
    kept += [vocab[subword] for character in characters for subword in (character, _PREFIX + character) if subword in vocab]
    minimum = len(dict.fromkeys(kept))
    frequent = np.lexsort((np.arange(len(counts)), -counts))
    kept += [int(index) for index in frequent if counts[index] > 0]
    return np.array(list(dict.fromkeys(kept)), np.int64), minimum


def sizes(subwords: np.ndarray, minimum: int) -> tuple[int, ...]:
    """The sizes that a study offers, ascending."""
    if not len(subwords):
        return ()
    return (*(size for size in SIZES if minimum < size < len(subwords)), len(subwords))


def numbered(files: Mapping[str, bytes], subwords: np.ndarray) -> np.ndarray:
    """The same subwords in the order of a student's ids: tokens added outside the model come last, because every loader of a tokenizer numbers them
    from the size of its model on, wherever its file puts them.

    Args:
        files: the teacher's tokenizer.
        subwords: (V,) the teacher's ids.
    """
    added = ~np.isin(subwords, list(json.loads(files[_FILE])["model"]["vocab"].values()))
    return np.concatenate([subwords[~added], subwords[added]])


def pruned_files(files: Mapping[str, bytes], subwords: np.ndarray) -> dict[str, bytes]:
    """The teacher's tokenizer files with only these subwords, whose ids are their indices in `numbered`.

    WordPiece takes the longest subword that fits, so a word whose subword is gone is spelt with shorter ones; its rules stay as they are.
    """
    state = json.loads(files[_FILE])
    own: dict[str, int] = state["model"]["vocab"]
    names = {index: subword for subword, index in own.items()} | {token["id"]: token["content"] for token in state["added_tokens"]}
    fresh = {names[int(old)]: new for new, old in enumerate(numbered(files, subwords))}
    state["model"]["vocab"] = {subword: new for subword, new in fresh.items() if subword in own}
    added = [token | {"id": fresh[token["content"]]} for token in state["added_tokens"] if token["content"] in fresh]
    state["added_tokens"] = sorted(added, key=lambda token: int(token["id"]))
    post = state.get("post_processor")
    if post is not None and post["type"] == "TemplateProcessing":
        for special in post["special_tokens"].values():
            special["ids"] = [fresh[token] for token in special["tokens"]]
    elif post is not None:
        for end in ("sep", "cls"):
            if end in post:
                post[end] = [post[end][0], fresh[post[end][0]]]
    kept = {name: content for name, content in files.items() if name not in ("vocab.txt", "added_tokens.json")}
    return {**kept, _FILE: json.dumps(state, ensure_ascii=False).encode()}


def load(files: Mapping[str, bytes], like: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """A tokenizer of these files, with the special tokens and limits of another."""
    names = {name: getattr(like, name) for name in ("unk_token", "sep_token", "pad_token", "cls_token", "mask_token")}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(files[_FILE].decode()),
        model_max_length=like.model_max_length,
        model_input_names=like.model_input_names,
        **{name: token for name, token in names.items() if token is not None},
    )
