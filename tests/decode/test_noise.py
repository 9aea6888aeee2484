"""In a process of its own: pytest has replaced the standard error of this one."""

import os
import subprocess
import sys

from recap_fast.decode import noise

SAYS = """
import os, sys, threading
from recap_fast.decode.noise import own_stderr, dropped

def library(text):
    os.write(2, text)

library(b"before\\n")
with own_stderr() as stream:
    library(b"idle\\n")
    with dropped():
        with dropped():
            library(b"lost\\n")
        library(b"lost as well\\n")
        stream.write("ours\\n")
        print("printed", file=sys.stderr)
    library(b"idle again\\n")
with dropped():
    library(b"not owned\\n")
print("after", file=sys.stderr)
raise ValueError("a traceback")
"""


def run(code, **options):
    paths = f"import sys; sys.path[:0] = {sys.path!r}\n"
    return subprocess.run([sys.executable, *options.pop("flags", ()), "-c", paths + code], text=True, **options)


def test_while_images_are_decoded_only_the_program_speaks():
    lines = run(SAYS, capture_output=True).stderr.splitlines()
    assert lines[:7] == ["before", "idle", "ours", "printed", "idle again", "not owned", "after"]
    assert lines[-1] == "ValueError: a traceback"


def test_an_error_while_it_is_owned_is_still_seen():
    code = "from recap_fast.decode.noise import *\nwith own_stderr(), dropped():\n raise ValueError('seen')"
    assert "ValueError: seen" in run(code, capture_output=True).stderr


def test_a_crash_is_traced_where_it_was_to_be():
    code = "import os\nfrom recap_fast.decode.noise import *\nwith own_stderr(), dropped():\n os.abort()"
    done = run(code, capture_output=True, flags=["-X", "faulthandler"])
    assert "Fatal Python error: Aborted" in done.stderr


def test_without_a_standard_error_nothing_breaks():
    code = "import os\nos.close(2)\nfrom recap_fast.decode.noise import *\nwith own_stderr(), dropped():\n os._exit(7)"
    assert run(code).returncode == 7


def test_here_where_the_standard_error_is_replaced_it_stays(monkeypatch):
    class Replaced:
        def fileno(self):
            raise OSError

    monkeypatch.setattr(sys, "stderr", Replaced())
    with noise.own_stderr() as stream, noise.dropped():
        assert stream is sys.stderr
        os.fstat(2)
