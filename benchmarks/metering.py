"""What a command takes: seconds, CPU time, memory and the GPU, of the process with all its descendants. Linux only."""

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

#: Seconds between two samples of CPU time, and between two of memory, which take the kernel longer.
CPU_INTERVAL, MEMORY_INTERVAL = 0.2, 0.5

#: Milliseconds between two samples of the GPU.
GPU_INTERVAL = 200


@dataclass(frozen=True)
class Usage:
    """What a stretch of a command took.

    Attributes:
        seconds: wall-clock.
        cpu: seconds, summed over cores.
        memory: largest resident memory in 10⁹ bytes; memory that processes share counts once.
        gpu_busy: share of the time in which the GPU ran a kernel, as ``nvidia-smi`` samples it; None without one.
        gpu_memory: largest memory of the GPU in 10⁹ bytes, less what was taken before; None without one.
    """

    seconds: float
    cpu: float
    memory: float
    gpu_busy: float | None = None
    gpu_memory: float | None = None


def tree(pid: int) -> list[int]:
    """A process and all its descendants."""
    found = [pid]
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text(encoding="ascii").split():
                found += tree(int(child))
    except (FileNotFoundError, ProcessLookupError):
        pass
    return found


def cpu_seconds(pids: Sequence[int]) -> float:
    """CPU time of processes and of their children that have ended."""
    ticks = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime: fields 14 to 17 of proc(5)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return ticks / os.sysconf("SC_CLK_TCK")


def resident(pids: Sequence[int]) -> int:
    """Bytes of processes, shared pages counted once (PSS)."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
            total += next((1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return total


class _Gpu(threading.Thread):
    """Samples of the first GPU: time, share of the time it was busy, bytes in use."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.samples: list[tuple[float, float, float]] = []
        query = ["nvidia-smi", "-i", "0", "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits"]
        self.process = subprocess.Popen([*query, "-lms", str(GPU_INTERVAL)], stdout=subprocess.PIPE, text=True)
        self.start()

    def run(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                busy, used = (float(part) for part in line.split(","))
            except ValueError:
                continue  # "[N/A]", or the last line cut short
            self.samples.append((time.time(), busy / 100, used * 2**20))

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


class Metered:
    """A command that has run, and what any stretch of it took.

    Args:
        command: to run.
        log: file for its output.
        cores: how many of the machine's cores it may use; all where 0.
        environment: further environment variables.

    Raises:
        SystemExit: it failed; the end of its output is printed.
    """

    def __init__(
        self, command: Sequence[str], log: Path, cores: int = 0, environment: Mapping[str, str] | None = None
    ) -> None:
        self._cpu: list[tuple[float, float]] = []
        self._memory: list[tuple[float, int]] = []
        gpu = _Gpu() if shutil.which("nvidia-smi") else None
        if gpu is not None:
            time.sleep(5 * GPU_INTERVAL / 1000)
        before = gpu.samples[-1][2] if gpu is not None and gpu.samples else 0.0
        allowed = sorted(os.sched_getaffinity(0))[: cores or None]
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "wb") as output:
            self.started = time.time()
            process = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                preexec_fn=lambda: os.sched_setaffinity(0, allowed),
            )
            try:
                self._follow(process)
            finally:  # stopped, with Ctrl-C for example
                for pid in tree(process.pid) if process.returncode is None else ():
                    os.kill(pid, signal.SIGTERM)
        self.ended = time.time()
        self._gpu: list[tuple[float, float, float]] = []
        if gpu is not None:
            gpu.stop()
            self._gpu = [(at, busy, max(used - before, 0.0)) for at, busy, used in gpu.samples]
        if process.returncode:
            tail = log.read_text(encoding="utf-8", errors="replace")[-3000:]
            raise SystemExit(f"{' '.join(map(str, command))} failed with exit code {process.returncode}:\n{tail}")

    def _follow(self, process: "subprocess.Popen[bytes]") -> None:
        """Sample until the process ends."""
        due = 0.0
        while True:
            pids, now = tree(process.pid), time.time()
            self._cpu.append((now, max(cpu_seconds(pids), self._cpu[-1][1] if self._cpu else 0.0)))
            if now >= due:
                self._memory.append((now, resident(pids)))
                due = now + MEMORY_INTERVAL
            done, status, used = os.wait4(process.pid, os.WNOHANG)
            if done:
                process.returncode = os.waitstatus_to_exitcode(status)
                self._cpu.append((time.time(), max(self._cpu[-1][1], used.ru_utime + used.ru_stime)))
                return
            time.sleep(CPU_INTERVAL)

    def usage(self, start: float | None = None, end: float | None = None) -> Usage:
        """What it took between two times (``time.time()``); from its start to its end where they are None."""
        first, last = self.started if start is None else start, self.ended if end is None else end
        memory = [used for at, used in self._memory if first <= at <= last] or [used for _, used in self._memory[-1:]]
        gpu = [(busy, used) for at, busy, used in self._gpu if first <= at <= last]
        return Usage(
            last - first,
            self._cpu_at(last) - self._cpu_at(first),
            max(memory, default=0) / 1e9,
            sum(busy for busy, _ in gpu) / len(gpu) if gpu else None,
            max(used for _, used in gpu) / 1e9 if gpu else None,
        )

    def _cpu_at(self, when: float) -> float:
        """CPU time until then, between samples on a straight line."""
        before = (self.started, 0.0)
        for sample in self._cpu:
            if sample[0] >= when:
                share = (when - before[0]) / max(sample[0] - before[0], 1e-9)
                return before[1] + max(share, 0.0) * (sample[1] - before[1])
            before = sample
        return before[1]


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The power of the size that values grow with: the slope of a straight line through the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])
