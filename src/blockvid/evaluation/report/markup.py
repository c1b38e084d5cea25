"""HTML that cannot be broken by what stands in it: text is escaped unless it was made here."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterable, Mapping
from importlib import resources

VOID = {"br", "img", "link", "meta", "source", "wbr"}
"""HTML elements that never have content."""
SHAPES = {"circle", "line", "path", "rect"}
"""SVG elements that have no end tag where they have no content."""
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
"""Characters that HTML or UTF-8 cannot hold."""

Attributes = Mapping[str, str | int | float | None]
"""None: the attribute is left out."""


class Html(str):
    """Markup that needs no escaping; what is made of it by other means is plain text again: mistakes show, harmless."""

    __slots__ = ()


def escaped(text: str) -> Html:
    """Text as it may stand in an element or an attribute; what is Html stays."""
    return text if isinstance(text, Html) else Html(html.escape(CONTROL.sub("\ufffd", text)))


def element(name: str, attributes: Attributes | None = None, *content: str) -> Html:
    """One element with its content escaped."""
    given = "".join(f' {key}="{escaped(str(of))}"' for key, of in (attributes or {}).items() if of is not None)
    if name in VOID:
        return Html(f"<{name}{given}>")
    if name in SHAPES and not content:
        return Html(f"<{name}{given}/>")
    return Html(f"<{name}{given}>{joined(content)}</{name}>")


def joined(parts: Iterable[str]) -> Html:
    """One after the other."""
    return Html("".join(escaped(part) for part in parts))


def breakable(key: str) -> Html:
    """A key that may go on in the next line where its tier and its model begin."""
    parts = re.split("(?=[@:])", key)
    return joined(part for index, word in enumerate(parts) for part in ((element("wbr"), word) if index else (word,)))


def data_uri(mime: str, content: bytes) -> str:
    """Bytes as an address, so that a page needs no second file."""
    return f"data:{mime};base64,{base64.b64encode(content).decode('ascii')}"


def page(title: str, description: str, body: Iterable[str]) -> str:
    """A whole document with its style and script in it; complete without the script."""
    head = element(
        "head",
        None,
        element("meta", {"charset": "utf-8"}),
        element("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        element("meta", {"name": "color-scheme", "content": "light dark"}),
        element("meta", {"name": "description", "content": description}),
        element("title", None, title),
        Html(f"<style>{_shipped('style.css')}</style>"),
    )
    script = Html(f"<script>{_shipped('script.js')}</script>")
    skip = element("a", {"class": "skip", "href": "#content"}, "Skip to the content")
    whole = element("body", None, skip, element("main", {"id": "content"}, *body), script)
    return "<!doctype html>\n" + element("html", {"lang": "en"}, head, whole) + "\n"


def _shipped(name: str) -> str:
    return resources.files("blockvid.evaluation.report").joinpath(name).read_text(encoding="utf-8")
