# SPDX-License-Identifier: Apache-2.0
"""A page as its parser sees it, and what it would load from elsewhere."""

from __future__ import annotations

from html.parser import HTMLParser

LOADING = {"script", "link", "img", "iframe", "object", "embed", "base", "image", "use", "audio"}
REFERENCES = {"src", "href", "xlink:href", "data", "action", "srcset", "background", "poster"}


class Page(HTMLParser):
    """Tags with attributes, and the text of each element by its tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "line", "polyline"):
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts[self.open[-1]][-1] += data

    def needs(self) -> list[str]:
        """Return whatever would be loaded from elsewhere, or run."""
        found = [tag for tag, _ in self.tags if tag in LOADING]
        found += [name for _, given in self.tags for name in given if name in REFERENCES]
        found += [name for _, given in self.tags for name in given if name.startswith("on")]
        style = "".join(self.texts.get("style", []))
        return found + [word for word in ("url(", "@import", "http") if word in style]
