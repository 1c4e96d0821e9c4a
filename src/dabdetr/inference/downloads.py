"""Files fetched over http and https, within limits on bytes, time, redirects and addresses.

An address or the server behind it may be malicious: an endless body, a byte per second, access to a
private network. A password in an address is sent only to the host of that address.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import re
import socket
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from dabdetr.text import printable, reason, shortened

SCHEMES = ("http://", "https://")
"""Beginnings of addresses that are fetched."""
CHUNK = 1 << 16
AHEAD = 1 << 20
"""Most bytes of a remote file that are read and skipped instead of a new request."""

_START = r"^([a-z][a-z0-9+.-]+:[/\\]+"
_NO_PORT = r":(?!\d*([/\\?#]|$))"
# The login before the last @ of a host, or before any @ if a password is not quoted.
_LOGIN = re.compile(rf"{_START})([^/\\?#]*@|(?!\[)[^/\\?#@:]*{_NO_PORT}[^@]*@)", re.I)
# A password without its @ looks like a port.
_PORT = re.compile(rf"{_START}[^/\\?#:\[]*){_NO_PORT}[^/\\?#]*", re.I)


@dataclass(frozen=True)
class Limits:
    """Limits of one download; ``private``: addresses of this machine and of local networks too.

    ``seconds`` is for the whole download, ``silence`` for one wait for data.
    """

    mib: float = 64
    seconds: float = 60
    silence: float = 20
    redirects: int = 5
    private: bool = False


PUBLIC = Limits()


def fetch(address: str, limits: Limits = PUBLIC) -> bytes:
    """The body at an http(s) address; ValueError, with what to do, where it cannot be fetched.

    Proxies are those of the environment, as for urllib.
    """
    with _answer(address, limits) as answer:
        return _body(answer, limits)


class RemoteFile:
    """A file at an http(s) address with the methods of an open file.

    ``limits`` apply to each of its connections, except those on bytes and on the whole time. If the
    server does not send parts of files, it can only be read from the start to the end. OSError,
    with what to do, where it cannot be read.
    """

    def __init__(self, address: str, limits: Limits) -> None:
        self.address, self.limits = address, replace(limits, seconds=threading.TIMEOUT_MAX)
        self.place, self.size, self._failed = 0, 0, False
        self._stack = ExitStack()
        self._connect(0)

    def _connect(self, place: int) -> None:
        self._stack.close()
        more = {"Range": f"bytes={place}-"}
        self._answer = self._stack.enter_context(_answer(self.address, self.limits, more))
        self.in_parts = self._answer.status == 206
        if place and not self.in_parts:
            raise OSError(f"{without_password(self.address)} is sent from its start only")
        self.place = place
        self.size = place + (self._answer.length or 0)

    def read(self, count: int) -> bytes:
        """At most ``count`` bytes; none at the end, and after an error."""
        if self._failed or self._answer.isclosed():
            return b""
        try:
            found = self._answer.read1(count)
            if not found and self._answer.length:
                raise _Refused(f"it ended {self._answer.length:,} bytes too early")
        except Exception as error:  # http.client and ssl raise many kinds
            self._failed = True  # PyAV prints the errors that follow one
            name = without_password(self.address)
            raise OSError(f"{name} {_reason_and_remedy(error, self.limits)}") from None
        self.place += len(found)
        return found

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to another place; to one that is less than ``AHEAD`` bytes ahead by reading on."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self.place, os.SEEK_END: self.size}[whence]
        place = start + offset
        while self.place < place <= self.place + AHEAD and self.read(place - self.place):
            pass
        if place < self.size and place != self.place:
            self._connect(place)
        return place

    def tell(self) -> int:
        """The number of bytes before the next one that is read."""
        return self.place

    def seekable(self) -> bool:
        """Whether the server sends parts of the file."""
        return self.in_parts

    def close(self) -> None:
        """Close the connection."""
        self._stack.close()


@contextmanager
def _answer(address: str, limits: Limits, more: Mapping[str, str] = {}) -> Iterator[HTTPResponse]:
    """The response at an address to a request with ``more`` headers.

    Any error until the end of the ``with`` block becomes a ValueError of one sentence.
    """
    name = without_password(address)
    try:
        parts = _checked(address, limits)
        headers = {"User-Agent": "dabdetr", **more}
        request = urllib.request.Request(_plain(parts), headers=headers)
        if parts.username is not None:
            secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
            # not sent to the target of a redirect
            request.add_unredirected_header(
                "Authorization", f"Basic {base64.b64encode(secret).decode()}"
            )
        network = _Network(limits)
        with network.deadline(), network.opener().open(request, timeout=limits.silence) as answer:
            yield answer
    except Exception as error:  # urllib, http.client and ssl raise many kinds
        raise ValueError(f"{name} {_reason_and_remedy(error, limits)}") from None


def without_password(address: str) -> str:
    """The address for messages: without user and password, control characters escaped.

    They are also removed from addresses that are written wrongly.
    """
    return printable(_PORT.sub(r"\1:…", _LOGIN.sub(r"\1", address)))


class Private(OSError):
    """A connection to an address outside the public network was refused."""


class _Refused(OSError):
    """The download is refused; the message is the reason for the user."""


def _checked(address: str, limits: Limits) -> SplitResult:
    """The parts of an address; ``_Refused`` or ``Private`` if it may not be fetched."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise _Refused("only http and https addresses are fetched")
    try:
        _ = parts.port
    except ValueError:  # its message may quote a password
        raise _Refused("its port is no number up to 65535") from None
    # checked by name as well: a proxy would fetch what is private to itself
    if not limits.private and _is_private_name(parts.hostname):
        raise Private
    return parts


def check_stream(address: str, limits: Limits = PUBLIC) -> None:
    """ValueError for a stream (rtsp, rtmp) outside the public network, unless ``limits.private``.

    A name that cannot be resolved is left to the program that opens the stream.
    """
    if limits.private:
        return
    try:
        host = urlsplit(address).hostname or ""
        if _is_private_name(host):
            raise Private
        with suppress(socket.gaierror, UnicodeError):
            if not all(map(is_public, _resolved(host))):
                raise Private
    except (Private, ValueError) as error:
        raise ValueError(
            f"{without_password(address)} {_reason_and_remedy(error, limits)}"
        ) from None


def _is_private_name(host: str) -> bool:
    """Whether a host is a private address in any notation (0x7f.1, 2130706433) or localhost."""
    host = unquote(host)
    with suppress(UnicodeError):
        host = host.encode("idna").decode()
    host = host.rstrip(".").lower()
    with suppress(OSError, ValueError):
        host = socket.inet_ntoa(socket.inet_aton(host))
    with suppress(ValueError):
        return not is_public(host)
    return host.rpartition(".")[2] == "localhost"


def _resolved(host: str, port: int | None = None) -> list[str]:
    """The IP addresses of a host."""
    found = socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)
    return sorted({str(entry[4][0]) for entry in found})


def _plain(parts: SplitResult) -> str:
    """The address without user and password."""
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _body(answer: HTTPResponse, limits: Limits) -> bytes:
    most = int(limits.mib * 2**20)
    if (answer.length or 0) > most:
        raise _Refused(f"it has {answer.length:,} bytes, more than {limits.mib:g} MiB")
    chunks: list[bytes] = []
    count = 0
    while chunk := answer.read(CHUNK):
        chunks.append(chunk)
        count += len(chunk)
        if count > most:
            raise _Refused(f"it has more than {limits.mib:g} MiB")
    if answer.length:
        raise _Refused(f"it ended after {count:,} bytes, {answer.length:,} too early")
    return b"".join(chunks)


def _reason_and_remedy(error: Exception, limits: Limits) -> str:
    """The second half of a message: what is wrong with an address, and what to do."""
    cause = error.reason if isinstance(error, URLError) else error
    if isinstance(cause, Private):
        return (
            "leads to this machine or a private network, which is not asked; if you trust the "
            "address, add --allow-private (allow_private=True)"
        )
    if isinstance(error, HTTPError) and 300 <= error.code < 400:
        error.close()
        why = "it redirects too often, or to what is neither http nor https"
    elif isinstance(error, HTTPError):
        error.close()
        why = f"the answer is {error.code} {shortened(printable(str(error.reason)), 60)}"
    elif isinstance(cause, TimeoutError):
        why = f"no answer within {limits.seconds:g} seconds"
    elif isinstance(cause, HTTPException):
        why = f"the answer is no HTTP that can be read: {type(cause).__name__}"
    else:
        why = reason(cause) if isinstance(cause, Exception) else printable(str(cause))
    return (
        f"could not be fetched ({why}); check the address and the network, or download the image "
        "and give its path"
    )


class _Network:
    """The connections of one download: to allowed addresses only, and closed at the deadline."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._over = False
        self._sockets: list[socket.socket] = []  # duplicates: urllib closes its own
        self._proxies = {
            urlsplit(address if "//" in address else f"//{address}").hostname
            for address in urllib.request.getproxies().values()
        }

    def opener(self) -> urllib.request.OpenerDirector:
        """An opener for http and https only; the default one of urllib also opens file:."""
        opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(),
            _Redirects(self.limits),
            _Connections(self),
            urllib.request.HTTPErrorProcessor(),
            urllib.request.HTTPDefaultErrorHandler(),
        ):
            opener.add_handler(handler)
        return opener

    @contextmanager
    def deadline(self) -> Iterator[None]:
        """Shut all connections ``limits.seconds`` after the beginning of the ``with`` block."""
        timer = threading.Timer(self.limits.seconds, self._end)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            for each in self._sockets:
                each.close()
            if self._over:  # else a connection that was shut would look like the end of the body
                raise TimeoutError

    def _end(self) -> None:
        self._over = True
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def connection(self, kind: type[HTTPConnection], host: str, **options: Any) -> HTTPConnection:
        """A connection whose IP address is checked after the host name is resolved."""
        made: Any = kind(host, **options)
        made._create_connection = self._connect
        return made

    def _connect(
        self, place: tuple[str, int], timeout: float | None = None, source: Any = None
    ) -> socket.socket:
        opened = self._open(*place, timeout, source)
        self._sockets.append(opened.dup())
        return opened

    def _open(self, host: str, port: int, timeout: float | None, source: Any) -> socket.socket:
        if self.limits.private or host in self._proxies:
            return socket.create_connection((host, port), timeout, source)
        error: OSError = Private()
        for address in _resolved(host, port):
            if is_public(address):
                try:
                    return socket.create_connection((address, port), timeout, source)
                except OSError as failure:
                    error = failure
        raise error


def is_public(address: str) -> bool:
    """Whether an IP address is public; an IPv4 address embedded in an IPv6 one is checked too."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = [*(ip.teredo or ()), *([ip.sixtofour] if ip.sixtofour else [])]
        if any(ip in network for network in _EMBEDDING):
            inner.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
        if inner:
            return all(is_public(str(each)) for each in inner)
        if ip in _LOCAL_NAT64:
            return False
    return ip.is_global and not ip.is_multicast


_EMBEDDING = [
    ipaddress.IPv6Network(text)
    for text in ("::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96")
]
"""Compatible, mapped, translated and NAT64 addresses, which end with an IPv4 address."""
_LOCAL_NAT64 = ipaddress.IPv6Network("64:ff9b:1::/48")
"""RFC 8215: prefixes for translation inside a local network."""


class _Connections(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    """Opens http and https by the connections of a ``_Network``."""

    def __init__(self, network: _Network) -> None:
        super().__init__()
        self.network = network

    def http_open(self, req: urllib.request.Request) -> HTTPResponse:
        return self.do_open(partial(self.network.connection, HTTPConnection), req)  # pyright: ignore[reportArgumentType]

    def https_open(self, req: urllib.request.Request) -> HTTPResponse:
        return self.do_open(partial(self.network.connection, HTTPSConnection), req)  # pyright: ignore[reportArgumentType]


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows at most ``limits.redirects`` redirects, to http and https only."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._count = 0

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        fp.close()  # else urllib would read the body, which may be endless
        self._count += 1
        if self._count > self.limits.redirects:
            raise _Refused(f"it leads on more than {self.limits.redirects} times")
        return super().redirect_request(
            req, fp, code, msg, headers, _plain(_checked(newurl, self.limits))
        )
