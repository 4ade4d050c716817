"""Makes Pillow's decoders deadly for planted pictures, in every Python process that finds this folder on its path.

Python runs a module of this name at its start: tests put the folder on the path of the processes that decode. Nothing
in the product knows of it.
"""

import ctypes
import os
import signal

from PIL import ImageFile

CRASHES, HANGS, FAILS, KILLED = b"PLANTED: crash", b"PLANTED: hang", b"PLANTED: fail", b"PLANTED: kill"

_load = ImageFile.ImageFile.load


def deadly_load(image: ImageFile.ImageFile) -> object:
    """Decode, unless what is planted says otherwise."""
    planted = image.info.get("comment", b"")
    if planted.startswith(CRASHES):
        os.kill(os.getpid(), signal.SIGSEGV)
    if planted.startswith(KILLED):
        os.kill(os.getpid(), signal.SIGKILL)
    if planted.startswith(HANGS):
        ctypes.PyDLL(None).sleep(3600)  # as native code does that keeps the interpreter's lock
    if planted.startswith(FAILS):
        raise RuntimeError("the decoder failed")
    return _load(image)


ImageFile.ImageFile.load = deadly_load
