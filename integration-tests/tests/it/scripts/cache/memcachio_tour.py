"""Walks memcachio, several requests in flight on one connection, against the server at argv[1:3]. Last line: ok."""

import asyncio
import sys
import memcachio


def same(got, want):
    assert got == want, f"want {want!r}, got {got!r}"


async def main():
    client = memcachio.Client((sys.argv[1], int(sys.argv[2])), read_timeout=30, connect_timeout=30, blocking_timeout=30)
    same(await client.flushall(), True)
    same(await client.set("a", b"one", flags=7), True)
    item = (await client.gets("a"))[b"a"]
    same((item.value, item.flags), (b"one", 7))
    same(await client.cas("a", b"two", item.cas), True)
    same(await client.cas("a", b"three", item.cas), False)
    same(await client.get("missing"), {})
    same(await client.add("a", b"x"), False)
    same(await client.replace("missing", b"x"), False)
    same(await client.append("a", b"!"), True)
    same(await client.prepend("a", b"?"), True)
    same((await client.gat("a", expiry=100))[b"a"].value, b"?two!")
    await client.set("n", b"41")
    same(await client.incr("n", 1), 42)
    same(await client.decr("n", 50), 0)
    same(await client.touch("a", 100), True)
    await asyncio.gather(*(client.set(f"many{n}", b"%d" % n) for n in range(300)))
    found = await client.get(*(f"many{n}" for n in range(400)))
    same({key: item.value for key, item in found.items()}, {b"many%d" % n: b"%d" % n for n in range(300)})
    same(await client.delete("a"), True)
    same(await client.delete("a"), False)
    same(len(await client.version()), 1)
    same(len(await client.stats()), 1)
    same(await client.flushall(), True)
    same(await client.get("n"), {})


asyncio.run(main())
print("ok")
