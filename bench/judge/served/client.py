"""JSON over HTTP to a server of OpenAI's API: what it answered, or one line on what came and what to do."""

import http.client
import json
import re
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

KEY = "OPENAI_API_KEY"  # the variable that holds a key unless another is named
LONGEST = 200  # characters of a server's own words that are shown
MOST = 1 << 26  # bytes of an answer: 64 MiB hold the 20 most probable tokens of 30 thousand positions
CHUNK = 1 << 16  # bytes read at once
TRIES = 3  # of a request that the server puts off with 429 or 503
WAIT = 20.0  # seconds between two of them, at most
LOCAL = ("127.0.0.1", "localhost", "::1")
BUSY = (429, 503)

ADVICE = {
    401: "it wants another API key: set OPENAI_API_KEY, or name the variable that holds it by --api-key-env NAME",
    403: "its API key may not do this: name the variable that holds another by --api-key-env NAME",
    404: "is this the address of its API, with the /v1 at the end, and the model's name as /models lists it?",
    413: "the request is too long for it: pass a shorter --prompt or fewer --steps",
    429: "it takes no more requests now: try again later",
    500: "its own log says why",
    502: "a proxy answered for it: is the server itself running?",
    503: "it is not ready: is its model loaded?",
    504: "a proxy gave up waiting for it: pass fewer --steps, or the address of the server itself",
}


class ServerError(ValueError):
    """A server did not give what was asked, in one line.

    status  the HTTP one, None where there was no answer
    wait    the seconds after which it wants to be asked again, where it says so
    """

    def __init__(self, message: str, status: int | None = None, wait: float | None = None):
        super().__init__(message)
        self.status, self.wait = status, wait


class Unredirected(urllib.request.HTTPRedirectHandler):
    """A redirect is an answer like another: a POST that is followed becomes a GET."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Client:
    """The API at `url`, such as http://127.0.0.1:8000/v1.

    key       sent as a bearer token where it is not None, and hidden wherever the server repeats it
    timeout   seconds after which a request fails
    variable  where the key came from
    waited    a sentence for each time that a request was put off and sent again

    Raises ServerError, without the key, for a URL that is none or may hold a secret, and for what is no key.
    """

    def __init__(self, url: str, key: str | None = None, timeout: float = 120.0, variable: str = KEY):
        host = host_of(url)
        self.url, self.key, self.timeout = url.rstrip("/"), None if key is None else clean(key, variable), timeout
        self.waited: list[str] = []
        direct = [urllib.request.ProxyHandler({})] if host in LOCAL else []
        self.opener = urllib.request.build_opener(Unredirected, *direct)

    def get(self, path: str) -> Any:
        return self._ask(path, None)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """The JSON object that the server answers.  Raises ServerError where it answers anything else."""
        return self._ask(path, json.dumps(body).encode())

    def _ask(self, path: str, body: bytes | None) -> Any:
        for tried in range(1, TRIES + 1):
            try:
                return self._once(path, body)
            except ServerError as error:
                if error.status not in BUSY or tried == TRIES or (error.wait or 0) > WAIT:
                    raise
                wait = float(tried) if error.wait is None else error.wait
                self.waited.append(f"{self.url}{path} answered {error.status}; asked again after {wait:g} s")
                time.sleep(wait)
        raise AssertionError("the last try returns or raises")

    def _once(self, path: str, body: bytes | None) -> Any:
        """The answer to one request, or a ServerError, within the timeout.

        A socket's own timeout begins anew with each byte, also with those of a name's lookup and of headers, so that
        the request is left behind in a thread of its own where all of it takes too long.
        """
        found: list[Any] = []
        until = time.monotonic() + self.timeout

        def ask() -> None:
            try:
                found.append(self._exchange(path, body, until))
            except Exception as error:
                found.append(error)

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join(self.timeout)
        if not found:
            raise self._absent(f"{self.url}{path}", TimeoutError())
        if isinstance(found[0], Exception):
            raise found[0]
        return found[0]

    def _exchange(self, path: str, body: bytes | None, until: float) -> Any:
        where = f"{self.url}{path}"
        request = urllib.request.Request(where, body, {"Accept": "application/json"})
        if body is not None:
            request.add_header("Content-Type", "application/json")
        if self.key is not None:
            request.add_unredirected_header("Authorization", f"Bearer {self.key}")
        try:
            with self.opener.open(request, timeout=self.timeout) as answer:
                read = read_body(answer, until, MOST)
                if len(read) > MOST:
                    raise ServerError(f"{where} sent more than {MOST} bytes, which no answer needs; is this its API?")
                return self._decoded(where, answer.headers.get_content_type(), read)
        except urllib.error.HTTPError as error:
            raise self._refused(where, error, until) from None
        except urllib.error.URLError as error:
            raise self._absent(where, error.reason) from None
        except http.client.IncompleteRead as error:
            got = len(error.partial)
            raise ServerError(f"{where}: the connection broke after {got} bytes; the server's log says why") from None
        except (OSError, http.client.HTTPException) as error:
            raise self._absent(where, error) from None

    def _decoded(self, where: str, kind: str, body: bytes) -> Any:
        text = body.decode("utf-8", errors="replace")
        if kind == "text/event-stream" or text.startswith("data:"):
            raise ServerError(f'{where} streams though asked with "stream": false; switch that off at the server')
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            what = "HTML" if kind == "text/html" or text.lstrip()[:1] == "<" else f"{kind} ({self.shown(text)!r})"
            short = f", cut off after {len(body)} bytes" if text.lstrip()[:1] == "{" else ""
            hint = "" if short else "; is this the address of the API, with the /v1 at the end?"
            raise ServerError(
                f"{where} answered {'JSON' if short else what} that is no whole JSON{short}{hint}"
            ) from None
        error = found.get("error") if isinstance(found, dict) and not {"choices", "data"} & set(found) else None
        if error:  # what some servers say with the status 200
            code = error.get("code") if isinstance(error, dict) else None
            status = code if isinstance(code, int) and not isinstance(code, bool) else None
            raise ServerError(f"{where} answered with an error ({self.shown(message_in(text))})", status)
        return found

    def _refused(self, where: str, error: urllib.error.HTTPError, until: float) -> ServerError:
        try:
            with error:
                text = read_body(error.fp, until, CHUNK).decode("utf-8", errors="replace")
        except (OSError, http.client.HTTPException):
            text = ""
        said = "HTML" if text.lstrip()[:1] == "<" else self.shown(message_in(text))
        advice = ADVICE.get(error.code, "it redirects; pass the address that it names" if error.code < 400 else "")
        if error.code < 400:
            said = self.shown(error.headers.get("Location") or "")
        words = f"{where} answered {error.code}" + (f" ({said})" if said else "") + (f"; {advice}" if advice else "")
        after = error.headers.get("Retry-After", "")
        return ServerError(words, error.code, float(after) if after.isdecimal() else None)

    def _absent(self, where: str, reason: Any) -> ServerError:
        if isinstance(reason, TimeoutError | socket.timeout):
            return ServerError(f"{where} gave no whole answer in {self.timeout:g} s; wait longer by --timeout SECONDS")
        if isinstance(reason, ConnectionRefusedError):
            return ServerError(f"{where}: nobody listens there; is the server running, and on this port?")
        if isinstance(reason, http.client.RemoteDisconnected | ConnectionResetError):
            return ServerError(f"{where}: the server closed the connection without an answer; its log says why")
        return ServerError(f"{where} cannot be reached ({self.shown(str(reason))})")

    def shown(self, text: str) -> str:
        """The server's own words on one line, without the key."""
        text = " ".join(text.split())
        for secret in (self.key, json.dumps(self.key)[1:-1]) if self.key else ():  # as it is, and as in JSON
            text = text.replace(secret, "***")
        return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."


def read_body(answer: Any, until: float, most: int) -> bytes:
    """The bytes of an http.client.HTTPResponse, read up to a chunk beyond `most`.

    Raises TimeoutError once time.monotonic() is past `until`, IncompleteRead where fewer came than were announced.
    """
    announced = None if answer.chunked else answer.length
    read = b""
    while len(read) <= most and (announced is None or len(read) < announced):
        try:
            chunk = answer.read1(CHUNK)
        except http.client.IncompleteRead:
            raise http.client.IncompleteRead(read) from None
        if time.monotonic() > until:
            raise TimeoutError
        if not chunk and announced is not None:
            raise http.client.IncompleteRead(read, announced - len(read))
        if not chunk:
            break
        read += chunk
    return read


def clean(key: str, variable: str) -> str:
    """The key without white space around it, as a file's last line has it.  Raises ServerError for what no key is."""
    key = key.strip()
    if not key or not all("!" <= c <= "~" for c in key):
        what = "a character that is no printable ASCII" if key else "white space alone"
        raise ServerError(f"{variable} holds {what}, as no API key does; put the key in it as it was given to you")
    return key


def host_of(url: str) -> str:
    """The host of a server's address.  Raises ServerError for what is none, without what may be a secret in it."""
    if "@" in url:
        raise ServerError("the address holds a password; leave it out and name its variable by --api-key-env NAME")
    if "?" in url or "#" in url:
        raise ServerError(
            f"{re.split('[?#]', url)[0]!r} came with a ? or # and more, which no address of an API has; leave that "
            "out, and if it holds a key name its variable by --api-key-env NAME"
        )
    try:
        parts = urllib.parse.urlsplit(url)
        host, _ = parts.hostname, parts.port  # the port is checked when it is asked for
    except ValueError:
        host, parts = None, urllib.parse.SplitResult("", "", "", "", "")
    if parts.scheme not in ("http", "https") or not host or not all("!" <= c <= "~" for c in url):
        raise ServerError(f"{url!r} is no address of a server; write http://HOST:PORT/v1")
    return host


def message_in(text: str) -> str:
    """The message of an error's body: {"error": {"message": ...}}, {"detail": ...}, or the text itself."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return text
    for key in ("error", "message", "detail"):
        if isinstance(found, dict) and key in found:
            found = found[key]
    return found if isinstance(found, str) else json.dumps(found)
