"""Which requests the page's server answers: those of its own page, opened on this machine.

A page of the internet can have the browser send requests to 127.0.0.1, and by DNS rebinding even
read the answers. The name in the Host header gives that away, and Origin and Sec-Fetch-Site tell
whose page asks.
"""
from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

LOCAL_NAMES = {"127.0.0.1", "localhost", "::1"}
#: Sent with every answer. Styles are set by the chart library through the DOM, which is allowed.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
                               "img-src 'self' data:; connect-src 'self'; base-uri 'none'; "
                               "form-action 'none'; frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def refusal(method: str, headers: Mapping[str, str]) -> str:
    """Why a request is refused; empty for one that is answered.

    The port of the Host header does not matter: it is another one through an SSH tunnel.
    """
    host = headers.get("Host", "")
    if _name(f"//{host}") not in LOCAL_NAMES:
        return f"this page is for this machine only, under 127.0.0.1 or localhost, not {host!r}"
    origin = headers.get("Origin")
    if origin is not None and origin != f"http://{host}":
        return f"a page of {origin!r} may not use this server"
    if headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
        return "another page may not use this server"
    if method not in ("GET", "HEAD"):
        if origin is None:
            return "a request that changes something must have an Origin header"
        if headers.get("Content-Type", "").partition(";")[0].strip() != "application/json":
            return "a request that changes something must be application/json"
    return ""


def _name(address: str) -> str:
    try:
        parts = urlsplit(address)
        parts.port  # noqa: B018 (raises where it is no number)
        return (parts.hostname or "") if parts.username is None else ""
    except ValueError:
        return ""
