"""A certificate authority for one start of the stack, and the tokens by which its parts know each other."""

import ipaddress
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_LIFETIME = timedelta(days=365)


@dataclass(frozen=True)
class Authority:
    """Signs certificates into one folder, ``<name>.crt`` and ``<name>.key``."""

    folder: Path
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def create(cls, folder: Path) -> "Authority":
        """Make a new authority, its certificate in ``ca.crt``."""
        folder.mkdir(parents=True, exist_ok=True)
        key = new_key(folder / "ca.key")
        name = _name("airflow-deploy", None)
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        certificate = _builder(name, name, key).add_extension(constraints, critical=True).sign(key, hashes.SHA256())
        (folder / "ca.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return cls(folder, key, certificate)

    def issue(self, name: str, common_name: str, group: str | None = None, hosts: tuple[str, ...] = ()) -> None:
        """Sign a certificate for a server and a client both.

        :param group: the Kubernetes group that the certificate's bearer belongs to.
        :param hosts: DNS names and IP addresses that it is valid for.
        """
        key = new_key(self.folder / f"{name}.key")
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        builder = _builder(_name(common_name, group), self.certificate.subject, key)
        builder = builder.add_extension(usage, critical=False)
        if hosts:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False
            )
        certificate = builder.sign(self.key, hashes.SHA256())
        (self.folder / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def new_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Write a new private key, readable by root alone, in the one format that Kubernetes reads for every purpose."""
    key = ec.generate_private_key(ec.SECP256R1())
    encoding, layout = serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL
    write_secret(path, key.private_bytes(encoding, layout, serialization.NoEncryption()).decode())
    return key


def new_secret() -> str:
    """A random password or token of 128 bits."""
    return secrets.token_hex(16)


def write_secret(path: Path, text: str) -> None:
    """Write a file that only its owner can read, from its creation on."""
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(text)


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + _LIFETIME)
    )


def _name(common_name: str, group: str | None) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group)] if group else []
    return x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
