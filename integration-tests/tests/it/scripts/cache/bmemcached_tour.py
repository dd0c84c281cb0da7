"""Walks python-binary-memcached against the server at argv[1:3], with user argv[3] and password argv[4] when given. Last line: ok."""

import sys
import bmemcached

login = tuple(sys.argv[3:5]) or (None, None)
client = bmemcached.Client((f"{sys.argv[1]}:{sys.argv[2]}",), *login, socket_timeout=30)


def same(got, want):
    assert got == want, f"want {want!r}, got {got!r}"


same(client.flush_all(), True)
same(client.set("text", "grüße"), True)
same(client.get("text"), "grüße")
same(client.get("missing"), None)
same(client.set("object", {"list": [1, None], "bytes": b"\x00\xff"}), True)
same(client.get("object"), {"list": [1, None], "bytes": b"\x00\xff"})
same(client.set("number", 41), True)
same(client.get("number"), 41)
same(client.incr("counter", 5, default=10), 10)
same(client.incr("counter", 5), 15)
same(client.decr("counter", 50), 0)
same(client.add("text", "x"), False)
same(client.add("new", "x"), True)
same(client.replace("nothing", "x"), False)
value, cas = client.gets("text")
same(value, "grüße")
same(client.cas("text", "changed", cas), True)
same(client.cas("text", "again", cas), False)
same(client.get("text"), "changed")
same(client.set_multi({f"many{n}": n for n in range(300)}), [])
same(client.get_multi([f"many{n}" for n in range(400)]), {f"many{n}": n for n in range(300)})
same(len(client.get_multi(["many1", "many2"], get_cas=True)["many1"]), 2)
same(client.delete_multi([f"many{n}" for n in range(300)]), True)
same(client.get_multi(["many1", "many2"]), {})
long = "compressible " * 50000
same(client.set("long", long), True)
same(client.get("long"), long)
big = bytes(range(256)) * 4000
same(client.set("big", big, compress_level=0), True)
same(client.get("big"), big)
same(client.delete("text"), True)
same(client.get("text"), None)
stats = list(client.stats().values())[0]
assert int(stats["curr_items"]) > 3, stats
same(client.flush_all(), True)
same(client.get("long"), None)
client.disconnect_all()
print("ok")
