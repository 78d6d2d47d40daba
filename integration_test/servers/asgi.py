"""What uvicorn serves: WebSockets that echo, and requests.

    /?ms=500     answers after so long
    /block?ms=500  the same, and keeps the worker from doing anything else
"""

import asyncio
import time
from urllib.parse import parse_qs


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["type"] == "websocket":
        return await echo(receive, send)
    query = parse_qs(scope["query_string"].decode())
    seconds = int(query.get("ms", ["0"])[0]) / 1000
    if scope["path"] == "/block":
        time.sleep(seconds)
    else:
        await asyncio.sleep(seconds)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"done\n"})


async def echo(receive, send):
    while True:
        message = await receive()
        if message["type"] == "websocket.connect":
            await send({"type": "websocket.accept"})
        elif message["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})
        else:
            return
