"""How the numbers came about: all that somebody needs to get them again."""

from __future__ import annotations

from collections.abc import Sequence

from blockvid.evaluation.report.markup import Html, element
from blockvid.evaluation.report.numbers import count
from blockvid.evaluation.report.readings import TIER_MEANS, tiers
from blockvid.evaluation.results import Results

REMAINDERS = {
    "trim": "segments of floor(frames / N) frames, the tail left out",
    "spread": "segments differ by at most one frame, nothing left out",
}


def provenance(results: Results) -> Html:
    """The box of facts."""
    c, p = results.configuration, results.provenance
    stride = "every frame" if c.stride == 1 else f"every {c.stride}th frame: compares with nobody's published numbers"
    facts: list[tuple[str, Sequence[str]]] = [
        ("Tier", [f"{t}: {TIER_MEANS.get(t, t)}" for t in tiers(results)]),
        ("Profile", [c.profile]),
        ("N", [count(c.segments, "segment")]),
        ("Weights", [f"{c.weights} of VDE, {c.robust_weights} of its robust form"]),
        ("Remainder", [f"{c.remainder}: {REMAINDERS.get(c.remainder, 'as the profile has it')}"]),
        ("Stride", [stride]),
        ("Device", [f"{p.device}, {count(p.threads, 'thread')}"]),
        ("Versions", [f"{name} {version}" for name, version in p.versions.items()]),
        ("Models", [f"{name} sha256 {digest}" for name, digest in p.models.items()] or ["none"]),
        ("Made", [p.created]),
    ]
    facts += [("Benchmark", [c.bench])] if c.bench else []
    facts += [("Command", [p.command])] if p.command else []
    items = [
        part
        for name, lines in facts
        for part in (element("dt", None, name), *(element("dd", None, text) for text in lines))
    ]
    return element("dl", {"class": "facts-box"}, *items)
