"""Receive webhooks in a FastAPI application, with the code of receiver.py next to it.

cd examples/receivers && WEBHOOK_SECRET=… uvicorn --port 9000 receiver_fastapi:app
"""

from __future__ import annotations

import anyio.to_thread
from fastapi import FastAPI, HTTPException, Request
from receiver import MOST_BODY_BYTES, Refused, from_environment

receiver = from_environment()
app = FastAPI()


@app.post("/{path:path}", status_code=204)
async def hook(request: Request) -> None:
    """Receive one delivery."""
    # Read the raw bytes; a pydantic parameter would parse them.
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BODY_BYTES:
            raise HTTPException(413, f"the body exceeds {MOST_BODY_BYTES} bytes")
    try:
        # It writes to disk, so run it outside the event loop.
        await anyio.to_thread.run_sync(receiver.take, request.headers, bytes(body))
    except Refused as refused:
        raise HTTPException(refused.status, str(refused)) from refused
