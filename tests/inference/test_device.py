"""Devices that are there, and clear words about those that are not."""

import subprocess
import sys

import pytest
import torch

from dabdetr.inference.device import choose_device


def test_auto_takes_the_best_there_is():
    best = "cuda" if torch.cuda.is_available() else None
    best = best or ("mps" if torch.backends.mps.is_available() else "cpu")
    assert choose_device("auto") == choose_device() == torch.device(best)


def test_a_device_by_name_or_value():
    assert choose_device("cpu") == choose_device(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize("name", ["tpu9000", "cuda:99", "meta", "", "cpu:-3"])
def test_what_is_not_there_is_said(name):
    with pytest.raises(ValueError, match=r"no device '.*' here; use auto or .*cpu"):
        choose_device(name)


FAULTS = """
import resource, torch
from dabdetr.inference.device import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**25)  # 128 MiB, 32768 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(min(faults() for _ in range(5)))
keep_freed_memory()
print(min(faults() for _ in range(10)))  # its first calls still gather their room
"""


@pytest.mark.skipif(sys.platform != "linux", reason="about glibc")
def test_freed_memory_is_kept():
    done = subprocess.check_output([sys.executable, "-c", FAULTS], text=True)
    before, kept = map(int, done.split())
    assert before > 10_000
    assert kept < 1_000
