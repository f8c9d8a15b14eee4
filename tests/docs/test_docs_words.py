"""One name for one thing, on every page (docs/concepts/terms.md)."""

from __future__ import annotations

import re

import pytest
from doc_blocks import DOCS, ROOT, pages, prose

INSTEAD = {
    r"\badversar(y|ies)\b": "attacker",
    r"\bdefences?\b": "defense",
    r"\bnormaliz|\brecogniz|\boptimiz|\binitializ|\bgeneraliz|\bsynthesiz": "British spelling, apart from defense",
    r"\bhonest-but-curious\b": "honest but curious",
    r"\bimpostors?\b": "imposter",
    r"\bnonmembers?\b": "non-member",
    r"\bmembership-inference\b": "membership inference",
    r"\bsurrogate model": "shadow",
    r"\bshadow data(set)?\b": "the auxiliary corpus",
    r"\bweight update": "update",
    r"\bspeaker verification model|\bspeaker recognition model": "speaker recogniser",
    r"\bFedSgd\b|\bFedavg\b|\bfed-?avg\b|\bfed-?sgd\b": "FedAvg, FedSGD",
    r"\bDPSGD\b|\bDP SGD\b": "DP-SGD",
    r"\bwav2vec2\b|\bWav2Vec\b": "wav2vec 2.0",
    r"\bEmo-DB\b|\bEMODB\b|\bEmodb\b": "EmoDB",
    r"\bCremaD\b|\bCREMAD\b": "CREMA-D",
    r"\bLibrispeech\b": "LibriSpeech",
    r"\bTPR@": "TPR at ... FPR",
    r"\d%": "a space before %",
    r"\beps\b|ε": "epsilon",
}
"""What is not written, and what is; outside code."""

TEXTS = [*(f"docs/{page}" for page in pages()), "README.md", "CONTRIBUTING.md", "SECURITY.md"]


def offences(text: str) -> list[str]:
    found = []
    for number, line in enumerate(prose(text).splitlines(), 1):
        # Titles of papers, words that are spoken of, and names of files are as they are.
        line = re.sub(r"\*[^*]+\*|\]\([^)]*\)", "", line)
        found += [f"{number}: {hit[0]!r}: {said}" for word, said in INSTEAD.items() if (hit := re.search(word, line))]
    return found


@pytest.mark.parametrize("name", TEXTS)
def test_terms(name: str) -> None:
    assert offences((ROOT / name).read_text(encoding="utf-8")) == []


def test_another_word_is_seen() -> None:
    assert offences("The adversary\n`adversary` knows 5% of it") == [
        "1: 'adversary': attacker",
        "2: '5%': a space before %",
    ]


def test_every_term_is_explained_once() -> None:
    rows = re.findall(r"^\| \*\*(.+?)\*\*", (DOCS / "concepts" / "terms.md").read_text(), re.MULTILINE)
    assert len(rows) == len(set(rows)) > 20
