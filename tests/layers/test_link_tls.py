"""TLS of a link: its settings, what is checked by default, new files, what is known of it."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from snakemq._io import tls as tls_module
from snakemq._io import tls_context
from snakemq._io.tls_socket import TlsSocket
from snakemq.contracts import TlsInfo
from snakemq.exceptions import CertificateNotTrusted, WrongHostName
from snakemq.link import Link, SSLConfig
from tests.helpers import DEADLINE
from tests.layers.tls_support import LOCALHOST, Files, Watched, drive, files, issue, make_watched

__all__ = ["files", "make_watched"]  # fixtures

MakeWatched = Callable[..., Watched]


def connect(server: Watched, client: Watched, address: tuple[str, int], config: Any) -> None:
    """Dial, and wait until both sides are connected."""
    before = len(server.open)
    client.dial(address, config)
    drive(server, client, until=lambda: client.open and len(server.open) > before)


def info(watched: Watched) -> TlsInfo:
    """Of its last connection."""
    found = watched.link.get_tls(watched.open[-1])
    assert found is not None
    return found


class TestSettings:
    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            ({"keyfile": "key.pem"}, "certfile"),
            ({"ssl_version": 3}, "ssl_version"),
            ({"ciphers": "NO-SUCH-CIPHER"}, "ciphers"),
            ({"server_hostname": ""}, "server_hostname"),
            ({"server_hostname": "a..b"}, "server_hostname"),
            ({"server_hostname": ".example"}, "server_hostname"),
            (
                {"cert_reqs": ssl.CERT_NONE, "check_hostname": True},
                "check_hostname needs cert_reqs",
            ),
            ({"context": ssl.create_default_context(), "certfile": "x"}, "used as it is"),
            ({"context": ssl.create_default_context(), "cert_reqs": 0}, "used as it is"),
            ({"context": ssl.create_default_context(), "reload_on_change": True}, "as it is"),
        ],
    )
    def test_what_can_not_work_is_refused(self, arguments: dict[str, Any], reason: str) -> None:
        with pytest.raises(ValueError, match=reason):
            SSLConfig(**arguments)

    def test_what_is_no_context_is_refused(self) -> None:
        with pytest.raises(TypeError, match=r"context takes an ssl\.SSLContext, not str"):
            SSLConfig(context="x")  # type: ignore[arg-type]
        link = Link()
        for add in (link.add_connector, link.add_listener):
            with pytest.raises(TypeError, match=r"SSLConfig or an ssl\.SSLContext, not str"):
                add((LOCALHOST, 1), ssl_config="cert.pem")  # type: ignore[arg-type]
        link.cleanup()

    def test_new_arguments_have_names(self) -> None:
        with pytest.raises(TypeError):
            SSLConfig(None, None, 0, 2, None, None)  # type: ignore[call-arg]

    @pytest.mark.parametrize("old", [ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.MINIMUM_SUPPORTED])
    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_a_context_with_old_versions_is_refused(self, old: ssl.TLSVersion) -> None:
        link = Link()
        context = ssl.create_default_context()
        context.minimum_version = old
        with pytest.raises(ValueError, match=r"minimum_version to ssl\.TLSVersion\.TLSv1_2"):
            link.add_connector((LOCALHOST, 1), ssl_config=context)
        # In the way of old this can be said as well.
        context.options |= ssl.OP_NO_SSLv3 | ssl.OP_NO_TLSv1 | ssl.OP_NO_TLSv1_1
        link.add_connector(("localhost", 1), ssl_config=context)
        link.cleanup()

    def test_a_context_of_the_wrong_side_is_refused(self, files: Files) -> None:
        link = Link()
        connector = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        listener = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with pytest.raises(ValueError, match=r"listener needs .*ssl\.PROTOCOL_TLS_SERVER"):
            link.add_listener((LOCALHOST, 0), ssl_config=connector)
        with pytest.raises(ValueError, match=r"connector needs .*ssl\.PROTOCOL_TLS_CLIENT"):
            link.add_connector((LOCALHOST, 1), ssl_config=SSLConfig(context=listener))
        assert link.listeners == link.connectors == []
        link.cleanup()

    def test_a_listener_needs_a_certificate_and_to_ask_for_one_authorities(
        self, files: Files
    ) -> None:
        link = Link()
        with pytest.raises(ValueError, match="needs certfile"):
            link.add_listener((LOCALHOST, 0), ssl_config=SSLConfig())
        config = files.config(trust=False, cert_reqs=ssl.CERT_REQUIRED)
        with pytest.raises(ValueError, match="cert_reqs of a listener needs ca_certs"):
            link.add_listener((LOCALHOST, 0), ssl_config=config)
        link.cleanup()

    def test_a_host_that_no_certificate_can_be_for(self) -> None:
        link = Link(verify_tls=True)
        for host in ("", "a..b", "x" * 64 + ".example"):
            with pytest.raises(ValueError, match="set server_hostname, or check_hostname=False"):
                link.add_connector((host, 1), ssl_config=SSLConfig())
        link.add_connector(("", 1), ssl_config=SSLConfig(server_hostname="bob.example"))
        link.add_connector(("a..b", 1), ssl_config=SSLConfig(check_hostname=False))
        context = ssl.create_default_context()
        with pytest.raises(ValueError, match="set server_hostname"):
            link.add_connector(("a..b", 2), ssl_config=context)
        link.cleanup()

    def test_files_that_can_not_be_used(self, files: Files, tmp_path: Path) -> None:
        link = Link()
        good_key, good = files.folder / "good.key", files.folder / "good.pem"
        other = files.folder / "foreign.key"
        junk = tmp_path / "junk"
        junk.write_text("junk")
        cases: list[tuple[SSLConfig, type[Exception], str]] = [
            (SSLConfig(tmp_path / "no.key", good), FileNotFoundError, "no.key"),
            (SSLConfig(good_key, tmp_path / "no.pem"), FileNotFoundError, "no.pem"),
            (SSLConfig(good_key, good, ca_certs=tmp_path / "no.ca"), FileNotFoundError, "no.ca"),
            (SSLConfig(other, good), ssl.SSLError, "foreign.key does not belong to the cert"),
            (SSLConfig(good_key, junk), ssl.SSLError, "junk has to hold a certificate"),
            (SSLConfig(good_key, good, ca_certs=junk), ssl.SSLError, "junk: there is no certif"),
        ]
        for config, error, words in cases:
            for add in (link.add_listener, link.add_connector):
                with pytest.raises(error, match=words):
                    add((LOCALHOST, 1), ssl_config=config)
        assert link.listeners == link.connectors == []
        link.cleanup()

    @pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl here")
    def test_an_encrypted_key_is_refused_and_nobody_is_asked(
        self, files: Files, tmp_path: Path
    ) -> None:
        key = tmp_path / "encrypted.key"
        subprocess.run(
            [
                *("openssl", "pkey", "-aes256", "-passout", "pass:word"),
                *("-in", str(files.folder / "good.key"), "-out", str(key)),
            ],
            check=True,
        )
        link = Link()
        with pytest.raises(ValueError, match=r"encrypted\.key: the key is encrypted\. Decrypt it"):
            link.add_listener((LOCALHOST, 0), ssl_config=SSLConfig(key, files.folder / "good.pem"))
        link.cleanup()

    def test_contexts_are_as_they_should_be(self, files: Files) -> None:
        for server_side in (True, False):
            context = files.config().create_context(server_side=server_side, verify=True)
            assert context.minimum_version == ssl.TLSVersion.TLSv1_2
            assert context.options & ssl.OP_NO_COMPRESSION
            assert context.options & ssl.OP_NO_RENEGOTIATION
            assert context.verify_mode is ssl.CERT_REQUIRED
            assert context.check_hostname is not server_side
            for cipher in context.get_ciphers():
                assert cipher["aead"]
                assert cipher["protocol"] == "TLSv1.3" or cipher["name"].startswith("ECDHE-")

    def test_a_ready_one_is_given_back(self) -> None:
        context = ssl.create_default_context()
        config = SSLConfig(context=context)
        assert config.create_context(server_side=False) is context
        assert "context=<ssl.SSLContext" in repr(config)
        with pytest.raises(ValueError, match="no files here"):
            config.reload()


class TestWhatIsChecked:
    """Of ``Link(verify_tls=True)``, unless something else is said."""

    def test_both_sides(self, files: Files, make_watched: MakeWatched) -> None:
        server, client = make_watched(), make_watched()
        connect(server, client, server.listen(files.config()), files.config())
        for side in (server, client):
            found = info(side)
            assert found.certificate is not None
            assert ("DNS", "localhost") in found.certificate["subjectAltName"]
            assert found.alpn == "snakemq"
            assert found.version == "TLSv1.3"

    def test_by_name_and_by_address(self, files: Files, make_watched: MakeWatched) -> None:
        server, client = make_watched(), make_watched()
        port = server.listen(files.config())[1]
        connect(server, client, ("localhost", port), files.config())

    def test_a_name_of_its_own(self, files: Files, make_watched: MakeWatched) -> None:
        server, client, wrong = make_watched(), make_watched(), make_watched()
        address = server.listen(files.config("elsewhere"))
        connect(server, client, address, files.config(server_hostname="elsewhere.example"))
        wrong.dial(address, files.config(server_hostname="else.example"))
        drive(server, wrong, until=lambda: wrong.errors)
        assert type(wrong.error) is WrongHostName
        assert "is not for else.example" in str(wrong.error)

    def test_any_name(self, files: Files, make_watched: MakeWatched) -> None:
        server, client, strange = make_watched(), make_watched(), make_watched()
        address = server.listen(files.config("elsewhere"))
        connect(server, client, address, files.config(check_hostname=False))
        # The certificate is checked all the same.
        strange.dial(address, files.config(check_hostname=False, ca_certs=files.stranger))
        drive(server, strange, until=lambda: strange.errors)
        assert type(strange.error) is CertificateNotTrusted

    def test_nothing(self, files: Files, make_watched: MakeWatched) -> None:
        server, client = make_watched(), make_watched()
        address = server.listen(files.config("foreign", trust=False))
        connect(server, client, address, SSLConfig(cert_reqs=ssl.CERT_NONE))
        assert info(client).certificate is None
        assert info(client).certificate_bytes is not None

    def test_a_listener_without_authorities_asks_for_nothing(
        self, files: Files, make_watched: MakeWatched
    ) -> None:
        server, client = make_watched(), make_watched()
        address = server.listen(files.config(trust=False))
        connect(server, client, address, files.config(None))
        assert info(server).certificate_bytes is None

    def test_a_listener_may_leave_it_open(self, files: Files, make_watched: MakeWatched) -> None:
        server, without, with_one = make_watched(), make_watched(), make_watched()
        address = server.listen(files.config(cert_reqs=ssl.CERT_OPTIONAL))
        connect(server, without, address, files.config(None))
        assert info(server).certificate is None
        connect(server, with_one, address, files.config())
        assert info(server).certificate is not None

    def test_without_ca_certs_what_the_system_trusts(
        self, files: Files, make_watched: MakeWatched, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server, client, stranger = make_watched(), make_watched(), make_watched()
        address = server.listen(files.config(trust=False))
        stranger.dial(address, SSLConfig())
        drive(server, stranger, until=lambda: stranger.errors)
        assert type(stranger.error) is CertificateNotTrusted
        monkeypatch.setenv("SSL_CERT_FILE", str(files.ca))
        connect(server, client, address, SSLConfig())

    def test_in_the_way_of_1_6_nothing_is_checked_that_was_not_asked_for(
        self, files: Files, make_watched: MakeWatched
    ) -> None:
        server, client, careful = (make_watched(verify_tls=False) for _ in range(3))
        address = server.listen(files.config("elsewhere"))
        connect(server, client, address, SSLConfig())
        # Names only if that is said.
        connect(server, careful, address, files.config(cert_reqs=ssl.CERT_REQUIRED))
        careful.link.del_connector(address)
        careful.dial(address, files.config(check_hostname=True))
        drive(server, careful, until=lambda: careful.errors)
        assert type(careful.error) is WrongHostName

    def test_ready_contexts(self, files: Files, make_watched: MakeWatched) -> None:
        server, client = make_watched(), make_watched()
        names: list[str | None] = []
        listener = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        listener.load_cert_chain(files.folder / "good.pem", files.folder / "good.key")
        listener.sni_callback = lambda sock, name, context: names.append(name)
        connector = ssl.create_default_context(cafile=str(files.ca))
        # trustme's authorities lack what the newest Pythons are strict about.
        connector.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)
        port = server.listen(listener)[1]
        connect(server, client, ("localhost", port), SSLConfig(context=connector))
        assert info(client).alpn is None
        assert names == ["localhost"]

    def test_the_name_is_asked_for_also_if_nothing_is_checked(
        self, files: Files, make_watched: MakeWatched
    ) -> None:
        server, client = make_watched(), make_watched()
        names: list[str | None] = []
        listener = files.config().create_context(server_side=True)
        listener.sni_callback = lambda sock, name, context: names.append(name)
        port = server.listen(listener)[1]
        connect(server, client, ("localhost", port), SSLConfig(cert_reqs=ssl.CERT_NONE))
        assert names == ["localhost"]

    @pytest.mark.parametrize(
        ("host", "name"),
        [
            ("bob.example", "bob.example"),
            ("bob.example.", "bob.example"),
            ("bücher.example", "bücher.example"),
            ("10.0.0.1", "10.0.0.1"),
            ("fe80::1%eth0", "fe80::1"),
        ],
    )
    def test_what_a_host_is_called_in_certificates(self, host: str, name: str) -> None:
        assert tls_module.TlsSide(SSLConfig(), host, verify=True).server_hostname == name


@pytest.mark.parametrize("version", [2, 5], ids=["1.3", "1.2"])
def test_both_sides_know_the_connection_by_the_same_bytes(
    files: Files, make_watched: MakeWatched, version: int
) -> None:
    server = make_watched()
    address = server.listen(files.config(ssl_version=version))
    seen = []
    for _ in range(3):
        client = make_watched()
        connect(server, client, address, files.config())
        of_client, of_server = info(client), info(server)
        assert of_client.version == of_server.version == ("TLSv1.3" if version == 2 else "TLSv1.2")
        assert of_client.channel_binding == of_server.channel_binding
        assert len(of_client.channel_binding) >= 12
        seen.append(of_client.channel_binding)
    assert len(set(seen)) == 3


@pytest.mark.parametrize("version", [2, 5], ids=["1.3", "1.2"])
def test_no_session_is_resumed_or_kept(
    files: Files, make_watched: MakeWatched, version: int
) -> None:
    """Whoever comes again gets a handshake of its own."""
    server = make_watched()
    listener = files.config(trust=False, ssl_version=version).create_context(server_side=True)
    address = server.listen(listener)
    context = ssl.create_default_context(cafile=str(files.ca))
    context.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)
    session, _ = come(server, address, context, None)
    _, is_resumed = come(server, address, context, session)
    assert not is_resumed
    assert listener.session_stats()["number"] == 0


def come(
    server: Watched,
    address: tuple[str, int],
    context: ssl.SSLContext,
    session: ssl.SSLSession | None,
) -> tuple[ssl.SSLSession | None, bool | None]:
    """Shake hands as another implementation would, say something, and go.

    :return: the session, and whether it was the one that there was already
    """
    with socket.create_connection(address) as raw:
        raw.settimeout(DEADLINE)
        tls = context.wrap_socket(
            raw, server_hostname="localhost", session=session, do_handshake_on_connect=False
        )
        with tls:
            shaking = threading.Thread(target=tls.do_handshake)
            shaking.start()
            drive(server, until=lambda: server.open and not shaking.is_alive())
            shaking.join()
            server.received.clear()
            tls.sendall(b"x")
            drive(server, until=lambda: server.received)
            kept = tls.session, tls.session_reused
    drive(server, until=lambda: not server.open)
    return kept


def test_a_connector_dials_again_until_the_certificate_is_right(
    files: Files, make_watched: MakeWatched, tmp_path: Path
) -> None:
    server, client = make_watched(), make_watched()
    key, cert = issue(files.authority, tmp_path, "listener", "elsewhere.example")
    config = SSLConfig(key, cert, ca_certs=files.ca)
    client.dial(server.listen(config), files.config())
    drive(server, client, until=lambda: client.link.counters["handshakes_failed"] >= 2)
    issue(files.authority, tmp_path, "listener")
    config.reload()
    drive(server, client, until=lambda: client.open)


class TestReload:
    @pytest.fixture
    def new(self, files: Files, tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
        """Writes another certificate into the same files."""
        return lambda *names: issue(files.authority, tmp_path, "own", *names)

    def names(self, watched: Watched) -> set[str]:
        """Of the certificate that the other side of its last connection has shown."""
        certificate = info(watched).certificate
        assert certificate is not None
        return {name for kind, name in certificate["subjectAltName"] if kind == "DNS"}

    def test_of_a_listener(
        self, files: Files, make_watched: MakeWatched, new: Callable[..., tuple[Path, Path]]
    ) -> None:
        server, first, second = make_watched(), make_watched(), make_watched()
        config = SSLConfig(*new(LOCALHOST, "first.example"), ca_certs=files.ca)
        address = server.listen(config)
        connect(server, first, address, files.config())
        new(LOCALHOST, "second.example")
        config.reload()
        connect(server, second, address, files.config())
        assert self.names(second) == {"second.example"}
        # The link that was there is there, and goes on.
        assert self.names(first) == {"first.example"}
        first.link.send(first.open[0], b"hello")
        drive(server, first, until=lambda: b"hello" in server.received.values())
        assert first.closed == server.closed == []

    def test_of_a_connector(
        self, files: Files, make_watched: MakeWatched, new: Callable[..., tuple[Path, Path]]
    ) -> None:
        server, client = make_watched(), make_watched()
        config = SSLConfig(*new("first.example"), ca_certs=files.ca)
        address = server.listen(files.config())
        connect(server, client, address, config)
        assert self.names(server) == {"first.example"}
        new("second.example")
        config.reload()
        server.link.close(server.open[0])
        drive(server, client, until=lambda: client.closed)
        drive(server, client, until=lambda: client.open and server.open)
        assert self.names(server) == {"second.example"}

    def test_of_the_authorities(
        self, files: Files, make_watched: MakeWatched, tmp_path: Path
    ) -> None:
        server, client = make_watched(), make_watched()
        ca = tmp_path / "ca.pem"
        shutil.copy(files.stranger, ca)
        config = files.config(ca_certs=ca)
        client.dial(server.listen(config), files.config())
        drive(server, client, until=lambda: server.errors)
        shutil.copy(files.ca, ca)
        config.reload()
        drive(server, client, until=lambda: client.open and server.open)

    def test_files_that_can_not_be_used_are_not(
        self, files: Files, make_watched: MakeWatched, new: Callable[..., tuple[Path, Path]]
    ) -> None:
        server, client, again = make_watched(), make_watched(), make_watched()
        key, cert = new(LOCALHOST, "first.example")
        config = SSLConfig(key, cert, ca_certs=files.ca)
        address = server.listen(config)
        key.write_text("junk")
        with pytest.raises(ssl.SSLError):
            config.reload()
        key.unlink()
        with pytest.raises(FileNotFoundError):
            config.reload()
        # Nor does one more listener take what can't be used.
        with pytest.raises(FileNotFoundError):
            server.listen(config)
        connect(server, client, address, files.config())
        assert self.names(client) == {"first.example"}
        new(LOCALHOST, "second.example")
        config.reload()
        connect(server, again, address, files.config())
        assert self.names(again) == {"second.example"}

    def test_from_any_thread(
        self, files: Files, make_watched: MakeWatched, new: Callable[..., tuple[Path, Path]]
    ) -> None:
        server = make_watched()
        config = SSLConfig(*new(LOCALHOST), ca_certs=files.ca)
        address = server.listen(config)
        failures: list[BaseException] = []
        enough = threading.Event()

        def reload() -> None:
            try:
                while not enough.is_set():
                    config.reload()
            except BaseException as exc:
                failures.append(exc)

        threads = [threading.Thread(target=reload) for _ in range(2)]
        for thread in threads:
            thread.start()
        for _ in range(10):
            client = make_watched()
            connect(server, client, address, files.config())
            client.link.cleanup()
            drive(server, until=lambda: not server.open)
        enough.set()
        for thread in threads:
            thread.join(DEADLINE)
            assert not thread.is_alive()
        assert not failures
        assert server.errors == []

    def test_before_anything_uses_it(self, tmp_path: Path) -> None:
        SSLConfig(tmp_path / "no.key", tmp_path / "no.pem").reload()

    def test_whoever_is_added_later_gets_what_is_there_then(
        self, files: Files, make_watched: MakeWatched, new: Callable[..., tuple[Path, Path]]
    ) -> None:
        server, client = make_watched(), make_watched()
        config = SSLConfig(*new(LOCALHOST, "first.example"), ca_certs=files.ca)
        server.link.del_listener(server.listen(config))
        new(LOCALHOST, "second.example")
        connect(server, client, server.listen(config), files.config())
        assert self.names(client) == {"second.example"}


class TestReloadOnChange:
    @pytest.fixture(autouse=True)
    def _look_always(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tls_module, "LOOK_INTERVAL", 0.0)

    def test_it_is_seen_by_the_next_handshake(
        self, files: Files, make_watched: MakeWatched, tmp_path: Path
    ) -> None:
        server, first, second = make_watched(), make_watched(), make_watched()
        own = issue(files.authority, tmp_path, "own", LOCALHOST, "first.example")
        config = SSLConfig(*own, ca_certs=files.ca, reload_on_change=True)
        address = server.listen(config)
        connect(server, first, address, files.config())
        issue(files.authority, tmp_path, "own", LOCALHOST, "second.example")
        connect(server, second, address, files.config())
        assert ("DNS", "second.example") in (info(second).certificate or {})["subjectAltName"]
        assert first.open

    def test_only_if_it_was_asked_for(
        self, files: Files, make_watched: MakeWatched, tmp_path: Path
    ) -> None:
        server, client = make_watched(), make_watched()
        own = issue(files.authority, tmp_path, "own", LOCALHOST, "first.example")
        address = server.listen(SSLConfig(*own, ca_certs=files.ca))
        issue(files.authority, tmp_path, "own", LOCALHOST, "second.example")
        connect(server, client, address, files.config())
        assert ("DNS", "first.example") in (info(client).certificate or {})["subjectAltName"]

    def test_half_of_a_pair(
        self,
        files: Files,
        make_watched: MakeWatched,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """Whoever writes two files is seen between them."""
        server = make_watched()
        key, cert = issue(files.authority, tmp_path, "own", LOCALHOST, "first.example")
        config = SSLConfig(key, cert, ca_certs=files.ca, reload_on_change=True)
        address = server.listen(config)
        (tmp_path / "new").mkdir()
        new_key, new_cert = issue(
            files.authority, tmp_path / "new", "own", LOCALHOST, "second.example"
        )
        os.replace(new_key, key)
        for _ in range(3):
            client = make_watched()
            connect(server, client, address, files.config())
            assert ("DNS", "first.example") in (info(client).certificate or {})["subjectAltName"]
        os.replace(new_cert, cert)
        client = make_watched()
        connect(server, client, address, files.config())
        assert ("DNS", "second.example") in (info(client).certificate or {})["subjectAltName"]

        (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
        assert "what was read before stays in use" in record.getMessage()
        assert "own.key does not belong to the certificate in" in record.getMessage()
        assert server.counters == {"tls_reloads_failed": 1}
        ((conn_id, error),) = server.errors
        assert conn_id is None
        assert isinstance(error, ssl.SSLError)

    def test_who_is_told_may_delete_the_connector(
        self, files: Files, make_watched: MakeWatched, tmp_path: Path
    ) -> None:
        server, client = make_watched(), make_watched()
        address = server.listen(files.config())
        key, cert = issue(files.authority, tmp_path, "own")
        client.link.on_error.add(lambda conn_id, exc: client.link.del_connector(address))
        client.dial(address, SSLConfig(key, cert, ca_certs=files.ca, reload_on_change=True))
        key.unlink()
        drive(server, client, until=lambda: client.errors)
        drive(server, client, until=lambda: not client.link._anonymous)
        assert [type(error) for _, error in client.errors] == [FileNotFoundError]
        assert not client.link._timers

    def test_who_is_told_may_interrupt_the_loop(
        self, files: Files, make_watched: MakeWatched, tmp_path: Path
    ) -> None:
        server, client = make_watched(), make_watched()
        key, cert = issue(files.authority, tmp_path, "own", LOCALHOST)
        address = server.listen(SSLConfig(key, cert, ca_certs=files.ca, reload_on_change=True))
        interrupts: list[Exception] = []

        def interrupt(conn_id: str | None, exc: Exception) -> None:
            interrupts.append(exc)
            raise KeyboardInterrupt

        server.link.on_error.add(interrupt)
        key.unlink()
        client.dial(address, files.config())
        with pytest.raises(KeyboardInterrupt):
            drive(server, client, until=lambda: client.open)
        drive(server, client, until=lambda: client.open and server.open)
        assert len(interrupts) == 1

    def test_it_looks_once_a_second_at_most(
        self, files: Files, make_watched: MakeWatched, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tls_module, "LOOK_INTERVAL", 1.0)
        looks: list[Files] = []
        now = [100.0]

        def look(paths: tls_context.Files) -> tls_context.Stamp:
            looks.append(files)
            return tls_context.stamp_of(paths)

        monkeypatch.setattr(tls_module, "monotonic", lambda: now[0])
        monkeypatch.setattr(tls_module, "stamp_of", look)
        config = files.config(reload_on_change=True)
        side = tls_module.TlsSide(config, verify=True)
        looks.clear()
        for _ in range(5):
            side.look_for_changes()
        assert len(looks) == 1
        now[0] += 1
        side.look_for_changes()
        assert len(looks) == 2


def test_large_data_both_ways_while_others_fail(files: Files, make_watched: MakeWatched) -> None:
    server, client, stranger = make_watched(), make_watched(), make_watched()
    data = os.urandom(2_000_000)
    address = server.listen(files.config())
    for side in (server, client):
        side.speak(data)
    stranger.dial(address, files.config("foreign"))
    client.dial(address, files.config())
    drive(
        server,
        client,
        stranger,
        until=lambda: all(
            [len(got) for got in side.received.values()] == [len(data)] for side in (server, client)
        ),
    )
    assert [*server.received.values(), *client.received.values()] == [data, data]
    drive(server, stranger, until=lambda: stranger.errors)


def test_what_comes_behind_much_that_is_for_tls_itself(
    files: Files, make_watched: MakeWatched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was read together with that: no selector tells of it."""
    server, client = make_watched(), make_watched()
    connect(server, client, server.listen(files.config()), files.config())
    recv = TlsSocket.recv
    kept: list[bytes] = []

    def keep(self: TlsSocket, size: int) -> bytes:
        if not kept:
            self._kept = bytes(self._read(size))
            kept.append(self._kept)
            return b""
        return recv(self, size)

    drive(server, client, until=lambda: not server.link._sockets[server.open[-1]].has_buffered())
    monkeypatch.setattr(TlsSocket, "recv", keep)
    client.link.send(client.open[-1], b"data")
    drive(server, until=lambda: kept)
    drive(server, until=lambda: server.received.get(server.open[-1]) == b"data")


def test_what_can_not_be_watched_leaves_nothing_behind(
    files: Files, make_watched: MakeWatched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system watches so many sockets only."""
    server, client = make_watched(), make_watched()
    address = server.listen(files.config())
    selector = server.link.selector
    register = selector.register
    refused: list[Any] = []

    def refuse_once(sock: Any, events: int, data: Any = None) -> Any:
        if not refused:
            refused.append(sock)
            raise OSError(errno.ENOSPC, "too many are watched")
        return register(sock, events, data)

    monkeypatch.setattr(selector, "register", refuse_once)
    client.dial(address, files.config())
    drive(server, client, until=lambda: client.errors)
    assert len(server.link.admission) == len(server.link._handshakes) == 0
    assert not server.link._anonymous
    assert not server.link._timers
    assert refused[0].fileno() == -1


def test_an_authority_between(files: Files, make_watched: MakeWatched, tmp_path: Path) -> None:
    """A certificate by an authority whose own is by the one that is trusted."""
    server, client = make_watched(), make_watched()
    issued = files.authority.create_child_ca().issue_cert(LOCALHOST)
    pem = tmp_path / "chain.pem"
    pem.write_bytes(issued.private_key_and_cert_chain_pem.bytes())
    connect(server, client, server.listen(SSLConfig(certfile=pem)), files.config(None))
    assert info(client).certificate is not None
