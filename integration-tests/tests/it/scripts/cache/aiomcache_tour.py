"""Walks aiomcache, 50 tasks at a time on few connections, against the server at argv[1:3]. Last line: ok."""

import asyncio
import sys
import aiomcache


def same(got, want):
    assert got == want, f"want {want!r}, got {got!r}"


async def counted(client, n):
    key = b"task%d" % n
    for turn in range(20):
        same(await client.set(key, b"%d" % turn), True)
        same(await client.get(key), b"%d" % turn)


async def main():
    client = aiomcache.Client(sys.argv[1], int(sys.argv[2]), pool_size=4)
    await client.flush_all()
    same(await client.set(b"a", b"one"), True)
    same(await client.get(b"a"), b"one")
    same(await client.get(b"missing"), None)
    same(await client.add(b"a", b"two"), False)
    same(await client.add(b"b", b"two"), True)
    same(await client.replace(b"missing", b"x"), False)
    same(await client.append(b"a", b"-more"), True)
    same(await client.prepend(b"a", b"less-"), True)
    same(await client.multi_get(b"a", b"b", b"c"), (b"less-one-more", b"two", None))
    value, cas = await client.gets(b"b")
    same((value, await client.cas(b"b", b"three", cas)), (b"two", True))
    same(await client.cas(b"b", b"four", cas), False)
    await client.set(b"n", b"41")
    same(await client.incr(b"n"), 42)
    same(await client.decr(b"n", 50), 0)
    try:
        await client.incr(b"missing")
        raise AssertionError("a missing number was incremented")
    except aiomcache.ClientException:
        pass
    same(await client.touch(b"a", 100), True)
    same(await client.touch(b"missing", 100), False)
    same(await client.delete(b"a"), True)
    same(await client.delete(b"a"), False)
    big = bytes(range(256)) * 4000
    same(await client.set(b"big", big), True)
    same(await client.get(b"big"), big)
    await asyncio.gather(*(counted(client, n) for n in range(50)))
    assert (await client.version()).startswith(b"1."), "version"
    assert int((await client.stats())[b"curr_items"]) > 50
    await client.flush_all()
    same(await client.get(b"b"), None)
    await client.close()


asyncio.run(main())
print("ok")
