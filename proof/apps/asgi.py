"""A FastAPI application that knows nothing of how it is stopped."""

import asyncio

from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from fastapi.responses import PlainTextResponse, StreamingResponse

app = FastAPI()


@app.api_route("/quick", methods=["GET", "POST"], response_class=PlainTextResponse)
async def quick():
    return "done\n"


@app.api_route("/slow", methods=["GET", "POST"], response_class=PlainTextResponse)
async def slow(ms: int):
    await asyncio.sleep(ms / 1000)
    return "done\n"


@app.get("/stream")
async def stream(ms: int):
    async def pieces():
        for _ in range(ms // 200):
            yield "piece\n"
            await asyncio.sleep(0.2)
        yield "done\n"

    return StreamingResponse(pieces(), media_type="text/plain")


@app.websocket("/ws")
async def ws(socket: WebSocket):
    await socket.accept()
    try:
        while True:
            await socket.send_text(await socket.receive_text())
    except WebSocketDisconnect:
        pass
