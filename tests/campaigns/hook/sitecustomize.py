"""Ends this process without warning before its n-th operation on files in a folder, or counts these operations.

Python runs this file at its start if it lies in PYTHONPATH. OCTSOD_CAMPAIGN holds JSON: {"folder": ..., "kill": n} or
{"folder": ..., "count": file to write the number to}.
"""

import json
import os
import signal
import sys

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod")


def _install(folder, kill=None, count=None):
    done = 0

    def hook(event, args):
        nonlocal done
        if event == "open":
            path = args[0] if isinstance(args[2], int) and args[2] & _WRITES else None
        elif event in _CHANGES:
            path = args[0]
        else:
            return
        if not isinstance(path, (str, bytes, os.PathLike)) or not os.path.abspath(os.fsdecode(path)).startswith(folder):
            return
        done += 1
        if done == kill:
            os.kill(os.getpid(), signal.SIGKILL)

    def write():
        with open(count, "w") as file:
            file.write(str(done))

    sys.addaudithook(hook)
    if count is not None:
        import atexit

        atexit.register(write)


if "OCTSOD_CAMPAIGN" in os.environ:
    _install(**json.loads(os.environ["OCTSOD_CAMPAIGN"]))
