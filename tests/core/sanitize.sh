#!/bin/sh
# Build the core with the sanitizers of gcc in a temporary folder, and run its tests there, without torch.
set -eu
python=$(realpath -s "$1")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/metaot"
touch "$folder/metaot/__init__.py"
cp -r metaot/core "$folder/metaot/core"
cp -r tests/core "$folder/tests"
include=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')

# sanitize FLAGS LIBRARY TESTS: the library must be there before Python is; the tests find the core in their folder.
sanitize() {
    rm -f "$folder"/metaot/core/*.so
    gcc -std=c11 -D_GNU_SOURCE -DWITHOUT_TARGETS -Wall -Wextra -Werror -g -O1 -fno-omit-frame-pointer \
        -fsanitize="$1" -shared -fPIC -I"$include" metaot/core/src/*.c -o "$folder/metaot/core/_core.abi3.so" -lpthread -ldl -lm
    echo "sanitize: $1"
    library=$(gcc -print-file-name="$2")
    shift 2
    (
        cd "$folder"
        LD_PRELOAD=$library PYTHONMALLOC=malloc setarch -R "$python" -m pytest -q -x -s -c /dev/null --noconftest \
            -p no:cacheprovider --rootdir "$folder" "$@"
    )
}

export ASAN_OPTIONS=detect_leaks=0 # Python itself has leaks
export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
export TSAN_OPTIONS=halt_on_error=1
sanitize address,undefined libasan.so tests -k "not leaks and not vector"
sanitize thread libtsan.so tests/test_threads.py -k threads
