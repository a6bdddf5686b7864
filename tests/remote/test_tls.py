"""The command over TLS: what it proves, and what it asks its callers to prove."""

from __future__ import annotations

import pytest
import trustme

from hybrid_compute import RemoteExecutor, remote_task
from hybrid_compute.errors import RemoteConnectionLost, RemoteUnavailable, TLSError
from tests.server.conftest import SECRET, Served

pytestmark = pytest.mark.timeout(120)

WAIT = 60  # seconds that nothing takes which works
echo = remote_task("echo")


@pytest.fixture(scope="module")
def papers(tmp_path_factory):
    """Files: the authority's certificate, the server's chain and key, a client's, a stranger's."""
    folder = tmp_path_factory.mktemp("tls")
    authority, other = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(folder / "authority")
    server = authority.issue_cert("localhost", "127.0.0.1")
    server.cert_chain_pems[0].write_to_path(folder / "server")
    server.private_key_pem.write_to_path(folder / "key")
    for name, issuer in (("client", authority), ("stranger", other)):
        issued = issuer.issue_cert("me@example.org")
        issued.private_key_and_cert_chain_pem.write_to_path(folder / name)
    return folder


@pytest.fixture(scope="module")
def server(papers):
    served = Served(
        *("tests.server.work:TASKS", "--tls-cert", str(papers / "server")),
        *("--tls-key", str(papers / "key"), "--tls-client-ca", str(papers / "authority")),
    )
    yield served
    served.end()


def client(server, scheme, **options):
    path = "ws" if scheme == "wss" else "compute"
    url = f"{scheme}://localhost:{server.port}/{path}"
    return RemoteExecutor(url, token=SECRET, tasks=["echo"], **options)


both = pytest.mark.parametrize("scheme", ["https", "wss"])


@both
def test_both_ends_prove_who_they_are(server, papers, scheme):
    with client(server, scheme, tls_ca=papers / "authority", tls_cert=str(papers / "client")) as ex:
        assert list(ex.map(echo, ["x" * 100_000] * 5)) == ["x" * 100_000] * 5


@both
@pytest.mark.parametrize("cert", [None, "stranger"])
def test_a_caller_that_cannot_prove_who_he_is_is_not_served(server, papers, scheme, cert):
    mine = None if cert is None else str(papers / cert)
    with client(server, scheme, tls_ca=papers / "authority", tls_cert=mine) as ex:
        # In TLS 1.3 the server judges when the client has sent its call already.
        error = ex.submit(echo, 1).exception(WAIT)
        assert isinstance(error, (TLSError, RemoteUnavailable, RemoteConnectionLost))


@both
def test_a_server_that_is_not_trusted_gets_nothing(server, scheme, papers):
    with client(server, scheme, tls_cert=str(papers / "client")) as ex:
        with pytest.raises(TLSError):
            ex.submit(echo, 1).result(WAIT)


@both
def test_a_server_without_tls_gets_nothing(scheme):
    plain = Served("tests.server.work:TASKS")
    try:
        with client(plain, scheme) as ex:
            with pytest.raises(TLSError):
                ex.submit(echo, 1).result(WAIT)
    finally:
        plain.end()
