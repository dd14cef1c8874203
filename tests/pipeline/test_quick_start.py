from __future__ import annotations

import subprocess
import sys

_KEPT = """
import gc, sys
from predecode.pipeline.quick_start import kept_for_good
with kept_for_good():
    assert not gc.isenabled()
    import apache_beam
print(gc.isenabled(), gc.get_freeze_count() > 10_000)
gc.unfreeze()
with kept_for_good():
    assert gc.isenabled()
print(gc.get_freeze_count())
"""


def test_what_is_imported_is_kept_for_good_once() -> None:
    done = subprocess.run([sys.executable, "-c", _KEPT], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["True True", "0"]
