"""A read-only registry: serves the images of a store of lib/testimages.py to nodes that have it as a mirror.

  serving(store, host, port)    answers while the block runs; missing images that were requested are in `.refused`

The distribution protocol's pull half. The name of the mirrored registry comes as `?ns=`, as containerd
sends it: one registry here mirrors many.
"""
import contextlib
import json
import re
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
ASKED = re.compile(r"/v2/(?P<name>[a-z0-9._/-]+)/(?P<kind>manifests|blobs)/(?P<what>[A-Za-z0-9._:-]+)")
DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


class Library:
    """The meaning of a request, independent of HTTP."""

    def __init__(self, store):
        self.blobs = Path(store) / "blobs/sha256"
        self.names = json.loads((Path(store) / "names.json").read_text())

    def find(self, url):
        """(file, its digest, its type), or None."""
        parts = urlsplit(url)
        asked = ASKED.fullmatch(parts.path)
        if not asked:
            return None
        digest = asked["what"]
        if asked["kind"] == "manifests" and ":" not in digest:
            registry = parse_qs(parts.query).get("ns", [""])[0]
            digest = self.names.get(f"{registry}/{asked['name']}:{digest}", "")
        hexadecimal = DIGEST.fullmatch(digest)
        path = self.blobs / hexadecimal[1] if hexadecimal else None
        if not path or not path.is_file():
            return None
        return path, digest, MANIFEST if asked["kind"] == "manifests" else "application/octet-stream"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_HEAD(self):
        self.answer(False)

    def do_GET(self):
        self.answer(True)

    def answer(self, body):
        if urlsplit(self.path).path.rstrip("/") == "/v2":
            return self.head(200, 2, "application/json") or (self.wfile.write(b"{}") if body else None)
        found = self.server.library.find(self.path)
        if not found:
            self.server.refused.append(self.path)
            return self.head(404, 0, "application/json")
        path, digest, kind = found
        self.head(200, path.stat().st_size, kind, digest)
        if body:
            with open(path, "rb") as source:
                shutil.copyfileobj(source, self.wfile, 1 << 20)
        return None

    def head(self, code, size, kind, digest=""):
        self.send_response(code)
        self.send_header("Content-Length", str(size))
        self.send_header("Content-Type", kind)
        if digest:
            self.send_header("Docker-Content-Digest", digest)
        self.end_headers()

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address, library):
        super().__init__(address, Handler)
        self.library, self.refused = library, []

    def handle_error(self, *_):
        """A node that disconnected while it pulled."""


@contextlib.contextmanager
def serving(store, host, port=0):
    server = Server((host, port), Library(store))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
