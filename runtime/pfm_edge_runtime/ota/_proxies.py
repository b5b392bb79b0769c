"""Which proxy a request goes through, and who may ask it: what the environment says.

Owns ``http_proxy``, ``https_proxy``, ``all_proxy`` and ``no_proxy``, and how user and password are
taken out of a URL, so that no message repeats them::

    proxy = proxy_for("https://updates.example/public")
    proxy.url, proxy.headers            # "http://proxy:3128", {"Proxy-Authorization": "Basic …"}
"""

from base64 import b64encode
from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from pfm_edge_runtime.errors import ConfigError

__all__ = ["NO_PROXY_THAT_WORKS", "Proxy", "proxy_for", "split_credentials"]

NO_PROXY_THAT_WORKS = (
    "the proxy of the environment is none that can be used: set http_proxy and https_proxy to an "
    "http:// or https:// URL"
)
_SCHEMES = {"http", "https"}


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy of the environment.

    Attributes:
        url: Where it is, without user and password.
        headers: What it is told, and nobody else.
    """

    url: str
    headers: dict[str, str] = field(repr=False)


def proxy_for(url: str) -> Proxy | None:
    """Return the proxy that a request for a URL goes through, if any.

    Raises:
        ConfigError: It is none that can be used.
    """
    parts = urlsplit(url)
    # A name in no_proxy is that of a host, with a port or without; [::1] is written as ::1, too.
    if proxy_bypass(parts.netloc) or proxy_bypass(parts.hostname or ""):
        return None
    proxies = getproxies()
    found = proxies.get(parts.scheme) or proxies.get("all")
    if not found:
        return None
    try:
        # A proxy without a scheme is one that speaks http, as curl reads it.
        at = urlsplit(found if "://" in found else f"http://{found}")
        credentials, named = _credentials(at), at.hostname
    except ValueError as error:
        raise ConfigError(NO_PROXY_THAT_WORKS) from error
    if not named:
        raise ConfigError(NO_PROXY_THAT_WORKS)
    headers = {} if credentials is None else {"Proxy-Authorization": credentials}
    return Proxy(at._replace(netloc=at.netloc.rpartition("@")[2]).geturl(), headers)


def split_credentials(url: str) -> tuple[str, str | None]:
    """Take user and password out of a URL; return it, and what its server is told of them.

    Raises:
        ConfigError: It is no URL of a server.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError("the URL is malformed: name it as https://host/folder") from error
    if parts.scheme.lower() not in _SCHEMES or not parts.hostname or parts.query or parts.fragment:
        raise ConfigError("the URL must be http:// or https://, with a host, and no ? or #")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    where = host if port is None else f"{host}:{port}"
    return f"{parts.scheme.lower()}://{where}{parts.path.rstrip('/')}", _credentials(parts)


def _credentials(parts: SplitResult) -> str | None:
    """Return user and password of a URL as a header states them (RFC 7617)."""
    if parts.username is None:
        return None
    text = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return f"Basic {b64encode(text.encode('utf-8')).decode('ascii')}"
