"""Reads bodies and queries, and rejects ambiguous ones and those that would be ignored.

If two programs could read a request differently, for example because a key occurs twice, the client
gets 422. The same goes for misspelt parameters, and for a body if the route takes none.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any, NoReturn
from urllib.parse import unquote_to_bytes

from fastapi import HTTPException, Request
from starlette.datastructures import Headers, QueryParams

from bridge.events import is_deep
from bridge.terminal.suggestion import nearest, shown, unknown

#: Deepest nesting of a body. A webhook is an object with lists. PostgreSQL's and Python's own
#: limits depend on the size of their stacks.
MAX_NESTING = 32
#: Most lists and objects of a body. Python takes about a microsecond for each, while nothing else
#: runs. The body of a webhook or token has two.
MAX_CONTAINERS = 1_000

# A string, perhaps unfinished: a match never fails, so the time is linear in the text.
_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)


class StrictRequest(Request):
    """A request whose body and query are unambiguous."""

    @property
    def query_params(self) -> QueryParams:
        """The parameters of the query.

        Raises:
            HTTPException: 422, it is not UTF-8, or it has a misspelt or a repeated parameter.
        """
        if not hasattr(self, "_query_params"):
            try:
                unquote_to_bytes(self.scope["query_string"]).decode()
            except UnicodeDecodeError:
                raise invalid("query", message="The query must be UTF-8") from None
            params = super().query_params
            known = {field.alias for field in self.scope["route"].dependant.query_params}
            for name, times in Counter(name for name, _ in params.multi_items()).items():
                # Others are ignored: scripts add some, such as `_` to get around caches.
                if name not in known and nearest(name, known) is not None:
                    raise _unknown("query", "parameter", name, known)
                if times > 1 and name in known:
                    raise invalid("query", name, message="Must be given only once")
        return super().query_params

    async def body(self) -> bytes:
        """Return the body.

        Raises:
            HTTPException: as for :meth:`Body.receive`; 422, its Content-Type is not JSON. So a form
                on another site is never parsed as JSON. Some clients omit Content-Type. That is
                safe: a page of another site cannot send tokens without a CORS preflight.
        """
        body = await super().body()
        if body and not _may_be_json(self.headers):
            raise invalid("header", "content-type", message="Content-Type must be application/json")
        return body

    async def json(self) -> Any:
        """Return the parsed body.

        Raises:
            HTTPException: 422, it is not unambiguous JSON.
        """
        return parse_json(await self.body())

    async def refuse_body(self) -> None:
        """Reject a body, for a route that takes none. ``{}`` and ``null`` say nothing either.

        Raises:
            HTTPException: 422, it says something; 429, there are too many bodies.
        """
        not_empty = invalid("body", message="Must be empty: this request takes no body")
        try:
            body = await self.body()
        except HTTPException as error:
            # Too large or compressed, which other routes distinguish.
            raise not_empty if error.status_code in (413, 415) else error from None
        value = parse_json(body) if body else None
        if isinstance(value, dict):
            for name in value:
                raise _unknown("body", "field", name, ())
        elif value is not None:
            raise not_empty


def parse_json(body: bytes) -> Any:
    """Parse a JSON body.

    Raises:
        HTTPException: 422, it is not unambiguous JSON. The message does not quote the body, which
            may be a secret.
    """
    try:
        text = body.decode()
        _refuse_many_containers(text)
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise _not_json(error.msg, error.pos) from None
    except UnicodeDecodeError as error:
        raise _not_json("not UTF-8", error.start) from None
    except RecursionError:
        raise _not_json("nested too deeply") from None
    except ValueError:  # Python refuses to convert thousands of digits
        raise _not_json("a number has too many digits") from None
    if is_deep(text, MAX_NESTING):
        raise _not_json("nested too deeply")
    return value


def invalid(*place: str | int, message: str, kind: str = "value_error") -> HTTPException:
    """Return the 422 for one problem, in FastAPI's shape.

    Args:
        place: ``body``, ``query``, ``path`` or ``header``, then the path to the value.
        message: what is wrong, without the value, which may be a secret.
        kind: a short name for the problem.
    """
    return HTTPException(422, [{"type": kind, "loc": place, "msg": message}])


def _unknown(place: str, kind: str, name: str, known: Iterable[str]) -> HTTPException:
    message = unknown(kind, name, known)
    return invalid(place, shown(name), message=message, kind="extra_forbidden")


def _refuse_many_containers(text: str) -> None:
    if text.count("[") + text.count("{") > MAX_CONTAINERS:
        bare = _STRING.sub("", text)
        if bare.count("[") + bare.count("{") > MAX_CONTAINERS:
            raise _not_json("too many lists and objects")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object, but reject duplicate keys: programs differ in which one they take."""
    value = dict(pairs)
    if len(value) < len(pairs):
        raise _not_json("duplicate key in an object")
    return value


def _refuse_constant(_name: str) -> NoReturn:
    raise _not_json("NaN and Infinity are not JSON")


def _not_json(reason: str, *position: int) -> HTTPException:
    return invalid("body", *position, message=f"JSON decode error: {reason}", kind="json_invalid")


def _may_be_json(headers: Headers) -> bool:
    media_type = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    kind, _, subtype = media_type.partition("/")
    return not media_type or (
        kind == "application" and (subtype == "json" or subtype.endswith("+json"))
    )
