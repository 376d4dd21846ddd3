"""The text of HTML as Markdown, by markdownify: headings, lists and tables stay what they are."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from gemma_cli.documents.extra import tidy

if TYPE_CHECKING:
    from bs4 import BeautifulSoup

_NO_TEXT = ("title", "img", "svg", "script", "style", "noscript", "template", "iframe", "object")

_WORTH_NAMING = ("http://", "https://", "mailto:")  # not the places within a page or a site

# Tags that may go without an end, and what open ones each of them ends.
_ENDS = {
    **dict.fromkeys(("td", "th"), ("td", "th")),
    **dict.fromkeys(("dt", "dd"), ("dt", "dd")),
    "tr": ("tr", "td", "th"),
    "li": ("li",),
    "p": ("p",),
}


def html_text(source: str) -> str:
    """What a reader of the page reads; ImportError where markdownify is not installed."""
    import markdownify
    from bs4 import BeautifulSoup, Comment
    from bs4.exceptions import ParserRejectedMarkup

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about text that looks like a file name, XML or a URL
        try:
            soup = BeautifulSoup(source, "html.parser")
        except ParserRejectedMarkup:  # a marked section that none of HTML is
            soup = BeautifulSoup(source.replace("<![", "&lt;!["), "html.parser")
    title = soup.title.get_text().strip() if soup.title else ""
    for tag in soup.find_all(_NO_TEXT):
        tag.decompose()
    for comment in soup.find_all(string=lambda text: isinstance(text, Comment)):
        comment.extract()
    for link in soup.find_all("a"):
        if not str(link.get("href", "")).startswith(_WORTH_NAMING):
            link.unwrap()
    _end_open_tags(soup)
    converter = markdownify.MarkdownConverter(
        heading_style=markdownify.ATX,
        bullets="-",
        escape_asterisks=False,
        escape_underscores=False,
        table_infer_header=True,
    )
    try:
        text = converter.convert_soup(soup)
    except RecursionError:  # hundreds of elements inside one another: the bare words remain
        text = soup.get_text("\n", strip=True)
    if title and title not in text[: len(title) + 200]:
        text = f"{title}\n\n{text}"
    return tidy(text)


def _end_open_tags(soup: BeautifulSoup) -> None:
    """`<li>one<li>two` is a list of two; the parser puts the second into the first."""
    for tag in soup.find_all(list(_ENDS)):
        while tag.parent is not None and tag.parent.name in _ENDS[tag.name]:
            tag.parent.insert_after(tag)
