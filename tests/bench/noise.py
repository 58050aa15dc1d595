"""How much of the machine other programs took while the rows were timed: without that, a low figure says little."""

import psutil


class Noise:
    """Counts from its making on. Ours are this process and those below it, as long as they live."""

    def __init__(self) -> None:
        self._ours = {process: _used_s(process) for process in _family()}
        self._busy_s, self._all_s = _machine_s()

    def share(self) -> float:
        """Return the part of all CPU time that others used, 0 to 1; interrupts for our own traffic are in it."""
        busy_s, all_s = _machine_s()
        ours_s = sum(_used_s(process) - self._ours.get(process, 0.0) for process in _family())
        others_s = busy_s - self._busy_s - ours_s
        return min(1.0, max(0.0, others_s / max(all_s - self._all_s, 1e-9)))


def _family() -> list[psutil.Process]:
    this = psutil.Process()
    return [this, *this.children(recursive=True)]


def _used_s(process: psutil.Process) -> float:
    try:
        used = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(used.user + used.system)


def _machine_s() -> tuple[float, float]:
    """Return busy and total CPU seconds of all cores since the machine started."""
    times = psutil.cpu_times()._asdict()
    # Linux counts guests in user and nice already.
    all_s = sum(seconds for name, seconds in times.items() if not name.startswith("guest"))
    return all_s - times["idle"] - times.get("iowait", 0.0), all_s
