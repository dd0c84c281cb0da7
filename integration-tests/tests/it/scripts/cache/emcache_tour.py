"""Walks emcache, with its batching of single gets, against the server at argv[1:3]. Last line: ok."""

import asyncio
import sys
import emcache


def same(got, want):
    assert got == want, f"want {want!r}, got {got!r}"


async def not_stored(call):
    try:
        await call
    except emcache.NotStoredStorageCommandError:
        return
    raise AssertionError("it was stored")


async def main():
    host = emcache.MemcachedHostAddress(sys.argv[1], int(sys.argv[2]))
    client = await emcache.create_client([host], timeout=30.0, connection_timeout=30.0, autobatching=True)
    await client.flush_all(host)
    await client.set(b"a", b"one", flags=4711)
    item = await client.get(b"a", return_flags=True)
    same((item.value, item.flags), (b"one", 4711))
    same(await client.get(b"missing"), None)
    await not_stored(client.add(b"a", b"two"))
    await not_stored(client.replace(b"missing", b"x"))
    await client.append(b"a", b"-more")
    await client.prepend(b"a", b"less-")
    item = await client.gets(b"a")
    same(item.value, b"less-one-more")
    await client.cas(b"a", b"swapped", item.cas)
    await not_stored(client.cas(b"a", b"again", item.cas))
    await client.set(b"n", b"41")
    same(await client.increment(b"n", 1), 42)
    same(await client.decrement(b"n", 50), 0)
    await client.touch(b"a", 100)
    same((await client.gat(100, b"a")).value, b"swapped")
    await asyncio.gather(*(client.set(b"many%d" % n, b"%d" % n) for n in range(300)))
    items = await asyncio.gather(*(client.get(b"many%d" % n) for n in range(300)))
    same([int(item.value) for item in items], list(range(300)))
    many = await client.get_many([b"many%d" % n for n in range(400)])
    same(len(many), 300)
    await client.set(b"quiet", b"x", noreply=True)
    same((await client.get(b"quiet")).value, b"x")
    await client.delete(b"a")
    same(await client.get(b"a"), None)
    assert (await client.version(host)).startswith("1."), "version"
    assert int((await client.stats(host))["curr_items"]) > 300
    await client.flush_all(host)
    same(await client.get(b"quiet"), None)
    await client.close()


asyncio.run(main())
print("ok")
