"""The frame of a self-contained HTML page: head, style, heading and footer."""

from html import escape

from autoseg import __version__
from autoseg.report.css import CSS

#: Ends a page about results.
FOOTER = f"<footer>Written by autoseg {escape(__version__)}. Research use; not a medical device.</footer>"


def html_page(title: str, heading: str, lead: str, body: str, nav: str = "") -> str:
    """A page. All parts are HTML: text in them is escaped already.

    Args:
        title: of the window.
        heading: at the top.
        lead: a sentence below it.
        body: content.
        nav: links between heading and content.
    """
    return (
        "<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{title}</title><style>{CSS}</style></head><body>"
        f"<header><div><h1>{heading}</h1><p>{lead}</p></div></header>{nav}<main>{body}</main></body></html>\n"
    )
