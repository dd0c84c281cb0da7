# Which server Cache::Memcached gives each key. Arguments: a file of keys, one a line; JSON of
# {"weights": [...], "dead": [server...], "numbers": whether each key is a pair with its line number}.
# Standard output: a byte per key, 255 where no server is found. Nothing is connected to. Ends with 3 without the module.
use strict;
use warnings;
use JSON::PP;

my ($file, $json) = @ARGV;
eval { require Cache::Memcached; 1 } or do { print STDERR $@; exit 3 };
my $case = decode_json($json);
my @weights = @{ $case->{weights} };
my %dead = map { $_ => 1 } @{ $case->{dead} };
my $chosen;
{
    no warnings 'redefine';
    *Cache::Memcached::sock_to_host = sub {
        my $host = pop;
        my ($server) = $host =~ /\.(\d+):/ or die "no server in $host\n";
        return undef if $dead{$server};
        $chosen = $server;
        return \$chosen;
    };
}
my $cache = Cache::Memcached->new({
    servers => [map { ["10.0.0.$_:" . (11211 + $_), $weights[$_]] } 0 .. $#weights],
    namespace => 'not hashed:',
});
open my $keys, '<:raw', $file or die "$file: $!\n";
binmode STDOUT;
my $line = 0;
while (my $key = <$keys>) {
    chomp $key;
    $chosen = 255;
    $cache->get_sock($case->{numbers} ? [$line, $key] : $key);
    print chr $chosen;
    $line++;
}
