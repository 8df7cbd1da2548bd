"""``snakemq keygen``: what it makes can be used, and what it can't make leaves nothing behind."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import ssl
import stat
import sys
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from snakemq import Peer, SSLConfig
from snakemq.authentication import CertificateName
from snakemq.cli import main
from tests.helpers import DEADLINE, wait_until
from tests.integration.command_line import Background, run

needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="the program openssl is not installed"
)
posix_only = pytest.mark.skipif(os.name == "nt", reason="modes and signals as on POSIX")

Capture = pytest.CaptureFixture[str]


def make(*args: object) -> int:
    return main(["keygen", *map(str, args)])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("authority")
    assert make("ca", "--dir", directory) == 0
    return directory


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def config(directory: Path, name: str, authority: Path) -> SSLConfig:
    return SSLConfig(
        directory / f"{name}.key",
        directory / f"{name}.crt",
        ca_certs=authority / "ca.crt",
    )


def certificate(cert: Path, key: Path, ca: Path, host: str) -> dict[str, object]:
    """What a strict client sees of a certificate when it dials that host.

    :raises ssl.SSLError: the two sides do not accept each other
    """
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ca)
    client = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=ca)
    server.verify_mode = ssl.CERT_REQUIRED
    for context in (server, client):
        # The default of Python 3.13.
        context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
        context.load_cert_chain(cert, key)
    to_near, to_far = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = client.wrap_bio(to_near, to_far, server_hostname=host)
    far = server.wrap_bio(to_far, to_near, server_side=True)
    for side in (near, far) * 3:
        with contextlib.suppress(ssl.SSLWantReadError):
            side.do_handshake()
    assert far.getpeercert()
    return dict(near.getpeercert() or {})


# What is made.


@needs_openssl
def test_two_peers_that_check_hosts_and_identifiers(authority: Path, here: Path) -> None:
    for name in ("bob", "alice"):
        assert make("peer", name, "--ca", authority) == 0
    policy = CertificateName()
    with (
        Peer("bob", listen=0, tls=config(here, "bob", authority), authentication=policy) as bob,
        Peer(
            "alice",
            connect=bob.addresses[0],
            tls=config(here, "alice", authority),
            authentication=policy,
        ) as alice,
    ):
        alice.send("bob", "in private")
        received = bob.receive(DEADLINE)
        assert received is not None
        assert received.text == "in private"


@needs_openssl
def test_the_defaults_in_one_directory(here: Path, capsys: Capture) -> None:
    assert make("ca") == 0
    assert capsys.readouterr().out.splitlines() == [
        "ca.key: private key of the authority; keep it secret, no peer needs it",
        "ca.crt: its certificate, for all peers (--tls-ca)",
    ]
    assert make("peer", "bob") == 0
    assert capsys.readouterr().out.splitlines() == [
        "bob.key: private key, for bob and nobody else (--tls-key)",
        "bob.crt: certificate for bob at localhost, 127.0.0.1, ::1 (--tls-cert)",
    ]
    assert names(here) == ["bob.crt", "bob.key", "ca.crt", "ca.key"]
    cert = certificate(here / "bob.crt", here / "bob.key", here / "ca.crt", "127.0.0.1")
    assert cert["subject"] == ((("commonName", "bob"),),)
    assert cert["issuer"] == ((("commonName", "snakemq peers"),),)
    assert cert["subjectAltName"] == (
        ("URI", "snakemq:bob"),
        ("DNS", "localhost"),
        ("IP Address", "127.0.0.1"),
        ("IP Address", "0:0:0:0:0:0:0:1"),
    )


@needs_openssl
def test_hosts_are_in_the_certificate_and_no_others(authority: Path, here: Path) -> None:
    hosts = [
        "bob.example",
        "*.bob.example",
        "münchen.example",
        "10.0.0.1",
        "2001:db8::1",
        "b.example.",
    ]
    arguments = [word for host in hosts for word in ("--host", host)]
    assert make("peer", "bob", "--ca", authority, *arguments) == 0

    def seen_at(host: str) -> dict[str, object]:
        return certificate(here / "bob.crt", here / "bob.key", authority / "ca.crt", host)

    assert seen_at("bob.example")["subjectAltName"] == (
        ("URI", "snakemq:bob"),
        ("DNS", "bob.example"),
        ("DNS", "*.bob.example"),
        ("DNS", "xn--mnchen-3ya.example"),
        ("IP Address", "10.0.0.1"),
        ("IP Address", "2001:DB8:0:0:0:0:0:1"),
        ("DNS", "b.example"),
    )
    for host in ("x.bob.example", "10.0.0.1", "2001:db8::1"):
        assert seen_at(host)
    for host in ("localhost", "127.0.0.1", "bob"):
        with pytest.raises(ssl.SSLCertVerificationError, match=r"[Hh]ostname mismatch|IP address"):
            seen_at(host)


@needs_openssl
@pytest.mark.parametrize(
    ("ident", "uri", "file"),
    [
        ("a.b_c-d@e+f", "a.b_c-d%40e%2Bf", "a.b_c-d@e+f"),
        ("../../etc/passwd", "..%2F..%2Fetc%2Fpasswd", "%2E.%2F..%2Fetc%2Fpasswd"),
        (".", ".", "%2E"),
        ("-x", "-x", "%2Dx"),
        ("nul", "nul", "%6Eul"),
        ("Com1.x", "Com1.x", "%43om1.x"),
        ("console", "console", "console"),
        ("c:\\bob", "c%3A%5Cbob", "c%3A%5Cbob"),
        ("žluťoučký", "%C5%BElu%C5%A5ou%C4%8Dk%C3%BD", "žluťoučký"),
        ("""$HOME "#;'`\\n$(id) ,+/CN=eve """, None, None),
        ("x" * 50, "x" * 50, "x" * 50),
    ],
)
def test_identifiers_that_are_no_file_names(
    ident: str, uri: str | None, file: str | None, authority: Path, here: Path
) -> None:
    inside = here / "inside"
    inside.mkdir()
    assert make("peer", "--ca", authority, "--dir", "inside", "--", ident) == 0
    assert names(here) == ["inside"]
    cert_name, key_name = names(inside)
    assert key_name.removesuffix(".key") == cert_name.removesuffix(".crt")
    cert = certificate(inside / cert_name, inside / key_name, authority / "ca.crt", "localhost")
    assert cert["subject"] == ((("commonName", ident),),)
    if uri is not None:
        assert ("URI", f"snakemq:{uri}") in cert["subjectAltName"]  # type: ignore[operator]
        assert file == key_name.removesuffix(".key")


@needs_openssl
def test_names_and_days(here: Path) -> None:
    (here / "pki").mkdir()
    assert make("ca", "--dir", "pki", "--name", 'us & "them"', "--days", "30") == 0
    assert make("peer", "bob", "--ca", here / "pki" / "ca", "--days", "7") == 0
    cert = certificate(here / "bob.crt", here / "bob.key", here / "pki" / "ca.crt", "localhost")
    assert cert["issuer"] == ((("commonName", 'us & "them"'),),)
    end = datetime.fromtimestamp(ssl.cert_time_to_seconds(str(cert["notAfter"])), timezone.utc)
    left = end - datetime.now(timezone.utc)
    assert timedelta(days=6, hours=23) < left <= timedelta(days=7)


@needs_openssl
def test_no_two_certificates_have_the_same_number(authority: Path, here: Path) -> None:
    numbers = set()
    for _ in range(3):
        assert make("peer", "bob", "--ca", authority, "--force") == 0
        cert = certificate(here / "bob.crt", here / "bob.key", authority / "ca.crt", "localhost")
        numbers.add(cert["serialNumber"])
    assert len(numbers) == 3
    assert all(re.fullmatch("[4-7][0-9A-F]{39}", str(number)) for number in numbers)


@needs_openssl
@posix_only
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_the_modes_are_right_with_any_umask(umask: int, here: Path) -> None:
    previous = os.umask(umask)
    try:
        assert make("ca") == 0
        assert make("peer", "bob") == 0
        assert make("secret", "secret") == 0
    finally:
        os.umask(previous)
    for secret in ("ca.key", "bob.key", "secret"):
        assert mode(here / secret) == 0o600
    for public in ("ca.crt", "bob.crt"):
        assert mode(here / public) == 0o644 & ~umask


def test_a_secret_in_a_file(here: Path, capsys: Capture) -> None:
    assert make("secret", "s.txt") == 0
    assert capsys.readouterr().out.startswith("s.txt: shared secret")
    text = (here / "s.txt").read_text("ascii")
    assert re.fullmatch(r"[\w-]{43}\n", text)
    assert make("secret", "other.txt") == 0
    assert (here / "other.txt").read_text("ascii") != text
    assert text.strip() not in capsys.readouterr().out
    assert names(here) == ["other.txt", "s.txt"]


def test_a_secret_on_standard_output(here: Path, capsys: Capture) -> None:
    assert make("secret") == 0
    assert re.fullmatch(r"[\w-]{43}\n", capsys.readouterr().out)
    assert names(here) == []


@needs_openssl
def test_the_fingerprint_of_a_certificate(authority: Path, here: Path, capsys: Capture) -> None:
    path = authority / "ca.crt"
    pem = path.read_text("ascii")
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
    (here / "chain.pem").write_text(f"Příjemce: bob\n{pem}{pem[:-40]}", "iso8859-2")
    capsys.readouterr()
    for file in (path, here / "chain.pem"):
        assert make("fingerprint", file) == 0
        printed = capsys.readouterr().out.strip()
        assert re.fullmatch("([0-9a-f]{2}:){31}[0-9a-f]{2}", printed)
        assert printed.replace(":", "") == digest


# What is there already.


@needs_openssl
def test_nothing_is_replaced_unasked(here: Path, capsys: Capture) -> None:
    for args, files in (
        (["ca"], ["ca.key", "ca.crt"]),
        (["peer", "bob"], ["bob.key", "bob.crt"]),
        (["secret", "secret"], ["secret"]),
    ):
        assert make(*args) == 0
        before = names(here)
        for existing in files:
            contents = {file: (here / file).read_bytes() for file in files}
            for other in files:
                if other != existing:
                    (here / other).unlink()
            capsys.readouterr()
            assert make(*args) == 1
            assert capsys.readouterr().err == (
                f"snakemq keygen: {existing} exists already; --force replaces it\n"
            )
            assert (here / existing).read_bytes() == contents[existing]
            for other in files:
                (here / other).write_bytes(contents[other])
        assert make(*args, "--force") == 0
        assert all((here / file).read_bytes() != contents[file] for file in files)
        assert names(here) == before


@posix_only
def test_a_link_that_leads_nowhere_is_not_followed(here: Path, capsys: Capture) -> None:
    (here / "secret").symlink_to("elsewhere")
    assert make("secret", "secret") == 1
    assert "secret exists already" in capsys.readouterr().err
    assert make("secret", "secret", "--force") == 0
    assert not (here / "secret").is_symlink()
    assert names(here) == ["secret"]


def test_a_directory_is_never_replaced(here: Path, capsys: Capture) -> None:
    (here / "secret").mkdir()
    assert make("secret", "secret", "--force") == 1
    assert capsys.readouterr().err == "snakemq keygen: secret is a directory\n"


@needs_openssl
def test_what_appears_in_the_meantime_is_not_replaced(
    authority: Path, here: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from snakemq.cli._openssl import OpenSsl

    make_certificate = OpenSsl.make_certificate

    def slowly(*args: object, **kwargs: object) -> None:
        make_certificate(*args, **kwargs)  # type: ignore[arg-type]
        (here / "bob.crt").write_text("somebody else's")

    monkeypatch.setattr(OpenSsl, "make_certificate", slowly)
    assert make("peer", "bob", "--ca", authority) == 1
    assert "bob.crt exists already" in capsys.readouterr().err
    assert names(here) == ["bob.crt"]
    assert (here / "bob.crt").read_text() == "somebody else's"


@needs_openssl
def test_a_peer_never_gets_the_files_of_the_authority(here: Path, capsys: Capture) -> None:
    assert make("ca") == 0
    key = (here / "ca.key").read_bytes()
    assert make("peer", "ca", "--force") == 2
    assert "ca.key belongs to the authority; use another --dir for ca" in capsys.readouterr().err
    assert (here / "ca.key").read_bytes() == key


# What can't be made.


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        ([], "WHAT"),
        (["dance"], "dance"),
        (["ca", "--days", "0"], "0 is not a number above 0"),
        (["ca", "--days", "36501"], "at most 36500 days"),
        (["ca", "--days", "ever"], "ever"),
        (["ca", "--name", ""], "1 to 64 characters"),
        (["ca", "--name", "x" * 65], "1 to 64 characters"),
        (["ca", "--name", "a\nb"], "characters that no certificate can contain"),
        (["peer"], "IDENT"),
        (["peer", "-x"], "IDENT"),
        (["peer", ""], "1 to 50 characters"),
        (["peer", "x" * 51], "1 to 50 characters"),
        (["peer", "bob\0"], "characters that no certificate can contain"),
        (["peer", "bob\nsubjectAltName=DNS:eve"], "characters that no certificate can contain"),
        (["peer", "bob\udcff"], "characters that no certificate can contain"),
        (["peer", "bob", "--days", "-1"], "-1 is not a number above 0"),
        *(
            (["peer", "bob", "--host", host], "is not the name of a host")
            for host in (
                *("", ".", "a..b", "a.-b", "a b", "bob:4000", "[::1]", "10.0.0.256", "a/b", "a,b"),
                *("fe80::1%eth0", "a\nDNS.9 = eve", "x" * 64, "x." * 127 + "x", "a.*", "$HOME"),
            )
        ),
        (["secret", "a", "b"], "b"),
        (["fingerprint"], "FILE"),
    ],
)
def test_wrong_arguments(args: list[str], complaint: str, here: Path, capsys: Capture) -> None:
    assert make(*args) == 2
    assert complaint in capsys.readouterr().err
    assert names(here) == []


@pytest.mark.parametrize(
    ("contents", "complaint"),
    [
        (b"", "x.crt is not a certificate in the PEM format"),
        (b"\x30\x82\xff\x00" * 30, "x.crt is not a certificate in the PEM format"),
        (
            b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
            "the certificate in x.crt is damaged: ",
        ),
        (
            b"-----BEGIN CERTIFICATE-----\nA\n-----END CERTIFICATE-----\n",
            "the certificate in x.crt is damaged: ",
        ),
        (
            b"-----BEGIN CERTIFICATE-----\n\xff\n-----END CERTIFICATE-----\n",
            "the certificate in x.crt is damaged: ",
        ),
        (None, "x.crt: No such file"),
    ],
)
def test_no_fingerprint_of_what_is_no_certificate(
    contents: bytes | None, complaint: str, here: Path, capsys: Capture
) -> None:
    if contents is not None:
        (here / "x.crt").write_bytes(contents)
    assert make("fingerprint", "x.crt") == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert complaint in printed.err


@pytest.mark.parametrize(
    "args", [["ca", "--dir", "missing"], ["secret", os.path.join("missing", "secret")]]
)
def test_a_directory_that_is_missing(args: list[str], here: Path, capsys: Capture) -> None:
    assert make(*args) == 1
    assert capsys.readouterr().err == "snakemq keygen: there is no directory missing\n"


@needs_openssl
def test_an_authority_that_is_missing(authority: Path, here: Path, capsys: Capture) -> None:
    for where, missing in ((".", "ca.key"), ("other", "other.key")):
        assert make("peer", "bob", "--ca", where) == 1
        assert f"there is no {missing}; say where the authority is" in capsys.readouterr().err
    shutil.copy(authority / "ca.key", here)
    assert make("peer", "bob") == 1
    assert "there is no ca.crt" in capsys.readouterr().err


@posix_only
@pytest.mark.parametrize("args", [["ca"], ["secret", "secret"]], ids=lambda args: args[0])
def test_a_directory_where_nothing_can_be_written(
    args: list[str], here: Path, capsys: Capture
) -> None:
    where = Path("/proc")
    if os.geteuid() != 0:
        where = here
        here.chmod(0o500)
    elif not where.is_dir():
        pytest.skip("root can write everywhere")
    try:
        target = ["--dir", str(where)] if args[0] == "ca" else [str(where / args[1])]
        assert make(args[0], *target) == 1
    finally:
        here.chmod(0o700)
    assert f"snakemq keygen: can't write in {where}: " in capsys.readouterr().err


def test_without_openssl(here: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(here / "nothing"))
    assert make("ca") == 1
    complaint = capsys.readouterr().err
    assert "'openssl' is not installed" in complaint
    assert "Install the package 'openssl'" in complaint
    assert names(here) == []
    assert make("secret", "secret") == 0


@needs_openssl
def test_an_authority_with_somebody_elses_key(authority: Path, here: Path, capsys: Capture) -> None:
    assert make("ca") == 0
    shutil.copy(authority / "ca.crt", here)
    assert make("peer", "bob") == 1
    assert "openssl x509' failed" in capsys.readouterr().err
    assert names(here) == ["ca.crt", "ca.key"]


@needs_openssl
def test_a_peer_is_no_authority(authority: Path, here: Path, capsys: Capture) -> None:
    assert make("peer", "bob", "--ca", authority) == 0
    assert make("peer", "eve", "--ca", "bob") == 1
    assert "openssl verify' failed" in capsys.readouterr().err
    assert names(here) == ["bob.crt", "bob.key"]


@pytest.fixture
def fake_openssl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Makes a program that is found as ``openssl``, from its text in Python.

    ``real()`` in there is what the real one would have done, and ``out`` the file
    that it is to write.
    """
    if os.name == "nt":
        pytest.skip("a script is no program here")
    real = shutil.which("openssl")
    if real is None:
        pytest.skip("the program openssl is not installed")
    directory = tmp_path / "bin"

    def install(body: str) -> Path:
        directory.mkdir()
        program = directory / "openssl"
        program.write_text(
            f"#!{sys.executable}\n"
            "import os, subprocess, sys\n"
            "args = sys.argv[1:]\n"
            'out = args[args.index("-out") + 1] if "-out" in args else None\n'
            f"real = lambda: subprocess.run([{real!r}, *args], check=True)\n"
            f"{body}\n"
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(directory), prepend=os.pathsep)
        return directory

    return install


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("sys.exit('no entropy')", r"'openssl genpkey' failed with status 1: no entropy"),
        ("sys.exit(7)", r"'openssl genpkey' failed with status 7: it does not say why"),
        ("os.kill(os.getpid(), 9)", r"'openssl genpkey' failed with status -9"),
        (
            "real(); args[0] != 'x509' or sys.exit('expired')",
            r"'openssl x509' failed with status 1: (.|\n)*expired",
        ),
        ("args[0] == 'x509' or real()", r"what it made can't be used"),
        ("real(); out and os.truncate(out, os.path.getsize(out) // 2)", r"openssl"),
        ("real(); args[0] != 'x509' or os.truncate(out, 100)", r"what it made can't be used"),
    ],
)
def test_an_openssl_that_fails_leaves_nothing_behind(
    body: str,
    complaint: str,
    authority: Path,
    here: Path,
    fake_openssl: Callable[[str], Path],
    capsys: Capture,
) -> None:
    fake_openssl(body)
    assert make("peer", "bob", "--ca", authority) == 1
    assert re.search(complaint, capsys.readouterr().err)
    assert names(here) == ["bin"]


def test_an_openssl_that_can_not_be_started(
    here: Path, fake_openssl: Callable[[str], Path], capsys: Capture
) -> None:
    (fake_openssl("") / "openssl").write_text("#!/missing/program\n")
    assert make("ca") == 1
    assert "No such file" in capsys.readouterr().err
    assert names(here) == ["bin"]


def test_a_disk_that_fills_up_leaves_nothing_behind(
    here: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    assert make("secret", "secret") == 1
    assert capsys.readouterr().err == "snakemq keygen: No space left on device\n"
    assert names(here) == []


@needs_openssl
def test_the_second_name_fails_and_the_first_is_free_again(
    here: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def fail(source: Path, target: Path) -> None:
        if target.name == "ca.crt":
            raise PermissionError(13, "Permission denied", str(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    assert make("ca") == 1
    assert capsys.readouterr().err == "snakemq keygen: ca.crt: Permission denied\n"
    assert names(here) == []


@posix_only
@pytest.mark.parametrize(("end", "status"), [("interrupt", 130), ("terminate", 143)])
def test_ctrl_c_leaves_nothing_behind(
    end: str, status: int, here: Path, fake_openssl: Callable[[str], Path]
) -> None:
    fake_openssl(f"import signal\nopen({str(here / 'started')!r}, 'w').close()\nsignal.pause()")
    with Background("keygen", "ca", "--dir", here) as process:
        wait_until((here / "started").exists)
        assert getattr(process, end)() == status
        assert process.err == b""
    assert names(here) == ["bin", "started"]


@needs_openssl
def test_no_shell_sees_the_arguments(here: Path) -> None:
    """In a process of its own, with names that a shell would run."""
    odd = here / "$(touch x); 'a' -out & b"
    odd.mkdir()
    assert run("keygen", "ca", "--dir", odd, "--name", "`touch x`").returncode == 0
    result = run("keygen", "peer", "$(touch x)", "--dir", odd.name, cwd=here)
    assert (result.returncode, result.stderr) == (0, "")
    assert names(here) == [odd.name]
    assert names(odd) == ["%24%28touch%20x%29.crt", "%24%28touch%20x%29.key", "ca.crt", "ca.key"]
