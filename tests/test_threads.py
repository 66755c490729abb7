"""How many threads there are: what the environment asks for, what processors and containers grant."""

import math
import os

import pytest
from commands import refused

import octsod
from octsod import threads
from octsod.containers import available_memory, cpu_quota
from octsod.threads import MOST_THREADS, available_cpus


@pytest.fixture
def environment(monkeypatch):
    """Sets variables, as a process would find them when it starts."""

    def start(**variables):
        for name in ("OCTSOD_THREADS", "OMP_NUM_THREADS"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(threads, "_threads", None)

    available_cpus.cache_clear()
    yield start
    available_cpus.cache_clear()


def tree(root, **files):
    """Files by path, in which __ stands for a slash."""
    for path, text in files.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


GROUPS = "sys/fs/cgroup"
V1 = "12:cpuset:/\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc\n"


@pytest.mark.parametrize(("files", "quota"), [
    ({}, math.inf),
    ({"proc/self/cgroup": ""}, math.inf),
    ({"proc/self/cgroup": "0::/\n", f"{GROUPS}/cpu.max": "max 100000\n"}, math.inf),
    ({"proc/self/cgroup": "0::/\n", f"{GROUPS}/cpu.max": "200000 100000\n"}, 2),
    ({"proc/self/cgroup": "0::/\n", f"{GROUPS}/cpu.max": "250000 100000\n"}, 2.5),
    # Version 2, nested: the least of all levels, some without a file.
    ({"proc/self/cgroup": "0::/a.slice/b/c\n", f"{GROUPS}/a.slice/cpu.max": "300000 100000",
      f"{GROUPS}/a.slice/b/c/cpu.max": "max 100000"}, 3),
    ({"proc/self/cgroup": "0::/a.slice/b\n", f"{GROUPS}/a.slice/cpu.max": "800000 100000",
      f"{GROUPS}/a.slice/b/cpu.max": "50000 100000"}, 0.5),
    # Only the groups above this process count.
    ({"proc/self/cgroup": "0::/a\n", f"{GROUPS}/b/cpu.max": "100000 100000"}, math.inf),
    # The path on the host, of which a container sees only the last group, as its root.
    ({"proc/self/cgroup": "0::/system.slice/docker-abc.scope\n", f"{GROUPS}/cpu.max": "150000 50000"}, 3),
    ({"proc/self/cgroup": "0::/../other\n", f"{GROUPS}/cpu.max": "100000 100000"}, 1),
    # Version 1.
    ({"proc/self/cgroup": V1, f"{GROUPS}/cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "400000\n",
      f"{GROUPS}/cpu,cpuacct/docker/abc/cpu.cfs_period_us": "100000\n"}, 4),
    ({"proc/self/cgroup": V1, f"{GROUPS}/cpu/cpu.cfs_quota_us": "50000",
      f"{GROUPS}/cpu/cpu.cfs_period_us": "25000"}, 2),
    ({"proc/self/cgroup": V1, f"{GROUPS}/cpu/cpu.cfs_quota_us": "-1",
      f"{GROUPS}/cpu/cpu.cfs_period_us": "100000"}, math.inf),
    # Both: version 2 in a subfolder, without a controller of processors, or with one.
    ({"proc/self/cgroup": V1 + "0::/docker/abc\n", f"{GROUPS}/cpu/docker/abc/cpu.cfs_quota_us": "300000",
      f"{GROUPS}/cpu/docker/abc/cpu.cfs_period_us": "100000"}, 3),
    ({"proc/self/cgroup": "0::/x\n", f"{GROUPS}/unified/x/cpu.max": "600000 100000"}, 6),
    # Nonsense does no harm.
    ({"proc/self/cgroup": "0::/\nno group\n::\n", f"{GROUPS}/cpu.max": "many few"}, math.inf),
    ({"proc/self/cgroup": "0::/\n", f"{GROUPS}/cpu.max": "100000"}, math.inf),
    ({"proc/self/cgroup": "0::/\n", f"{GROUPS}/cpu.max": "100000 0"}, math.inf),
    ({"proc/self/cgroup": "0::/\n", f"{GROUPS}/cpu.max": ""}, math.inf),
])  # fmt: skip
def test_quotas(tmp_path, files, quota):
    assert cpu_quota(tree(tmp_path, **files)) == quota


@pytest.mark.parametrize(("files", "limit"), [
    ({}, math.inf),
    ({"proc/self/cgroup": "0::/a/b\n", f"{GROUPS}/memory.max": "8192\n", f"{GROUPS}/a/memory.max": "4096\n",
      f"{GROUPS}/a/b/memory.max": "max\n"}, 4096),
    ({"proc/self/cgroup": "4:memory:/docker/abc\n", f"{GROUPS}/memory/memory.limit_in_bytes": "9223372036854771712\n",
      f"{GROUPS}/memory/docker/abc/memory.limit_in_bytes": "2048\n"}, 2048),
    ({"proc/self/cgroup": V1, f"{GROUPS}/memory/memory.limit_in_bytes": "1024\n"}, math.inf),
    ({"proc/self/cgroup": "0::/\n", f"{GROUPS}/memory.max": "much"}, math.inf),
])  # fmt: skip
def test_memory(tmp_path, monkeypatch, files, limit):
    pages = {"SC_PHYS_PAGES": 10**9, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(os, "sysconf", pages.__getitem__, raising=False)
    assert available_memory(tree(tmp_path, **files)) == min(limit, 4096 * 10**9)
    pages["SC_PHYS_PAGES"] = -1
    assert available_memory(tmp_path) == limit
    monkeypatch.delattr(os, "sysconf")
    assert available_memory(tmp_path) == limit


@pytest.mark.parametrize(("visible", "quota", "count"), [
    (64, 2, 2), (64, 2.5, 3), (64, 0.1, 1), (64, math.inf, 64), (2, 16, 2), (None, math.inf, 1),
])  # fmt: skip
def test_what_is_granted(monkeypatch, environment, visible, quota, count):
    environment()
    for name in ("cpu_count", "process_cpu_count"):
        monkeypatch.setattr(os, name, lambda: visible, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(visible or 1), raising=False)
    monkeypatch.setattr(threads, "cpu_quota", lambda: quota)
    assert available_cpus() == octsod.get_num_threads() == count


def test_affinity_counts(monkeypatch, environment):
    environment()
    monkeypatch.setattr(os, "process_cpu_count", lambda: 64, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5, 9}, raising=False)
    monkeypatch.setattr(threads, "cpu_quota", lambda: math.inf)
    assert available_cpus() == 3


@pytest.mark.parametrize(("variables", "count"), [
    ({"OCTSOD_THREADS": "3"}, 3), ({"OCTSOD_THREADS": " 3 ", "OMP_NUM_THREADS": "5"}, 3),
    ({"OMP_NUM_THREADS": "5"}, 5), ({"OMP_NUM_THREADS": "5,2"}, 5), ({"OCTSOD_THREADS": "", "OMP_NUM_THREADS": "5"}, 5),
    ({"OMP_NUM_THREADS": "0"}, 7), ({"OMP_NUM_THREADS": "all"}, 7), ({"OMP_NUM_THREADS": "9" * 30}, 7), ({}, 7),
    ({"OMP_NUM_THREADS": "99999"}, MOST_THREADS),
])  # fmt: skip
def test_what_the_environment_asks_for(monkeypatch, environment, variables, count):
    environment(**variables)
    monkeypatch.setattr(threads, "available_cpus", lambda: 7)
    assert octsod.get_num_threads() == count


@pytest.mark.parametrize("value", ["abc", "0", "-1", "2.5", "1e3", str(10**9), "9" * 5000, "²", str(MOST_THREADS + 1)])
def test_a_number_that_is_none(environment, value):
    environment(OCTSOD_THREADS=value)
    with pytest.raises(octsod.errors.OctsodError) as error:
        octsod.get_num_threads()
    words = str(error.value)
    assert words.startswith(f"OCTSOD_THREADS (='{value[:40]}") and words.endswith("from 1 to 1024.")
    assert len(words) < 120
    octsod.set_num_threads(2)
    assert octsod.get_num_threads() == 2


@pytest.mark.parametrize("count", [0, -1, True, 2.0, "2", None, MOST_THREADS + 1, 10**9])
def test_a_number_that_cannot_be_set(count):
    before = octsod.get_num_threads()
    with pytest.raises(ValueError, match="set_num_threads: `count`"):
        octsod.set_num_threads(count)
    assert octsod.get_num_threads() == before


def test_commands_name_the_variable(monkeypatch, environment):
    environment(OCTSOD_THREADS="abc")
    said = "Error: OCTSOD_THREADS (='abc') must be a number of threads from 1 to 1024."
    assert refused("warmup") == refused("train", "--print-config") == refused("sweep", "-o", "s", "--lambda", 1) == said
    assert "Invalid value for '--threads'" in refused("train", "--threads", "abc")
