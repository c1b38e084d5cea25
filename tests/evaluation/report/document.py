"""A page as its reader's browser takes it apart, and what must hold of every page."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"br", "img", "link", "meta", "source", "wbr"}


@dataclass
class Node:
    """An element with what is in it."""

    name: str
    attributes: dict[str, str]
    children: list[Node | str] = field(default_factory=list)

    def all(self, name: str, css: str | None = None) -> list[Node]:
        """The elements of a name below it, of a class if one is given."""
        found = []
        for child in self.children:
            if isinstance(child, Node):
                if child.name == name and (css is None or css in child.attributes.get("class", "").split()):
                    found.append(child)
                found += child.all(name, css)
        return found

    def every(self) -> list[Node]:
        """All elements below it."""
        return [n for child in self.children if isinstance(child, Node) for n in (child, *child.every())]

    @property
    def text(self) -> str:
        """What is written in it."""
        return "".join(child if isinstance(child, str) else child.text for child in self.children)


class Document(HTMLParser):
    """Refuses tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Node("", {})
        self._open = [self.root]
        self.feed(text)
        self.close()
        assert [n.name for n in self._open] == [""], f"not closed: {[n.name for n in self._open]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), f"{tag} has an attribute twice: {names}"
        node = Node(tag, {name: of or "" for name, of in attrs})
        self._open[-1].children.append(node)
        if tag not in VOID:
            self._open.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open[-1].name == tag, f"</{tag}> closes <{self._open[-1].name}>"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        self._open[-1].children.append(data)


def parsed(text: str) -> Node:
    """The page, after checking what must hold of every one."""
    page = Document(text).root
    _needs_nothing_else(page)
    _is_linked_to_itself(page)
    _is_accessible(page)
    return page


def _needs_nothing_else(page: Node) -> None:
    for node in page.every():
        for name in ("src", "href", "data", "poster", "srcset", "action", "xlink:href"):
            address = node.attributes.get(name, "")
            assert not re.match(r"(?!data:|file:)[a-z][a-z0-9+.-]*:|//", address, re.IGNORECASE), address[:80]
        assert not [name for name in node.attributes if name.startswith("on")]
        assert node.name not in ("iframe", "object", "embed", "link", "base", "form")
    (style,), (script,) = page.all("style"), page.all("script")
    assert "url(" not in style.text and "@import" not in style.text
    assert not re.search(r"https?:|fetch\(|XMLHttpRequest|import\(|innerHTML", script.text)


def _is_linked_to_itself(page: Node) -> None:
    ids = [n.attributes["id"] for n in page.every() if "id" in n.attributes]
    assert len(set(ids)) == len(ids), {i for i in ids if ids.count(i) > 1}
    assert all(re.fullmatch(r"\S+", i) for i in ids)
    links = {n.attributes["href"][1:] for n in page.all("a") if n.attributes.get("href", "").startswith("#")}
    labels = {n.attributes["aria-labelledby"] for n in page.every() if "aria-labelledby" in n.attributes}
    assert links | labels <= set(ids), (links | labels) - set(ids)


def _is_accessible(page: Node) -> None:
    assert page.all("html")[0].attributes["lang"] == "en"
    assert len(page.all("h1")) == 1 and len(page.all("main")) == 1
    for table in page.all("table"):
        assert len(table.all("caption")) == 1 and table.all("caption")[0].text.strip()
        assert all(th.attributes.get("scope") in ("col", "row") for th in table.all("th"))
        widths = {len([c for c in row.children if isinstance(c, Node)]) for row in table.all("tr")}
        assert len(widths) == 1, (table.all("caption")[0].text, widths)
    for svg in page.all("svg"):
        assert svg.attributes.get("role") != "img" or svg.all("title")[0].text.strip()
    assert all("alt" in image.attributes for image in page.all("img"))
    assert all(details.children and details.children[0].name == "summary" for details in page.all("details"))  # type: ignore[union-attr]
