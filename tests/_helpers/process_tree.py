"""The processes that a process has started, as Linux tells of them."""

from pathlib import Path


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def of_rank(rank: int, tree: set[int]) -> list[int]:
    """Return the processes of a tree that were started for a rank, itself before what it has started."""

    def environment(pid: int) -> str:
        try:
            return Path(f"/proc/{pid}/environ").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return ""  # one that has ended

    return sorted(pid for pid in tree if f"\0RANK={rank}\0" in environment(pid))


def descendants(pid: int) -> set[int]:
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == pid:
            found |= {int(path.parent.name)} | descendants(int(path.parent.name))
    return found
