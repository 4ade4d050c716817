"""What hosts of URLs look like, to a policy that names them and to whatever makes one spelling of them."""

import re

_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


def is_number(label: str) -> bool:
    """Whether a label, in lower case, is a number: decimal, octal or hexadecimal. A host whose last label is one is an
    IPv4 address, and no name."""
    return _NUMBER.fullmatch(label) is not None
