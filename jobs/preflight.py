"""Is this machine fit for MART? A sentence and a remedy for each thing that is not, before anything long starts.

Runs with whatever Python there is, also one that is too old for the package: the standard library only, and nothing newer
than Python 3.6 in its syntax. Run it from the repository's root: `python3 jobs/preflight.py`.
"""

import os
import re
import shutil
import subprocess
import sys

GB = 1000**3
DISK_GB = 15  # with the environment, of which it is half
RUN_DISK_GB = 4
CACHE_DISK_GB = 2
MEMORY_GB = 8
JAVA = 17
MODULE = "jdk.incubator.vector"
INSTALL_JAVA = "install one, such as openjdk-17-jre-headless, or point JAVA_HOME at one"


def python_problem(version: tuple) -> str:
    """What is wrong with a Python of this version; empty if nothing is."""
    if (3, 11) <= version[:2] <= (3, 12):
        return ""
    return (
        f"Python {version[0]}.{version[1]} can't run MART, which needs 3.11 or 3.12: install one of them, with its venv "
        "module, and name it with `make PYTHON=python3.11`"
    )


def venv_problem(installed: bool) -> str:
    """What keeps this Python from making a virtual environment; empty if nothing does, or none is needed."""
    if installed or shutil.which("uv"):
        return ""
    try:
        import ensurepip  # noqa: F401
    except ImportError:
        return (
            "This Python can't make virtual environments: install its venv module, such as the package "
            f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
        )
    return ""


def java_problem(environment: dict) -> str:
    """What is wrong with the Java that Spark would start; empty if nothing is."""
    home = environment.get("JAVA_HOME", "")
    java = (
        os.path.join(home, "bin", "java") if home else shutil.which("java", path=environment.get("PATH", ""))
    )
    if home and not os.access(str(java), os.X_OK):
        return f"JAVA_HOME is {home}, where there is no bin/java: point it at a Java {JAVA} or newer, or unset it"
    if not java:
        return f"There is no Java, and Spark needs version {JAVA} or newer: {INSTALL_JAVA}"
    found = re.search(r'version "(?:1\.)?(\d+)', _output([java, "-version"]))
    if not found:
        return f"{java} does not say its version, so it is no working Java: {INSTALL_JAVA}"
    if int(found.group(1)) < JAVA:
        return f"{java} is Java {found.group(1)}, and Spark needs {JAVA} or newer: {INSTALL_JAVA}"
    if MODULE + "@" not in _output([java, "--list-modules"]):
        return (
            f"{java} lacks the module {MODULE}, without which Spark does not start: install a Java that has it, such as "
            "openjdk-17-jre-headless, or point JAVA_HOME at one"
        )
    return ""


def disk_problem(free: int, folder: str, needed: int, what: str) -> str:
    """What is wrong with so many free bytes where so many gigabytes are needed; empty if nothing is."""
    if free >= needed * GB:
        return ""
    return f"{folder} has {free / GB:.1f} GB free, and {what} need {needed}: free some, or move it"


def disk_problems(environment: dict, root: str, installed: bool) -> list:
    """What is wrong with the disks of the checkout and of the models' cache, which is `MART_CACHE` or below `HOME`."""
    needed, what = RUN_DISK_GB, "a run's models and tables"
    if not installed:
        needed, what = DISK_GB, "the environment, models and tables"
    found = [disk_problem(shutil.disk_usage(root).free, root, needed, what)]
    cache = environment.get("MART_CACHE") or os.path.join(os.path.expanduser("~"), ".cache", "mart")
    there = cache
    while not os.path.isdir(there):
        there = os.path.dirname(os.path.abspath(there))
    if os.stat(there).st_dev != os.stat(root).st_dev:
        free = shutil.disk_usage(there).free
        found.append(
            disk_problem(free, cache, CACHE_DISK_GB, "the models that MART_CACHE (~/.cache/mart) keeps")
        )
    return found


def memory_problem(total: int) -> str:
    """What is wrong with so many bytes of memory, 0 if unknown; empty if nothing is."""
    if not total or total >= MEMORY_GB * GB:
        return ""
    return f"There are {total / GB:.1f} GB of memory, and Spark with an engine and a trainer needs {MEMORY_GB}: use a larger machine"


def memory_total() -> int:
    """Bytes of memory this process may use: the machine's, or its control group's if that is less; 0 if unknown."""
    found = []
    try:
        with open("/proc/meminfo") as lines:
            found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal:")]
    except (OSError, ValueError):
        pass
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            with open(path) as limit:
                found.append(int(limit.read()))
        except (OSError, ValueError):  # no control group, or its limit is "max"
            pass
    return min(found) if found else 0


def problems(environment: dict, root: str) -> list:
    """A sentence for each thing that keeps MART from running here.

    Args:
        environment: the process's environment.
        root: folder in which `.venv` is or will be.
    """
    venv = os.path.join(root, ".venv")
    installed = os.path.isdir(venv) and any(name.startswith(".installed") for name in os.listdir(venv))
    found = [
        python_problem(tuple(sys.version_info)),
        venv_problem(installed),
        java_problem(environment),
        *disk_problems(environment, root, installed),
        memory_problem(memory_total()),
    ]
    return [problem for problem in found if problem]


def _output(command: list) -> str:
    try:
        # Java 8 writes its version to the error stream, and so do all later ones.
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "replace")


def main() -> int:
    """Print what is missing; 2 if anything is, else 0."""
    found = problems(dict(os.environ), os.getcwd())
    for problem in found:
        sys.stderr.write("mart: " + problem + ".\n")
    return 2 if found else 0


if __name__ == "__main__":
    sys.exit(main())
