"""TLS and authentication, on a real server that insists on both."""

import datetime
import ipaddress

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pymilvus import MilvusClient

import knnstore
from knnstore.errors import StoreAuthenticationError, StoreConnectionError
from knnstore.testing.servers import MilvusProgram

pytestmark = pytest.mark.server

SPEC = knnstore.StoreSpec(4, "dot")


def certificate(name, issuer=None, *, names=()):
    """A key and a certificate, signed by ``issuer`` or by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[1].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(list(names)), critical=False)
    return key, builder.sign(issuer[0] if issuer else key, hashes.SHA256())


def write(folder, name, pair):
    key, cert = pair
    (folder / f"{name}.pem").write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    text = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    (folder / f"{name}.key").write_bytes(text)


class SecuredMilvus(MilvusProgram):
    """With mutual TLS and users."""

    def _command(self):
        command, added = super()._command()
        return command, added | {
            "COMMON_SECURITY_AUTHORIZATIONENABLED": "true",
            "COMMON_SECURITY_TLSMODE": "2",
            "TLS_SERVERPEMPATH": str(self.folder / "server.pem"),
            "TLS_SERVERKEYPATH": str(self.folder / "server.key"),
            "TLS_CAPEMPATH": str(self.folder / "ca.pem"),
        }


@pytest.fixture(scope="module")
def secured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("secured")
    authority = certificate("our own authority")
    names = [x509.DNSName("milvus.example"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    for name, pair in (
        ("ca", authority),
        ("server", certificate("milvus.example", authority, names=names)),
        ("client", certificate("client", authority)),
        ("stranger", certificate("another authority")),
    ):
        write(folder, name, pair)
    with SecuredMilvus(folder) as program:
        yield program


@pytest.fixture
def url(secured, monkeypatch):
    monkeypatch.setenv("MILVUS_PASSWORD", "Milvus")

    def make(user="root", ca="ca", client="client", path="default/secured", **options):
        files = {"ca": f"{secured.folder}/{ca}.pem"} if ca else {}
        if client:
            files |= {"cert": f"{secured.folder}/{client}.pem", "key": f"{secured.folder}/{client}.key"}
        options = {"timeout": 5, "retries": 1, **files, **options}
        if user:
            options.setdefault("password_env", "MILVUS_PASSWORD")
        query = "&".join(f"{name}={value}" for name, value in options.items())
        return f"milvus://{user + '@' if user else ''}127.0.0.1:{secured.port}/{path}?{query}"

    return make


def test_tls_with_both_certificates_and_a_password(url):
    with knnstore.open_store(url(), SPEC) as store:
        store.upsert(["a"], np.ones((1, 4), np.float32))
        assert store.search(np.ones((1, 4), np.float32), 1).ids.tolist() == [["a"]]
    with knnstore.open_store(url(server_name="milvus.example")) as store:
        assert store.count() == 1
    assert len(knnstore.collections(url(path="default"))) == 1


@pytest.mark.parametrize(
    "wrong", [{"ca": "stranger"}, {"ca": ""}, {"client": ""}, {"client": "stranger"}, {"server_name": "other.example"}]
)
def test_whom_one_does_not_trust_is_not_talked_to(url, wrong):
    options = {"ca": "ca", "client": "client", **wrong}
    if not options["ca"]:
        options |= {"client": "", "tls": 0}  # no TLS at all against a server that wants it
    with pytest.raises((StoreConnectionError, knnstore.errors.StoreTimeoutError), match=r"127\.0\.0\.1"):
        knnstore.open_store(url(**options), SPEC)


def test_a_wrong_password_is_told_without_it(url, monkeypatch):
    monkeypatch.setenv("MILVUS_PASSWORD", "geheim-aber-falsch")
    with pytest.raises(StoreAuthenticationError, match="access denied") as caught:
        knnstore.open_store(url(), SPEC)
    assert "geheim" not in str(caught.value) and "rights" in str(caught.value)
    with pytest.raises(StoreAuthenticationError, match="access denied"):
        knnstore.open_store(url(user=""), SPEC)


@pytest.fixture
def admin(secured):
    """The official client, with every right."""
    folder = secured.folder
    client = MilvusClient(
        f"https://127.0.0.1:{secured.port}", token="root:Milvus", secure=True, ca_pem_path=f"{folder}/ca.pem",
        client_pem_path=f"{folder}/client.pem", client_key_path=f"{folder}/client.key",
    )  # fmt: skip
    yield client
    client.close()


def test_a_user_who_may_only_read_is_told_so(url, admin, monkeypatch):
    """And one who may write needs the right to alter collections too, or others would not be told."""
    reading = ["IndexDetail", "Load", "GetLoadState", "Search", "Query", "GetStatistics"]
    for name, rights in (("guest", reading), ("author", [*reading, "Insert", "Upsert", "Delete"])):
        admin.create_user(name, f"{name}pass")
        admin.create_role(name)
        admin.grant_role(name, name)
        for right in rights:
            admin.grant_privilege(name, "Collection", right, "*")
        for right in ("DescribeCollection", "ShowCollections"):
            admin.grant_privilege(name, "Global", right, "*")
    with knnstore.open_store(url(path="default/rights"), SPEC) as store:
        store.upsert(["a"], np.ones((1, 4), np.float32))
    monkeypatch.setenv("MILVUS_PASSWORD", "authorpass")
    with knnstore.open_store(url("author", path="default/rights")) as store:
        with pytest.raises(StoreAuthenticationError, match=r"CreateCollection on 2\.3"):
            store.delete(["a"])
        assert store.count() == 1, "written by who cannot tell others"
        admin.grant_privilege("author", "Global", "CreateCollection", "*")
        before = store.revision()
        assert store.delete(["a"]) == 1 and store.revision() != before
        store.upsert(["a"], np.ones((1, 4), np.float32))
    monkeypatch.setenv("MILVUS_PASSWORD", "guestpass")
    with knnstore.open_store(url("guest", path="default/rights")) as store:
        assert store.count() == 1 and store.revision() != before
        for write in (lambda: store.upsert(["b"], np.ones((1, 4), np.float32)), lambda: store.delete(["b"])):
            with pytest.raises(StoreAuthenticationError, match="expected a key or a user that may write"):
                write()
    with pytest.raises(StoreAuthenticationError, match="expected a key or a user that may write"):
        knnstore.open_store(url("guest", path="default/not_there"), SPEC)


def test_a_token_and_a_user_with_few_rights(url, admin, monkeypatch):
    admin.create_user("reader", "readerpass")
    monkeypatch.setenv("MILVUS_TOKEN", "root:Milvus")
    with knnstore.open_store(url(user="", token_env="MILVUS_TOKEN", path="default/other"), SPEC) as store:
        assert store.count() == 0
    monkeypatch.setenv("MILVUS_PASSWORD", "readerpass")
    with pytest.raises(StoreAuthenticationError, match="access denied"):
        knnstore.open_store(url(user="reader", path="default/other"), SPEC)
