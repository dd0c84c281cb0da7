<?php
// Walks php-memcached (libmemcached) against the server at $argv[1]:$argv[2], over the text protocol and, with $argv[3] = binary, over the binary one.
function same($got, $want, $what) {
    if ($got !== $want) {
        fwrite(STDERR, "$what: want " . var_export($want, true) . ", got " . var_export($got, true) . "\n");
        exit(1);
    }
}
$binary = ($argv[3] ?? '') === 'binary';
$m = new Memcached();
$m->setOption(Memcached::OPT_BINARY_PROTOCOL, $binary);
$m->setOption(Memcached::OPT_TCP_NODELAY, true);
$m->setOption(Memcached::OPT_CONNECT_TIMEOUT, 30000);
$m->setOption(Memcached::OPT_POLL_TIMEOUT, 30000);
$m->setOption(Memcached::OPT_COMPRESSION, true);
$m->addServer($argv[1], (int) $argv[2]);
same($m->flush(), true, 'flush');
same($m->set('text', 'hello'), true, 'set');
same($m->get('text'), 'hello', 'get');
same($m->set('array', ['a' => 1, 'b' => [true, null]]), true, 'set array');
same($m->get('array'), ['a' => 1, 'b' => [true, null]], 'get array');
$long = str_repeat('compressible ', 20000);
same($m->set('long', $long), true, 'set long');
same($m->get('long'), $long, 'get long');
same($m->add('text', 'x'), false, 'add existing');
same($m->getResultCode(), $binary ? Memcached::RES_DATA_EXISTS : Memcached::RES_NOTSTORED, 'result of add');
same($m->replace('nothing', 'x'), false, 'replace missing');
same($m->get('nothing'), false, 'get missing');
same($m->getResultCode(), Memcached::RES_NOTFOUND, 'result of get missing');
same($m->setMulti(['m1' => 1, 'm2' => 2.5, 'm3' => 'three']), true, 'setMulti');
same($m->getMulti(['m1', 'm2', 'm3', 'm4']), ['m1' => 1, 'm2' => 2.5, 'm3' => 'three'], 'getMulti');
$got = $m->get('text', null, Memcached::GET_EXTENDED);
same($m->cas($got['cas'], 'text', 'changed'), true, 'cas');
same($m->cas($got['cas'], 'text', 'again'), false, 'stale cas');
same($m->getResultCode(), Memcached::RES_DATA_EXISTS, 'result of stale cas');
same($m->set('counter', 10), true, 'set counter');
same($m->increment('counter', 5), 15, 'increment');
same($m->decrement('counter', 20), 0, 'decrement stops at zero');
$m->setOption(Memcached::OPT_COMPRESSION, false);
same($m->set('parts', 'b'), true, 'set parts');
same($m->append('parts', 'c'), true, 'append');
same($m->prepend('parts', 'a'), true, 'prepend');
same($m->get('parts'), 'abc', 'parts');
same($m->touch('parts', 100), true, 'touch');
same($m->delete('parts'), true, 'delete');
same($m->delete('parts'), false, 'delete twice');
same($m->deleteMulti(['m1', 'm2']), ['m1' => true, 'm2' => true], 'deleteMulti');
same($m->getDelayed(['text', 'm3'], true), true, 'getDelayed');
same(count($m->fetchAll()), 2, 'fetchAll');
$versions = array_values($m->getVersion());
same(preg_match('/^1\.\d+\.\d+/', $versions[0]), 1, 'version');
same(count($m->getStats()), 1, 'stats');
echo "ok\n";
