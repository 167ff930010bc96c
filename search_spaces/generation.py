"""Generating translations with incremental decoding: greedy and beam search, and corpus BLEU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from search_spaces.hat_modules import TranslationTransformer


@torch.no_grad()
def greedy(model: TranslationTransformer, source: Tensor, *, end: int, max_tokens: int = 200) -> list[list[int]]:
    """Returns the most likely next token after another, for every sentence, without the end token.

    Args:
        model: in eval mode.
        source: ids (batch, tokens), padded.
        end: id of the end-of-sentence token, which also begins every target.
        max_tokens: longest translation; no longer than the model has positions for.
    """
    state = model.start(source)
    last = torch.full((len(source),), end, device=source.device)
    done = torch.zeros_like(last, dtype=torch.bool)
    columns = []
    for _ in range(min(max_tokens, model.longest)):
        logits, state = model.step(last, state)
        logits[:, model.padding] = -torch.inf
        last = torch.where(done, end, logits.argmax(1))
        columns.append(last)
        done |= last == end
        if bool(done.all()):
            break
    rows = torch.stack(columns, dim=1).tolist() if columns else [[] for _ in source]
    return [row[: row.index(end)] if end in row else row for row in rows]


@torch.no_grad()
def beam(
    model: TranslationTransformer,
    source: Tensor,
    *,
    end: int,
    size: int = 5,
    max_tokens: int = 200,
    length_penalty: float = 1.0,
) -> list[list[int]]:
    """Returns the best finished hypothesis of a beam search for every sentence, without the end token.

    In every step the 2 * size best continuations of a sentence are looked at: those that end the sentence with one of
    the first `size` ranks are finished, the best `size` others go on. The score of a finished hypothesis is its log
    probability divided by its length, end token included, to the power of `length_penalty`. A sentence is finished
    when it has `size` finished hypotheses; at `max_tokens` what is unfinished is ended as it stands.

    Args:
        model: in eval mode.
        source: ids (batch, tokens), padded.
        end: id of the end-of-sentence token, which also begins every target.
        size: width of the beam, at least 1.
        max_tokens: longest translation; no longer than the model has positions for.
        length_penalty: above 1 favours long sentences, below 1 short ones.

    Raises:
        ValueError: size below 1.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1, but got {size}.")
    n = len(source)
    device = source.device
    state = model.start(source).reordered(torch.arange(n, device=device).repeat_interleave(size))
    tokens = torch.full((n * size, 1), end, device=device)
    scores = torch.full((n, size), -torch.inf, device=device)
    scores[:, 0] = 0.0  # all hypotheses are equal at first: only one of each sentence may go on
    finished: list[list[tuple[float, list[int]]]] = [[] for _ in range(n)]

    def finish(i: int, score: float, row: Sequence[int]) -> None:
        finished[i].append((score / (len(row) + 1) ** length_penalty, list(row)))

    max_tokens = min(max_tokens, model.longest)
    for length in range(1, max_tokens + 1):
        logits, state = model.step(tokens[:, -1], state)
        logits[:, model.padding] = -torch.inf
        totals = scores[:, :, None] + torch.log_softmax(logits, dim=1).view(n, size, -1)
        vocabulary = totals.shape[2]
        best, place = totals.view(n, -1).topk(min(2 * size, size * vocabulary), dim=1)
        hypothesis, token = place // vocabulary, place % vocabulary
        ends = token == end
        for i, j in (ends[:, :size] & best[:, :size].isfinite()).nonzero().tolist():
            if len(finished[i]) < size:
                finish(i, float(best[i, j]), tokens[i * size + int(hypothesis[i, j]), 1:].tolist())
        if all(len(f) >= size for f in finished):
            break
        kept = best.masked_fill(ends, -torch.inf).topk(size, dim=1)
        scores = kept.values
        rows = (hypothesis.gather(1, kept.indices) + size * torch.arange(n, device=device)[:, None]).flatten()
        tokens = torch.cat([tokens[rows], token.gather(1, kept.indices).view(-1, 1)], dim=1)
        state = state.reordered(rows)
        if length == max_tokens:
            for i in range(n):
                if not finished[i]:
                    finish(i, float(scores[i, 0]), tokens[i * size, 1:].tolist())
    return [max(f, key=lambda scored: scored[0])[1] if f else [] for f in finished]


def corpus_bleu(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Returns the BLEU of a corpus in percent, by sacrebleu's default (13a tokens, exponential smoothing).

    Raises:
        ImportError: sacrebleu is not installed; names the extra.
        ValueError: different numbers of sentences, or none.
    """
    if len(hypotheses) != len(references) or not references:
        raise ValueError(
            f"every hypothesis must have a reference, but got {len(hypotheses)} and {len(references)} sentences."
        )
    try:
        import sacrebleu
    except ImportError as error:
        raise ImportError(
            "BLEU needs sacrebleu, which is not installed: pip install 'hwsearch[translation]'."
        ) from error
    return float(sacrebleu.corpus_bleu(list(hypotheses), [list(references)]).score)
