"""The same as receiver.py, which stands beside it, in an application of FastAPI.

cd examples/receivers && WEBHOOK_SECRET=… hypercorn --bind 127.0.0.1:9000 receiver_fastapi:app
"""

from __future__ import annotations

import anyio.to_thread
from fastapi import FastAPI, HTTPException, Request
from receiver import MOST_BODY_BYTES, Refused, from_environment

receiver = from_environment()
app = FastAPI()


@app.post("/{path:path}", status_code=204)
async def hook(request: Request) -> None:
    """Take one delivery."""
    # The bytes as they came: a parameter of a pydantic model would have parsed them.
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BODY_BYTES:
            raise HTTPException(413, f"a body may have {MOST_BODY_BYTES} bytes")
    try:
        # It waits for the disk, so not on the event loop.
        await anyio.to_thread.run_sync(receiver.take, request.headers, bytes(body))
    except Refused as refused:
        raise HTTPException(refused.status, str(refused)) from refused
