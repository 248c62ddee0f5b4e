"""What a server is started with."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from fs_local.errors import FsLocalError


@dataclass(frozen=True)
class ServerSettings:
    """Where a server listens, and whom it answers.

    Attributes:
        host, port: the address; port 0 for any free one.
        key: of users; None asks for none, which only a loopback address may.
        admin_key: of those who may change packs; without it nobody can, unless no key is asked for at all.
        allow_hosts: names by which the server may be called, besides its own.
        allow_origins: web pages that may call it, as `https://example.org`.

    Raises:
        FsLocalError: another address than loopback without a key, or keys that can't be sent in a header.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    key: str | None = field(default=None, repr=False)
    admin_key: str | None = field(default=None, repr=False)
    allow_hosts: tuple[str, ...] = ()
    allow_origins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for key in (self.key, self.admin_key):
            if key is not None and not (len(key) >= 8 and key.isascii() and key.isprintable() and " " not in key):
                raise FsLocalError("a key has at least 8 printable ASCII characters and no spaces")
        if self.key is not None and self.key == self.admin_key:
            raise FsLocalError("the admin key is the users' key; choose another, so that users can't change packs")
        if self.key is None and not self.is_loopback:
            raise FsLocalError(
                f"{self.host} can be reached by others, so it needs a key: set FS_LOCAL_API_KEY, or leave out --host"
            )

    @property
    def is_shared(self) -> bool:
        """Whether others than its owner are answered: by another address than loopback, or beside an admin key."""
        return not self.is_loopback or self.admin_key is not None

    @property
    def is_loopback(self) -> bool:
        """Whether only programs on this machine can connect."""
        return self.host == "localhost" or (is_address(self.host) and ipaddress.ip_address(self.host).is_loopback)


def is_address(name: str) -> bool:
    """Whether this is an IP address rather than a name."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
