"""Real components: Node with npm's ws and express, nginx, certificates.

What is missing fails the test in CI, and skips it elsewhere (`program`). Each process that a
fixture starts is ended by it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.server.conftest import Served

HERE = Path(__file__).parent
NOBODY = 65534
PATIENCE = 60.0  # seconds; nothing takes that long, but on a very busy machine


def program(name: str, remedy: str) -> str:
    """Return the path of a program; without it there is no test."""
    # Debian keeps servers where only root looks for them.
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"))
    if found := shutil.which(name, path=path):
        return found
    text = f"{name} is not on this machine, and tests/interop needs it: {remedy}"
    if os.environ.get("CI"):
        pytest.fail(text, pytrace=False)
    pytest.skip(text)


# -- JavaScript --------------------------------------------------------------------------------


class JavaScript:
    """The scripts of this folder, beside the packages that they import."""

    def __init__(self, node: str, folder: Path) -> None:
        self._node, self._folder = node, folder

    def call(self, url: str, calls: list[dict[str, Any]], **environ: str) -> list[Any]:
        """Let client.mjs make calls; return its answers."""
        done = subprocess.run(
            [self._node, "client.mjs", url],
            cwd=self._folder,
            input=json.dumps(calls),
            env={**os.environ, **environ},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    @contextlib.contextmanager
    def serving(self) -> Iterator[int]:
        """Run server.mjs; yield its port."""
        with subprocess.Popen(
            [self._node, "server.mjs"],
            cwd=self._folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                port = process.stdout.readline()
                assert port, "server.mjs said no port; what it did say is on stderr"
                yield int(port)
            finally:
                process.kill()


@pytest.fixture(scope="session")
def javascript(tmp_path_factory) -> JavaScript:
    """Install the packages, once for all workers of pytest-xdist."""
    node = program("node", "install Node.js 20 or later")
    npm = program("npm", "install it, it comes with Node.js")
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # the workers have it in common
    folder = base / "interop"
    with (base / "interop.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            folder.mkdir(exist_ok=True)
            for name in ("package.json", "server.mjs", "client.mjs"):
                shutil.copy(HERE / name, folder)
            done = subprocess.run(
                [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts"],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=100,
                check=False,
            )
            if done.returncode:
                pytest.fail(f"npm could not install package.json: {done.stderr}", pytrace=False)
            (folder / "complete").touch()
    return JavaScript(node, folder)


@pytest.fixture(scope="module")
def js_port(javascript) -> Iterator[int]:
    """Run the JavaScript server for a module."""
    with javascript.serving() as port:
        yield port


# -- our server --------------------------------------------------------------------------------


class Drained(Served):
    """A server whose log is read: it writes a line for each call, and would wait for a reader."""

    def __init__(self, *options: str, token: str | None) -> None:
        super().__init__(*options, token=token)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stderr:
            self.said += line

    def end(self) -> int:
        self.process.terminate()
        try:
            return self.process.wait(PATIENCE)
        finally:
            self.process.kill()
            self._reader.join()
            self.process.stderr.close()
            self.process.wait()


@contextlib.contextmanager
def served(*arguments: str, token: str | None = None) -> Iterator[Drained]:
    """Run `hybrid-compute serve`."""
    server = Drained(*arguments, *(() if token else ("--no-token",)), token=token)
    try:
        yield server
    finally:
        server.end()


@pytest.fixture(scope="module")
def ours() -> Iterator[Drained]:
    """Run our server, open to everybody here, for a module."""
    with served("tests.interop.work:TASKS") as server:
        yield server


# -- TLS and nginx -----------------------------------------------------------------------------


class Authority:
    """A certificate authority, and what it signed for this machine."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        own = authority.issue_cert("localhost", "127.0.0.1")
        self.ca, self.cert, self.key = (folder / f"{name}.pem" for name in ("ca", "cert", "key"))
        authority.cert_pem.write_to_path(self.ca)
        own.private_key_pem.write_to_path(self.key)
        for index, part in enumerate(own.cert_chain_pems):
            part.write_to_path(self.cert, append=index > 0)


@pytest.fixture(scope="session")
def authority(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


NGINX = """
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log {folder}/errors;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
    server {{
        listen 127.0.0.1:{plain};
        listen 127.0.0.1:{tls} ssl;
        ssl_certificate {folder}/cert.pem;
        ssl_certificate_key {folder}/key.pem;
        client_max_body_size 4m;
        location / {{
            proxy_pass http://127.0.0.1:{upstream};
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
        }}
    }}
}}
"""


class Nginx:
    """Where nginx listens, without TLS and with it."""

    def __init__(self, plain: int, tls: int) -> None:
        self.plain, self.tls = plain, tls


@pytest.fixture(scope="session")
def nginx(authority) -> Callable[[int], contextlib.AbstractContextManager[Nginx]]:
    """Return what runs nginx before a port."""
    path = program("nginx", "apt-get install nginx")

    @contextlib.contextmanager
    def run(upstream: int) -> Iterator[Nginx]:
        # Not a folder of pytest's: only who runs the tests may look into those.
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nginx-")))
            shutil.copy(authority.cert, folder / "cert.pem")
            shutil.copy(authority.key, folder / "key.pem")
            # The listening sockets are ours, as in an upgrade of nginx: no port can be taken by
            # another meanwhile, and who connects before nginx is ready waits.
            listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
            plain, tls = (each.getsockname()[1] for each in listeners)
            (folder / "nginx.conf").write_text(
                NGINX.format(folder=folder, plain=plain, tls=tls, upstream=upstream)
            )
            rights: dict[str, Any] = {}
            if os.geteuid() == 0:
                rights = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
                for each in (folder, *folder.iterdir()):
                    os.chown(each, NOBODY, NOBODY)
            descriptors = [each.fileno() for each in listeners]
            process = stack.enter_context(
                subprocess.Popen(
                    [path, "-p", folder, "-c", folder / "nginx.conf", "-e", folder / "errors"],
                    env={"NGINX": "".join(f"{each};" for each in descriptors)},
                    pass_fds=descriptors,
                    stdin=subprocess.DEVNULL,
                    **rights,
                )
            )
            try:
                for each in listeners:  # if nginx ends, connections are refused and do not wait
                    each.close()
                yield Nginx(plain, tls)
            except BaseException:
                print((folder / "errors").read_text())
                raise
            finally:
                process.terminate()

    return run
