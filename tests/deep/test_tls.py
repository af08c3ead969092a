"""TLS on a real server, with a certificate authority of our own: who it is, is proved or refused."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cockpit.servers import Running
from pg import account
from tests.versions import FAST, ROOT, has_programs, make_server

pytestmark = [
    pytest.mark.deep,
    pytest.mark.skipif(not has_programs(15), reason="the embedded PostgreSQL knows no TLS: make system-deps"),
]


def name(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def certify(subject, issuer, public, key, *extensions):
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(name(issuer), name(subject), public, x509.random_serial_number())
    made = made.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    for one in extensions:
        made = made.add_extension(one, critical=False)
    return made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def make_authority(path):
    """Write a certificate authority's certificate; return its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    basic = x509.BasicConstraints(ca=True, path_length=None)
    path.write_bytes(certify(path.stem, path.stem, key.public_key(), key, basic))
    return key


@pytest.fixture(scope="module")
def world(make_home):
    """A server for 127.0.0.1, certified by `ours`; `theirs` certifies nobody here."""
    home = make_home()
    authority = make_authority(home / "ours.crt")
    make_authority(home / "theirs.crt")
    key = ec.generate_private_key(ec.SECP256R1())
    addresses = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    certificate = certify("server", "ours", key.public_key(), authority, addresses)
    encoded = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for file, content in (("server.crt", certificate), ("server.key", encoded)):
        (home / file).write_bytes(content)
        (home / file).chmod(0o600)
        if user := account.server_user():
            entry = account.ensure_user(user)
            os.chown(home / file, entry.pw_uid, entry.pw_gid)
    given = {"ssl": "on", "ssl_cert_file": f"{home}/server.crt", "ssl_key_file": f"{home}/server.key"}
    with Running(make_server(15, home, settings={**FAST, **given})) as running:
        yield home, running.server.url()


def url_of(world, mode, authority, host="127.0.0.1"):
    home, url = world
    return f"{url.replace('@127.0.0.1', f'@{host}')}?sslmode={mode}&sslrootcert={home}/{authority}.crt"


def check(world, url, **environ):
    """Run `check` against the database, as each process of ours would connect."""
    return subprocess.run(
        [sys.executable, "manage.py", "check", "--database", "default"],
        cwd=ROOT,
        env={
            **os.environ,
            "DATABASE_URL": url,
            "MISTERSMITH_HOME": str(world[0]),
            "MISTERSMITH_PROCESS": "web",
        }
        | environ,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_server_that_proves_who_it_is_is_used_encrypted(world):
    with psycopg.connect(url_of(world, "verify-full", "ours")) as session:
        assert session.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchone() == (
            True,
        )
    assert check(world, url_of(world, "verify-full", "ours")).returncode == 0


def test_another_authority_is_refused_before_a_password_is_sent(world):
    done = check(world, url_of(world, "verify-full", "theirs"))
    assert done.returncode != 0
    assert "certificate verify failed" in done.stderr


def test_another_name_than_the_certificate_s_is_refused(world):
    done = check(world, url_of(world, "verify-full", "ours", "localhost"))
    assert done.returncode != 0
    assert "does not match host name" in done.stderr


@pytest.mark.parametrize(
    ("mode", "warned"), [("require", True), ("verify-full", False), ("verify-ca", False)]
)
def test_deployment_is_warned_of_a_server_beyond_this_machine_that_is_not_verified(world, mode, warned):
    environ = {"PRODUCTION": "1", "SECRET_KEY": "x" * 60, "ALLOWED_HOSTS": "smith.example.org"}
    url = url_of(world, mode, "ours", "db.example.org")
    done = subprocess.run(
        [sys.executable, "manage.py", "check", "--deploy"],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": url, "MISTERSMITH_HOME": str(world[0])} | environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ("pg.W004" in done.stdout + done.stderr) is warned
