"""A WSGI application, as gunicorn serves them."""

import time
from urllib.parse import parse_qs


def app(environ, start_response):
    query = parse_qs(environ["QUERY_STRING"])
    ms = int(query.get("ms", ["0"])[0])
    environ["wsgi.input"].read()
    if environ["PATH_INFO"] == "/stream":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return pieces(ms)
    time.sleep(ms / 1000)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
    return [b"done\n"]


def pieces(ms):
    for _ in range(ms // 200):
        yield b"piece\n"
        time.sleep(0.2)
    yield b"done\n"
