"""Walks libmc (a C++ client of its own, not libmemcached) against the server at argv[1:3]. Last line: ok."""

import sys
import libmc

client = libmc.Client([f"{sys.argv[1]}:{sys.argv[2]}"])
client.config(libmc.MC_POLL_TIMEOUT, 30000)
client.config(libmc.MC_CONNECT_TIMEOUT, 30000)


def same(got, want):
    assert got == want, f"want {want!r}, got {got!r}"


same(client.set("text", "grüße"), True)
same(client.get("text"), "grüße")
same(client.get("missing"), None)
same(client.add("text", "x"), False)
same(client.replace("missing", "x"), False)
same(client.set("parts", b"b"), True)
same(client.append("parts", b"c"), True)
same(client.prepend("parts", b"a"), True)
same(client.get("parts"), b"abc")
same(client.set_multi({f"many{n}": n for n in range(300)}), True)
same(client.get_multi([f"many{n}" for n in range(400)]), {f"many{n}": n for n in range(300)})
value, cas = client.gets("text")
same(client.cas("text", "changed", 0, cas), True)
same(client.cas("text", "again", 0, cas), False)
same(client.set("n", 41), True)
same(client.incr("n", 1), 42)
same(client.decr("n", 50), 0)
same(client.touch("text", 100), True)
same(client.delete("parts"), True)
same(client.get("parts"), None)
same(client.delete_multi([f"many{n}" for n in range(300)]), True)
big = bytes(range(256)) * 4000
same(client.set("big", big), True)
same(client.get("big"), big)
same(len(client.version()), 1)
same(len(client.stats()), 1)
print("ok")
