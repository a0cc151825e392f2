"""The management plane of the demo: one process on this host, and its operator API as operators use it.

  Plane(state)              start, stop, running, admin (its command line)
  plane.get/post/put/...    operator REST with a Keystone token, trusting the plane's own CA only
"""
import hashlib
import json
import os
import shutil
import ssl
import urllib.error
import urllib.request
from pathlib import Path

import node
import proc
from common import Fail, run, tail, wait_for

PORT = int(os.environ.get("PF9_DEMO_PORT", "8443"))
ADMIN = "admin@pf9.local"
PROJECT = "service"
ANSWER_SECONDS = 20


class Plane:
    def __init__(self, state):
        self.dir = Path(state) / "plane"
        self.binary = Path(state) / "bin/pf9-plane"
        self.pidfile = Path(state) / "plane.pid"
        self.log = Path(state) / "logs/plane.log"
        self.url = f"https://{node.HOST}:{PORT}"
        # As the machines know it.
        self.host_url = f"https://{node.PLANE_NAME}:{PORT}" if node.PLANE_NAME else self.url
        self.token = self.project = None
        # Additional options of the plane, e.g. lifetimes of seconds.
        self.extra = os.environ.get("PF9_DEMO_PLANE_OPTIONS", "").split()

    # -- the process

    def install(self, binary):
        """A copy of our own, so that a build does not change a running plane; a new one causes a restart."""
        if self.binary.exists() and digest(self.binary) == digest(binary):
            return
        self.stop()
        self.binary.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(binary, f"{self.binary}.new")
        os.replace(f"{self.binary}.new", self.binary)

    def running(self):
        return proc.alive(self.pidfile)

    def start(self):
        if self.running():
            return
        if not self.binary.exists():
            raise Fail("there is no plane to start", "scripts/demo up makes one")
        self.dir.mkdir(parents=True, exist_ok=True)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        proc.start([self.binary, "serve", "--state-dir", self.dir, "--listen", f"{node.HOST}:{PORT}",
                    "--public-url", self.url, "--endpoint", self.host_url.replace("https://", "wss://", 1), *self.extra],
                   self.pidfile, self.log, {"RUST_BACKTRACE": "1"})

        def healthy():
            if not self.running():
                raise Fail("the plane ended", tail(self.log))
            return self.call("GET", "/healthz", token=None) is not None
        wait_for("the management plane to answer", healthy, 30, 0.1, self.log)

    def stop(self):
        proc.end(self.pidfile, patience=20)

    def admin(self, *args, **kwargs):
        words = [self.binary, *args, "--state-dir", self.dir]
        kwargs.setdefault("timeout", 300)
        return run(words, **kwargs).stdout.strip()

    # -- operator REST

    def login(self):
        password = (self.dir / "admin-password").read_text().strip()
        body = {"auth": {"identity": {"methods": ["password"], "password": {"user": {
            "name": ADMIN, "domain": {"id": "default"}, "password": password}}},
            "scope": {"project": {"name": PROJECT, "domain": {"id": "default"}}}}}
        answer, headers = self.exchange("POST", "/keystone/v3/auth/tokens", body, None)
        self.token = headers["X-Subject-Token"]
        self.project = answer["token"]["project"]["id"]

    def exchange(self, method, path, body, token):
        authority = self.dir / "ca.pem"
        if not authority.exists():  # made by the plane's first start
            raise Fail("the plane has no certificate yet", log=str(self.log))
        context = ssl.create_default_context(cafile=str(authority))
        headers = {"Content-Type": "application/json", **({"X-Auth-Token": token} if token else {})}
        request = urllib.request.Request(self.url + path, method=method, headers=headers,
                                         data=None if body is None else json.dumps(body).encode())
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}),
                                             urllib.request.HTTPSHandler(context=context))
        try:
            with opener.open(request, timeout=ANSWER_SECONDS) as answer:
                text = answer.read().decode()
                return parse(text), answer.headers
        except urllib.error.HTTPError as error:
            raise Refused(f"the plane refused {method} {path} ({error.code})",
                          error.read().decode("utf-8", "replace"), str(self.log), error.code) from error
        except (OSError, urllib.error.URLError) as error:
            raise Fail(f"the plane does not answer {method} {path}", str(error), str(self.log)) from error

    def call(self, method, path, body=None, token=""):
        """`token=None` means without one. An expired token is renewed once."""
        if token is None:
            return self.exchange(method, path, body, None)[0]
        if not self.token:
            self.login()
        try:
            return self.exchange(method, path.replace("{project}", self.project), body, self.token)[0]
        except Refused as refused:
            if refused.status != 401:
                raise
        self.login()
        return self.exchange(method, path.replace("{project}", self.project), body, self.token)[0]

    def get(self, path):
        return self.call("GET", path)

    def post(self, path, body):
        return self.call("POST", path, body)

    # -- clusters and hosts

    def cluster(self, name):
        found = [item for item in self.get("/qbert/v4/{project}/clusters") if item["name"] == name]
        return found[0] if found else None

    def nodes(self):
        return self.get("/qbert/v4/{project}/nodes")

    def hosts(self):
        return self.get("/resmgr/v1/hosts")


class Refused(Fail):
    def __init__(self, what, why, log, status):
        super().__init__(what, why, log)
        self.status = status


def parse(text):
    try:
        return json.loads(text) if text.strip() else ""
    except ValueError:
        return text


def digest(path):
    with open(path, "rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()
