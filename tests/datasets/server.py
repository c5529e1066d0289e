"""A server of a few files that understands ranges, and that can break off, be busy, or forget about ranges."""

from __future__ import annotations

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server:
    """Serve ``files`` on a free port while the block runs.

    Args:
        files: The content of each file, by its path.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.ranges: list[str | None] = []  # One entry per request.
        self.cuts: list[int] = []  # After so many bytes the next answers break off.
        self.codes: list[int] = []  # With these codes the next answers refuse.
        self.parts = True

    def url(self, path: str = "") -> str:
        return f"http://127.0.0.1:{self._http.server_port}/{path}"

    def __enter__(self) -> Server:
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                owner.answer(self)

            def log_message(self, *args: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, args=(0.005,), daemon=True).start()
        return self

    def __exit__(self, *args: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        asked = request.headers["Range"]
        self.ranges.append(asked)
        content = self.files.get(request.path.lstrip("/"))
        if self.codes or content is None:
            request.send_error(self.codes.pop(0) if self.codes else 404)
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and self.parts else 0
        if asked and self.parts and start >= len(content):
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(content)}")
            request.end_headers()
            return
        partial = asked and self.parts
        request.send_response(206 if partial else 200)
        if partial:
            request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        request.send_header("Content-Length", str(len(content) - start))
        request.end_headers()
        rest = content[start:]
        request.wfile.write(rest[: self.cuts.pop(0)] if self.cuts else rest)
