"""Where responses may be sent: this machine, unless the user says otherwise.

What is judged is derived from data under a use agreement that forbids passing it on. So only a
loopback address is accepted by itself. A host of the user's own cluster is named in
`judge.trusted_hosts`, and any other needs `judge.data_may_leave`.
"""

import ipaddress
import re
from collections.abc import Callable, Collection
from urllib.parse import urlsplit

from reward.judge.server import judge_option

Option = Callable[[str], str]
"""How a setting is named to the user, by its key."""

# Nothing but a host and a port: no user, no escapes, nothing that two readers could take apart
# differently.
_NETLOC = re.compile(
    r"(?P<host>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?"
)


def host_of(base_url: str, option: Option = judge_option) -> str:
    """Return the host of a base URL, in lower case and without brackets.

    Raises ValueError naming the setting `base_url` where it is not `http(s)://HOST[:PORT][/PATH]`.
    """
    try:
        parts = urlsplit(base_url)
    except ValueError:
        parts = urlsplit("")
    netloc = _NETLOC.fullmatch(parts.netloc)
    is_plain = base_url.isascii() and base_url.isprintable() and " " not in base_url
    if (
        not is_plain
        or netloc is None
        or parts.scheme not in ("http", "https")
        or parts.query
        or parts.fragment
        or "\\" in base_url
        or int(netloc["port"] or 0) > 65535
    ):
        raise ValueError(
            f"{option('base_url')} is {_shown(base_url)!r}, not an address such as "
            "http://127.0.0.1:8000/v1 (a key goes into the variable that "
            f"{option('api_key_env')} names)"
        )
    return netloc["host"].strip("[]").lower()


def _shown(base_url: str) -> str:
    """A URL without what may be a password or a key."""
    return re.sub(r"//[^/]*@", "//***@", base_url.split("?")[0])


def check_address(
    base_url: str,
    data_may_leave: bool,
    trusted_hosts: Collection[str],
    option: Option = judge_option,
) -> None:
    """Check that what derives from the data may be sent to this address.

    Raises ValueError for a malformed address, and for one that is neither on this machine nor
    allowed by the user.
    """
    host = host_of(base_url, option)
    if is_loopback(host) or data_may_leave or host in {name.lower() for name in trusted_hosts}:
        return
    raise ValueError(
        f"{option('base_url')}: {host} is not this machine, and the data use agreement of "
        "MIMIC-CXR forbids sending its data or anything derived from it to others: name a host of "
        f"your own cluster ({option('trusted_hosts')}), or say that this data may leave "
        f"({option('data_may_leave')})"
    )


def is_loopback(host: str) -> bool:
    """Whether a host is `localhost` or an address of the loopback interface."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
