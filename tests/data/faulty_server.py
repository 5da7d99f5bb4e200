"""A web server on this machine that fails as it is told."""

import hashlib
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PAGE = b"<!DOCTYPE html>\n<html><title>Log in</title></html>" + b" " * 600


class FaultyServer:
    """Serves `files` (path -> bytes, or a function of the handler); each request uses up the next of `faults`.

    Faults: a share in (0, 1): the connection drops after that share of what was asked for; `page`: a login page;
    `nothing`: an empty file; `longer` and `shorter`: a Content-Length half again too long, or half too short; a number
    from 400: that status. `ranges = False` ignores ranges; `etags = False` sends no ETag; `if_range = False` ignores
    If-Range; `headers` are sent with every file; `delay` is the pause after every 64 KiB, seconds.
    """

    def __init__(self, files=None, faults=()):
        self.files, self.faults = dict(files or {}), list(faults)
        self.ranges = self.etags = self.if_range = True
        self.delay, self.requests, self.headers = 0.0, [], {}

    @contextmanager
    def running(self):
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                owner.answer(self)

            do_POST = do_GET

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        self.address = f"http://127.0.0.1:{server.server_port}"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()

    def answer(self, handler):
        length = int(handler.headers.get("Content-Length") or 0)
        handler.form = handler.rfile.read(length).decode()
        self.requests.append((handler.path, handler.headers.get("Range")))
        fault = self.faults.pop(0) if self.faults else None
        content = self.files.get(handler.path.partition("?")[0])
        if callable(content):
            content = content(handler)
        if content is None or (isinstance(fault, int) and fault >= 400):
            return self.send(handler, fault or 404, PAGE, {"Retry-After": "0", "Content-Type": "text/html"})
        if fault in ("page", "nothing"):
            return self.send(handler, 200, PAGE if fault == "page" else b"", {"Content-Type": "text/html"})
        tag = '"' + hashlib.sha256(content).hexdigest()[:12] + '"'
        headers, status, total = {"ETag": tag} if self.etags else {}, 200, len(content)
        headers |= self.headers
        asked = handler.headers.get("Range")
        current = not self.if_range or handler.headers.get("If-Range", tag) == tag
        if asked and self.ranges and current:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= total:
                return self.send(handler, 416, b"", {"Content-Range": f"bytes */{total}"})
            headers["Content-Range"], status = f"bytes {start}-{total - 1}/{total}", 206
            content = content[start:]
        sent = int(len(content) * fault) if isinstance(fault, float) else len(content)
        told = {"longer": len(content) * 3 // 2, "shorter": len(content) // 2}.get(fault, len(content))
        self.send(handler, status, content[: min(sent, told)], headers, told)

    def send(self, handler, status, body, headers, length=None):
        try:
            handler.send_response(status)
            for name, value in headers.items():
                handler.send_header(name, value)
            handler.send_header("Content-Length", str(len(body) if length is None else length))
            handler.end_headers()
            for start in range(0, len(body), 1 << 16):
                handler.wfile.write(body[start : start + (1 << 16)])
                if self.delay:
                    time.sleep(self.delay)
            handler.close_connection = True
        except ConnectionError:
            pass
