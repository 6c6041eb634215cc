"""Installs the project into a temporary folder, moves that, and builds programs outside the project against it."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BUILD = Path(os.environ.get("DA_BUILD_DIR", ROOT / "build"))

# The library of ranks is there where MPI was when the project was built.
HAS_MPI = (BUILD / "lib" / "libdilated_attention_mpi.so").exists()
needs_mpi = pytest.mark.skipif(not HAS_MPI, reason="built without MPI")

COMPILERS = {
    "c": [os.environ.get("CC", "cc"), "-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror"],
    "cpp": [os.environ.get("CXX", "c++"), "-std=c++11", "-Wall", "-Wextra", "-Wpedantic", "-Werror"],
}


def run(*command, **environment):
    """Standard output of a command that must succeed."""
    inherited = {name: value for name, value in os.environ.items() if name != "DESTDIR"}
    done = subprocess.run([str(word) for word in command], env={**inherited, **environment}, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 0, f"{shlex.join(map(str, command))}\n{done.stdout}{done.stderr}"
    return done.stdout


def header_version():
    header = (ROOT / "include" / "dilated_attention.h").read_text(encoding="utf-8")
    return ".".join(re.findall(r"#define DA_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)", header))


@pytest.fixture(scope="module", name="prefix")
def fixture_prefix(tmp_path_factory):
    """The installed tree, moved after installation: nothing in it may depend on where it was."""
    folder = tmp_path_factory.mktemp("package")
    run("cmake", "--install", BUILD, "--prefix", folder / "installed")
    shutil.move(folder / "installed", folder / "moved")
    return folder / "moved"


@pytest.fixture(scope="module", name="libdir")
def fixture_libdir(prefix):
    (library,) = prefix.glob("lib*/**/libdilated_attention.a")
    return library.parent


def pkg_config(libdir, *arguments, package="dilated_attention"):
    return run("pkg-config", *arguments, package, PKG_CONFIG_PATH=str(libdir / "pkgconfig")).split()


def needed(program):
    """Shared libraries that a program or library names as needed."""
    return re.findall(r"\(NEEDED\).*\[(.*)\]", run("readelf", "--dynamic", "--wide", program))


def check_consumer(program, libdir, kind):
    uses_shared = any(name.startswith("libdilated_attention.so") for name in needed(program))
    assert uses_shared == (kind == "shared")
    assert run(program, LD_LIBRARY_PATH=str(libdir)).split() == [header_version(), "4.0000", "5.0000"]


@pytest.mark.parametrize("kind", ["shared", "static"])
@pytest.mark.parametrize("language", ["c", "cpp"])
def test_pkg_config(prefix, libdir, tmp_path, language, kind):
    flags = pkg_config(libdir, "--cflags", "--libs", *(["--static"] if kind == "static" else []))
    if kind == "static":  # both libraries are installed: the linker would take the shared one
        flags = ["-l:libdilated_attention.a" if flag == "-ldilated_attention" else flag for flag in flags]
    program = tmp_path / "consumer"
    run(*COMPILERS[language], HERE / f"consumer.{language}", "-o", program, *flags)
    check_consumer(program, libdir, kind)


@pytest.mark.parametrize("language", ["C", "CXX"])
def test_find_package(prefix, libdir, tmp_path, language):
    run("cmake", "-S", HERE / "find_package", "-B", tmp_path, "-G", "Ninja", f"-DLANGUAGE={language}",
        f"-DCMAKE_PREFIX_PATH={prefix}")
    run("cmake", "--build", tmp_path)
    for kind in ("shared", "static"):
        check_consumer(tmp_path / f"consumer-{kind}", libdir, kind)


@pytest.mark.parametrize("kind", ["shared", "static"])
@pytest.mark.parametrize("language", ["c", "cpp"])
def test_modules_by_pkg_config(libdir, tmp_path, language, kind):
    flags = pkg_config(libdir, "--cflags", "--libs", *(["--static"] if kind == "static" else []),
                       package="dilated_attention_nn")
    if kind == "static":
        flags = [f"-l:lib{flag[2:]}.a" if flag.startswith("-ldilated") else flag for flag in flags]
    program = tmp_path / "consumer"
    # The same source serves both languages.
    run(*COMPILERS[language], "-x", "c" if language == "c" else "c++", HERE / "consumer_nn.c", "-x", "none", "-o", program,
        *flags)
    check_modules_consumer(program, libdir, kind)


def test_modules_by_find_package(prefix, libdir, tmp_path):
    run("cmake", "-S", HERE / "find_package_nn", "-B", tmp_path, "-G", "Ninja", f"-DCMAKE_PREFIX_PATH={prefix}")
    run("cmake", "--build", tmp_path)
    for kind in ("shared", "static"):
        check_modules_consumer(tmp_path / f"consumer-{kind}", libdir, kind)


def check_modules_consumer(program, libdir, kind):
    uses_shared = any(name.startswith("libdilated_attention_nn.so") for name in needed(program))
    assert uses_shared == (kind == "shared")
    assert run(program, LD_LIBRARY_PATH=str(libdir)).split() == [header_version(), "4.0000", "10.0000"]


@needs_mpi
@pytest.mark.parametrize("kind", ["shared", "static"])
def test_ranks_by_pkg_config(libdir, tmp_path, kind):
    flags = pkg_config(libdir, "--cflags", "--libs", *(["--static"] if kind == "static" else []),
                       package="dilated_attention_mpi")
    if kind == "static":
        flags = [f"-l:lib{flag[2:]}.a" if flag.startswith("-ldilated") else flag for flag in flags]
    program = tmp_path / "consumer"
    run(*COMPILERS["c"], HERE / "consumer_mpi.c", "-o", program, *flags)
    check_ranks_consumer(program, libdir, kind)


@needs_mpi
def test_ranks_by_find_package(prefix, libdir, tmp_path):
    run("cmake", "-S", HERE / "find_package_mpi", "-B", tmp_path, "-G", "Ninja", f"-DCMAKE_PREFIX_PATH={prefix}")
    run("cmake", "--build", tmp_path)
    for kind in ("shared", "static"):
        check_ranks_consumer(tmp_path / f"consumer-{kind}", libdir, kind)


def check_ranks_consumer(program, libdir, kind):
    uses_shared = any(name.startswith("libdilated_attention_mpi.so") for name in needed(program))
    assert uses_shared == (kind == "shared")
    output = run("mpirun", "-n", "2", program, LD_LIBRARY_PATH=str(libdir), OMPI_ALLOW_RUN_AS_ROOT="1",
                 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMPI_MCA_rmaps_base_oversubscribe="1")
    assert output.split() == [header_version(), "2", "1"]


def test_one_version_everywhere(libdir):
    version = header_version()
    assert pkg_config(libdir, "--modversion") == [version]
    assert pkg_config(libdir, "--modversion", package="dilated_attention_nn") == [version]
    assert (libdir / f"libdilated_attention.so.{version}").is_file()
    major = version.split(".", maxsplit=1)[0]
    assert f"[libdilated_attention.so.{major}]" in run("readelf", "--dynamic", "--wide",
                                                       libdir / "libdilated_attention.so")


def test_what_is_installed(prefix):
    assert "usage" in run(prefix / "bin" / "dilated-attention", "--help").lower()
    headers = {path.name for path in (prefix / "include").iterdir()}
    assert headers == {"dilated_attention.h", "dilated_attention_nn.h", *(["dilated_attention_mpi.h"] if HAS_MPI else [])}
    documents = {path.name for path in (prefix / "share" / "doc" / "dilated_attention").iterdir()}
    assert {"LICENSE", "README.md", "CHANGELOG.md"} <= documents
