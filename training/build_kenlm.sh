#!/bin/sh
# Build KenLM's command line tools, which `asr-train ngram` needs, from the source package on PyPI.
#
#     sh training/build_kenlm.sh [PREFIX]        # PREFIX defaults to build/kenlm
#
# leaves PREFIX/bin/lmplz, PREFIX/bin/build_binary and PREFIX/bin/query. Does nothing when they are there.
# PREFIX is built beside and moved into place, so a broken build never looks like a finished one.
#
# Needs a C++ compiler, cmake, make, Python with pip, and on Debian or Ubuntu:
#
#     apt-get install build-essential cmake libboost-system-dev libboost-thread-dev \
#         libboost-program-options-dev libboost-test-dev zlib1g-dev libbz2-dev liblzma-dev
#
# PYTHON names the interpreter whose pip downloads the source (default: python3); JOBS the parallel compilers
# (default: 2). About one minute of processor time.
set -eu

VERSION=0.3.0 # the same as the Python module in pyproject.toml: one KenLM writes the file, and reads it
PREFIX=${1:-build/kenlm}
PYTHON=${PYTHON:-python3}
JOBS=${JOBS:-2}
TOOLS="lmplz build_binary query"

fail() {
    echo "build_kenlm.sh: $1" >&2
    exit 1
}

complete() {
    for tool in $TOOLS; do
        [ -x "$1/bin/$tool" ] || return 1
    done
}

if complete "$PREFIX"; then
    echo "build_kenlm.sh: $PREFIX/bin is complete; remove it to build again"
    exit 0
fi

for command in cmake make c++ tar "$PYTHON"; do
    command -v "$command" >/dev/null || fail "$command is missing; the packages to install are named in this script"
done

mkdir -p "$(dirname "$PREFIX")"
work=$(mktemp -d "$(dirname "$PREFIX")/kenlm-build.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

"$PYTHON" -m pip download --quiet --disable-pip-version-check --no-deps --no-binary kenlm --dest "$work" \
    "kenlm==$VERSION" || fail "pip could not download the source of kenlm $VERSION"
tar -xzf "$work/kenlm-$VERSION.tar.gz" -C "$work"

# KenLM states an older minimum than new versions of CMake accept, hence the policy version.
cmake -S "$work/kenlm-$VERSION" -B "$work/build" -DCMAKE_BUILD_TYPE=Release -DCMAKE_POLICY_VERSION_MINIMUM=3.5 \
    >"$work/cmake.log" 2>&1 || {
    cat "$work/cmake.log" >&2
    fail "cmake failed; the packages to install are named in this script"
}
# shellcheck disable=SC2086  # the tools are separate targets
cmake --build "$work/build" --parallel "$JOBS" --target $TOOLS >"$work/make.log" 2>&1 || {
    tail -n 40 "$work/make.log" >&2
    fail "the compiler failed"
}

mkdir -p "$work/finished/bin"
for tool in $TOOLS; do
    cp "$work/build/bin/$tool" "$work/finished/bin/"
done
complete "$work/finished" || fail "the build left no $TOOLS"
mkdir -p "$PREFIX/bin"
for tool in $TOOLS; do
    mv "$work/finished/bin/$tool" "$PREFIX/bin/$tool"
done
echo "build_kenlm.sh: built $TOOLS into $PREFIX/bin"
