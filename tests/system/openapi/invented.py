"""What schemathesis cannot read from the schema: formats, and rules between fields."""

import itertools
import os
from typing import Any

import schemathesis
from hypothesis import strategies as st

# Nobody listens there, so test deliveries fail at once.
_PATHS = st.text(st.sampled_from("abcdefghijklmnopqrstuvwxyz0123456789-_/"), max_size=20)
schemathesis.openapi.format("uri", _PATHS.map(lambda path: f"http://127.0.0.1:1/{path}"))

_PREDICATES = st.builds(
    "$.{} {} {}".format,
    st.sampled_from(["a", "amount_kopeks", '"a b"', "a[*].b"]),
    st.sampled_from(["==", ">=", "<", "!="]),
    st.integers(min_value=0, max_value=10**9),
)
schemathesis.openapi.format("jsonpath", _PREDICATES)

#: Other values that pydantic accepts as booleans.
_FLAGS = {"0", "1", "0.0", "1.0", "-0.0", "f", "n", "no", "off", "on", "t", "y", "yes"}

_DEAD_LETTERS = itertools.count(2)


@schemathesis.hook
def before_call(_context: Any, case: Any, _kwargs: Any) -> None:
    """Fix cases that are not as valid, or invalid, as schemathesis intends."""
    is_negative = case.meta.generation.mode.is_negative
    query = case.query if isinstance(case.query, dict) else {}
    body = case.body if isinstance(case.body, dict) else {}
    path = case.path_parameters if isinstance(case.path_parameters, dict) else {}
    if "before_id" in query and "offset" in query:
        # The two exclude each other.
        del query["offset"]
    if not is_negative and case.method == "PATCH" and "url" in body and not body.get("secret"):
        # The webhook may have a secret for another host.
        body["secret"] = None
    if is_negative and str(body.get("is_active", "")).lower() in _FLAGS:
        # The contract allows 1 for true, so use a value that is certainly invalid.
        body["is_active"] = "perhaps"
    if not is_negative and len(str(path.get("delivery_id", ""))) == 1:
        # No request creates a delivery.
        path["delivery_id"] = int(os.environ["DELIVERY_ID"])
    if not is_negative and len(str(path.get("dead_letter_id", ""))) == 1:
        # No request creates a dead letter. Those that are read stay; the others are used up.
        path["dead_letter_id"] = 1 if case.method == "GET" else next(_DEAD_LETTERS)
