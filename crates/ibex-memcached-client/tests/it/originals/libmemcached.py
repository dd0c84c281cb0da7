"""Which server libmemcached gives each key. argv[1]: a file of keys, one a line. Standard input: JSON list of cases
{"namespace": text or absent, "before": [[behaviour, value]...], "servers": [[host, port, weight]...] (port 0: a socket path), "after": [[behaviour, value]...]}.
Standard output: a byte per case and key. Ends with 3 where there is no libmemcached."""

import ctypes
import json
import sys

# Places of memcached_behavior_t in libmemcached's public header.
BEHAVIOURS = {"hash": 2, "ketama": 3, "distribution": 9, "ketama_weighted": 16, "hash_with_namespace": 25}
PREFIX_KEY = 0

try:
    lib = ctypes.CDLL("libmemcached.so.11")
except OSError as error:
    print(error, file=sys.stderr)
    sys.exit(3)
handle, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint32
lib.memcached_create.restype = handle
lib.memcached_create.argtypes = [handle]
lib.memcached_free.argtypes = [handle]
lib.memcached_callback_set.argtypes = [handle, ctypes.c_int, text]
lib.memcached_behavior_set.argtypes = [handle, ctypes.c_int, ctypes.c_uint64]
lib.memcached_server_add_with_weight.argtypes = [handle, text, ctypes.c_uint16, number]
lib.memcached_server_add_unix_socket_with_weight.argtypes = [handle, text, number]
lib.memcached_generate_hash.argtypes = [handle, text, ctypes.c_size_t]
lib.memcached_generate_hash.restype = number


def worked(code):
    assert code == 0, f"libmemcached answers {code}"


with open(sys.argv[1], "rb") as file:
    keys = file.read().split(b"\n")[:-1]
for case in json.load(sys.stdin):
    pool = lib.memcached_create(None)
    if "namespace" in case:
        worked(lib.memcached_callback_set(pool, PREFIX_KEY, case["namespace"].encode()))
    for name, value in case["before"]:
        worked(lib.memcached_behavior_set(pool, BEHAVIOURS[name], value))
    for host, port, weight in case["servers"]:
        if port == 0:
            worked(lib.memcached_server_add_unix_socket_with_weight(pool, host.encode(), weight))
        else:
            worked(lib.memcached_server_add_with_weight(pool, host.encode(), port, weight))
    for name, value in case["after"]:
        worked(lib.memcached_behavior_set(pool, BEHAVIOURS[name], value))
    choose = lib.memcached_generate_hash
    sys.stdout.buffer.write(bytes(choose(pool, key, len(key)) for key in keys))
    lib.memcached_free(pool)
