"""Which machine a process is on, and which file system it sees, so that two of them can compare that.

Used by the service, which shows it, and by the command line, which compares. Must not know who compares.
"""

import os
from functools import cache
from hashlib import sha256

_BOOT_ID = "/proc/sys/kernel/random/boot_id"  # random(4): a new one at each boot; containers have their host's


@cache
def machine_digest() -> str | None:
    """Return a digest that is equal for processes of one running kernel with the same root directory.

    Within such a machine a path means the same file, and a socket the same listener. Another machine, a container or
    a virtual machine has another digest, also if its port is forwarded to here. It does not reveal what it is made
    of. None: the kernel does not say.
    """
    try:
        with open(_BOOT_ID, "rb") as file:
            boot_id = file.read().strip()
        root = os.stat("/")
    except OSError:
        return None
    return sha256(b"shellrunner\0%s\0%d\0%d" % (boot_id, root.st_dev, root.st_ino)).hexdigest()
