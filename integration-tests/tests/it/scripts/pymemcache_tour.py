"""Walks pymemcache's whole surface against the server at argv[1:3]; the last line is `ok`."""

import sys
from pymemcache.client.base import Client
from pymemcache.client.hash import HashClient
from pymemcache.exceptions import MemcacheClientError

host, port = sys.argv[1], int(sys.argv[2])
client = Client((host, port), default_noreply=False, timeout=10, no_delay=True)


def same(got, want):
    assert got == want, f"want {want!r}, got {got!r}"


client.flush_all()
same(client.set("a", b"one"), True)
same(client.get("a"), b"one")
same(client.get("missing"), None)
same(client.add("a", b"two"), False)
same(client.add("b", b"two"), True)
same(client.replace("missing", b"x"), False)
same(client.append("a", b"-more"), True)
same(client.prepend("a", b"less-"), True)
same(client.get("a"), b"less-one-more")
same(client.get_many(["a", "b", "c"]), {"a": b"less-one-more", "b": b"two"})
same(client.set_many({f"many{i}": str(i) for i in range(200)}), [])
same(len(client.get_many([f"many{i}" for i in range(300)])), 200)
value, token = client.gets("b")
same(client.cas("b", b"three", token), True)
same(client.cas("b", b"four", token), False)
same(client.cas("missing", b"four", token), None)
client.set("n", b"41")
same(client.incr("n", 1), 42)
same(client.decr("n", 50), 0)
same(client.incr("missing", 1), None)
try:
    client.incr("b", 1)
    raise AssertionError("incr of text was accepted")
except MemcacheClientError:
    pass
same(client.touch("a", expire=100), True)
same(client.touch("missing", expire=100), False)
same(client.delete("a"), True)
same(client.delete("a"), False)
same(client.set("gone", b"x", expire=-1), True)
same(client.get("gone"), None)
same(client.set("flagged", b"x", flags=4711), True)
big = bytes(range(256)) * 4000
same(client.set("big", big), True)
same(client.get("big"), big)
same(client.set("empty", b""), True)
same(client.get("empty"), b"")
# Fire and forget, then a question on the same connection: the order is kept.
for i in range(500):
    client.set("last", str(i), noreply=True)
same(client.get("last"), b"499")
client.delete("last", noreply=True)
same(client.get("last"), None)
assert client.version().startswith(b"1."), client.version()
stats = client.stats()
assert stats[b"curr_items"] > 200, stats
assert stats[b"cmd_get"] > 0 and stats[b"get_misses"] > 0, stats
try:
    client.get("x" * 251)
    raise AssertionError("a key of 251 bytes was accepted")
except MemcacheClientError:
    pass
same(client.flush_all(), True)
same(client.get("b"), None)
pool = HashClient([(host, port)], use_pooling=True, timeout=10)
pool.set("pooled", "yes", noreply=False)
same(pool.get("pooled"), b"yes")
client.quit()
print("ok")
