"""GPUs by their specification, to plan for a card that is not in this machine.

Speeds are dense bfloat16 matrix products with float32 sums; a data sheet that gives only the figure with sparsity is halved. A GeForce card
reaches twice its float32 rate, an Ampere or Ada card for workstations and servers four times.

Each figure was compared with published tables (resellers' data sheets, comparison sites, and the tables by which other projects compute
MFU). Found and equal within 1%: memory and bandwidth of all but those below; speeds of RTX 3060, 3080, 3090, 4080, 4090, 5090, A6000,
6000 Ada, A10, A40, L4, L40, L40S, A100, H100 PCIe, H100, H200 and B200. Not found, so unverified:
    speeds of RTX 4060 Ti, 4070 Ti, 5080 (one table: 113), A5000 and A30
    bandwidth of RTX 3080, 3090, A5000, 6000 Ada and A30, and of the A100 of 80 GB on PCIe (on SXM: 2,039 GB/s)
    what a process can allocate (`memory_gib`), by the rule below
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from al.errors import ConfigError
from al.planning.cost import Machine

REACHED_FLOPS, REACHED_BANDWIDTH = 0.79, 0.75
"""Shares of a card's specification that one large product and memory reach on an H100: 764 to 790 of 989 TFLOP/s in four records of
benchmarks/results, and 2.5 of 3.35 TB/s (docs/performance.md). Other cards are assumed to reach the same."""
REHEARSED_RANKS = (16,)
"""LoRA ranks with which the Mistral-7B config did all work of a round in the memory of a 24 GB card (benchmarks/card_memory.py)."""
UNCERTAINTY = 0.35
"""Relative error to expect of a time that is planned for a card without a measurement on it."""


@dataclass(frozen=True)
class Card:
    """A GPU by its specification.

    `gigabytes`: memory as sold. `memory_gib`: what a process can allocate of it, in GiB; driver and firmware keep about 2%, and GDDR memory
    with error correction stores its check bits in another 6%. `tflops`: dense bfloat16 operations, 10¹² per second. `bandwidth`: of its
    memory, GB/s.
    """

    name: str
    gigabytes: float
    memory_gib: float
    tflops: float
    bandwidth: float

    @property
    def title(self) -> str:
        """`RTX 4090 (24 GB)`."""
        return f"{self.name} ({self.gigabytes:g} GB)"


CARDS = (
    Card("RTX 3060", 12, 11.7, 25.5, 360),
    Card("RTX 3080", 10, 9.7, 59.5, 760),
    Card("RTX 3090", 24, 23.5, 71.0, 936),
    Card("RTX 4060 Ti", 16, 15.6, 44.1, 288),
    Card("RTX 4070 Ti", 12, 11.7, 80.2, 504),
    Card("RTX 4080", 16, 15.6, 97.5, 717),
    Card("RTX 4090", 24, 23.5, 165.2, 1008),
    Card("RTX 5080", 16, 15.5, 112.6, 960),
    Card("RTX 5090", 32, 31.3, 209.5, 1792),
    Card("RTX A5000", 24, 23.5, 111.1, 768),
    Card("RTX A6000", 48, 47.4, 154.8, 768),
    Card("RTX 6000 Ada", 48, 47.4, 364.2, 960),
    Card("A10", 24, 22.1, 125.0, 600),
    Card("A30", 24, 23.5, 165.0, 933),
    Card("A40", 48, 44.4, 149.7, 696),
    Card("L4", 24, 22.1, 121.0, 300),
    Card("L40", 48, 44.4, 181.0, 864),
    Card("L40S", 48, 44.4, 362.0, 864),
    Card("A100", 40, 39.4, 312.0, 1555),
    Card("A100", 80, 79.1, 312.0, 1935),
    Card("H100 PCIe", 80, 79.1, 756.0, 2000),
    Card("H100", 80, 79.1, 989.4, 3350),
    Card("H200", 141, 139.8, 989.4, 4800),
    Card("B200", 180, 178.0, 2250.0, 8000),
)
_MEMORY = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)\s*gi?b\b", re.IGNORECASE)
_DECORATION = {"nvidia", "geforce", "rtx", "tesla", "sxm", "gpu"}
"""Words that tell no two cards apart."""


def find_card(text: str) -> Card:
    """The card that `--gpu` names: `RTX 4090`, `A100 80GB`, `h200`. Of a name with several sizes of memory, the smallest. For a size of
    memory alone, such as `24GB`, the slowest card that has it, with the least that a card of this size leaves to a process.

    Raises:
        ConfigError: no card has this name or that much memory; the message lists the cards.
    """
    size = _MEMORY.search(text)
    words = set(_words(_MEMORY.sub(" ", text))) - _DECORATION
    fitting = [card for card in CARDS if size is None or card.gigabytes == float(size[1])]
    if size is not None and not words:
        return _of_memory(text, float(size[1]))
    found = [card for card in fitting if words and words == set(_words(card.name)) - _DECORATION]
    if not found:
        raise _unknown(text)
    return min(found, key=lambda card: card.gigabytes)


def _of_memory(text: str, gigabytes: float) -> Card:
    enough = [card for card in CARDS if card.gigabytes >= gigabytes > 0]
    if not enough:
        raise _unknown(text)
    least = min(card.gigabytes for card in enough)
    like = [card for card in enough if card.gigabytes == least]
    slowest, memory = min(like, key=lambda card: card.tflops), min(card.memory_gib for card in like)
    return replace(
        slowest, name=f"{slowest.name} or faster", gigabytes=gigabytes, memory_gib=memory * gigabytes / least
    )


def machine_of(card: Card, bytes_per_value: int = 2) -> Machine:
    """A card as a machine to plan for, with the speeds that it probably reaches."""
    flops, bandwidth = REACHED_FLOPS * card.tflops * 1e12, REACHED_BANDWIDTH * card.bandwidth * 1e9
    return Machine("cuda", bytes_per_value, flops, bandwidth, card.memory_gib)


def _words(text: str) -> list[str]:
    """`A100-80GB` → ["a", "100", "80", "gb"]."""
    return re.findall(r"[a-z]+|\d+", text.lower())


def _unknown(text: str) -> ConfigError:
    names = ", ".join(dict.fromkeys(card.name for card in CARDS))
    return ConfigError(f"--gpu {text}: expected a size of memory such as 24GB, or one of these cards: {names}.")
