"""Walks pylibmc (libmemcached) against the server at argv[1:3]; argv[3]: text, binary or sasl (user argv[4], password argv[5]). Last line: ok."""

import sys
import pylibmc

address, mode = f"{sys.argv[1]}:{sys.argv[2]}", sys.argv[3]
is_binary = mode != "text"
login = {"username": sys.argv[4], "password": sys.argv[5]} if mode == "sasl" else {}
client = pylibmc.Client([address], binary=is_binary, behaviors={"tcp_nodelay": True, "cas": True, "connect_timeout": 30000, "_poll_timeout": 30000}, **login)


def same(got, want):
    assert got == want, f"want {want!r}, got {got!r}"


def raises(kind, call, *args):
    try:
        call(*args)
    except kind:
        return
    raise AssertionError(f"{call.__name__}{args} did not raise {kind.__name__}")


same(client.flush_all(), True)
same(client.set("text", "grüße"), True)
same(client.get("text"), "grüße")
same(client.get("missing"), None)
same(client.set("object", {"list": [1, 2.5, None], "bytes": b"\x00\xff"}), True)
same(client.get("object"), {"list": [1, 2.5, None], "bytes": b"\x00\xff"})
same(client.set("number", 41), True)
same(client.incr("number"), 42)
same(client.decr("number", 50), 0)
raises(pylibmc.NotFound, client.incr, "missing")
same(client.add("text", "x"), False)
same(client.add("new", "x"), True)
if is_binary:
    raises(pylibmc.NotFound, client.replace, "nothing", "x")
else:
    same(client.replace("nothing", "x"), False)
same(client.append("new", "y"), True)
same(client.prepend("new", "w"), True)
same(client.get("new"), "wxy")
same(client.set_multi({f"many{n}": n for n in range(300)}), [])
same(client.get_multi([f"many{n}" for n in range(400)]), {f"many{n}": n for n in range(300)})
same(client.set_multi({"a": 1, "b": 2}, key_prefix="pre:"), [])
same(client.get_multi(["a", "b", "c"], key_prefix="pre:"), {"a": 1, "b": 2})
value, cas = client.gets("text")
same((value, client.cas("text", "changed", cas)), ("grüße", True))
raises(pylibmc.NotFound, client.cas, "missing", "x", cas)
same(client.cas("text", "again", cas), False)
same(client.get("text"), "changed")
same(client.touch("text", 100), True)
same(client.touch("missing", 100), False)
same(client.delete("new"), True)
same(client.delete("new"), False)
same(client.delete_multi(["a", "b"], key_prefix="pre:"), True)
long = "compressible " * 30000
same(client.set("long", long, min_compress_len=1000), True)
same(client.get("long"), long)
big = bytes(range(256)) * 4000
same(client.set("big", big), True)
same(client.get("big"), big)
raises(pylibmc.TooBig if not is_binary else pylibmc.Error, client.set, "big", bytes(2 << 20))
same(client.get("big"), None)
same(client.set("empty", b""), True)
same(client.get("empty"), b"")
name, stats = client.get_stats()[0]
assert int(stats["curr_items"]) > 300, stats
same(len(client.get_stats("settings")), 1)
# Sets that do not wait for the socket, then a question on the same connection.
client.behaviors["no_block"] = True
for n in range(1000):
    client.set("last", n)
same(client.get("last"), 999)
same(client.flush_all(), True)
same(client.get("text"), None)
print("ok")
