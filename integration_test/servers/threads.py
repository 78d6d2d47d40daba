"""A server of Python's standard library, with a thread per connection. It knows
nothing of SIGTERM, and dies of it.

    /?ms=1500                  answers after so long
    /?kb=3000                  answers at such length
    /stream?ms=3000&every=300  answers in pieces
"""

import os
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        url = urlsplit(self.path)
        query = {k: int(v[0]) / 1000 for k, v in parse_qs(url.query).items()}
        body = b"done\n" + bytes(int(query.get("kb", 0) * 1000) << 10)
        if url.path == "/stream":
            return self.stream(query)
        time.sleep(query.get("ms", 0))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def stream(self, query):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        end = time.monotonic() + query["ms"]
        while time.monotonic() < end:
            self.wfile.write(b"6\r\npiece\n\r\n")
            time.sleep(query["every"])
        self.wfile.write(b"5\r\ndone\n\r\n0\r\n\r\n")

    def log_message(self, *args):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 128


Server((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
