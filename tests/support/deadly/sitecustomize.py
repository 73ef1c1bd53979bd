"""Makes Python processes die of marked images, as they would where a decoder has a bug: its folder goes on PYTHONPATH.

An image whose bytes hold ``dies of SIGKILL`` (or of another signal) kills the process that loads it. Python imports
this module when it starts; what loads pictures is changed when, and only if, somebody imports it.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import re
import signal
import sys
import threading
import time

MARK = re.compile(rb"dies of (SIG[A-Z]+)")
MODULE = "runtime.preparation"


class _Deadly(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):  # noqa: ARG002 - the interface's names
        if name != MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def execute_and_arm(module):
            execute(module)
            load = module.Preparation.load

            def load_or_die(self, image, **options):
                if isinstance(image, bytes) and (found := MARK.search(image)):
                    signal.pthread_kill(threading.get_ident(), getattr(signal, found[1].decode()))
                    time.sleep(3600)  # whoever handles the signal ends the process; this thread must not go on
                return load(self, image, **options)

            module.Preparation.load = load_or_die

        spec.loader.exec_module = execute_and_arm
        return spec


sys.meta_path.insert(0, _Deadly())
