# Walks Cache::Memcached or Cache::Memcached::Fast (argument 3) against the server at arguments 1 and 2. Last line: ok.
use strict;
use warnings;

my ($host, $port, $class) = @ARGV;
eval "require $class; 1" or die "$class: $@";
my $is_fast = $class =~ /Fast/;
my $cache = $class->new({ servers => ["$host:$port"], namespace => 'ns:', compress_threshold => 10_000, connect_timeout => 30, ($is_fast ? (io_timeout => 30) : (select_timeout => 30)) });

sub same {
    my ($got, $want, $what) = @_;
    $got  = defined $got  ? $got  : 'undef';
    $want = defined $want ? $want : 'undef';
    die "$what: want $want, got $got\n" unless $got eq $want;
}

$cache->flush_all;
same(scalar $cache->set('text', 'hello'), 1, 'set');
same(scalar $cache->get('text'), 'hello', 'get');
same(scalar $cache->get('missing'), undef, 'get missing');
same(scalar $cache->set('object', { list => [1, undef, 'x'] }), 1, 'set object');
same(scalar @{ $cache->get('object')->{list} }, 3, 'get object');
same(scalar $cache->add('text', 'x') ? 1 : 0, 0, 'add existing');
same(scalar $cache->add('new', 'x'), 1, 'add');
same(scalar $cache->replace('missing', 'x') ? 1 : 0, 0, 'replace missing');
same(scalar $cache->append('new', 'y'), 1, 'append');
same(scalar $cache->prepend('new', 'w'), 1, 'prepend');
same(scalar $cache->get('new'), 'wxy', 'parts');
same(scalar $cache->set('n', 41), 1, 'set n');
same(scalar $cache->incr('n'), 42, 'incr');
same(scalar $cache->decr('n', 50) + 0, 0, 'decr');
same(scalar $cache->incr('missing') ? 1 : 0, 0, 'incr missing');
my $long = 'compressible ' x 20_000;
same(scalar $cache->set('long', $long), 1, 'set long');
same(scalar $cache->get('long'), $long, 'get long');
my $random = join '', map { chr(($_ * 7919) % 256) } 1 .. 300_000;
same(scalar $cache->set('bytes', $random), 1, 'set bytes');
same(scalar $cache->get('bytes'), $random, 'get bytes');
$cache->set("many$_", $_) for 1 .. 200;
my $many = $cache->get_multi(map { "many$_" } 1 .. 300);
same(scalar keys %$many, 200, 'get_multi');
same($many->{many77}, 77, 'get_multi value');
# One owner's keys on one server: an explicit number beside the key. The fast client has no such pairs.
unless ($is_fast) {
    same(scalar $cache->set([42, 'user:42'], 'paired'), 1, 'set pair');
    same(scalar $cache->get([42, 'user:42']), 'paired', 'get pair');
    my $stats = $cache->stats(['misc']);
    same(($stats->{total}{curr_items} || 0) > 200 ? 1 : 0, 1, 'stats');
}
if ($is_fast) {
    my $got = $cache->gets('text');
    same(scalar $cache->cas('text', $got->[0], 'changed'), 1, 'cas');
    same(scalar $cache->cas('text', $got->[0], 'again') ? 1 : 0, 0, 'stale cas');
    same(scalar $cache->touch('text', 100), 1, 'touch');
    same(scalar $cache->gat(100, 'text'), 'changed', 'gat');
    my $stored = $cache->set_multi(['multi1', 'a'], ['multi2', 'b']);
    same(scalar(grep { $_ } values %$stored), 2, 'set_multi');
    my $version = (values %{ $cache->server_versions })[0];
    same($version =~ /^1\.\d+/ ? 1 : 0, 1, 'version');
}
same(scalar $cache->delete('text'), 1, 'delete');
same(scalar $cache->delete('text') ? 1 : 0, 0, 'delete twice');
# A lifetime that is over at once, and one that is not.
$cache->set('short', 'x', -1);
same(scalar $cache->get('short'), undef, 'get short');
same(scalar $cache->set('later', 'x', 100), 1, 'set later');
same(scalar $cache->get('later'), 'x', 'get later');
$cache->flush_all;
same(scalar $cache->get('later'), undef, 'flushed');
print "ok\n";
