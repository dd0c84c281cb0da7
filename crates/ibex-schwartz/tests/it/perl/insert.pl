# Inserts jobs with the Perl library and prints their handles, one a line. Arguments: DBI string, user, function.
use strict;
use warnings;
use TheSchwartz;
use TheSchwartz::Job;

my ($dsn, $user, $func) = @ARGV;
my $client = TheSchwartz->new(databases => [{ dsn => $dsn, user => $user, pass => '' }]);
my @jobs = (
    TheSchwartz::Job->new(funcname => $func, arg => 'plain text'),
    TheSchwartz::Job->new(funcname => $func, arg => { to => 'fred', n => [1, -5, 128, 1.5, 'abc', undef], u => "\x{263a}" }, uniqkey => 'perl-1'),
    TheSchwartz::Job->new(funcname => $func, arg => [1, { b => 2 }], coalesce => 'group', priority => 9, run_after => time - 5),
);
for my $job (@jobs) {
    my $handle = $client->insert($job) or die "no handle";
    print $handle->as_string, "\n";
}
print defined $client->insert(TheSchwartz::Job->new(funcname => $func, arg => 'x', uniqkey => 'perl-1')) ? "twice\n" : "duplicate\n";
print defined $client->insert(TheSchwartz::Job->new(funcname => $func, arg => 'x', uniqkey => 'rust-1')) ? "new\n" : "duplicate\n";
