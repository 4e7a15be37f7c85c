"""The system files that the image keeps, copied out of Debian packages: ``rootfs.py FOLDER``.

Run while the image is built, by Debian's own Python. A package's files are kept by the table, the
libraries that those need by the loader's word. What is kept is recorded package by package below
``var/lib/dpkg/status.d``, where vulnerability scanners look for it.
"""

from __future__ import annotations

import fnmatch
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
DYNLOAD = f"/usr/lib/{PYTHON}/lib-dynload"
# package: patterns of the files to keep; * matches across /
KEPT = {
    "base-files": ("/etc/debian_version", "/usr/lib/os-release", "/etc/os-release"),
    "busybox": ("/bin/busybox", "/usr/bin/busybox"),
    "git": (
        "/usr/bin/git",
        "/usr/bin/git-upload-pack",
        "/usr/lib/git-core/git-remote-http*",
        "/usr/share/git-core/templates/info/*",
    ),
    "git-lfs": ("/usr/bin/git-lfs",),
    "libc-bin": ("/usr/lib/locale/C.utf8/*",),
    "libc6": ("*/ld-linux*", "*/lib*.so.*"),
    "libgcc-s1": ("*.so.*",),
    "libstdc++6": ("*/libstdc++.so.*",),
    f"{PYTHON}-minimal": (f"/usr/bin/{PYTHON}",),
    f"lib{PYTHON}-minimal": ("/usr/lib/*",),
    f"lib{PYTHON}-stdlib": ("/usr/lib/*",),
}
# Not even of these: terminals, databases and documentation of Python, what is built against it.
DROPPED = (
    *(f"{DYNLOAD}/{name}.*.so" for name in ("_curses", "_curses_panel", "_dbm", "nis", "readline")),
    *(f"{DYNLOAD}/{name}.*.so" for name in ("_test*", "_xxtestfuzz", "ossaudiodev", "xxlimited*")),
    f"/usr/lib/{PYTHON}/config-*",
    f"/usr/lib/{PYTHON}/curses/*",
    f"/usr/lib/{PYTHON}/idlelib/*",
    f"/usr/lib/{PYTHON}/lib2to3/*",
    f"/usr/lib/{PYTHON}/pydoc_data/*",
    f"/usr/lib/{PYTHON}/sitecustomize.py",
    f"/usr/lib/{PYTHON}/turtledemo/*",
    "*/__pycache__*",
)
# Packages whose scripts made these files; no package lists them.
MADE = {
    "/etc/ssl/certs/ca-certificates.crt": "ca-certificates",
    "/etc/ssl/openssl.cnf": "openssl",
}
# What a CI's own script steps call, and git for a credential helper. Nothing of ours does.
APPLETS = """
    sh ash [ basename cat chmod cp cut date dirname echo env expr false find grep head id ln ls
    mkdir mktemp mv printf pwd readlink rm rmdir sed sleep sort stat tail tar tee test touch tr
    true uname wc which xargs
"""
USERS = {
    "passwd": "root:x:0:0:root:/:/sbin/nologin\nslogpt:x:65532:65532::/tmp:/sbin/nologin\n",
    "group": "root:x:0:\nslogpt:x:65532:\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
# Modules are no garbage: looking for some among them took a quarter of the time of a process that
# imports torch, most of it at its end. bench/image.py measures it.
SITECUSTOMIZE = """import atexit
import gc

gc.set_threshold(50_000)
atexit.register(gc.freeze)
"""


def lines_of(*command: str) -> list[str]:
    """The lines that a command prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def true_path(listed: str) -> Path:
    """Where a listed file is: dpkg lists /lib/x, which is /usr/lib/x since the merge of both."""
    path = Path(listed)
    return path.parent.resolve() / path.name


def owners() -> dict[Path, str]:
    """The package, or package:architecture, of every file that dpkg knows."""
    found = {}
    for package_list in Path("/var/lib/dpkg/info").glob("*.list"):
        for listed in package_list.read_text("utf-8").splitlines():
            if listed != "/." and not (path := true_path(listed)).is_dir():
                found[path] = package_list.stem
    return found


def kept_of(package: str, patterns: tuple[str, ...]) -> Iterator[Path]:
    """The files of a package that the tables keep."""
    for listed in lines_of("dpkg", "--listfiles", package):
        path = true_path(listed)
        if path.is_dir() and not path.is_symlink():
            continue
        wanted = any(fnmatch.fnmatch(listed, pattern) for pattern in patterns)
        if wanted and not any(fnmatch.fnmatch(str(path), pattern) for pattern in DROPPED):
            yield path


def libraries_of(path: Path) -> Iterator[Path]:
    """The shared libraries that the loader gives a file, by the names that it asks for."""
    with path.open("rb") as file:
        if file.read(4) != b"\x7fELF":
            return
    told = subprocess.run(["ldd", path], capture_output=True, text=True).stdout
    for line in told.splitlines():
        if "=> not found" in line:
            raise SystemExit(f"{path}: {line.strip()}")
        name = line.partition("=>")[2].split() or line.split()
        if name[0].startswith("/"):
            yield true_path(name[0])


def copy(path: Path, root: Path) -> list[Path]:
    """Copy a file, and what its symbolic links lead to; returns what is new below ``root``."""
    copied = []
    while not (target := root / path.relative_to("/")).is_symlink() and not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target, follow_symlinks=False)
        copied.append(path)
        if not path.is_symlink():
            break
        path = true_path(str(path.parent / path.readlink()))
    return copied


def record(package: str, root: Path) -> None:
    """Write dpkg's facts about a package, and keep its copyright file."""
    name = package.partition(":")[0]
    status = root / "var/lib/dpkg/status.d" / name
    status.parent.mkdir(parents=True, exist_ok=True)
    status.write_text("\n".join([*lines_of("dpkg", "--status", package), ""]), "utf-8")
    copyright_file = Path("/usr/share/doc") / name / "copyright"
    if copyright_file.is_file():
        target = root / copyright_file.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(copyright_file, target)


def main(root: Path) -> None:
    """Fill ``root``."""
    for folder in ("bin", "lib", "lib64", "sbin"):
        if Path("/", folder).is_symlink():
            (root / "usr" / folder).mkdir(parents=True, exist_ok=True)
            (root / folder).symlink_to(f"usr/{folder}")
    packages = set(MADE.values())
    package_of = owners()
    waiting = [path for package, patterns in KEPT.items() for path in kept_of(package, patterns)]
    waiting += [Path(path) for path in MADE]
    while waiting:
        for path in copy(waiting.pop(), root):
            packages |= {package_of[path]} if path in package_of else set()
            waiting += [] if path.is_symlink() else libraries_of(path)
    for package in sorted(packages):
        record(package, root)
    for applet in APPLETS.split():
        (root / "usr/bin" / applet).symlink_to("busybox")
    (root / "usr/bin/python3").symlink_to(PYTHON)
    (root / f"usr/lib/{PYTHON}/sitecustomize.py").write_text(SITECUSTOMIZE, "utf-8")
    for name, text in USERS.items():
        (root / "etc" / name).write_text(text, "utf-8")
    for folder in ("tmp", "work"):
        (root / folder).mkdir()
        (root / folder).chmod(0o1777)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
