"""Walks meta-memcache, leases and stale values included, against the server at argv[1:3]. Last line: ok."""

import sys
from meta_memcache import (
    CacheClient, Key, LeasePolicy, RecachePolicy, ServerAddress, SetMode, StalePolicy, connection_pool_factory_builder,
)

factory = connection_pool_factory_builder(connection_timeout=30, recv_timeout=30)
server = ServerAddress(host=sys.argv[1], port=int(sys.argv[2]))


def new_client():
    return CacheClient.cache_client_from_servers([server], connection_pool_factory_fn=factory)


def same(got, want):
    assert got == want, f"want {want!r}, got {got!r}"


client, other = new_client(), new_client()
same(client.set("a", "grüße", ttl=100), True)
same(client.get("a"), "grüße")
same(client.get("missing"), None)
same(client.set("object", {"list": [1, None]}, ttl=100), True)
same(client.get("object"), {"list": [1, None]})
same(client.set(Key("ключ με spaces"), "unicode key", ttl=100), True)
same(client.get(Key("ключ με spaces")), "unicode key")
same(client.set("x" * 300, "long key is hashed", ttl=100), True)
same(client.get("x" * 300), "long key is hashed")
same(client.set("a", "x", ttl=100, set_mode=SetMode.ADD), False)
same(client.set("missing", "x", ttl=100, set_mode=SetMode.REPLACE), False)
same(client.refill("a", "x", ttl=100), False)
value, cas = client.get_cas("a")
same(client.set("a", "two", ttl=100, cas_token=cas), True)
same(client.set("a", "three", ttl=100, cas_token=cas), False)
same(client.set("quiet", "yes", ttl=100, no_reply=True), True)
same(client.get("quiet"), "yes")
same({key.key: value for key, value in client.multi_get([Key("a"), Key("quiet"), Key("no")]).items()}, {"a": "two", "quiet": "yes", "no": None})
same(client.delta_initialize_and_get("n", delta=3, initial_value=10, initial_ttl=100), 10)
same(client.delta_and_get("n", delta=5), 15)
same(client.delta_and_get("n", delta=-50), 0)
same(client.delta("nothing", delta=1), False)
same(client.touch("a", ttl=50), True)
same(client.touch("missing", ttl=50), False)
# A lease: the first reader of a missing key is to fill it, the second waits and then sees the value.
policy = LeasePolicy(ttl=30, miss_retries=3, miss_retry_wait=0.01)
same(client.get_or_lease("leased", lease_policy=policy), None)


def fill_meanwhile(_seconds):
    client.set("leased", "filled", ttl=100)


same(other.get_or_lease("leased", lease_policy=policy, lease_wait_fn=fill_meanwhile), "filled")
# Refresh ahead: close to its end one reader misses and the others still hit.
same(client.set("ageing", "old", ttl=20), True)
same(client.get("ageing", recache_policy=RecachePolicy(ttl=30)), None)
same(other.get("ageing", recache_policy=RecachePolicy(ttl=30)), "old")
# Invalidation that leaves a stale value: one reader is told to compute, the others use the old one.
same(client.set("stale", "old", ttl=100), True)
same(client.invalidate("stale", stale_policy=StalePolicy(mark_stale_on_deletion_ttl=30)), True)
same(client.get("stale"), None)
same(other.get("stale"), "old")
same(client.set("stale", "new", ttl=100), True)
same(other.get("stale"), "new")
same(client.delete("a"), True)
same(client.delete("a"), False)
same(client.invalidate("a"), True)
big = bytes(range(256)) * 4000
same(client.set("big", big, ttl=100), True)
same(client.get("big"), big)
print("ok")
