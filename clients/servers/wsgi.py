"""What gunicorn serves: /?ms=500 answers after so long."""

import time
from urllib.parse import parse_qs


def app(environ, start_response):
    query = parse_qs(environ["QUERY_STRING"])
    time.sleep(int(query.get("ms", ["0"])[0]) / 1000)
    start_response("200 OK", [("Content-Length", "5")])
    return [b"done\n"]
